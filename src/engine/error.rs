//! Errors of the engine.

use std::sync::Arc;
use std::time::Duration;

pub use crate::spec::RateExceeded;

use crate::ids::VersionRef;

/// Reason why a clip was not classified.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The queue has no room now, by one of its limits.
    #[error("{limit}: {clips} clips do not fit now")]
    QueueFull {
        /// Number of clips in the request.
        clips: usize,
        /// Limit that refused them.
        limit: Limit,
    },
    /// The tenant has used what it may in a second.
    #[error(transparent)]
    RateExceeded(#[from] RateExceeded),
    /// The queue is too long for the request's deadline; nothing was decoded.
    #[error(
        "the deadline cannot be met: the clips that are before this request take about {} ms more, and {} ms are left",
        .wait.as_millis(), .left.as_millis()
    )]
    Unreachable {
        /// Estimated time until the request would be answered, decoding not counted.
        wait: Duration,
        /// Time that was left until the deadline.
        left: Duration,
    },
    /// The request has more clips than the queue can ever hold.
    #[error("{clips} clips in one request, at most {limit}")]
    TooManyClips {
        /// Number of clips in the request.
        clips: usize,
        /// Capacity of the queue in clips.
        limit: usize,
    },
    /// The request has more clips than the tenant may ever have between admission and answer.
    #[error("{clips} clips in one request, and the tenant may have {limit} at a time")]
    BeyondQuota {
        /// Number of clips in the request.
        clips: usize,
        /// Most clips of the tenant.
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
    /// There is no free room for a set that nobody waits for, or it is not resident yet.
    #[error("{version} waits for free room among the adapter sets")]
    NoRoom {
        /// Version that was requested.
        version: VersionRef,
    },
    /// The device failed on this clip alone.
    #[error("the device failed on a clip of {version}: {reason}")]
    Failed {
        /// Version that the clip was classified with.
        version: VersionRef,
        /// Description of the failure.
        reason: Arc<str>,
    },
    /// The device failed on this clip alone, which ran through the bare backbone.
    #[error("the device failed on a clip of the bare backbone: {reason}")]
    Backbone {
        /// Description of the failure.
        reason: Arc<str>,
    },
    /// The device has no room for one clip, or for a set, now.
    #[error("the device has no room for {bytes} bytes")]
    OutOfMemory {
        /// Bytes that were asked for; 0 when the driver does not tell.
        bytes: u64,
    },
    /// The backbone is not warmed up yet.
    #[error("the engine is not ready")]
    NotReady,
    /// The engine is draining or has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

/// Limit that refused a request that would fit into an empty queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Limit {
    /// All tenants together hold the whole queue.
    #[error("the queue of all tenants is full")]
    Queue,
    /// The tenant holds its share or more, and other tenants hold or want the rest.
    #[error("the tenant's share of the queue is used up, and other tenants use the rest")]
    Share,
    /// The tenant holds all that a single one may; an eighth of the queue is kept for others.
    #[error("the tenant holds seven eighths of the queue, and the rest is kept for other tenants")]
    Reserve,
    /// Requests of the batch class hold half of the queue; the rest is kept for interactive ones.
    #[error("batch requests hold half of the queue, and the rest is kept for interactive ones")]
    Batch,
    /// The tenant has as many clips between admission and answer as it may have on one server.
    #[error("the tenant has {used} clips under way on this server, and may have {limit}")]
    Quota {
        /// Most clips of the tenant.
        limit: usize,
        /// Clips that it has.
        used: usize,
    },
    /// The request has more clips than it was admitted with.
    #[error("the request was admitted with fewer clips")]
    Permit,
}

impl Limit {
    /// Returns the stable name of the limit, as callers see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Share => "tenant_share",
            Self::Reserve => "tenant_reserve",
            Self::Batch => "batch_class",
            Self::Quota { .. } => "tenant_quota",
            Self::Permit => "permit",
        }
    }
}

/// Error for a backbone that cannot serve at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the backbone cannot serve: {reason}")]
pub struct Unfit {
    /// Result of its first forward pass.
    pub reason: Arc<str>,
}
