//! Why a clip was not classified.

use std::sync::Arc;

use crate::ids::VersionRef;

/// Why a clip was not classified.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No room, or the tenant's share is used up.
    #[error("the queue is full: {clips} clips do not fit now")]
    QueueFull {
        /// How many were asked for.
        clips: usize,
    },
    /// More clips than the queue ever holds.
    #[error("{clips} clips in one request, at most {limit}")]
    TooManyClips {
        /// How many were asked for.
        clips: usize,
        /// The queue's size.
        limit: usize,
    },
    /// Clips that take more memory than the queue ever does.
    #[error("the clips of the request take {bytes} bytes, at most {limit}")]
    TooManyBytes {
        /// What their planes take.
        bytes: u64,
        /// The queue's memory.
        limit: u64,
    },
    /// The planes are not a clip of this backbone.
    #[error(
        "clip {clip}: {values} values are not a whole number of [3, {image_size}, {image_size}] frames, or not 1 to 64 of them"
    )]
    Clip {
        /// Its place in the request.
        clip: usize,
        /// Values given.
        values: usize,
        /// The backbone's image size.
        image_size: usize,
    },
    /// The deadline passed.
    #[error("the deadline passed before the clip was classified")]
    DeadlineExceeded,
    /// The set cannot be served; it fails alone.
    #[error("{version} cannot be served: {reason}")]
    Quarantined {
        /// Which.
        version: VersionRef,
        /// Why.
        reason: Arc<str>,
    },
    /// The version's file is not what was published; it fails alone.
    #[error("{version} is damaged: {reason}")]
    Damaged {
        /// Which.
        version: VersionRef,
        /// What is wrong with it.
        reason: Arc<str>,
    },
    /// The version is not there any more.
    #[error("{version} does not exist")]
    NotFound {
        /// Which.
        version: VersionRef,
    },
    /// Reading the version failed; it is tried again when the next request asks for it.
    #[error("{version} could not be loaded: {reason}")]
    Load {
        /// Which.
        version: VersionRef,
        /// What the registry said.
        reason: Arc<str>,
    },
    /// The set does not fit into the budget even alone.
    #[error("{version} takes {bytes} bytes, more than the {budget} for adapter sets")]
    TooLarge {
        /// Which.
        version: VersionRef,
        /// Its size.
        bytes: u64,
        /// The budget.
        budget: u64,
    },
    /// The device failed on this clip alone.
    #[error("the device failed on a clip of {version}: {reason}")]
    Failed {
        /// Whose clip.
        version: VersionRef,
        /// What happened.
        reason: Arc<str>,
    },
    /// Not warm yet.
    #[error("the engine is not ready")]
    NotReady,
    /// Draining or gone.
    #[error("the engine has stopped")]
    Stopped,
}

/// Why the engine cannot serve at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the backbone cannot serve: {reason}")]
pub struct Unfit {
    /// What its first forward gave.
    pub reason: Arc<str>,
}
