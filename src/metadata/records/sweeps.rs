//! Searches over many jobs: what is tried, how far it is, and what came of it.
//!
//! Invariant: a sweep's points never change; which jobs belong to it is written before anything follows from them.

use serde::{Deserialize, Serialize};

use super::{Timestamp, float_or_null};
use crate::ids::{SweepId, TenantId};
use crate::spec::{AdapterConfig, ClipSampling, Digest, HyperParameters, JobState};

/// A sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepRecord {
    /// Tenant that owns the sweep.
    pub tenant: TenantId,
    /// Id of the sweep.
    pub id: SweepId,
    /// What is tried.
    pub spec: SweepSpec,
    /// How far it is.
    pub progress: SweepProgress,
    /// RUNNING until it has ended.
    pub state: JobState,
    /// Why it failed, for people.
    pub message: Option<String>,
    /// Rises with every change; a change names the one that it follows.
    pub revision: u64,
    /// Whether its owner wants it to stop.
    pub cancel_requested: bool,
    /// Time when it was submitted.
    pub create_time: Timestamp,
    /// Time when it ended; `None` before.
    pub end_time: Option<Timestamp>,
}

/// A sweep in a listing, without what it tries and its jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepSummary {
    /// Id of the sweep.
    pub id: SweepId,
    /// Data set of all jobs.
    pub dataset: String,
    /// The version of the data set that all jobs read; `None` for what it holds.
    pub dataset_version: Option<u32>,
    /// Number of points.
    pub points: usize,
    /// Of the points of a round, one in so many goes on to the next; 0 means a single round.
    pub halving: u32,
    /// The round under way, from 0.
    pub round: u32,
    /// Number of jobs of all rounds.
    pub jobs: u32,
    /// Number of jobs that have not ended.
    pub unfinished_jobs: u32,
    /// RUNNING until the sweep has ended.
    pub state: JobState,
    /// Why the sweep failed, for people.
    pub message: Option<String>,
    /// Whether its owner wants the sweep to stop.
    pub cancel_requested: bool,
    /// Time when the sweep was submitted.
    pub create_time: Timestamp,
    /// Time when the sweep ended; `None` before.
    pub end_time: Option<Timestamp>,
}

impl From<&SweepRecord> for SweepSummary {
    fn from(record: &SweepRecord) -> Self {
        let (spec, jobs) = (&record.spec, &record.progress.jobs);
        let unfinished = jobs.iter().filter(|own| own.outcome.is_none()).count();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            id: record.id,
            dataset: spec.dataset.clone(),
            dataset_version: spec.dataset_version,
            points: spec.points.len(),
            halving: spec.halving,
            round: record.progress.round,
            jobs: count(jobs.len()),
            unfinished_jobs: count(unfinished),
            state: record.state,
            message: record.message.clone(),
            cancel_requested: record.cancel_requested,
            create_time: record.create_time,
            end_time: record.end_time,
        }
    }
}

/// What a sweep tries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepSpec {
    /// Data set of all jobs.
    pub dataset: String,
    /// The version of the data set that all jobs read; `None` for what it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_version: Option<u32>,
    /// Shapes, each with the task that its jobs train.
    pub shapes: Vec<SweepShape>,
    /// Hyper-parameters of all jobs, but for those that a point has.
    pub hyper_parameters: HyperParameters,
    /// What is compared.
    pub points: Vec<SweepPoint>,
    /// Seeds with which each point is trained.
    pub seeds: Vec<u64>,
    /// Of the points of a round, one in so many goes on to the next, which trains as many times longer; 0 means a single round of all points.
    pub halving: u32,
    /// Priority of the jobs.
    pub priority: i32,
}

/// A shape that a sweep tries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepShape {
    /// The task, which the sweep creates.
    pub task: String,
    /// Shape of its adapters.
    pub adapter: AdapterConfig,
    /// Sampling of its clips.
    pub sampling: ClipSampling,
    /// Whether its jobs also train heads without adapters.
    pub auto_head: bool,
}

/// What is compared: a shape with a learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SweepPoint {
    /// Place of the shape.
    pub shape: usize,
    /// Peak learning rate; `None` for that of the hyper-parameters or of the shape.
    pub learning_rate: Option<f64>,
}

/// How far a sweep is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SweepProgress {
    /// The round under way, from 0.
    pub round: u32,
    /// Places of the points of the round.
    pub points: Vec<usize>,
    /// Jobs of all rounds.
    pub jobs: Vec<SweepJob>,
    /// Digest of the examples that the first job reads, and all others have to read.
    pub dataset_digest: Option<Digest>,
    /// Why it fails, as soon as its jobs have stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A job of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepJob {
    /// Id of the job.
    pub job: String,
    /// Round that the job belongs to.
    pub round: u32,
    /// Place of its point.
    pub point: usize,
    /// Its seed.
    pub seed: u64,
    /// What came of it, once it has ended.
    #[serde(default)]
    pub outcome: Option<SweepOutcome>,
}

/// What came of a job of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SweepOutcome {
    /// How it ended.
    pub state: JobState,
    /// Whether it succeeded without metrics on a validation split, by which it could be compared.
    #[serde(default)]
    pub is_unmeasured: bool,
    /// Version that it made; 0 without one.
    pub version: u32,
    /// Accuracy on the validation split; the mean average precision of labels that do not exclude one another.
    pub top1: f64,
    /// Mean cross entropy on the validation split, in nats.
    #[serde(deserialize_with = "float_or_null")]
    pub loss: f64,
    /// Trainable parameters.
    pub parameters: u64,
    /// Training time without waiting and validation, in microseconds.
    pub training_micros: u64,
}

/// A change of a sweep under way.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepUpdate {
    /// How far it is now.
    pub progress: SweepProgress,
    /// How it ended, and why when it failed; `None` while it goes on.
    pub end: Option<(JobState, Option<String>)>,
}
