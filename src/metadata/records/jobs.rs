//! Jobs on record: what was asked for, how far it is, what happened, and how it ended.
//!
//! Invariant: whoever holds a lease is the only one that may change a job.

use serde::{Deserialize, Serialize};

use super::{Timestamp, VersionRecord};
use crate::ids::{DatasetId, JobId, TaskId, TenantId};
use crate::spec::{Digest, Evaluation, Head, HyperParameters, JobState, Split, wilson};

/// Reason of a job that ended its process, alone and twice at one place. Its newest checkpoint is kept for as long as its record.
pub const PROCESS_LOST: &str = "PROCESS_LOST";

/// Reason of a job that succeeded, and whose version is not served by itself since its labels are not those of the version that serves.
pub const LABELS_CHANGED: &str = "LABELS_CHANGED";

/// Reason of a job that succeeded before its last step, since its evaluations made no progress.
pub const EARLY_STOPPED: &str = "EARLY_STOPPED";

/// Reason of a job that succeeded before its last step, since its training had taken as much time as it may.
pub const BUDGET_SPENT: &str = "BUDGET_SPENT";

/// A fine-tuning job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// Tenant that owns the job.
    pub tenant: TenantId,
    /// Id of the job.
    pub id: JobId,
    /// Task that the job trains.
    pub task: TaskId,
    /// Data set as it was named at the submission.
    pub dataset: DatasetId,
    /// Digest of the snapshot that the job reads, which was taken at the submission.
    pub dataset_digest: Digest,
    /// Hyper-parameters as submitted, and as used once the job has been validated.
    pub hyper_parameters: HyperParameters,
    /// State of the job.
    pub state: JobState,
    /// Stable reason of a failure, or of an early end.
    pub reason: Option<String>,
    /// Message for people about what went wrong.
    pub message: Option<String>,
    /// Steps that the job has done.
    pub step: u64,
    /// Steps of the whole job; 0 before its validation.
    pub total_steps: u64,
    /// Number of claims of the job so far.
    pub attempts: u32,
    /// Internal errors that interrupted the job since its newest checkpoint.
    pub errors: u32,
    /// Whether a process ended while it ran the job, and the job has not passed that step since.
    pub is_suspect: bool,
    /// Sequence number of the newest event.
    pub last_event: u64,
    /// Number of the newest claim; 0 before the first.
    pub epoch: u64,
    /// Whether the job's owner wants it to stop.
    pub cancel_requested: bool,
    /// Whether the job's owner wants it to wait.
    pub is_paused: bool,
    /// Priority of the job among its tenant's waiting jobs; a higher one goes first.
    pub priority: i32,
    /// Etag of the task at submission.
    pub task_etag: String,
    /// Newest checkpoint of the job.
    pub checkpoint: Option<CheckpointRecord>,
    /// Checkpoints before the newest one that the job keeps, newest first.
    pub earlier: Vec<CheckpointRecord>,
    /// Result of the job, once its version is published.
    pub result: Option<JobResult>,
    /// Time when the job was submitted.
    pub create_time: Timestamp,
    /// Time when the job ended; `None` before.
    pub end_time: Option<Timestamp>,
}

/// A job that is about to be submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// Task to train.
    pub task: TaskId,
    /// Data set of which a snapshot is taken.
    pub dataset: DatasetId,
    /// The version of the data set that the job reads in place of what it holds now.
    pub dataset_version: Option<u32>,
    /// Hyper-parameters as submitted.
    pub hyper_parameters: HyperParameters,
    /// Whether the version may serve by itself although its labels are not those of the version that serves.
    pub allow_label_change: bool,
    /// Priority among the tenant's waiting jobs.
    pub priority: i32,
    /// Frames of all clips that training takes: by them tenants take turns.
    pub clip_frames: u64,
    /// Warning that the job's owner reads at once, in its first event after the one of its state.
    pub warning: Option<String>,
    /// Unfinished jobs that the tenant may have, this one included.
    pub limit: u32,
}

/// A checkpoint in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// Steps that were done when the checkpoint was taken.
    pub step: u64,
    /// Key of the checkpoint's blob, as `store::layout` spells it.
    pub key: String,
    /// sha256 of the checkpoint's blob.
    pub sha256: Digest,
    /// Frames of the clips of all steps up to the checkpoint; 0 in records of a release that did not count them.
    #[serde(default)]
    pub clip_frames: u64,
    /// Whether the checkpoint's weights are those of the best evaluation up to its step.
    #[serde(default)]
    pub is_best: bool,
}

impl JobRecord {
    /// The job's checkpoints, newest first.
    pub fn checkpoints(&self) -> impl Iterator<Item = &CheckpointRecord> {
        self.checkpoint.iter().chain(&self.earlier)
    }

    /// Divides the checkpoints up to `newest`, which the job has taken, into those that it keeps besides and those that it does not: those of later steps, from
    /// which it did not go on, and all but the newest `keep` and the newest one of a best evaluation; `None` keeps none besides.
    pub fn retained(
        &self,
        newest: &CheckpointRecord,
        keep: Option<u32>,
    ) -> (Vec<CheckpointRecord>, Vec<CheckpointRecord>) {
        // A commit whose answer was lost is repeated.
        let others = self.checkpoints().filter(|own| own.key != newest.key);
        let mut places = keep.map_or(0, |keep| keep.saturating_sub(1));
        let mut has_best = newest.is_best || keep.is_none();
        others.cloned().partition(|own| {
            if own.step >= newest.step {
                return false;
            }
            let is_best = own.is_best && !has_best;
            has_best |= is_best;
            let is_new = places > 0;
            places = places.saturating_sub(1);
            is_best || is_new
        })
    }
}

/// Result of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// Version that the job made.
    pub version: u32,
    /// Metrics of the version on the validation split.
    pub evaluation: Evaluation,
    /// Mean training loss of each epoch, in nats.
    pub loss_curve: Vec<f64>,
    /// Evaluations of the validation split while the job trained, in their order.
    #[serde(default)]
    pub validation_curve: Vec<CurvePoint>,
    /// Step after which the job had the version's weights; 0 in records of a release that did not say.
    #[serde(default)]
    pub step: u64,
    /// Digest of the data set snapshot.
    pub dataset_digest: Digest,
    /// Digest of the backbone.
    pub backbone_digest: Digest,
    /// Seed that was used.
    pub seed: u64,
    /// Number of trainable parameters.
    pub parameters: u64,
    /// Training time without waiting and validation, in microseconds.
    pub training_micros: u64,
    /// Time that the job took besides its steps; zero in records of a release that did not measure it.
    #[serde(default)]
    pub times: JobTimes,
    /// Metrics of the version on the test split, measured after it was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Evaluation>,
    /// Training clips that could no longer be decoded and were left out; 0 in records of a release that did not count them.
    #[serde(default)]
    pub skipped_clips: u64,
}

/// Time that a job took up to its publication besides its steps, in microseconds. What an interrupted claim did after its last checkpoint is not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobTimes {
    /// Checks of the data set, each video decoded once.
    pub checks: u64,
    /// Frozen features of clips, their decoding included.
    pub features: u64,
    /// Steps that waited for decoded clips.
    pub clips: u64,
    /// Evaluations of the validation split, their decoding included and frozen features not.
    pub evaluations: u64,
}

/// An evaluation of the validation split while a job trains.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Steps that were done.
    pub step: u64,
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Mean cross entropy, in nats.
    #[serde(deserialize_with = "float_or_null")]
    pub loss: f64,
    /// Share of examples whose best score is that of a label of theirs.
    pub top1: f64,
    /// Mean average precision of labels that do not exclude one another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<f64>,
}

/// The right to write a job: it holds while the job's epoch and state say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Tenant that owns the job.
    pub tenant: TenantId,
    /// Id of the job.
    pub job: JobId,
    /// Number of the claim.
    pub epoch: u64,
}

/// A job that a worker has taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Lease that every write of the worker shows.
    pub lease: Lease,
    /// The job, in state VALIDATING.
    pub job: JobRecord,
}

/// Progress that a worker reports along with a state or with events; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobUpdate {
    /// Hyper-parameters that the job uses.
    pub hyper_parameters: Option<HyperParameters>,
    /// Steps that the job has done.
    pub step: Option<u64>,
    /// Steps of the whole job.
    pub total_steps: Option<u64>,
    /// Examples that validation has decoded, so that a job that goes on is not taken for one that stands still.
    pub checked: Option<u64>,
}

/// Wish of a job's owner that its worker has to meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwanted {
    /// The worker is to end the job.
    Cancel,
    /// The worker is to give the job back, which then waits until it is resumed.
    Pause,
}

/// Reason why a worker gives a job back unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The worker shuts down. It does not count against the job.
    Drained,
    /// The owner paused the job.
    Paused,
    /// An internal error stopped the worker. It counts until the next checkpoint.
    AfterError,
}

/// End of a job without a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The job failed.
    Failed {
        /// Stable reason of the failure.
        reason: String,
        /// Message for people.
        message: String,
    },
    /// The job's owner cancelled it.
    Cancelled,
}

/// A version that became visible and the job that made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// Version that the job made.
    pub version: VersionRecord,
    /// Job that made the version, SUCCEEDED.
    pub job: JobRecord,
    /// Whether the version is its task's desired one now.
    pub is_desired: bool,
}

/// Record of something that happened to a job.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRecord {
    /// Number of the event within the job: 1, 2, 3 …
    pub sequence: u64,
    /// Time of the event.
    pub time: Timestamp,
    /// What happened to the job.
    pub event: Event,
}

/// What happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The job changed its state.
    State {
        /// State that the job is in now.
        state: JobState,
        /// Stable reason of the change, when there is one.
        reason: Option<String>,
        /// Message for people.
        message: Option<String>,
    },
    /// Metrics of a training step.
    Step(StepMetrics),
    /// Metrics of an evaluation.
    Evaluation(EvaluationMetrics),
    /// Heads without adapters beside the task's own set, the last one, and which of all is published.
    Comparison(Vec<ComparedHead>),
    /// A message for people.
    Message {
        /// Whether the message is a warning.
        warning: bool,
        /// Message for people.
        text: String,
    },
}

/// Metrics of a training step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Number of the step, from 1.
    pub step: u64,
    /// Steps of the whole job.
    pub total_steps: u64,
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Mean cross entropy of the batch, in nats.
    #[serde(deserialize_with = "float_or_null")]
    pub loss: f64,
    /// Share of the batch that was classified right.
    #[serde(deserialize_with = "float_or_null")]
    pub accuracy: f64,
    /// Learning rate of the step.
    #[serde(deserialize_with = "float_or_null")]
    pub learning_rate: f64,
    /// Clips per second since the last metrics.
    #[serde(deserialize_with = "float_or_null")]
    pub clips_per_second: f64,
    /// Expected time to the last step, in microseconds.
    pub eta_micros: u64,
    /// Bytes that training holds on the device.
    pub device_bytes: u64,
}

/// Metrics of an evaluation of the weights of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EvaluationMetrics {
    /// Split that was evaluated.
    pub split: Split,
    /// Step after which the job had the weights.
    pub step: u64,
    /// Epoch of the step, from 1.
    pub epoch: u32,
    /// Examples that were evaluated.
    pub examples: u64,
    /// Mean cross entropy, in nats.
    #[serde(deserialize_with = "float_or_null")]
    pub loss: f64,
    /// Share of examples whose best score is their label's.
    pub top1: f64,
    /// Whether this is the best evaluation so far.
    pub is_best: bool,
    /// Mean training loss of the epoch, in nats, when it was counted.
    pub training_loss: Option<f64>,
    /// Share of the epoch's training clips that were right, when it was counted.
    pub training_accuracy: Option<f64>,
    /// Mean recall of the labels; 0 in records of a release that did not count it.
    #[serde(default)]
    pub mean_class_accuracy: f64,
    /// Mean F1 score of the labels; 0 in records of a release that did not count it.
    #[serde(default)]
    pub macro_f1: f64,
    /// Mean average precision of labels that do not exclude one another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<f64>,
}

/// The best evaluation of a set that a job compares with others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ComparedHead {
    /// Head of the set.
    pub head: Head,
    /// Whether there are adapters below the head.
    pub has_adapters: bool,
    /// Trainable parameters of the set.
    pub parameters: u64,
    /// Step of the set's own training after which it had the evaluated weights.
    pub step: u64,
    /// Mean cross entropy on the validation split, in nats.
    #[serde(deserialize_with = "float_or_null")]
    pub loss: f64,
    /// Share of the validation examples whose best score is that of a label of theirs.
    pub top1: f64,
    /// Mean average precision of labels that do not exclude one another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<f64>,
    /// Whether the set becomes the version.
    pub is_published: bool,
}

impl EvaluationMetrics {
    /// The 95 % interval of the accuracy.
    pub fn interval(&self) -> (f64, f64) {
        wilson(
            (self.top1 * self.examples as f64).round() as u64,
            self.examples,
        )
    }
}

/// Summary of the training of a job that succeeded: what its result states besides the version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainingSummary {
    /// Stable reason of an early end, for example `EARLY_STOPPED`.
    pub reason: Option<String>,
    /// Mean training loss of each epoch, in nats.
    pub loss_curve: Vec<f64>,
    /// Evaluations of the validation split while the job trained, in their order.
    pub validation_curve: Vec<CurvePoint>,
    /// Step after which the job had the weights.
    pub step: u64,
    /// The seed that was used.
    pub seed: u64,
    /// Training time without waiting and validation, in microseconds.
    pub training_micros: u64,
    /// Time that the job took besides its steps.
    pub times: JobTimes,
    /// Training clips that could no longer be decoded and were left out.
    pub skipped_clips: u64,
    /// Whether the test split is to be measured: then the job does not end with its publication.
    pub has_test: bool,
}

/// JSON writes what is not a finite number as null.
pub(super) fn float_or_null<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}
