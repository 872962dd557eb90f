//! Whether a job mirrors half of its training clips: what was asked for, and what the labels say.
//!
//! Invariant: pure; with `auto`, no clip is mirrored when a label names a side.

use crate::spec::{HyperParameters, Invalid, LabelSet, Mirror, sided};

/// Labels that are named.
const NAMED: usize = 5;

/// What a job does, and what its owner is told about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) is_on: bool,
    /// Whether the text is a warning, and the text.
    pub(super) told: Option<(bool, String)>,
}

/// Checks that the field of today and that of before do not contradict each other.
///
/// # Errors
/// Names the field when they do.
pub(super) fn check(submitted: &HyperParameters) -> Result<(), Invalid> {
    match (submitted.mirror, submitted.horizontal_flip) {
        (Some(Mirror::On), Some(false)) | (Some(Mirror::Off), Some(true)) => Err(Invalid::new(
            "mirror",
            "contradicts horizontal_flip, which is its name of before: give one of the two",
        )),
        _ => Ok(()),
    }
}

/// Decides for a job of a task with adapters or without, with these labels.
pub(super) fn decide(
    submitted: &HyperParameters,
    has_adapters: bool,
    labels: &LabelSet,
) -> Decision {
    let mirror = submitted.wanted_mirror(has_adapters);
    let mut sides = sided(labels.as_slice()).map(|label| format!("{label:?}"));
    let named: Vec<String> = sides.by_ref().take(NAMED).collect();
    let more = if sides.next().is_some() { ", …" } else { "" };
    let named = named.join(", ") + more;
    let told = match (mirror, named.is_empty()) {
        (Mirror::Off, _) | (Mirror::On, true) => None,
        (Mirror::On, false) => Some((
            true,
            format!(
                "half of the training clips are mirrored, and labels name a side ({named}): a mirrored clip of one looks like the other; use mirror = auto or off with such labels"
            ),
        )),
        (Mirror::Auto, true) => Some((
            false,
            "mirror = auto: half of the training clips are mirrored, since no label names a side; if left and right matter all the same, train with mirror = off"
                .into(),
        )),
        (Mirror::Auto, false) => Some((
            false,
            format!("mirror = auto: no clip is mirrored, since labels name a side ({named})"),
        )),
    };
    let is_on = match mirror {
        Mirror::Off => false,
        Mirror::On => true,
        Mirror::Auto => named.is_empty(),
    };
    Decision { is_on, told }
}

/// What an owner is told at submission of a probe that was asked to change its clips; `None` when it was not.
pub(super) fn unused_by_probe(submitted: &HyperParameters) -> Option<String> {
    let is_mirrored = match submitted.mirror {
        Some(Mirror::On | Mirror::Auto) => true,
        Some(Mirror::Off) => false,
        None => submitted.horizontal_flip == Some(true),
    };
    let asked = [
        (
            "crops",
            submitted.min_crop_area.is_some_and(|area| area < 1.0)
                || submitted.short_side_scale.is_some_and(|scale| scale > 1.0),
        ),
        ("mirroring", is_mirrored),
        (
            "erasing",
            submitted.random_erasing.is_some_and(|share| share > 0.0),
        ),
        ("RandAugment", submitted.rand_augment.is_some()),
        ("mixup", submitted.mixup.is_some_and(|mixup| mixup > 0.0)),
        (
            "CutMix",
            submitted.cutmix.is_some_and(|cutmix| cutmix > 0.0),
        ),
    ];
    let unused = asked.iter().filter(|(_, is_asked)| *is_asked);
    let unused: Vec<&str> = unused.map(|(what, _)| *what).collect();
    (!unused.is_empty()).then(|| {
        format!(
            "the task has no adapters, so that it trains on the features of unchanged clips: not used are {}",
            unused.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[&str]) -> LabelSet {
        LabelSet::new(labels.iter().map(ToString::to_string).collect()).unwrap()
    }

    fn asked(mirror: Option<Mirror>, horizontal_flip: Option<bool>) -> HyperParameters {
        HyperParameters {
            mirror,
            horizontal_flip,
            ..HyperParameters::default()
        }
    }

    #[test]
    fn labels_that_name_a_side_turn_auto_off_and_on_into_a_warning() {
        let sides = labels(&["jump", "swipe_left", "swipe_right"]);
        let none = labels(&["jump", "run"]);
        let of = |mirror, flip, labels| {
            let Decision { is_on, told } = decide(&asked(mirror, flip), true, labels);
            (is_on, told.map(|(warning, _)| warning))
        };
        for (mirror, flip, expected_sides, expected_none) in [
            (None, None, (false, Some(false)), (true, Some(false))),
            (None, Some(false), (false, None), (false, None)),
            (None, Some(true), (true, Some(true)), (true, None)),
            (Some(Mirror::Off), None, (false, None), (false, None)),
            (Some(Mirror::On), None, (true, Some(true)), (true, None)),
            (
                Some(Mirror::Auto),
                None,
                (false, Some(false)),
                (true, Some(false)),
            ),
            // As a job that goes on finds them.
            (
                Some(Mirror::Auto),
                Some(true),
                (false, Some(false)),
                (true, Some(false)),
            ),
        ] {
            assert_eq!(
                of(mirror, flip, &sides),
                expected_sides,
                "{mirror:?} {flip:?}"
            );
            assert_eq!(
                of(mirror, flip, &none),
                expected_none,
                "{mirror:?} {flip:?}"
            );
        }
        let told = decide(&asked(Some(Mirror::On), None), true, &sides)
            .told
            .unwrap()
            .1;
        assert!(told.contains("(\"swipe_left\", \"swipe_right\")"), "{told}");
    }

    #[test]
    fn both_fields_may_agree_but_not_contradict() {
        assert!(check(&asked(Some(Mirror::On), Some(true))).is_ok());
        assert!(check(&asked(Some(Mirror::Auto), Some(true))).is_ok());
        assert_eq!(
            check(&asked(Some(Mirror::Off), Some(true))).map_err(|e| e.field),
            Err("mirror")
        );
        assert_eq!(
            check(&asked(Some(Mirror::On), Some(false))).map_err(|e| e.field),
            Err("mirror")
        );
    }

    #[test]
    fn a_probe_says_what_it_does_not_use() {
        assert_eq!(unused_by_probe(&asked(None, None)), None);
        assert_eq!(unused_by_probe(&asked(Some(Mirror::Off), None)), None);
        let told = unused_by_probe(&asked(None, Some(true))).unwrap();
        assert!(told.ends_with("not used are mirroring"), "{told}");
        let both = HyperParameters {
            min_crop_area: Some(0.5),
            ..asked(Some(Mirror::Auto), None)
        };
        assert!(
            unused_by_probe(&both)
                .unwrap()
                .ends_with("crops, mirroring")
        );
    }
}
