//! Logits become scores: softmax of each view, then the mean over the views. Pure.

use tonic::Status;

use crate::proto::v1;
use crate::rpc::status;
use crate::spec::LabelSet;

/// Labels that are returned when the caller does not say.
const TOP_K: usize = 5;

/// Scores of a video by view and in all.
#[derive(Debug)]
pub(super) struct Scores<'a> {
    labels: &'a LabelSet,
    views: Vec<Vec<f32>>,
    mean: Vec<f32>,
}

impl<'a> Scores<'a> {
    /// Scores of the logits of each view, `[views][labels]`.
    pub(super) fn of(logits: &[Vec<f32>], labels: &'a LabelSet) -> Result<Self, Status> {
        let fits =
            |row: &Vec<f32>| row.len() == labels.len() && row.iter().all(|logit| logit.is_finite());
        if logits.is_empty() || labels.is_empty() || !logits.iter().all(fits) {
            let cause = "logits are not one finite row of the labels' number for each view";
            return Err(status::internal(cause));
        }
        let views: Vec<Vec<f64>> = logits.iter().map(|row| softmax(row)).collect();
        let mean = (0..labels.len())
            .map(|label| views.iter().map(|view| view[label]).sum::<f64>() / views.len() as f64)
            .map(|score| score as f32)
            .collect();
        let narrow = |view: &Vec<f64>| view.iter().map(|&score| score as f32).collect();
        Ok(Self {
            labels,
            views: views.iter().map(narrow).collect(),
            mean,
        })
    }

    /// The best labels, best first; equal scores in label order. 0 means 5.
    pub(super) fn best(&self, top_k: u32) -> Vec<v1::Prediction> {
        let count = match usize::try_from(top_k) {
            Ok(0) => TOP_K,
            Ok(count) => count,
            Err(_) => usize::MAX,
        };
        let mut order: Vec<usize> = (0..self.mean.len()).collect();
        order.sort_by(|&a, &b| self.mean[b].total_cmp(&self.mean[a]));
        let labels = self.labels.as_slice();
        order
            .into_iter()
            .take(count)
            .map(|index| v1::Prediction {
                label: labels[index].clone(),
                label_index: index as u32,
                score: self.mean[index],
            })
            .collect()
    }

    /// Every view's scores in label order.
    pub(super) fn views(self) -> Vec<v1::ViewScores> {
        self.views
            .into_iter()
            .map(|scores| v1::ViewScores { scores })
            .collect()
    }
}

/// In f64, so that the scores of a thousand labels still sum to 1.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = logits
        .iter()
        .map(|&logit| f64::from(logit - most).exp())
        .collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|value| value / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(names: &[&str]) -> LabelSet {
        LabelSet::new(names.iter().map(ToString::to_string).collect()).unwrap()
    }

    #[test]
    fn views_are_softmaxed_before_they_are_averaged() {
        let labels = labels(&["a", "b"]);
        let scores = Scores::of(&[vec![0.0, 0.0], vec![0.0, 9.0_f32.ln()]], &labels).unwrap();
        let best = scores.best(0);
        assert_eq!(best[0].label, "b");
        assert!((best[0].score - 0.7).abs() < 1e-6);
        assert!((best[0].score + best[1].score - 1.0).abs() < 1e-6);
    }

    #[test]
    fn equal_scores_keep_the_order_of_the_labels() {
        let labels = labels(&["a", "b", "c", "d", "e", "f"]);
        let scores = Scores::of(&[vec![1.0; 6]], &labels).unwrap();
        let best = scores.best(0);
        assert_eq!(best.len(), 5);
        assert!(best.iter().map(|p| p.label_index).eq(0..5));
        assert_eq!(scores.best(100).len(), 6);
    }

    #[test]
    fn huge_logits_do_not_overflow_and_broken_ones_are_an_error() {
        let labels = labels(&["a", "b"]);
        let scores = Scores::of(&[vec![3e38, -3e38]], &labels).unwrap();
        assert_eq!(scores.best(1)[0].score, 1.0);
        for bad in [vec![], vec![vec![1.0]], vec![vec![f32::NAN, 0.0]]] {
            assert!(Scores::of(&bad, &labels).is_err());
        }
    }
}
