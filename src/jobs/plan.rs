//! How a job trains: what was submitted, completed from the size of the data set.
//!
//! Invariant: pure; equal inputs give an equal plan, and a complete plan gives itself again, so that a resumed job trains as it began.

use super::memory;
use crate::spec::{HyperParameters, Invalid};

/// Steps that a job takes by default, as near as its epochs allow.
const STEPS: u64 = 250;
/// Fewest and most epochs by default.
const EPOCHS: (u64, u64) = (4, 40);
/// Clips per step by default.
pub(super) const BATCH: u32 = 8;
/// From so many training clips on, the head drops out by default.
const DROPOUT_FROM: u64 = 512;
/// Checkpoints of a job by default.
const CHECKPOINTS: u64 = 20;
/// Fewest steps between checkpoints by default.
const CHECKPOINT_STEPS: u64 = 10;

/// A plan without gaps; the fields are those of [`HyperParameters`].
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Passes over the training split.
    pub epochs: u32,
    /// Clips per step; the last step of an epoch may have fewer.
    pub batch_size: u32,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay, not on biases.
    pub weight_decay: f64,
    /// Share of the steps over which the learning rate rises.
    pub warmup_share: f64,
    /// Dropout before the head.
    pub dropout: f64,
    /// Largest global gradient norm; 0 means no clipping.
    pub clip_norm: f64,
    /// Smallest share of the area that a random crop keeps; 1 means the centre crop.
    pub min_crop_area: f64,
    /// Mirrors half of the training clips.
    pub horizontal_flip: bool,
    /// Seed of every random choice.
    pub seed: u64,
    /// Steps between checkpoints.
    pub checkpoint_steps: u32,
    /// Training clips.
    pub clips: u64,
}

impl Plan {
    /// Completes what was submitted for `clips` training clips (at least 1). `seed` is used when none was submitted.
    pub fn new(submitted: &HyperParameters, clips: u64, has_sites: bool, seed: u64) -> Self {
        let clips = clips.max(1);
        let most = u32::try_from(clips).unwrap_or(u32::MAX);
        let batch_size = submitted
            .batch_size
            .unwrap_or(BATCH.min(most))
            .clamp(1, most);
        let per_epoch = clips.div_ceil(u64::from(batch_size));
        let automatic = STEPS.div_ceil(per_epoch).clamp(EPOCHS.0, EPOCHS.1);
        let epochs = submitted.epochs.unwrap_or(automatic as u32);
        let steps = per_epoch * u64::from(epochs);
        let apart = steps.div_ceil(CHECKPOINTS).max(CHECKPOINT_STEPS);
        Self {
            epochs,
            batch_size,
            learning_rate: submitted
                .learning_rate
                .unwrap_or(if has_sites { 2e-3 } else { 5e-3 }),
            weight_decay: submitted.weight_decay.unwrap_or(1e-2),
            warmup_share: submitted.warmup_share.unwrap_or(0.1),
            dropout: submitted
                .dropout
                .unwrap_or(if clips >= DROPOUT_FROM { 0.5 } else { 0.0 }),
            clip_norm: submitted.clip_norm.unwrap_or(0.0),
            min_crop_area: submitted.min_crop_area.unwrap_or(1.0),
            horizontal_flip: submitted.horizontal_flip.unwrap_or(false),
            seed: submitted.seed.unwrap_or(seed),
            checkpoint_steps: submitted
                .checkpoint_steps
                .unwrap_or(u32::try_from(apart).unwrap_or(u32::MAX)),
            clips,
        }
    }

    /// Steps of one epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.clips.div_ceil(u64::from(self.batch_size))
    }

    /// Steps in all.
    pub fn total_steps(&self) -> u64 {
        self.steps_per_epoch() * u64::from(self.epochs)
    }

    /// Epoch (from 0) and step within it (from 0) of a step (from 0).
    pub fn position(&self, step: u64) -> (u64, u64) {
        (step / self.steps_per_epoch(), step % self.steps_per_epoch())
    }

    /// Whether a checkpoint is due once so many steps are done: every so often, and at the end, so that a crash while evaluating repeats no step.
    pub fn is_checkpoint_due(&self, done: u64) -> bool {
        done == self.total_steps() || done.is_multiple_of(u64::from(self.checkpoint_steps))
    }

    /// The same values as stored and shown.
    pub fn hyper_parameters(&self) -> HyperParameters {
        HyperParameters {
            epochs: Some(self.epochs),
            batch_size: Some(self.batch_size),
            learning_rate: Some(self.learning_rate),
            weight_decay: Some(self.weight_decay),
            warmup_share: Some(self.warmup_share),
            dropout: Some(self.dropout),
            clip_norm: Some(self.clip_norm),
            min_crop_area: Some(self.min_crop_area),
            horizontal_flip: Some(self.horizontal_flip),
            seed: Some(self.seed),
            checkpoint_steps: Some(self.checkpoint_steps),
        }
    }
}

/// Checks what a caller submitted.
///
/// # Errors
/// Names the first field that is out of range, with what was expected.
pub fn check(submitted: &HyperParameters) -> Result<(), Invalid> {
    let whole = [
        ("epochs", submitted.epochs, 10_000),
        ("batch_size", submitted.batch_size, memory::MOST),
        ("checkpoint_steps", submitted.checkpoint_steps, u32::MAX),
    ];
    for (field, value, most) in whole {
        if let Some(value) = value.filter(|value| !(1..=most).contains(value)) {
            let problem = format!("expected 1 to {most}, got {value}");
            return Err(Invalid::new(field, problem));
        }
    }
    type Range = (&'static str, Option<f64>, fn(f64) -> bool, &'static str);
    let real: [Range; 6] = [
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
    ];
    for (field, value, is_good, expected) in real {
        if let Some(value) = value.filter(|value| !is_good(*value)) {
            let problem = format!("expected {expected}, got {value}");
            return Err(Invalid::new(field, problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(clips: u64) -> Plan {
        Plan::new(&HyperParameters::default(), clips, true, 7)
    }

    #[test]
    fn defaults_follow_the_size_of_the_data_set() {
        // clips, batch, epochs, steps, checkpoint every
        for (clips, batch, epochs, steps, apart) in [
            (1, 1, 40, 40, 10),
            (3, 3, 40, 40, 10),
            (8, 8, 40, 40, 10),
            (160, 8, 13, 260, 13),
            (400, 8, 5, 250, 13),
            (10_000, 8, 4, 5000, 250),
        ] {
            let plan = plan(clips);
            let got = (
                plan.batch_size,
                plan.epochs,
                plan.total_steps(),
                plan.checkpoint_steps,
            );
            assert_eq!(got, (batch, epochs, steps, apart), "{clips} clips");
        }
        assert_eq!(plan(511).dropout, 0.0);
        assert_eq!(plan(512).dropout, 0.5);
        assert_eq!(plan(8).learning_rate, 2e-3);
        let probe = Plan::new(&HyperParameters::default(), 8, false, 7);
        assert_eq!((probe.learning_rate, probe.seed), (5e-3, 7));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let of = |change: fn(&mut HyperParameters)| {
            let mut submitted = HyperParameters::default();
            change(&mut submitted);
            check(&submitted).map_err(|e| e.field)
        };
        assert_eq!(of(|_| {}), Ok(()));
        assert_eq!(of(|h| h.epochs = Some(0)), Err("epochs"));
        assert_eq!(of(|h| h.epochs = Some(10_001)), Err("epochs"));
        assert_eq!(of(|h| h.batch_size = Some(1025)), Err("batch_size"));
        assert_eq!(
            of(|h| h.checkpoint_steps = Some(0)),
            Err("checkpoint_steps")
        );
        assert_eq!(of(|h| h.learning_rate = Some(0.0)), Err("learning_rate"));
        assert_eq!(
            of(|h| h.learning_rate = Some(f64::NAN)),
            Err("learning_rate")
        );
        assert_eq!(of(|h| h.weight_decay = Some(-0.1)), Err("weight_decay"));
        assert_eq!(of(|h| h.warmup_share = Some(1.1)), Err("warmup_share"));
        assert_eq!(of(|h| h.dropout = Some(1.0)), Err("dropout"));
        assert_eq!(of(|h| h.clip_norm = Some(f64::INFINITY)), Err("clip_norm"));
        assert_eq!(of(|h| h.min_crop_area = Some(0.0)), Err("min_crop_area"));
    }

    proptest! {
        #[test]
        fn a_plan_completes_to_itself(clips in 1_u64..100_000, epochs in prop::option::of(1_u32..50), batch in prop::option::of(1_u32..=1024), sites: bool) {
            let submitted = HyperParameters { epochs, batch_size: batch, ..HyperParameters::default() };
            let plan = Plan::new(&submitted, clips, sites, 3);
            prop_assert_eq!(check(&plan.hyper_parameters()), Ok(()));
            prop_assert_eq!(&Plan::new(&plan.hyper_parameters(), clips, sites, 9), &plan);
            let (epoch, step) = plan.position(plan.total_steps() - 1);
            prop_assert_eq!((epoch + 1, step + 1), (u64::from(plan.epochs), plan.steps_per_epoch()));
        }
    }
}
