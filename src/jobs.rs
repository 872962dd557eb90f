//! Fine-tuning jobs: from submission to a published version.
//!
//! Invariant: a job's weights depend on its snapshot, hyper-parameters, seed and backbone alone, not on pauses, crashes or neighbours; whatever a
//! worker writes, it writes under its claim's epoch. It never trains on an async thread.

pub mod augment;
mod calibration;
mod checkpoint;
mod context;
mod dataset;
mod evaluation;
mod failure;
mod features;
mod feed;
mod handle;
mod heads;
mod hints;
mod holdout;
mod journal;
mod leases;
mod memory;
mod mirror;
mod patience;
pub mod plan;
pub mod progress;
mod run;
mod runner;
pub mod schedule;
pub mod selection;
pub mod state;
mod trainer;
mod validation;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::library::Library;
use crate::metadata::{self, MetadataStore};
use crate::model::Backbone;
use crate::registry::Registry;
use crate::shutdown::Signal;
use crate::spec;
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::{device, video};

pub use handle::{Handle, Submission};

use hints::Hints;

/// How jobs are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Jobs that this process works on at a time; each holds its adapters, its optimiser and a few batches.
    pub runners: usize,
    /// How long a claim holds without a sign of life.
    pub lease: Duration,
    /// How often the database is asked for jobs and events, beside this process's own hints.
    pub poll: Duration,
    /// Unfinished jobs that a tenant may have.
    pub unfinished_per_tenant: u32,
    /// Streams of events that a tenant may have open.
    pub watchers_per_tenant: usize,
    /// Internal errors since a job's newest checkpoint that end it. Drains, lost leases and outages do not count.
    pub errors: u32,
    /// How long the database may take for one answer before it counts as away.
    pub answer: Duration,
    /// How long the object store may take for one object before it counts as away.
    pub transfer: Duration,
    /// How long a job that has to stop may take for that, before its runner lets go of it.
    pub parting: Duration,
    /// Shortest time between two transactions of a job's step events.
    pub event_interval: Duration,
    /// How long a job is held back that ran alone when the process ended; doubles each time.
    pub crash_pause: Duration,
    /// Memory for decoded training videos, over all jobs; what does not fit is decoded anew in every epoch.
    pub clip_cache_bytes: u64,
    /// Memory of one job's training: weights, optimiser, packed copies, activations, decoded clips. A larger step runs in micro-batches; a job whose batch
    /// cannot run at all is refused.
    pub step_bytes: u64,
    /// Disk for the frozen features of one linear probe; a job that needs more is refused.
    pub feature_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runners: 2,
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            unfinished_per_tenant: 16,
            watchers_per_tenant: 256,
            errors: 10,
            answer: Duration::from_secs(30),
            transfer: Duration::from_secs(600),
            parting: Duration::from_secs(60),
            event_interval: Duration::from_secs(1),
            crash_pause: Duration::from_secs(10),
            clip_cache_bytes: 512 << 20,
            step_bytes: 2 << 30,
            feature_bytes: 8 << 30,
        }
    }
}

/// Why a request about jobs was not met.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A hyper-parameter is out of range.
    #[error(transparent)]
    Invalid(#[from] spec::Invalid),
    /// The tenant watches as many jobs as it may.
    #[error("the tenant has {limit} streams of job events open, no more are allowed")]
    TooManyWatchers {
        /// How many it may have.
        limit: usize,
    },
    /// The record is not there, or the database refused.
    #[error(transparent)]
    Metadata(#[from] metadata::Error),
}

/// What jobs need of the rest of the server.
#[derive(Clone)]
pub struct Parts {
    /// Records of jobs, tasks and data sets.
    pub metadata: Arc<dyn MetadataStore>,
    /// Store of checkpoints.
    pub store: Store,
    /// Videos and data sets.
    pub library: Library,
    /// Tasks and versions.
    pub registry: Registry,
    /// Decodes the videos.
    pub decoder: video::Decoder,
    /// Device that computes.
    pub device: device::Handle,
    /// Trained on, never written to.
    pub backbone: Arc<Backbone>,
    /// Metrics of jobs.
    pub metrics: Metrics,
    /// Folder for what only spares work: the frozen features of linear probes.
    pub scratch: PathBuf,
}

/// Runners, which claim jobs and work on them.
pub struct Service {
    config: Config,
    hints: Arc<Hints>,
}

/// Makes the service and its handle, which takes requests before the service runs.
pub fn new(
    config: Config,
    metadata: Arc<dyn MetadataStore>,
    metrics: Metrics,
    backbone: &Arc<Backbone>,
) -> (Handle, Service) {
    let hints = Arc::new(Hints::new());
    let backbone = Arc::clone(backbone);
    let handle = Handle::new(metadata, Arc::clone(&hints), backbone, metrics, &config);
    (handle, Service { config, hints })
}

impl Service {
    /// Works on jobs until the drain; then every running job is put back with a checkpoint, and this returns.
    pub async fn run(self, parts: Parts, drain: Signal) {
        runner::run(self.config, self.hints, parts, drain).await;
    }
}
