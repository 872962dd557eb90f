//! Errors of a classification.

use super::windows::WindowsInvalid;
use crate::ids::{TaskId, VersionRef};
use crate::spec::{Digest, Invalid};
use crate::{engine, library, registry, video};

/// Reason why a video was not classified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The task has no serving version.
    #[error("task {task} has no version that serves yet{}", coming(*.is_moving))]
    NoServingVersion {
        /// Id of the task.
        task: TaskId,
        /// Whether a version is desired and being loaded.
        is_moving: bool,
    },
    /// The version was trained on another backbone.
    #[error("{version} was trained on backbone {got}, the resident one is {expected}")]
    Backbone {
        /// Reference of the version.
        version: VersionRef,
        /// Digest of the resident backbone.
        expected: Digest,
        /// Digest of the version's backbone.
        got: Digest,
    },
    /// The engine's logits are not one finite row per view with one value per label.
    #[error("the logits of {version} are not one finite row of its {labels} labels for each view")]
    Logits {
        /// Reference of the version.
        version: VersionRef,
        /// Number of the version's labels.
        labels: usize,
    },
    /// The state that an evaluation was to go on from is that of another evaluation.
    #[error("the token is of another version, data set or split")]
    Resume,
    /// A live stream was opened with something that is out of range.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The task of a live stream takes its clips otherwise than when the stream was opened.
    #[error(
        "{version} takes its clips otherwise than the task did when the stream was opened; open it again"
    )]
    SamplingChanged {
        /// Reference of the version.
        version: VersionRef,
    },
    /// The windows cannot be taken as requested.
    #[error(transparent)]
    Windows(#[from] WindowsInvalid),
    /// A task reads videos in another orientation, or counts their frames in another order, than the first task of the request.
    #[error(
        "the task's rotation policy or frame order is not that of the request's first task; request its windows apart"
    )]
    Sampling,
    /// Other streams of windows hold all memory that is meant for them.
    #[error("too many windows of videos are classified at present")]
    TooManyWindowStreams,
    /// The task or version cannot be used.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The stored video cannot be used.
    #[error(transparent)]
    Library(#[from] library::Error),
    /// The video cannot be decoded.
    #[error(transparent)]
    Video(#[from] video::Error),
    /// The engine did not classify the clips.
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

fn coming(is_moving: bool) -> &'static str {
    if is_moving {
        "; one is being made ready"
    } else {
        ""
    }
}
