//! Why a video was not classified.

use crate::ids::{TaskId, VersionRef};
use crate::spec::Digest;
use crate::{engine, library, registry, video};

/// Why a video was not classified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The task has no serving version.
    #[error("task {task} has no version that serves yet{}", coming(*.is_moving))]
    NoServingVersion {
        /// Id of the task.
        task: TaskId,
        /// Whether a version is desired and being made ready.
        is_moving: bool,
    },
    /// The version was trained on another backbone.
    #[error("{version} was trained on backbone {got}, the resident one is {expected}")]
    Backbone {
        /// Reference of the version.
        version: VersionRef,
        /// Digest of the resident backbone.
        expected: Digest,
        /// Digest of the version's own backbone.
        got: Digest,
    },
    /// The engine's logits are not one finite row of the labels' number for each view.
    #[error("the logits of {version} are not one finite row of its {labels} labels for each view")]
    Logits {
        /// Reference of the version.
        version: VersionRef,
        /// Number of the version's labels.
        labels: usize,
    },
    /// An error of the task or version.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// An error of a stored video.
    #[error(transparent)]
    Library(#[from] library::Error),
    /// An error of decoding.
    #[error(transparent)]
    Video(#[from] video::Error),
    /// An error of the engine.
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
