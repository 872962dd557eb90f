//! Metrics of versions.

use super::spec::signed;
use crate::proto::v1;
use crate::spec::{Cell, Evaluation, Independent, LabelCounts, LabelMeans, LabelScore, LabelSet};

/// Labels up to which a confusion matrix is shown row by row as well.
const SHOWN_ROWS: usize = 256;

/// Metrics as the API shows them, with each label's precision and recall out of the confusion matrix.
pub(in crate::rpc) fn of_evaluation(evaluation: &Evaluation, labels: &LabelSet) -> v1::Evaluation {
    let of_label = |(label, counts): (&String, LabelCounts)| v1::LabelMetrics {
        label: label.clone(),
        precision: share(counts.right, counts.predicted),
        recall: share(counts.right, counts.examples),
        examples: signed(counts.examples),
        ..Default::default()
    };
    if let Some(own) = &evaluation.independent {
        return of_independent(evaluation, own, labels);
    }
    let confusion = &evaluation.confusion;
    let counts = confusion.label_counts(labels.len());
    let rows = confusion.rows(labels.len(), SHOWN_ROWS);
    let means = LabelMeans::counted(&counts);
    v1::Evaluation {
        mean_class_accuracy: means.recall,
        macro_f1: means.f1,
        confusion: rows.into_iter().map(signed).collect(),
        confusion_cells: confusion.cells().iter().map(of_cell).collect(),
        confusion_cells_left_out: signed(confusion.left_out()),
        labels: labels.as_slice().iter().zip(counts).map(of_label).collect(),
        ..of_listed_evaluation(evaluation)
    }
}

fn of_independent(evaluation: &Evaluation, own: &Independent, labels: &LabelSet) -> v1::Evaluation {
    let of_label = |(label, score): (&String, &LabelScore)| v1::LabelMetrics {
        label: label.clone(),
        precision: share(score.right, score.predicted),
        recall: share(score.right, score.examples),
        examples: signed(score.examples),
        average_precision: Some(score.average_precision),
        f1: Some(score.f1()),
        threshold: Some(score.threshold),
    };
    let means = LabelMeans::of(evaluation, labels.len());
    let scores = labels.as_slice().iter().zip(&own.labels);
    v1::Evaluation {
        mean_class_accuracy: means.recall,
        macro_f1: means.f1,
        labels: scores.map(of_label).collect(),
        ..of_listed_evaluation(evaluation)
    }
}

/// Metrics without what grows with the number of labels.
pub(in crate::rpc) fn of_listed_evaluation(evaluation: &Evaluation) -> v1::Evaluation {
    let (top1_low, top1_high) = evaluation.top1_interval();
    v1::Evaluation {
        top1_low,
        top1_high,
        examples: signed(evaluation.examples),
        top1: evaluation.top1,
        top5: evaluation.top5,
        loss: evaluation.loss,
        problem: evaluation.problem.clone().unwrap_or_default(),
        mean_average_precision: evaluation.independent.as_ref().map(|own| own.map),
        ..Default::default()
    }
}

/// A part of a whole; 0 of an empty one.
fn share(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => part as f64 / whole as f64,
    }
}

fn of_cell(cell: &Cell) -> v1::ConfusionCell {
    v1::ConfusionCell {
        label: cell.label,
        predicted: cell.predicted,
        examples: signed(cell.examples),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Confusion;

    #[test]
    fn metrics_of_the_most_labels_fit_into_a_message() {
        use prost::Message;

        let most = crate::spec::MAX_LABELS;
        // As long as labels can be.
        let labels = (0..most).map(|label| format!("{label:0>255}")).collect();
        let labels = LabelSet::new(labels).unwrap();
        let counted = (0..most as u32)
            .flat_map(|label| [((label, label), 9), ((label, 0), u64::from(label) + 1)])
            .collect();
        let evaluation = Evaluation {
            confusion: Confusion::new(counted, most),
            ..Default::default()
        };
        let shown = of_evaluation(&evaluation, &labels);
        assert!(shown.confusion.is_empty());
        let bytes =
            shown.encoded_len() + labels.as_slice().iter().map(|l| l.len() + 4).sum::<usize>();
        assert!(bytes < 16 << 20, "{bytes}");
    }

    #[test]
    fn precision_and_recall_come_out_of_the_confusion_matrix() {
        let labels = LabelSet::new(vec!["a".into(), "b".into()]).unwrap();
        let evaluation = Evaluation {
            examples: 4,
            confusion: Confusion::from_rows(&[1, 1, 0, 2]).unwrap(),
            ..Default::default()
        };
        let shown = of_evaluation(&evaluation, &labels);
        assert_eq!(shown.confusion, [1, 1, 0, 2]);
        assert_eq!(shown.confusion_cells.len(), 3);
        assert_eq!(shown.labels[0].recall, 0.5);
        assert_eq!(shown.labels[0].precision, 1.0);
        assert_eq!(shown.labels[1].recall, 1.0);
        assert!((shown.labels[1].precision - 2.0 / 3.0).abs() < 1e-12);
    }
}
