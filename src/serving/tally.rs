//! Metrics of scored examples: accuracies, loss, the confusion matrix.
//!
//! Invariant: pure, and summed in the order of the examples, so that equal scores give equal metrics by the bit, however often the sum is interrupted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::{Confusion, Evaluation};

/// Sum of scored examples, added one by one.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    classes: usize,
    examples: u64,
    top1: u64,
    top5: u64,
    loss: f64,
    /// By true label and predicted label; what did not happen takes no room.
    confusion: BTreeMap<(u32, u32), u64>,
}

/// Sums so far, as they are kept while an evaluation is interrupted; a float is kept as its bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    examples: u64,
    top1: u64,
    top5: u64,
    loss: u64,
    confusion: Vec<(u32, u32, u64)>,
}

/// Place of an example's own label among its scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Score of the label.
    pub score: f64,
    /// Number of labels that are ahead of the example's own.
    pub ahead: usize,
    /// Index of the label with the best score; the lower one of equals.
    pub best: usize,
}

impl Place {
    /// Returns the place of a class among scores; `None` when it has none.
    pub fn of(class: usize, scores: &[f64]) -> Option<Self> {
        let own = *scores.get(class)?;
        let ahead = scores
            .iter()
            .enumerate()
            .filter(|(other, score)| **score > own || (**score == own && *other < class))
            .count();
        let best = scores.iter().enumerate().fold(
            0,
            |best, (i, score)| if *score > scores[best] { i } else { best },
        );
        Some(Self {
            score: own,
            ahead,
            best,
        })
    }
}

impl Tally {
    /// Creates a tally in which nothing is counted.
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

    /// Continues from the sums of this many classes; `None` when they cannot be those of a tally.
    pub fn resumed(classes: usize, sums: Sums) -> Option<Self> {
        let is_known = |(label, predicted, _): &(u32, u32, u64)| {
            (*label as usize) < classes && (*predicted as usize) < classes
        };
        let counted = sums
            .confusion
            .iter()
            .try_fold(0_u64, |sum, cell| sum.checked_add(cell.2));
        let is_sound = sums.confusion.iter().all(is_known)
            && counted == Some(sums.examples)
            // No data set has so many, and what is added to them must not overflow.
            && sums.examples <= u64::from(u32::MAX)
            && sums.top1 <= sums.top5
            && sums.top5 <= sums.examples;
        let cells = sums.confusion.into_iter();
        is_sound.then(|| Self {
            classes,
            examples: sums.examples,
            top1: sums.top1,
            top5: sums.top5,
            loss: f64::from_bits(sums.loss),
            confusion: cells
                .map(|(label, predicted, count)| ((label, predicted), count))
                .collect(),
        })
    }

    /// Returns the sums so far.
    pub fn sums(&self) -> Sums {
        let cells = self.confusion.iter();
        Sums {
            examples: self.examples,
            top1: self.top1,
            top5: self.top5,
            loss: self.loss.to_bits(),
            confusion: cells
                .map(|((label, predicted), count)| (*label, *predicted, *count))
                .collect(),
        }
    }

    /// Returns the number of cells of the confusion matrix that are not 0.
    pub fn cells(&self) -> usize {
        self.confusion.len()
    }

    /// Returns the number of examples that were counted.
    pub fn examples(&self) -> u64 {
        self.examples
    }

    /// Counts an example: its true class and the scores of all classes, which sum to 1. Equal scores count for the lower class.
    pub fn add(&mut self, class: usize, scores: &[f64]) {
        if scores.len() != self.classes {
            return;
        }
        let Some(place) = Place::of(class, scores) else {
            return;
        };
        self.examples += 1;
        self.top1 += u64::from(place.ahead == 0);
        self.top5 += u64::from(place.ahead < 5);
        self.loss -= place.score.max(f64::MIN_POSITIVE).ln();
        let row = |class: usize| u32::try_from(class).unwrap_or(u32::MAX);
        let cell = (row(class), row(place.best));
        *self.confusion.entry(cell).or_default() += 1;
    }

    /// Returns the metrics; zeros when nothing was counted.
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
    fn a_sum_that_is_interrupted_has_the_bits_of_one_that_is_not() {
        let scores = |i: u32| {
            let first = f64::from(i % 7) / 7.0;
            vec![first, 1.0 - first]
        };
        let mut whole = Tally::new(2);
        let mut parts = Tally::new(2);
        for i in 0..100 {
            whole.add((i % 2) as usize, &scores(i));
            parts.add((i % 2) as usize, &scores(i));
            let text = serde_json::to_string(&parts.sums()).unwrap();
            parts = Tally::resumed(2, serde_json::from_str(&text).unwrap()).unwrap();
        }
        assert_eq!(parts, whole);
        let sums = whole.sums();
        assert_eq!(Tally::resumed(1, sums.clone()), None, "a class too few");
        let more = Sums {
            examples: 101,
            ..sums
        };
        assert_eq!(Tally::resumed(2, more), None, "an example that no cell has");
        let many = u64::from(u32::MAX) + 1;
        let many = Sums {
            examples: many,
            top1: many,
            top5: many,
            loss: 0,
            confusion: vec![(0, 0, many)],
        };
        assert_eq!(Tally::resumed(2, many), None, "more than any data set has");
    }

    #[test]
    fn nothing_counted_is_zero() {
        assert_eq!(Tally::new(2).finish().top1, 0.0);
    }
}
