//! How a job looks at its data beside training: when it evaluates, which weights it publishes, and when it stops.
//!
//! Invariant: what is absent in a submission is chosen by the job; a record without the whole of it is of a release that evaluated once, at the end.

use serde::{Deserialize, Serialize};

/// What makes one evaluation of the validation split better than another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BestBy {
    /// A lower loss.
    Loss,
    /// A higher top-1 accuracy; at equal accuracy a lower loss.
    Top1,
    /// A higher mean average precision, of labels that do not exclude one another; at equal precision a lower loss.
    Map,
}

/// Which weights a job publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Publish {
    /// The weights with the best evaluation of the validation split.
    Best,
    /// The weights after the last step.
    Last,
}

/// What a job measures and what follows from it, as submitted; a field that is `None` is chosen by the job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// Epochs from one evaluation of the validation split to the next; 0 means one evaluation, at the end.
    pub eval_every: Option<u32>,
    /// What makes an evaluation better.
    pub best_by: Option<BestBy>,
    /// Which weights are published.
    pub publish: Option<Publish>,
    /// Evaluations in a row without progress after which training stops; 0 means never.
    pub patience: Option<u32>,
    /// Share of each label's training clips that become the validation split of a data set without one; 0 means none.
    pub validation_share: Option<f64>,
    /// Whether the test split is evaluated once, with the published weights.
    pub evaluate_test: Option<bool>,
    /// Whether videos with almost the same pictures are looked for and held out together; `None` in records of a release that did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near_duplicates: Option<bool>,
    /// Whether the weights that are published follow from the number of validation clips, since the caller said nothing of them; `None` in records of a
    /// release that always chose the best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_size: Option<bool>,
}

/// The 95 % interval of a share by Wilson's score: where the true share probably is when `right` of `all` examples were right. The whole range when
/// there is no example.
pub fn wilson(right: u64, all: u64) -> (f64, f64) {
    /// The quantile of the normal distribution at 0.975.
    const Z: f64 = 1.959_963_984_540_054;
    if all == 0 {
        return (0.0, 1.0);
    }
    let (n, right) = (all as f64, right.min(all) as f64);
    let share = right / n;
    let z2 = Z * Z;
    let middle = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let spread = Z / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    ((middle - spread).max(0.0), (middle + spread).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_the_published_one() {
        // Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        for (right, all, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let (got_low, got_high) = wilson(right, all);
            assert!((got_low - low).abs() < 6e-5, "{right}/{all}: {got_low}");
            assert!((got_high - high).abs() < 6e-5, "{right}/{all}: {got_high}");
        }
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert_eq!(wilson(7, 7).1, 1.0);
    }

    #[test]
    fn a_selection_of_an_earlier_release_has_what_it_lacks_from_the_defaults() {
        let read: Selection = serde_json::from_str(r#"{"patience":3,"best_by":"loss"}"#).unwrap();
        let expected = Selection {
            patience: Some(3),
            best_by: Some(BestBy::Loss),
            ..Selection::default()
        };
        assert_eq!(read, expected);
    }
}
