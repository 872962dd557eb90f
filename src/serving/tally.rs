//! Metrics of scored examples: accuracies, loss, the confusion matrix.
//!
//! Invariant: pure, and summed in the order of the examples, so that equal scores give equal metrics by the bit, however often the sum is interrupted.

mod levels;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::{Confusion, Evaluation, LabelKind};

use levels::{Kept, Levels};

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
    /// Scores of labels that do not exclude one another; `None` of labels that do.
    levels: Option<Levels>,
}

/// Sums so far, as they are kept while an evaluation is interrupted; a float is kept as its bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    examples: u64,
    top1: u64,
    top5: u64,
    loss: u64,
    confusion: Vec<(u32, u32, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    levels: Option<Kept>,
}

/// Place of an example's own label among its scores; of several labels, of the one with the best score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Score of the label.
    pub score: f64,
    /// Number of labels that are ahead of that label.
    pub ahead: usize,
    /// Index of the label with the best score; the lower one of equals.
    pub best: usize,
}

impl Place {
    /// Returns the place of an example of these rows among scores; `None` when it has no row, or one that has no score.
    pub fn of(rows: &[u32], scores: &[f64]) -> Option<Self> {
        let places = rows.iter().map(|row| Self::of_row(*row as usize, scores));
        let places: Vec<Self> = places.collect::<Option<_>>()?;
        places.into_iter().min_by_key(|place| place.ahead)
    }

    fn of_row(row: usize, scores: &[f64]) -> Option<Self> {
        let own = *scores.get(row)?;
        let ahead = scores
            .iter()
            .enumerate()
            .filter(|(other, score)| **score > own || (**score == own && *other < row))
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
    /// Creates a tally of this many labels of a kind, in which nothing is counted.
    pub fn new(classes: usize, kind: LabelKind) -> Self {
        Self {
            classes,
            examples: 0,
            top1: 0,
            top5: 0,
            loss: 0.0,
            confusion: BTreeMap::new(),
            levels: kind.is_multi().then(|| Levels::new(classes)),
        }
    }

    /// Continues from the sums of this many labels of a kind; `None` when they cannot be those of a tally.
    pub fn resumed(classes: usize, kind: LabelKind, mut sums: Sums) -> Option<Self> {
        let levels = match (kind, sums.levels.take()) {
            (LabelKind::Single, None) => None,
            (LabelKind::Multi, Some(kept)) => {
                Some(Levels::resumed(kept, (classes, sums.examples))?)
            }
            (LabelKind::Single, Some(_)) | (LabelKind::Multi, None) => return None,
        };
        let is_known = |(label, predicted, _): &(u32, u32, u64)| {
            (*label as usize) < classes && (*predicted as usize) < classes
        };
        let counted = sums
            .confusion
            .iter()
            .try_fold(0_u64, |sum, cell| sum.checked_add(cell.2));
        let is_sound = sums.confusion.iter().all(is_known)
            && counted == Some(if kind.is_multi() { 0 } else { sums.examples })
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
            levels,
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
            levels: self.levels.as_ref().map(Levels::kept),
            confusion: cells
                .map(|((label, predicted), count)| (*label, *predicted, *count))
                .collect(),
        }
    }

    /// Returns the number of cells of the confusion matrix that are not 0, or of the levels of scores that have examples.
    pub fn cells(&self) -> usize {
        self.confusion.len() + self.levels.as_ref().map_or(0, Levels::cells)
    }

    /// Returns the number of examples that were counted.
    pub fn examples(&self) -> u64 {
        self.examples
    }

    /// Counts an example: the rows of its labels and the scores of all labels. Equal scores count for the lower row. Where labels exclude one another, an
    /// example has one row and the scores sum to 1; else an example without labels counts as right when no score reaches 0.5. An example with a score that is no
    /// number is never right, and the loss is no number with it.
    pub fn add(&mut self, rows: &[u32], scores: &[f64]) {
        let is_known = |row: &u32| (*row as usize) < self.classes;
        if scores.len() != self.classes || !rows.iter().all(is_known) {
            return;
        }
        let place = Place::of(rows, scores);
        // Nothing is ahead of what is no number.
        let is_number = scores.iter().all(|score| !score.is_nan());
        if let Some(levels) = &mut self.levels {
            let is_quiet = scores.iter().all(|score| *score < 0.5);
            let is_among =
                |most: usize| is_number && place.map_or(is_quiet, |place| place.ahead < most);
            self.loss += levels.add(rows, scores);
            self.top1 += u64::from(is_among(1));
            self.top5 += u64::from(is_among(5));
            self.examples += 1;
            return;
        }
        let (&[row], Some(place)) = (rows, place) else {
            return;
        };
        self.examples += 1;
        self.top1 += u64::from(is_number && place.ahead == 0);
        self.top5 += u64::from(is_number && place.ahead < 5);
        self.loss += surprise(if is_number { place.score } else { f64::NAN });
        let best = u32::try_from(place.best).unwrap_or(u32::MAX);
        *self.confusion.entry((row, best)).or_default() += 1;
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
            independent: self.levels.map(Levels::finish),
        }
    }
}

/// Minus the logarithm of how likely something was; no number when that is none, so that a sum with it is none, either.
fn surprise(likely: f64) -> f64 {
    match likely.is_nan() {
        true => likely,
        // `max` makes a small number of what is none.
        false => -likely.max(f64::MIN_POSITIVE).ln(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_that_are_no_numbers_are_never_right_and_leave_no_loss() {
        for kind in [LabelKind::Single, LabelKind::Multi] {
            for scores in [[f64::NAN, f64::NAN], [f64::NAN, 0.5], [0.5, f64::NAN]] {
                let mut tally = Tally::new(2, kind);
                tally.add(&[0], &[0.9, 0.1]);
                tally.add(&[0], &scores);
                let metrics = tally.finish();
                assert!(metrics.loss.is_nan(), "{kind:?} {scores:?}");
                assert_eq!(
                    (metrics.examples, metrics.top1, metrics.top5),
                    (2, 0.5, 0.5)
                );
            }
        }
        let mut tally = Tally::new(2, LabelKind::Multi);
        tally.add(&[], &[f64::NAN, 0.1]);
        assert_eq!(tally.finish().top1, 0.0, "an example without labels");
        let mut tally = Tally::new(2, LabelKind::Single);
        tally.add(&[0], &[0.0, 1.0]);
        assert!(tally.finish().loss.is_finite(), "as unlikely as can be");
    }

    #[test]
    fn examples_add_up() {
        let mut tally = Tally::new(3, LabelKind::Single);
        tally.add(&[0], &[0.5, 0.25, 0.25]);
        tally.add(&[1], &[0.5, 0.25, 0.25]);
        tally.add(&[1], &[0.0, 1.0, 0.0]);
        tally.add(&[2], &[0.2, 0.4, 0.4]);
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
        let mut tally = Tally::new(classes, LabelKind::Single);
        let mut scores = vec![0.0; classes];
        scores[7] = 1.0;
        tally.add(&[19_999], &scores);
        tally.add(&[7], &scores);
        assert_eq!(tally.confusion.len(), 2);
        let counts = tally.finish().confusion.label_counts(classes);
        assert_eq!((counts[7].predicted, counts[7].right), (2, 1));
        assert_eq!((counts[19_999].examples, counts[19_999].right), (1, 0));
    }

    #[test]
    fn top_five_of_six() {
        let scores = [0.3, 0.25, 0.2, 0.12, 0.08, 0.05];
        let mut tally = Tally::new(6, LabelKind::Single);
        tally.add(&[4], &scores);
        tally.add(&[5], &scores);
        assert_eq!(tally.finish().top5, 0.5);
    }

    #[test]
    fn a_sum_that_is_interrupted_has_the_bits_of_one_that_is_not() {
        let scores = |i: u32| {
            let first = f64::from(i % 7) / 7.0;
            vec![first, 1.0 - first]
        };
        let mut whole = Tally::new(2, LabelKind::Single);
        let mut parts = Tally::new(2, LabelKind::Single);
        for i in 0..100 {
            whole.add(&[i % 2], &scores(i));
            parts.add(&[i % 2], &scores(i));
            let text = serde_json::to_string(&parts.sums()).unwrap();
            parts =
                Tally::resumed(2, LabelKind::Single, serde_json::from_str(&text).unwrap()).unwrap();
        }
        assert_eq!(parts, whole);
        let sums = whole.sums();
        assert_eq!(
            Tally::resumed(1, LabelKind::Single, sums.clone()),
            None,
            "a class too few"
        );
        let more = Sums {
            examples: 101,
            ..sums
        };
        assert_eq!(
            Tally::resumed(2, LabelKind::Single, more),
            None,
            "an example that no cell has"
        );
        let many = u64::from(u32::MAX) + 1;
        let many = Sums {
            examples: many,
            top1: many,
            top5: many,
            loss: 0,
            confusion: vec![(0, 0, many)],
            levels: None,
        };
        assert_eq!(
            Tally::resumed(2, LabelKind::Single, many),
            None,
            "more than any data set has"
        );
    }

    #[test]
    fn labels_of_their_own_add_up_and_go_on_after_an_interruption() {
        let mut tally = Tally::new(2, LabelKind::Multi);
        let examples: [(&[u32], [f64; 2]); 4] = [
            (&[0, 1], [0.9, 0.8]),
            (&[1], [0.6, 0.4]),
            (&[], [0.2, 0.1]),
            (&[0], [0.7, 0.3]),
        ];
        for (rows, scores) in examples {
            tally.add(rows, &scores);
            let text = serde_json::to_string(&tally.sums()).unwrap();
            let sums: Sums = serde_json::from_str(&text).unwrap();
            assert_eq!(Tally::resumed(2, LabelKind::Single, sums.clone()), None);
            let again = Tally::resumed(2, LabelKind::Multi, sums).unwrap();
            assert_eq!(again, tally);
            tally = again;
        }
        tally.add(&[2], &[0.5, 0.5]);
        let metrics = tally.finish();
        assert_eq!((metrics.examples, metrics.top1), (4, 0.75));
        assert_eq!(metrics.top5, 1.0);
        let of = |score: f64, is: bool| -(if is { score } else { 1.0 - score }).ln();
        let loss = examples.map(|(rows, scores)| {
            let own = |row: u32| of(scores[row as usize], rows.contains(&row));
            (own(0) + own(1)) / 2.0
        });
        assert!((metrics.loss - loss.iter().sum::<f64>() / 4.0).abs() < 1e-12);
        let independent = metrics.independent.unwrap();
        let counts = independent.labels.iter();
        let counts: Vec<_> = counts.map(|l| (l.examples, l.predicted, l.right)).collect();
        assert_eq!(counts, [(2, 3, 2), (2, 1, 1)]);
        // By score: 0.9 has it, 0.7 has it; 0.8 has it, 0.4 has it.
        assert_eq!(independent.map, 1.0);
    }

    #[test]
    fn nothing_counted_is_zero() {
        assert_eq!(Tally::new(2, LabelKind::Single).finish().top1, 0.0);
    }
}
