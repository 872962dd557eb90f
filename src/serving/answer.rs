//! The answer of a classification.

use std::time::Duration;

use super::Scores;
use crate::ids::VersionRef;
use crate::spec::LabelSet;
use crate::video::Clip;

/// Scores of a video, and how they came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Version that answered.
    pub version: VersionRef,
    /// Labels of the version: row i of the scores is label i.
    pub labels: LabelSet,
    /// Scores of each view and of the video.
    pub scores: Scores,
    /// Frames that were used, temporal view by temporal view.
    pub frames: Vec<SampledFrame>,
    /// Time that decoding took.
    pub decode: Duration,
    /// Time from entering the queue to the last view's batch.
    pub queue: Duration,
    /// Time of the batches that held the views.
    pub device: Duration,
}

/// A frame that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampledFrame {
    /// Index among the shown frames.
    pub index: u32,
    /// Time since the first frame.
    pub time: Duration,
}

/// The frames of each temporal view in turn.
pub(super) fn frames(clip: &Clip) -> Vec<SampledFrame> {
    let probe = &clip.probe;
    let indices = clip.indices.iter().flatten();
    let pts = clip.pts.iter().flatten();
    indices
        .zip(pts)
        .map(|(&index, &pts)| {
            let since = pts.saturating_sub(probe.first_pts).max(0) as f64;
            let seconds = since * probe.time_base.value();
            SampledFrame {
                index,
                time: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
            }
        })
        .collect()
}
