//! Answer of a classification.

use std::time::Duration;

use super::Scores;
use crate::ids::VersionRef;
use crate::spec::{LabelSet, Sureness, confidence};
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
        confidence(&self.scores.mean, self.sureness.temperature)
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
