//! Metrics of scored examples: accuracies, loss, the confusion matrix.
//!
//! Invariant: pure, and summed in the order of the examples, so that equal scores give equal metrics by the bit.

use std::collections::BTreeMap;

use crate::spec::{Confusion, Evaluation};

/// Adds up examples one by one.
#[derive(Debug, Clone)]
pub struct Tally {
    classes: usize,
    examples: u64,
    top1: u64,
    top5: u64,
    loss: f64,
    /// By true label and predicted label; what did not happen takes no room.
    confusion: BTreeMap<(u32, u32), u64>,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            examples: 0,
            top1: 0,
            top5: 0,
            loss: 0.0,
            confusion: BTreeMap::new(),
        }
    }

    /// Counts an example: its true class and the scores of all classes, which sum to 1. Equal scores count for the lower class.
    pub fn add(&mut self, class: usize, scores: &[f64]) {
        let Some(&own) = scores.get(class).filter(|_| scores.len() == self.classes) else {
            return;
        };
        let ahead = scores
            .iter()
            .enumerate()
            .filter(|(other, score)| **score > own || (**score == own && *other < class))
            .count();
        let best = scores.iter().enumerate().fold(
            0,
            |best, (i, score)| if *score > scores[best] { i } else { best },
        );
        self.examples += 1;
        self.top1 += u64::from(ahead == 0);
        self.top5 += u64::from(ahead < 5);
        self.loss -= own.max(f64::MIN_POSITIVE).ln();
        let row = |class: usize| u32::try_from(class).unwrap_or(u32::MAX);
        *self.confusion.entry((row(class), row(best))).or_default() += 1;
    }

    /// The metrics; zeros when nothing was counted.
    pub fn finish(self) -> Evaluation {
        let share = |count: f64| count / self.examples.max(1) as f64;
        Evaluation {
            examples: self.examples,
            top1: share(self.top1 as f64),
            top5: share(self.top5 as f64),
            loss: share(self.loss),
            confusion: Confusion::new(self.confusion, self.classes),
            problem: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_add_up() {
        let mut tally = Tally::new(3);
        tally.add(0, &[0.5, 0.25, 0.25]);
        tally.add(1, &[0.5, 0.25, 0.25]);
        tally.add(1, &[0.0, 1.0, 0.0]);
        tally.add(2, &[0.2, 0.4, 0.4]);
        let metrics = tally.finish();
        assert_eq!(
            (metrics.examples, metrics.top1, metrics.top5),
            (4, 0.5, 1.0)
        );
        let rows = metrics.confusion.rows(3, 256);
        assert_eq!(rows, [1, 0, 0, 1, 1, 0, 0, 1, 0]);
        let loss = -(0.5_f64.ln() + 0.25_f64.ln() + 0.4_f64.ln()) / 4.0;
        assert!((metrics.loss - loss).abs() < 1e-12);
    }

    #[test]
    fn many_labels_take_what_their_examples_take() {
        let classes = 20_000;
        let mut tally = Tally::new(classes);
        let mut scores = vec![0.0; classes];
        scores[7] = 1.0;
        tally.add(19_999, &scores);
        tally.add(7, &scores);
        assert_eq!(tally.confusion.len(), 2);
        let counts = tally.finish().confusion.label_counts(classes);
        assert_eq!((counts[7].predicted, counts[7].right), (2, 1));
        assert_eq!((counts[19_999].examples, counts[19_999].right), (1, 0));
    }

    #[test]
    fn top_five_of_six() {
        let scores = [0.3, 0.25, 0.2, 0.12, 0.08, 0.05];
        let mut tally = Tally::new(6);
        tally.add(4, &scores);
        tally.add(5, &scores);
        assert_eq!(tally.finish().top5, 0.5);
    }

    #[test]
    fn nothing_counted_is_zero() {
        assert_eq!(Tally::new(2).finish().top1, 0.0);
    }
}
