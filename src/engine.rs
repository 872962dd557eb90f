//! Classification: admission, batches that mix tasks, resident adapter sets, and the move of serving versions.
//!
//! Invariant: one bad input, one expired request or one failing adapter set fails alone: never its batch neighbours. What is expired or
//! abandoned never reaches the device.

mod admission;
mod batcher;
mod residency;
mod warmup;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::ids::{TenantId, VersionRef};

pub use admission::Permit;

/// Limits of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Clips that may be between admission and answer, over all tenants. They are what decoded frames take in memory, and how long the last
    /// one waits; a tenant gets no more than what it leaves free for others.
    pub queue_clips: usize,
    /// Most clips in a batch.
    pub batch_clips: usize,
    /// Most frames in a batch, over its clips.
    pub batch_frames: usize,
    /// Bytes for resident adapter sets.
    pub residency_bytes: u64,
    /// How often desired versions are read from the registry, beside its notices.
    pub poll: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue_clips: 256,
            batch_clips: 16,
            batch_frames: 256,
            residency_bytes: 1 << 30,
            poll: Duration::from_secs(5),
        }
    }
}

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
    /// The version is not there any more.
    #[error("{version} does not exist")]
    NotFound {
        /// Which.
        version: VersionRef,
    },
    /// Reading the version failed for now.
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

/// Logits of a request's clips.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// One row per clip, in the request's order: row i of the head is label i of the version.
    pub logits: Vec<Vec<f32>>,
    /// From the queue's entry to the last clip's batch.
    pub queue: Duration,
    /// Time of the batches that the clips were in.
    pub device: Duration,
}

/// One resident or quarantined adapter set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResidencyRecord {
    /// Which.
    pub version: VersionRef,
    /// Bytes on the device; 0 when quarantined.
    pub bytes: u64,
    /// When a batch last used it.
    pub last_used: SystemTime,
    /// Why it is not served; `None` when it is resident.
    pub quarantine: Option<Arc<str>>,
}

/// What the engine needs of the rest of the server.
#[derive(Clone)]
pub struct Parts {
    /// Versions, and which of them is asked for.
    pub registry: crate::registry::Registry,
    /// Computes.
    pub device: crate::device::Handle,
    /// Never written to.
    pub backbone: Arc<crate::model::Backbone>,
    /// Counters.
    pub metrics: crate::telemetry::Metrics,
}

/// The loops of the engine: loading, warming and moving versions.
pub struct Service {}

/// Makes the service and its handle, which is ready once the service runs and the backbone is warm.
pub fn new(_config: Config, _parts: Parts) -> (Handle, Service) {
    todo!()
}

impl Service {
    /// Runs until the drain; then what was admitted is answered, and this returns.
    ///
    /// # Errors
    /// When the device is gone.
    pub async fn run(self, _drain: crate::shutdown::Signal) -> Result<(), Error> {
        todo!()
    }
}

/// Classifies; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {}

impl Handle {
    /// Reserves room for a request's clips, before anything is decoded. The permit is given back when it or its `classify` ends.
    ///
    /// # Errors
    /// [`Error::QueueFull`] at once, [`Error::TooManyClips`], [`Error::NotReady`], [`Error::Stopped`].
    pub fn admit(&self, _tenant: &TenantId, _clips: usize) -> Result<Permit, Error> {
        todo!()
    }

    /// Classifies clips with one version, loading it when it is not resident. A clip is `[3, T, S, S]` normalised planes. Dropping the future
    /// cancels: a clip that has no batch yet never reaches the device.
    ///
    /// # Errors
    /// Every variant but `QueueFull` and `NotReady`.
    pub async fn classify(
        &self,
        _permit: Permit,
        _version: &VersionRef,
        _clips: Vec<Arc<[f32]>>,
        _deadline: Option<Instant>,
    ) -> Result<Answer, Error> {
        todo!()
    }

    /// The tenant's adapter sets that are resident or quarantined.
    pub fn residency(&self, _tenant: &TenantId) -> Vec<ResidencyRecord> {
        todo!()
    }

    /// Whether the backbone is loaded and warm; turns false while draining.
    pub fn ready(&self) -> watch::Receiver<bool> {
        todo!()
    }
}
