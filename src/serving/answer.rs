//! Answer of a classification.

use std::sync::Arc;
use std::time::Duration;

use super::Scores;
use crate::ids::VersionRef;
use crate::spec::{LabelKind, LabelScore, LabelSet, Sureness, confidence};
use crate::video::Clip;

/// Scores of a video, and how they were computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Version that answered.
    pub version: VersionRef,
    /// Labels of the version: element i of the scores belongs to label i.
    pub labels: LabelSet,
    /// Scores of each view and of the video.
    pub scores: Scores,
    /// Calibration of the version.
    pub sureness: Sureness,
    /// Score of each label from which on it is selected, where labels do not exclude one another.
    pub thresholds: Arc<[f32]>,
    /// Sampled frames, one temporal view after the other.
    pub frames: Vec<SampledFrame>,
    /// Time that decoding took.
    pub decode: Duration,
    /// Time from the request's entry into the queue until the last of its batches formed.
    pub queue: Duration,
    /// Sum of the times of the batches that held the views.
    pub device: Duration,
}

impl Answer {
    /// Returns how probable it is that the best label is right.
    pub fn confidence(&self) -> f64 {
        match self.labels.kind() {
            LabelKind::Single => confidence(&self.scores.mean, self.sureness.temperature),
            LabelKind::Multi => self.scores.mean.iter().copied().fold(0.0, f64::max),
        }
    }

    /// Returns whether a label is selected, by one threshold for all or by its own; never where labels exclude one another.
    pub fn selects(&self, label: usize, threshold: Option<f64>) -> bool {
        let own = self.thresholds.get(label).copied().map(f64::from);
        let threshold = threshold.or(own).unwrap_or(LabelScore::THRESHOLD);
        let score = self.scores.mean.get(label);
        self.labels.kind().is_multi() && score.is_some_and(|score| *score >= threshold)
    }

    /// Returns whether the answer is probably none of the labels: its confidence is below a limit (that of the request, else of the version), or, of labels
    /// that do not exclude one another, without a limit in the request, none is selected.
    pub fn is_unknown(&self, below: Option<f64>, threshold: Option<f64>) -> bool {
        match (self.labels.kind(), below) {
            (LabelKind::Multi, None) => {
                !(0..self.labels.len()).any(|label| self.selects(label, threshold))
            }
            (LabelKind::Single | LabelKind::Multi, below) => {
                let below = below.or(self.sureness.unknown_below);
                below.is_some_and(|below| self.confidence() < below)
            }
        }
    }
}

/// A frame that was sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampledFrame {
    /// Index of the frame among the shown frames of the video.
    pub index: u32,
    /// Time of the frame since the video's first frame.
    pub time: Duration,
}

/// Returns the sampled frames of each temporal view in turn.
pub(super) fn frames(clip: &Clip) -> Vec<SampledFrame> {
    let probe = &clip.probe;
    let indices = clip.indices.iter().flatten();
    let pts = clip.pts.iter().flatten();
    indices
        .zip(pts)
        .map(|(&index, &pts)| SampledFrame {
            index,
            time: probe.time_of(pts),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Calibration;

    fn answer(kind: LabelKind, thresholds: &[f32]) -> Answer {
        let logits = [vec![1.0, -1.0]];
        Answer {
            version: VersionRef {
                tenant: "a".parse().unwrap(),
                task: "t".parse().unwrap(),
                version: "1".parse().unwrap(),
            },
            labels: LabelSet::new(vec!["run".into(), "jump".into()])
                .unwrap()
                .of_kind(kind),
            scores: Scores::of(&logits, kind).unwrap(),
            sureness: None::<&Calibration>.into(),
            thresholds: thresholds.into(),
            frames: Vec::new(),
            decode: Duration::ZERO,
            queue: Duration::ZERO,
            device: Duration::ZERO,
        }
    }

    #[test]
    fn labels_that_do_not_exclude_one_another_are_selected_by_their_thresholds() {
        let selected = |own: &Answer, threshold| [0, 1].map(|i| own.selects(i, threshold));
        let own = answer(LabelKind::Multi, &[0.8, 0.2]);
        // The scores are 0.731 and 0.269.
        assert_eq!(selected(&own, None), [false, true]);
        assert_eq!(selected(&own, Some(0.5)), [true, false]);
        assert!(!own.is_unknown(None, None));
        assert!(own.is_unknown(None, Some(0.9)) && own.is_unknown(Some(0.8), None));
        assert!((own.confidence() - 0.731).abs() < 1e-3);
        let imported = answer(LabelKind::Multi, &[]);
        assert_eq!(selected(&imported, None), [true, false]);
        let single = answer(LabelKind::Single, &[]);
        assert_eq!(selected(&single, Some(0.1)), [false, false]);
        assert!(!single.is_unknown(None, None) && single.is_unknown(Some(0.99), None));
    }
}
