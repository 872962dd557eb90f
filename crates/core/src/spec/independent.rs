//! Metrics of labels that do not exclude one another: average precision of each label, and what follows from a threshold of its score.
//!
//! Invariant: an average precision and a threshold need examples with the label; a label without any is left out of every mean.

use serde::{Deserialize, Serialize};

/// Metrics of labels that do not exclude one another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Independent {
    /// Mean average precision over the labels that have examples.
    pub map: f64,
    /// Metrics of each label, in label order; empty in a listing.
    #[serde(default)]
    pub labels: Vec<LabelScore>,
}

/// Metrics of one label. Stored as `[examples, predicted, right, average precision, threshold]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u64, f64, f64)", into = "(u64, u64, u64, f64, f64)")]
pub struct LabelScore {
    /// Examples that have the label.
    pub examples: u64,
    /// Examples whose score of the label is 0.5 or more.
    pub predicted: u64,
    /// Examples that have the label, and whose score of it is 0.5 or more.
    pub right: u64,
    /// Average precision: the mean of the precisions at the scores of the examples with the label; 0 without any.
    pub average_precision: f64,
    /// The score from which on the label is taken to be there: the one with the best F1 score, or [`LabelScore::THRESHOLD`] when few examples have the label.
    pub threshold: f64,
}

impl LabelScore {
    /// Threshold of a label of which too little is known.
    pub const THRESHOLD: f64 = 0.5;
    /// Fewest examples with a label, and fewest without, from which a threshold of its own follows.
    pub const FEWEST: u64 = 5;

    /// F1 score at 0.5: twice the right ones over those with the label and those predicted; 0 when there is neither.
    pub fn f1(&self) -> f64 {
        match self.examples + self.predicted {
            0 => 0.0,
            sum => 2.0 * self.right as f64 / sum as f64,
        }
    }

    fn recall(&self) -> f64 {
        match self.examples {
            0 => 0.0,
            examples => self.right as f64 / examples as f64,
        }
    }
}

impl Independent {
    /// Metrics of labels.
    pub fn of(labels: Vec<LabelScore>) -> Self {
        let map = mean(&labels, |own| own.average_precision);
        Self { map, labels }
    }

    /// Mean F1 score at 0.5 over the labels that have examples.
    pub fn macro_f1(&self) -> f64 {
        mean(&self.labels, LabelScore::f1)
    }

    /// Mean recall at 0.5 over the labels that have examples.
    pub fn mean_recall(&self) -> f64 {
        mean(&self.labels, LabelScore::recall)
    }

    /// Whether metrics from elsewhere are valid over `labels` labels.
    pub fn is_sound(&self, labels: usize) -> bool {
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        let is_sound = |own: &LabelScore| {
            own.right <= own.examples
                && own.right <= own.predicted
                && is_share(own.average_precision)
                && is_share(own.threshold)
        };
        is_share(self.map)
            && (self.labels.is_empty() || self.labels.len() == labels)
            && self.labels.iter().all(is_sound)
    }
}

/// The mean over the labels that have examples; 0 when none has.
fn mean(labels: &[LabelScore], of: impl Fn(&LabelScore) -> f64) -> f64 {
    let own = labels.iter().filter(|own| own.examples > 0);
    let (sum, count) = own.fold((0.0, 0_u64), |(sum, count), own| (sum + of(own), count + 1));
    sum / count.max(1) as f64
}

impl From<(u64, u64, u64, f64, f64)> for LabelScore {
    fn from(
        (examples, predicted, right, average_precision, threshold): (u64, u64, u64, f64, f64),
    ) -> Self {
        Self {
            examples,
            predicted,
            right,
            average_precision,
            threshold,
        }
    }
}

impl From<LabelScore> for (u64, u64, u64, f64, f64) {
    fn from(own: LabelScore) -> Self {
        (
            own.examples,
            own.predicted,
            own.right,
            own.average_precision,
            own.threshold,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(examples: u64, predicted: u64, right: u64, average_precision: f64) -> LabelScore {
        LabelScore {
            examples,
            predicted,
            right,
            average_precision,
            threshold: 0.5,
        }
    }

    #[test]
    fn a_label_without_examples_is_in_no_mean() {
        let own = Independent::of(vec![
            label(4, 2, 2, 0.9),
            label(0, 3, 0, 0.0),
            label(2, 2, 1, 0.5),
        ]);
        assert!((own.map - 0.7).abs() < 1e-12);
        assert!((own.macro_f1() - (2.0 / 3.0 + 0.5) / 2.0).abs() < 1e-12);
        assert!((own.mean_recall() - 0.5).abs() < 1e-12);
        assert_eq!(Independent::of(Vec::new()).map, 0.0);
        let text = serde_json::to_string(&own).unwrap();
        assert_eq!(serde_json::from_str::<Independent>(&text).unwrap(), own);
        assert!(own.is_sound(3) && !own.is_sound(2));
        let mut wrong = own.clone();
        wrong.labels[0].right = 5;
        assert!(!wrong.is_sound(3));
        wrong.labels[0] = label(4, 2, 2, f64::NAN);
        assert!(!wrong.is_sound(3));
    }
}
