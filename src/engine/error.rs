//! Errors of the engine.

use std::sync::Arc;

use crate::ids::VersionRef;

/// Reason why a clip was not classified.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The queue is full, or the tenant's share of it is used up.
    #[error("the queue is full: {clips} clips do not fit now")]
    QueueFull {
        /// Number of clips in the request.
        clips: usize,
    },
    /// The request has more clips than the queue can ever hold.
    #[error("{clips} clips in one request, at most {limit}")]
    TooManyClips {
        /// Number of clips in the request.
        clips: usize,
        /// Capacity of the queue in clips.
        limit: usize,
    },
    /// The request's clips take more memory than the queue can ever hold.
    #[error("the clips of the request take {bytes} bytes, at most {limit}")]
    TooManyBytes {
        /// Bytes of the planes of the clips.
        bytes: u64,
        /// Capacity of the queue in bytes.
        limit: u64,
    },
    /// The planes are not a clip for this backbone.
    #[error(
        "clip {clip}: {values} values are not a whole number of [3, {image_size}, {image_size}] frames, or not 1 to 64 of them"
    )]
    Clip {
        /// Index of the clip in the request.
        clip: usize,
        /// Number of values in the planes.
        values: usize,
        /// Side of the backbone's frames in pixels.
        image_size: usize,
    },
    /// The deadline passed before the clip was classified.
    #[error("the deadline passed before the clip was classified")]
    DeadlineExceeded,
    /// The adapter set is quarantined; other sets are not affected.
    #[error("{version} cannot be served: {reason}")]
    Quarantined {
        /// Version of the set.
        version: VersionRef,
        /// Reason of the quarantine.
        reason: Arc<str>,
    },
    /// The version's file differs from what was published; other sets are not affected.
    #[error("{version} is damaged: {reason}")]
    Damaged {
        /// Version of the set.
        version: VersionRef,
        /// Description of the damage.
        reason: Arc<str>,
    },
    /// The version no longer exists.
    #[error("{version} does not exist")]
    NotFound {
        /// Version that was requested.
        version: VersionRef,
    },
    /// Reading the version failed; the next request for it tries again.
    #[error("{version} could not be loaded: {reason}")]
    Load {
        /// Version that was requested.
        version: VersionRef,
        /// Error of the registry.
        reason: Arc<str>,
    },
    /// The adapter set exceeds the budget even when it is the only one.
    #[error("{version} takes {bytes} bytes, more than the {budget} for adapter sets")]
    TooLarge {
        /// Version of the set.
        version: VersionRef,
        /// Size of the set in bytes.
        bytes: u64,
        /// Budget for adapter sets in bytes.
        budget: u64,
    },
    /// The device failed on this clip alone.
    #[error("the device failed on a clip of {version}: {reason}")]
    Failed {
        /// Version that the clip was classified with.
        version: VersionRef,
        /// Description of the failure.
        reason: Arc<str>,
    },
    /// The backbone is not warmed up yet.
    #[error("the engine is not ready")]
    NotReady,
    /// The engine is draining or has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

/// Error for a backbone that cannot serve at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the backbone cannot serve: {reason}")]
pub struct Unfit {
    /// Result of its first forward pass.
    pub reason: Arc<str>,
}
