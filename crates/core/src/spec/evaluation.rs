//! Metrics on a split, and the confusion matrix as the cells that are not 0.
//!
//! Invariant: cells are ordered by true label, then by predicted label, each once; their number has a limit, whatever the number of labels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Independent, wilson};

/// Metrics on a split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Examples that were evaluated.
    pub examples: u64,
    /// Share of examples whose best score is that of a label of theirs.
    pub top1: f64,
    /// Share of examples of which a label is among the best five.
    pub top5: f64,
    /// Mean cross entropy, in nats; of labels that do not exclude one another, the mean over them of the binary cross entropies.
    pub loss: f64,
    /// How often each label was predicted for each label; empty in a listing.
    #[serde(default)]
    pub confusion: Confusion,
    /// Why there are no metrics, when something went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Metrics of labels that do not exclude one another; `None` of labels that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub independent: Option<Independent>,
}

impl Evaluation {
    /// The metric by which versions are compared: the mean average precision of labels that do not exclude one another, else the top-1 accuracy.
    pub fn compared(&self) -> f64 {
        self.independent.as_ref().map_or(self.top1, |own| own.map)
    }

    /// The 95 % interval of the top-1 accuracy; the whole range without examples.
    pub fn top1_interval(&self) -> (f64, f64) {
        let right = (self.top1 * self.examples as f64).round() as u64;
        wilson(right, self.examples)
    }
}

/// Means over the labels that have examples, each label with the same weight.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LabelMeans {
    /// Mean recall.
    pub recall: f64,
    /// Mean F1 score: twice the right ones over those of the label and those predicted.
    pub f1: f64,
}

impl LabelMeans {
    /// The means of an evaluation of so many labels; zeros when none has an example.
    pub fn of(evaluation: &Evaluation, labels: usize) -> Self {
        match &evaluation.independent {
            Some(own) => Self {
                recall: own.mean_recall(),
                f1: own.macro_f1(),
            },
            None => Self::counted(&evaluation.confusion.label_counts(labels)),
        }
    }

    /// The means of labels with these counts; zeros when none has an example.
    pub fn counted(counts: &[LabelCounts]) -> Self {
        let own = counts.iter().filter(|own| own.examples > 0);
        let mut sums = Self::default();
        let mut labels = 0.0;
        for count in own {
            labels += 1.0;
            sums.recall += count.right as f64 / count.examples as f64;
            sums.f1 += 2.0 * count.right as f64 / (count.examples + count.predicted) as f64;
        }
        if labels == 0.0 {
            return sums;
        }
        Self {
            recall: sums.recall / labels,
            f1: sums.f1 / labels,
        }
    }
}

/// A cell of a confusion matrix: examples of one label for which one label was predicted. Stored as `[label, predicted, examples]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u32, u64)", into = "(u32, u32, u64)")]
pub struct Cell {
    /// Row of the true label.
    pub label: u32,
    /// Row of the predicted label.
    pub predicted: u32,
    /// Number of examples.
    pub examples: u64,
}

/// Counts of one label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u64)", into = "(u64, u64, u64)")]
pub struct LabelCounts {
    /// Examples of the label.
    pub examples: u64,
    /// Examples for which the label was predicted.
    pub predicted: u64,
    /// Examples of the label for which it was predicted.
    pub right: u64,
}

/// A confusion matrix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct Confusion {
    cells: Vec<Cell>,
    /// Counts of every label, when cells were left out; otherwise the cells say it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    counts: Vec<LabelCounts>,
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

/// What release 0.1 stored (every count of every row), and what is stored now.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Dense(Vec<u64>),
    Sparse {
        cells: Vec<Cell>,
        #[serde(default)]
        counts: Vec<LabelCounts>,
        #[serde(default)]
        left_out: u64,
    },
}

impl Confusion {
    /// Most cells that are kept: those with the most examples.
    pub const CELLS: usize = 16_384;

    /// A matrix of counted cells over `labels` labels.
    pub fn new(counted: BTreeMap<(u32, u32), u64>, labels: usize) -> Self {
        let cells = counted
            .into_iter()
            .filter(|(_, examples)| *examples > 0)
            .map(|((label, predicted), examples)| Cell {
                label,
                predicted,
                examples,
            });
        let mut whole = Self {
            cells: cells.collect(),
            ..Self::default()
        };
        if whole.cells.len() > Self::CELLS {
            whole.counts = whole.label_counts(labels);
            whole
                .cells
                .sort_by_key(|cell| std::cmp::Reverse(cell.examples));
            whole.left_out = (whole.cells.len() - Self::CELLS) as u64;
            whole.cells.truncate(Self::CELLS);
            whole.cells.sort_by_key(|cell| (cell.label, cell.predicted));
        }
        whole
    }

    /// A matrix whose every count is given, row by row (row = true label); `None` when they do not form a square.
    pub fn from_rows(rows: &[u64]) -> Option<Self> {
        let labels = rows.len().isqrt();
        if labels * labels != rows.len() {
            return None;
        }
        let row_of = |at: usize| u32::try_from(at).ok();
        let mut counted = BTreeMap::new();
        for (at, &examples) in rows.iter().enumerate().filter(|(_, count)| **count > 0) {
            counted.insert((row_of(at / labels)?, row_of(at % labels)?), examples);
        }
        Some(Self::new(counted, labels))
    }

    /// The cells that are not 0; when there are more than [`Self::CELLS`], the largest.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Number of cells that are not 0 and were left out.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Counts of each of `labels` labels.
    pub fn label_counts(&self, labels: usize) -> Vec<LabelCounts> {
        if self.counts.len() == labels {
            return self.counts.clone();
        }
        let mut counts = vec![LabelCounts::default(); labels];
        for cell in &self.cells {
            let (label, predicted) = (cell.label as usize, cell.predicted as usize);
            if let Some(own) = counts.get_mut(label) {
                own.examples = own.examples.saturating_add(cell.examples);
                if label == predicted {
                    own.right = own.right.saturating_add(cell.examples);
                }
            }
            if let Some(other) = counts.get_mut(predicted) {
                other.predicted = other.predicted.saturating_add(cell.examples);
            }
        }
        counts
    }

    /// Every count, row by row (row = true label), when there are at most `most` labels; empty otherwise.
    pub fn rows(&self, labels: usize, most: usize) -> Vec<u64> {
        if labels > most || self.left_out > 0 || self.cells.is_empty() {
            return Vec::new();
        }
        let mut rows = vec![0; labels * labels];
        for cell in &self.cells {
            let at = cell.label as usize * labels + cell.predicted as usize;
            if let Some(count) = rows.get_mut(at) {
                *count = cell.examples;
            }
        }
        rows
    }

    /// Whether a matrix from elsewhere is valid over `labels` labels.
    pub fn is_sound(&self, labels: usize) -> bool {
        let is_known = |row: u32| (row as usize) < labels;
        let place = |cell: &Cell| (cell.label, cell.predicted);
        let cells = &self.cells;
        cells.len() <= Self::CELLS
            && cells
                .iter()
                .all(|cell| is_known(cell.label) && is_known(cell.predicted))
            && cells
                .windows(2)
                .all(|pair| place(&pair[0]) < place(&pair[1]))
            && (self.counts.is_empty() || self.counts.len() == labels)
            && (self.left_out == 0 || !self.counts.is_empty())
    }
}

impl TryFrom<Stored> for Confusion {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        match stored {
            Stored::Dense(rows) => Self::from_rows(&rows).ok_or("the rows make no square"),
            Stored::Sparse {
                cells,
                counts,
                left_out,
            } => Ok(Self {
                cells,
                counts,
                left_out,
            }),
        }
    }
}

impl From<(u32, u32, u64)> for Cell {
    fn from((label, predicted, examples): (u32, u32, u64)) -> Self {
        Self {
            label,
            predicted,
            examples,
        }
    }
}

impl From<Cell> for (u32, u32, u64) {
    fn from(cell: Cell) -> Self {
        (cell.label, cell.predicted, cell.examples)
    }
}

impl From<(u64, u64, u64)> for LabelCounts {
    fn from((examples, predicted, right): (u64, u64, u64)) -> Self {
        Self {
            examples,
            predicted,
            right,
        }
    }
}

impl From<LabelCounts> for (u64, u64, u64) {
    fn from(counts: LabelCounts) -> Self {
        (counts.examples, counts.predicted, counts.right)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_release_0_1_stored_is_read() {
        let text = r#"{"examples":4,"top1":0.5,"top5":1.0,"loss":0.3,"confusion":[1,0,1,2]}"#;
        let read: Evaluation = serde_json::from_str(text).unwrap();
        let cells = read.confusion.cells().iter();
        let cells: Vec<(u32, u32, u64)> = cells.map(|cell| (*cell).into()).collect();
        assert_eq!(cells, [(0, 0, 1), (1, 0, 1), (1, 1, 2)]);
        assert_eq!(read.confusion.rows(2, 256), [1, 0, 1, 2]);
        let again = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<Evaluation>(&again).unwrap(), read);
        let none = text.replace("[1,0,1,2]", "[]");
        let none: Evaluation = serde_json::from_str(&none).unwrap();
        assert_eq!(none.confusion, Confusion::default());
        assert!(serde_json::from_str::<Evaluation>(&text.replace("[1,0,1,2]", "[1,0]")).is_err());
    }

    #[test]
    fn the_largest_cells_of_many_are_kept_and_the_labels_counts_are_whole() {
        let labels = 20_000_u32;
        let counted = (0..labels)
            .flat_map(|label| [((label, label), 3), ((label, (label + 1) % labels), 1)])
            .collect();
        let confusion = Confusion::new(counted, labels as usize);
        assert_eq!(confusion.cells().len(), Confusion::CELLS);
        assert_eq!(confusion.left_out(), 40_000 - Confusion::CELLS as u64);
        assert!(confusion.cells().iter().all(|cell| cell.examples == 3));
        assert!(confusion.is_sound(labels as usize));
        let own = LabelCounts {
            examples: 4,
            predicted: 4,
            right: 3,
        };
        assert_eq!(
            confusion.label_counts(labels as usize),
            vec![own; labels as usize]
        );
        let text = serde_json::to_string(&confusion).unwrap();
        assert!(text.len() < 1 << 20, "{}", text.len());
        assert_eq!(serde_json::from_str::<Confusion>(&text).unwrap(), confusion);
    }

    #[test]
    fn each_label_counts_the_same_in_the_means_and_one_without_examples_does_not() {
        // Nine of ten of the frequent label and none of the two of the rare one; a third label is predicted once.
        let confusion = Confusion::from_rows(&[9, 0, 1, 2, 0, 0, 0, 0, 0]).unwrap();
        let means = LabelMeans::counted(&confusion.label_counts(3));
        assert!((means.recall - 0.45).abs() < 1e-12, "{means:?}");
        let f1 = 18.0 / 21.0 / 2.0;
        assert!((means.f1 - f1).abs() < 1e-12, "{means:?}");
        assert_eq!(LabelMeans::counted(&[]), LabelMeans::default());
    }

    #[test]
    fn a_matrix_of_unknown_labels_or_in_no_order_is_not_sound() {
        let parse = |text: &str| serde_json::from_str::<Confusion>(text).unwrap();
        assert!(parse(r#"{"cells":[[0,1,2],[1,0,1]]}"#).is_sound(2));
        for bad in [
            r#"{"cells":[[0,2,2]]}"#,
            r#"{"cells":[[1,0,1],[0,1,2]]}"#,
            r#"{"cells":[[0,1,2],[0,1,2]]}"#,
            r#"{"cells":[[0,1,2]],"counts":[[1,1,1]]}"#,
            r#"{"cells":[[0,1,2]],"left_out":1}"#,
        ] {
            assert!(!parse(bad).is_sound(2), "{bad}");
        }
    }
}
