//! Fine-tuning jobs: from submission to a published version.
//!
//! Invariant: a job's weights depend on its snapshot, hyper-parameters, seed and backbone alone, not on pauses, crashes or neighbours; whatever a
//! worker writes, it writes under its claim's epoch. It never trains on an async thread.

pub mod augment;
mod calibration;
mod caretaker;
mod checkpoint;
mod context;
mod dataset;
mod decoded;
mod evaluation;
mod failure;
mod features;
mod feed;
mod handle;
mod heads;
mod hints;
mod holdout;
mod journal;
mod labelling;
mod leases;
mod memory;
mod mirror;
mod parent;
mod patience;
pub mod plan;
pub mod progress;
mod run;
mod runner;
pub mod schedule;
pub mod selection;
mod spent;
pub mod state;
pub mod sweep;
mod trainer;
mod turns;
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

pub use caretaker::Caretaker;
pub use handle::{Handle, Submission};

use context::Context;
use hints::Hints;

/// Configuration of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Most jobs that this process works on at a time; each holds its adapters, its optimiser and a few batches.
    pub runners: usize,
    /// Time for which a claim holds without a sign of life.
    pub lease: Duration,
    /// Time between two looks for jobs and events in the database, beside this process's own hints.
    pub poll: Duration,
    /// Most unfinished jobs of a tenant.
    pub unfinished_per_tenant: u32,
    /// Most streams of events that a tenant has open.
    pub watchers_per_tenant: usize,
    /// Number of internal errors since a job's newest checkpoint that end the job. Drains, lost leases and outages do not count.
    pub errors: u32,
    /// Time that the database may take for one answer before it counts as away.
    pub answer: Duration,
    /// Time that the object store may take for one object before it counts as away.
    pub transfer: Duration,
    /// Time that a job that has to stop may take for that, before its runner lets go of it.
    pub parting: Duration,
    /// Shortest time between two transactions of a job's step events.
    pub event_interval: Duration,
    /// Memory for decoded training videos, over all jobs; what does not fit is decoded anew in every epoch.
    pub clip_cache_bytes: u64,
    /// Disk for decoded frames that jobs keep for later epochs and later jobs; 0 keeps none.
    pub clip_disk_bytes: u64,
    /// Memory of one job's training: weights, optimiser, packed copies, activations, decoded clips. A larger step runs in micro-batches; a job whose batch
    /// cannot run at all is refused.
    pub step_bytes: u64,
    /// Disk for the frozen features of one linear probe; a job that needs more is refused.
    pub feature_bytes: u64,
    /// Time between two looks for files of features whose job has ended: a job may end in another process than the one that has its file.
    pub sweep: Duration,
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
            clip_cache_bytes: 512 << 20,
            clip_disk_bytes: 0,
            step_bytes: 2 << 30,
            feature_bytes: 8 << 30,
            sweep: Duration::from_secs(600),
        }
    }
}

/// Reason why a request about jobs was not met.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A hyper-parameter is out of range.
    #[error(transparent)]
    Invalid(#[from] spec::Invalid),
    /// The tenant watches as many jobs as it may.
    #[error("the tenant has {limit} streams of job events open, no more are allowed")]
    TooManyWatchers {
        /// Most streams that the tenant may have.
        limit: usize,
    },
    /// The record is not there, or the database refused.
    #[error(transparent)]
    Metadata(#[from] metadata::Error),
}

/// Components that jobs call.
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
    /// Decoder of the videos.
    pub decoder: video::Decoder,
    /// Device that computes.
    pub device: device::Handle,
    /// Backbone that jobs train on; it is never written to.
    pub backbone: Arc<Backbone>,
    /// Metrics of jobs.
    pub metrics: Metrics,
    /// Name of the process, which no other has: workers are named after it.
    pub replica: String,
    /// Folder for files that only save work: the frozen features of linear probes.
    pub scratch: PathBuf,
    /// Folder for decoded frames, which only save work as well.
    pub decoded: PathBuf,
}

/// Runners, which claim jobs and work on them.
pub struct Service {
    config: Config,
    hints: Arc<Hints>,
    /// Submits the jobs of sweeps.
    handle: Handle,
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
    let service = Service {
        config,
        hints,
        handle: handle.clone(),
    };
    (handle, service)
}

impl Service {
    /// Works on jobs until the drain; then every running job is put back with a checkpoint, and this returns.
    pub async fn run(self, parts: Parts, drain: Signal) {
        let handle = self.handle.clone();
        runner::run((self.config, handle), self.hints, parts, drain).await;
    }

    /// Looks after jobs in a process that works on none.
    pub fn caretaker(self, parts: Parts, drain: Signal) -> Caretaker {
        Caretaker::new(Context::new(self.config, self.hints, parts, drain))
    }
}
