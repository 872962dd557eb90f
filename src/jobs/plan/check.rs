//! What a caller may submit: the ranges of hyper-parameters, and which of them stand in place of one another.

use super::{augment, scaled};
use crate::jobs::memory;
use crate::spec::{HyperParameters, Invalid};

/// Most checkpoints that a job may keep: each has three copies of the trained weights.
const CHECKPOINTS: u32 = 20;

/// Checks what a caller submitted.
///
/// # Errors
/// Names the first field that is out of range, with what was expected.
pub fn check(submitted: &HyperParameters) -> Result<(), Invalid> {
    let whole = [
        ("epochs", submitted.epochs, 10_000),
        ("batch_size", submitted.batch_size, memory::MOST),
        ("checkpoint_steps", submitted.checkpoint_steps, u32::MAX),
        ("keep_checkpoints", submitted.keep_checkpoints, CHECKPOINTS),
    ];
    for (field, value, most) in whole {
        if let Some(value) = value.filter(|value| !(1..=most).contains(value)) {
            let problem = format!("expected 1 to {most}, got {value}");
            return Err(Invalid::new(field, problem));
        }
    }
    for (field, value) in [
        ("max_steps", submitted.max_steps),
        ("max_seconds", submitted.max_seconds),
        ("max_clip_frames", submitted.max_clip_frames),
    ] {
        if value == Some(0) {
            return Err(Invalid::new(field, "expected at least 1, got 0"));
        }
    }
    for (field, value, is_good, expected) in bounds(submitted) {
        if let Some(value) = value.filter(|value| !is_good(*value)) {
            let problem = format!("expected {expected}, got {value}");
            return Err(Invalid::new(field, problem));
        }
    }
    augment(submitted)?;
    check_pairs(submitted)
}

/// A real hyper-parameter: its field, its value, whether a value is in range, and the range in words.
type Bound = (&'static str, Option<f64>, fn(f64) -> bool, &'static str);

/// The ranges of the real hyper-parameters.
// A table has a line for each cell.
#[allow(clippy::too_many_lines)]
fn bounds(submitted: &HyperParameters) -> [Bound; 14] {
    [
        (
            "learning_rate",
            submitted.learning_rate,
            |x| x > 0.0 && x <= 1.0,
            "above 0 to 1",
        ),
        (
            "weight_decay",
            submitted.weight_decay,
            |x| (0.0..=1.0).contains(&x),
            "0 to 1",
        ),
        (
            "warmup_share",
            submitted.warmup_share,
            |x| (0.0..=1.0).contains(&x),
            "0 to 1",
        ),
        (
            "dropout",
            submitted.dropout,
            |x| (0.0..1.0).contains(&x),
            "0 up to but not 1",
        ),
        (
            "clip_norm",
            submitted.clip_norm,
            |x| x >= 0.0 && x.is_finite(),
            "0 or more",
        ),
        (
            "min_crop_area",
            submitted.min_crop_area,
            |x| x > 0.0 && x <= 1.0,
            "above 0 to 1",
        ),
        (
            "warmup_epochs",
            submitted.warmup_epochs,
            |x| (0.0..=10_000.0).contains(&x),
            "0 to 10000",
        ),
        (
            "base_learning_rate",
            submitted.base_learning_rate,
            |x| x > 0.0 && x <= 256.0,
            "above 0 to 256",
        ),
        (
            "label_smoothing",
            submitted.label_smoothing,
            |x| (0.0..1.0).contains(&x),
            "0 up to but not 1",
        ),
        (
            "short_side_scale",
            submitted.short_side_scale,
            |x| (1.0..=4.0).contains(&x),
            "1 to 4",
        ),
        (
            "unknown_below",
            submitted.unknown_below,
            |x| (0.0..=1.0).contains(&x),
            "0 to 1",
        ),
        (
            "mixup",
            submitted.mixup,
            |x| (0.0..=10.0).contains(&x),
            "0 to 10",
        ),
        (
            "cutmix",
            submitted.cutmix,
            |x| (0.0..=10.0).contains(&x),
            "0 to 10",
        ),
        (
            "random_erasing",
            submitted.random_erasing,
            |x| (0.0..=1.0).contains(&x),
            "0 to 1",
        ),
    ]
}

/// Checks fields that stand in place of one another.
fn check_pairs(submitted: &HyperParameters) -> Result<(), Invalid> {
    let refused = |field, problem: String| Err(Invalid::new(field, problem));
    if let Some(epochs) = submitted.warmup_epochs {
        if submitted.warmup_share.is_some() {
            let problem = "it stands in place of warmup_share: give one of them";
            return refused("warmup_epochs", problem.into());
        }
        if let Some(all) = submitted.epochs.filter(|all| epochs > f64::from(*all)) {
            return refused(
                "warmup_epochs",
                format!("expected at most {all}, got {epochs}"),
            );
        }
    }
    if let (Some(base), Some(rate)) = (submitted.base_learning_rate, submitted.learning_rate) {
        // Those of a job that was completed are given together.
        let own = submitted.batch_size.map(|batch| scaled(base, batch));
        if own.is_none_or(|own| (own - rate).abs() > 1e-9 * rate) {
            let problem = "it stands in place of learning_rate: give one of them";
            return refused("base_learning_rate", problem.into());
        }
    }
    let crops = submitted.min_crop_area.is_some_and(|area| area < 1.0);
    if crops && submitted.short_side_scale.is_some_and(|scale| scale > 1.0) {
        let problem = "it stands in place of min_crop_area: give one of them";
        return refused("short_side_scale", problem.into());
    }
    Ok(())
}
