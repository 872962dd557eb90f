//! McNemar's test: whether two versions differ on the same clips by more than chance.
//!
//! Invariant: pure; exact, by the binomial distribution, however few clips differ.

use std::collections::BTreeMap;

use crate::proto::v1;

/// What one version made of a clip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Label of the clip, or its labels.
    pub(super) label: String,
    /// Label that was predicted, or the labels that were selected.
    pub(super) predicted: String,
}

impl Answer {
    /// Takes what labels a clip has and what a version makes of it: its best label, or, when labels do not exclude one another, those that are selected.
    pub(super) fn of(clip: &v1::ClipEvaluation, kind: v1::LabelKind) -> Option<Self> {
        let predicted = match kind {
            v1::LabelKind::Unspecified | v1::LabelKind::Single => {
                clip.predictions.first()?.label.clone()
            }
            v1::LabelKind::Multi => {
                let selected = clip.predictions.iter().filter(|own| own.selected);
                let mut labels: Vec<&str> = selected.map(|own| own.label.as_str()).collect();
                labels.sort_unstable();
                labels.join(" + ")
            }
        };
        let label = match clip.labels.as_slice() {
            // A server of a release before there were several.
            [] => clip.label.clone(),
            labels => labels.join(" + "),
        };
        Some(Self { label, predicted })
    }

    /// Whether exactly the labels of the clip were predicted.
    pub(super) fn is_right(&self) -> bool {
        self.label == self.predicted
    }
}

/// A clip of which the versions are not both right or both wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) video: String,
    pub(super) label: String,
    pub(super) first: String,
    pub(super) second: String,
    /// Whether the second version is the one that is right.
    pub(super) is_better: bool,
}

/// Two versions on the clips that both counted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Comparison {
    /// Clips that both versions counted.
    pub(super) clips: u64,
    /// Clips that one version counted and the other did not.
    pub(super) left_out: u64,
    /// Of those that both counted, the ones of which each version is right.
    pub(super) right: [u64; 2],
    /// Clips of which one version alone is right, in the order of the videos' names.
    pub(super) changes: Vec<Change>,
    /// Probability of a difference as large or larger when both versions are as good.
    pub(super) p: f64,
}

/// Compares two versions' answers by video.
pub(super) fn compare(
    first: &BTreeMap<String, Answer>,
    second: &BTreeMap<String, Answer>,
) -> Comparison {
    let both = first
        .iter()
        .filter_map(|(video, own)| Some((video, own, second.get(video)?)));
    let (mut clips, mut right, mut changes) = (0, [0, 0], Vec::new());
    for (video, one, other) in both {
        clips += 1;
        right[0] += u64::from(one.is_right());
        right[1] += u64::from(other.is_right());
        if one.is_right() != other.is_right() {
            changes.push(Change {
                video: video.clone(),
                label: one.label.clone(),
                first: one.predicted.clone(),
                second: other.predicted.clone(),
                is_better: other.is_right(),
            });
        }
    }
    let better = changes.iter().filter(|change| change.is_better).count() as u64;
    let p = probability(better, changes.len() as u64);
    let all = (first.len() + second.len()) as u64;
    Comparison {
        clips,
        left_out: all - 2 * clips,
        right,
        changes,
        p,
    }
}

/// The two-sided probability that of `all` fair coins as many or more, or as few or fewer, fall on one side as `some` did.
fn probability(some: u64, all: u64) -> f64 {
    let fewer = some.min(all - some);
    // Sums of logarithms: the coefficients of thousands of clips are beyond every float.
    let mut log = -(all as f64) * std::f64::consts::LN_2;
    let mut sum = log.exp();
    for k in 1..=fewer {
        log += ((all - k + 1) as f64 / k as f64).ln();
        sum += log.exp();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probability_is_that_of_the_binomial_test() {
        // scipy 1.11: binomtest(k, n, 0.5).pvalue
        for (some, all, expected) in [
            (0, 0, 1.0),
            (0, 1, 1.0),
            (1, 2, 1.0),
            (0, 6, 0.03125),
            (6, 6, 0.03125),
            (1, 10, 0.021_484_375),
            (40, 100, 0.056_887_933_640_981),
        ] {
            let got = probability(some, all);
            assert!((got - expected).abs() < 1e-12, "{some} of {all}: {got}");
        }
        let many = probability(4_000, 10_000);
        assert!(many > 0.0 && many < 1e-80, "{many}");
    }

    #[test]
    fn only_clips_of_both_count_and_what_changed_is_named() {
        let answers = |list: &[(&str, &str, &str)]| -> BTreeMap<String, Answer> {
            let answer = |(video, label, predicted): &(&str, &str, &str)| {
                let answer = Answer {
                    label: (*label).into(),
                    predicted: (*predicted).into(),
                };
                ((*video).to_owned(), answer)
            };
            list.iter().map(answer).collect()
        };
        let first = answers(&[
            ("a", "x", "x"),
            ("b", "x", "y"),
            ("c", "y", "y"),
            ("d", "y", "x"),
        ]);
        let second = answers(&[
            ("a", "x", "y"),
            ("b", "x", "x"),
            ("c", "y", "y"),
            ("e", "y", "y"),
        ]);
        let compared = compare(&first, &second);
        assert_eq!((compared.clips, compared.right), (3, [2, 2]));
        assert_eq!(compared.left_out, 2, "d and e");
        let named = compared
            .changes
            .iter()
            .map(|change| (change.video.as_str(), change.is_better));
        assert!(named.eq([("a", false), ("b", true)]));
        assert_eq!(compared.p, 1.0);
    }
}
