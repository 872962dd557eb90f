//! Why a worker stopped working on a job.
//!
//! Invariant: a failure is the job's own (its owner reads the reason, and trying again would not help) or the server's (it is tried again).

use std::io;

use super::state::Stop;
use super::trainer::Torn;
use super::validation::Problems;
use crate::blocking::Unfinished;
use crate::ids::VideoId;
use crate::spec::Invalid;
use crate::{device, library, metadata, model, registry, store, video};

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("stopped: {0:?}")]
    Stopped(Stop),
    #[error("the data set cannot be trained on: {0}")]
    Dataset(Problems),
    #[error("video {video} could be read before training, but not any more: {why}")]
    Video { video: VideoId, why: String },
    #[error("the loss of step {step} is not finite: a smaller learning rate or clip_norm may help")]
    Diverged { step: u64 },
    #[error("the task does not fit the server's backbone: {0}")]
    Task(#[source] model::Error),
    #[error("{0}")]
    TooLarge(Invalid),
    #[error("{errors} internal errors interrupted the job without a checkpoint in between")]
    Errors { errors: u32 },
    #[error("records: {0}")]
    Metadata(#[from] metadata::Error),
    #[error("checkpoints: {0}")]
    Store(#[from] store::Error),
    #[error("videos: {0}")]
    Library(#[from] library::Error),
    #[error("versions: {0}")]
    Registry(#[from] registry::Error),
    #[error("decoding: {0}")]
    Decoder(#[from] video::Error),
    #[error("the device: {0}")]
    Device(#[from] device::Error),
    #[error("the model: {0}")]
    Model(#[from] model::Error),
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] super::checkpoint::Error),
    #[error("frozen features: {0}")]
    Features(#[from] io::Error),
    #[error("{0}")]
    Torn(#[from] Torn),
    #[error("a worker panicked")]
    Panicked,
}

impl From<Unfinished> for Failure {
    fn from(_: Unfinished) -> Self {
        Self::Panicked
    }
}

impl Failure {
    /// The stable reason, when the failure is the job's own.
    pub(super) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Dataset(problems) if problems.are_of_the_store() => Some("VIDEO_UNAVAILABLE"),
            Self::Dataset(_) => Some("DATASET_INVALID"),
            Self::Video { .. } | Self::Library(library::Error::Damaged { .. }) => {
                Some("VIDEO_UNAVAILABLE")
            }
            Self::Diverged { .. } => Some("TRAINING_DIVERGED"),
            Self::Task(_) => Some("TASK_INCOMPATIBLE"),
            Self::TooLarge(_) => Some("STEP_TOO_LARGE"),
            Self::Errors { .. } => Some("INTERNAL"),
            Self::Stopped(_)
            | Self::Metadata(_)
            | Self::Store(_)
            | Self::Library(_)
            | Self::Registry(_)
            | Self::Decoder(_)
            | Self::Device(_)
            | Self::Model(_)
            | Self::Checkpoint(_)
            | Self::Features(_)
            | Self::Torn(_)
            | Self::Panicked => None,
        }
    }

    /// Whether a failure of the evaluation leaves a version without metrics: it would come again, or this was the last attempt. Otherwise the job stops, or
    /// is taken again and evaluates once more.
    pub(super) fn spoils_metrics(&self, is_last: bool) -> bool {
        match self {
            // A device that is full or lost, or refuses a call, says nothing about the version.
            Self::Model(
                model::Error::OutOfMemory { .. }
                | model::Error::DeviceLost(_)
                | model::Error::DeviceRefused(_),
            ) => is_last,
            Self::Video { .. }
            | Self::Model(_)
            | Self::Panicked
            | Self::Decoder(video::Error::InvalidRequest { .. })
            | Self::Library(library::Error::Metadata(metadata::Error::NotFound { .. })) => true,
            Self::Decoder(_) | Self::Library(_) | Self::Store(_) => is_last,
            Self::Stopped(_)
            | Self::Dataset(_)
            | Self::Diverged { .. }
            | Self::Task(_)
            | Self::TooLarge(_)
            | Self::Errors { .. }
            | Self::Metadata(_)
            | Self::Registry(_)
            | Self::Device(_)
            | Self::Checkpoint(_)
            | Self::Features(_)
            | Self::Torn(_) => false,
        }
    }

    /// The outage behind it, which the job waits for: no error of its own or of the server's.
    pub(super) fn outage(&self) -> Option<Outage> {
        match self {
            Self::Metadata(error)
            | Self::Library(library::Error::Metadata(error))
            | Self::Registry(registry::Error::Metadata(error)) => Outage::of_metadata(error),
            Self::Store(error)
            | Self::Library(library::Error::Store(error))
            | Self::Registry(registry::Error::Store(error)) => Outage::of_store(error),
            Self::Stopped(_)
            | Self::Dataset(_)
            | Self::Video { .. }
            | Self::Diverged { .. }
            | Self::Task(_)
            | Self::TooLarge(_)
            | Self::Features(_)
            | Self::Torn(_)
            | Self::Errors { .. }
            | Self::Library(_)
            | Self::Registry(_)
            | Self::Decoder(_)
            | Self::Device(_)
            | Self::Model(_)
            | Self::Checkpoint(_)
            | Self::Panicked => None,
        }
    }

    /// Why to stop, when that is what it is; a lost lease may also show as a refused write.
    pub(super) fn stop(&self) -> Option<Stop> {
        match self {
            Self::Stopped(why) => Some(*why),
            Self::Metadata(metadata::Error::LeaseLost { .. }) => Some(Stop::LostLease),
            Self::Registry(registry::Error::Metadata(metadata::Error::LeaseLost { .. })) => {
                Some(Stop::LostLease)
            }
            Self::Dataset(_)
            | Self::Video { .. }
            | Self::Diverged { .. }
            | Self::Task(_)
            | Self::TooLarge(_)
            | Self::Errors { .. }
            | Self::Metadata(_)
            | Self::Store(_)
            | Self::Library(_)
            | Self::Registry(_)
            | Self::Decoder(_)
            | Self::Device(_)
            | Self::Model(_)
            | Self::Checkpoint(_)
            | Self::Features(_)
            | Self::Torn(_)
            | Self::Panicked => None,
        }
    }
}

/// Something that jobs wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outage {
    Database,
    Store,
    DiskFull,
}

impl Outage {
    pub(super) fn of_metadata(error: &metadata::Error) -> Option<Self> {
        if matches!(error, metadata::Error::StorageFull(_)) {
            return Some(Self::DiskFull);
        }
        error.is_temporary().then_some(Self::Database)
    }

    pub(super) fn of_store(error: &store::Error) -> Option<Self> {
        if matches!(error, store::Error::StorageFull { .. }) {
            return Some(Self::DiskFull);
        }
        error.is_temporary().then_some(Self::Store)
    }
}

impl std::fmt::Display for Outage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Database => "the database is unavailable",
            Self::Store => "the object store is unavailable",
            Self::DiskFull => "the disk is full",
        })
    }
}
