//! Scores from logits: softmax of each view, or sigmoids where labels do not exclude one another, then the mean over the views.
//!
//! Invariant: pure, and the only place that computes scores, so that a job's evaluation and a classification agree to the bit.

use crate::spec::LabelKind;

/// Scores of a video's views and of the video.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Scores of each view in label order; each row sums to 1 where labels exclude one another.
    pub views: Vec<Vec<f64>>,
    /// Mean of the views' scores in label order.
    pub mean: Vec<f64>,
}

impl Scores {
    /// Computes the scores of logits `[views][labels]`; `None` when there are no views, or the rows are not finite or differ in length.
    pub fn of(logits: &[Vec<f32>], kind: LabelKind) -> Option<Self> {
        let labels = logits.first().map_or(0, Vec::len);
        let fits =
            |row: &Vec<f32>| row.len() == labels && row.iter().all(|value| value.is_finite());
        if labels == 0 || !logits.iter().all(fits) {
            return None;
        }
        let of_view = |row: &Vec<f32>| match kind {
            LabelKind::Single => softmax(row),
            LabelKind::Multi => row.iter().copied().map(sigmoid).collect(),
        };
        let views: Vec<Vec<f64>> = logits.iter().map(of_view).collect();
        let mean = (0..labels)
            .map(|label| views.iter().map(|view| view[label]).sum::<f64>() / views.len() as f64)
            .collect();
        Some(Self { views, mean })
    }

    /// Returns the `count` best labels as (index, score), best first; equal scores in label order.
    pub fn best(&self, count: usize) -> Vec<(usize, f64)> {
        let mut order: Vec<(usize, f64)> = self.mean.iter().copied().enumerate().collect();
        order.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        order.truncate(count);
        order
    }
}

/// Returns the softmax of logits, in f64, so that the scores of thousands of labels still sum to 1.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Widened before the subtraction: the difference of two finite f32 values may overflow.
    let exponentials: Vec<f64> = logits
        .iter()
        .map(|&logit| (f64::from(logit) - f64::from(most)).exp())
        .collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|value| value / sum).collect()
}

/// Returns the logistic function of a logit, in f64: of large logits its distance from 0 or 1 is kept as long as f64 can.
fn sigmoid(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(logits: &[Vec<f32>]) -> Option<Scores> {
        Scores::of(logits, LabelKind::Single)
    }

    #[test]
    fn labels_that_do_not_exclude_one_another_have_scores_of_their_own() {
        let views = [vec![0.0, 3.0_f32.ln(), -300.0], vec![0.0, 0.0, 300.0]];
        let scores = Scores::of(&views, LabelKind::Multi).unwrap();
        assert_eq!(scores.mean[0], 0.5);
        assert!((scores.views[0][1] - 0.75).abs() < 1e-6);
        assert!((scores.mean[1] - 0.625).abs() < 1e-6);
        assert!(scores.views[0][2] > 0.0 && scores.views[1][2] == 1.0);
        let alone = [vec![0.0]];
        let alone = Scores::of(&alone, LabelKind::Multi).unwrap();
        assert_eq!(alone.mean, [0.5], "one label alone is no certainty");
        assert_eq!(Scores::of(&[vec![f32::NAN]], LabelKind::Multi), None);
    }

    #[test]
    fn views_are_softmaxed_before_they_are_averaged() {
        let scores = of(&[vec![0.0, 0.0], vec![0.0, 9.0_f32.ln()]]).unwrap();
        let best = scores.best(5);
        assert_eq!((best[0].0, best.len()), (1, 2));
        assert!((best[0].1 - 0.7).abs() < 1e-6);
        assert!((best[0].1 + best[1].1 - 1.0).abs() < 1e-12);
        // One extreme view cannot outweigh two, as it would in a mean of logits.
        let views = [vec![90.0, 0.0], vec![0.0, 9.0], vec![0.0, 9.0]];
        assert!(of(&views).unwrap().mean[1] > 0.6);
    }

    #[test]
    fn equal_scores_keep_the_order_of_the_labels() {
        let scores = of(&[vec![1.0; 6]]).unwrap();
        assert!(scores.best(5).iter().map(|(label, _)| *label).eq(0..5));
        assert_eq!(scores.best(100).len(), 6);
    }

    #[test]
    fn huge_logits_do_not_overflow_and_broken_ones_give_none() {
        let scores = of(&[vec![3e38, -3e38]]).unwrap();
        assert_eq!(scores.mean, [1.0, 0.0]);
        for bad in [
            vec![],
            vec![vec![]],
            vec![vec![1.0, 2.0], vec![1.0]],
            vec![vec![f32::NAN, 0.0]],
        ] {
            assert_eq!(of(&bad), None);
        }
    }
}
