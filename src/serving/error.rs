//! Why a video was not classified.

use crate::ids::{TaskId, VersionRef};
use crate::spec::Digest;
use crate::{engine, library, registry, video};

/// Why a video was not classified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The task has no version that serves.
    #[error("task {task} has no version that serves yet{}", coming(*.is_moving))]
    NoServingVersion {
        /// Which.
        task: TaskId,
        /// Whether one was asked for and is being made ready.
        is_moving: bool,
    },
    /// The version was trained on another backbone.
    #[error("{version} was trained on backbone {got}, the resident one is {expected}")]
    Backbone {
        /// Which.
        version: VersionRef,
        /// The resident backbone.
        expected: Digest,
        /// The version's own.
        got: Digest,
    },
    /// The engine's logits are not one finite row of the labels' number for each view.
    #[error("the logits of {version} are not one finite row of its {labels} labels for each view")]
    Logits {
        /// Which.
        version: VersionRef,
        /// How many labels it has.
        labels: usize,
    },
    /// Its task or version.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// A stored video.
    #[error(transparent)]
    Library(#[from] library::Error),
    /// Decoding.
    #[error(transparent)]
    Video(#[from] video::Error),
    /// Classifying.
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
