//! Errors of a classification.

use crate::ids::{TaskId, VersionRef};
use crate::spec::Digest;
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
