//! What is on record: plain values, one type for each resource, with every field that the API shows.
//!
//! Invariant: a record names its tenant; times are the database's, in microseconds since the Unix epoch.

use serde::{Deserialize, Serialize};

use crate::ids::{AdapterVersion, DatasetId, JobId, TaskId, TenantId, UploadId, VideoId};
use crate::spec::{
    AdapterConfig, ClipSampling, Digest, Evaluation, HyperParameters, Invalid, JobState, LabelSet,
    Precision, Split,
};

/// Microseconds since the Unix epoch.
pub type Timestamp = i64;

/// What the decoder's probe said of a video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VideoProbe {
    /// Container by content: `mov`, `matroska`, `avi`, `mpegts` or `flv`.
    pub container: String,
    /// Decoder name, for example `h264`.
    pub codec: String,
    /// Width of the stored picture in pixels.
    pub width: u32,
    /// Height of the stored picture in pixels.
    pub height: u32,
    /// Number of shown frames.
    pub frames: u32,
    /// From the first to the last shown frame, in microseconds.
    pub duration_micros: u64,
    /// Average frame rate in frames per second, 0 when unknown.
    pub frame_rate: f64,
    /// Clockwise rotation that players apply, in degrees.
    pub rotation_degrees: u32,
    /// Findings that did not prevent decoding.
    pub warnings: Vec<String>,
}

/// A stored video.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoRecord {
    /// Who owns it.
    pub tenant: TenantId,
    /// Its id.
    pub id: VideoId,
    /// What the uploader called it.
    pub display_name: String,
    /// Size of the container file in bytes.
    pub size_bytes: u64,
    /// sha256 of the container file.
    pub sha256: Digest,
    /// What the probe found.
    pub probe: VideoProbe,
    /// When the upload finished.
    pub create_time: Timestamp,
}

/// A video that is about to be put on record; its blob is in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVideo {
    /// Its id.
    pub id: VideoId,
    /// Size of the container file in bytes.
    pub size_bytes: u64,
    /// sha256 of the container file.
    pub sha256: Digest,
    /// What the probe found.
    pub probe: VideoProbe,
}

/// A resumable upload.
#[derive(Debug, Clone, PartialEq)]
pub struct UploadRecord {
    /// Who owns it.
    pub tenant: TenantId,
    /// Its id.
    pub id: UploadId,
    /// Copied to the video.
    pub display_name: String,
    /// Bytes that are durable: the sum of the parts, or the video's size once the upload has finished.
    pub committed_bytes: u64,
    /// The video, once the upload has finished.
    pub video: Option<VideoRecord>,
    /// When the upload was opened.
    pub create_time: Timestamp,
}

/// A durable part of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRecord {
    /// What its blob is called; parts of one upload never share a number, whoever wrote them.
    pub number: u32,
    /// Where in the file it begins.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// How many examples of one label one split has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelCount {
    /// The label.
    pub label: String,
    /// The split.
    pub split: Split,
    /// Number of examples.
    pub examples: u64,
}

/// A data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetRecord {
    /// Who owns it.
    pub tenant: TenantId,
    /// Its id.
    pub id: DatasetId,
    /// For people.
    pub display_name: String,
    /// Counts by label, then split.
    pub counts: Vec<LabelCount>,
    /// When it was created.
    pub create_time: Timestamp,
}

impl DatasetRecord {
    /// Examples in all.
    pub fn examples(&self) -> u64 {
        self.counts.iter().map(|count| count.examples).sum()
    }
}

/// One labelled video of a data set or of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExampleRecord {
    /// The video.
    pub video: VideoId,
    /// Its label.
    pub label: String,
    /// The part that it belongs to.
    pub split: Split,
}

/// The immutable list of examples that a data set held at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// sha256 over every example: the video's id and digest, label and split, in the order of the videos' ids.
    pub digest: Digest,
    /// By the videos' ids.
    pub examples: Vec<ExampleRecord>,
}

/// A task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecord {
    /// Who owns it.
    pub tenant: TenantId,
    /// Its id.
    pub id: TaskId,
    /// For people.
    pub display_name: String,
    /// Shape of its adapters; immutable.
    pub adapter: AdapterConfig,
    /// How its clips are sampled; immutable.
    pub sampling: ClipSampling,
    /// Whether a finished job's version is served without being asked.
    pub auto_serve: bool,
    /// The version that answers now.
    pub serving: Option<AdapterVersion>,
    /// The version that was asked for.
    pub desired: Option<AdapterVersion>,
    /// Why the desired version is not serving.
    pub serving_error: Option<String>,
    /// Changes with everything that a caller or a job changes of the task: its name, `auto_serve`, the desired version. That the engine makes a
    /// desired version serve is no such change, else nobody could hold a current etag while a swap is under way.
    pub etag: String,
    /// When it was created.
    pub create_time: Timestamp,
}

/// A task that is about to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Its id.
    pub id: TaskId,
    /// For people.
    pub display_name: String,
    /// Shape of its adapters.
    pub adapter: AdapterConfig,
    /// How its clips are sampled.
    pub sampling: ClipSampling,
    /// Whether a finished job's version is served without being asked.
    pub auto_serve: bool,
}

/// Changes of a task; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskUpdate {
    /// For people.
    pub display_name: Option<String>,
    /// Whether a finished job's version is served without being asked.
    pub auto_serve: Option<bool>,
}

/// An immutable, published set of adapters and a head.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionRecord {
    /// Who owns it.
    pub tenant: TenantId,
    /// Its task.
    pub task: TaskId,
    /// Its number; never given twice, even when a task is deleted and made anew.
    pub version: AdapterVersion,
    /// What was stored.
    pub manifest: VersionManifest,
    /// sha256 of the stored file.
    pub sha256: Digest,
    /// Size of the stored file in bytes.
    pub size_bytes: u64,
    /// When it was published.
    pub create_time: Timestamp,
}

/// What a version's file says about itself; the record says the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionManifest {
    /// Row i of the head is label i.
    pub labels: LabelSet,
    /// Shape of the adapters.
    pub adapter: AdapterConfig,
    /// How clips are sampled.
    pub sampling: ClipSampling,
    /// Of the backbone that it was trained on: over its canonical tensors and constants.
    pub backbone_digest: Digest,
    /// sha256 of the file's tensor bytes, without its header.
    pub tensors_sha256: Digest,
    /// Trainable parameters.
    pub parameters: u64,
    /// Precision of training.
    pub precision: Precision,
    /// The job that made it, as a uuid; empty when it was imported from a file that does not say.
    pub job: String,
    /// Digest of the data set snapshot that it was trained on; zeros when it was imported from a file that does not say.
    pub dataset_digest: Digest,
    /// The version that training started from.
    pub parent: Option<u32>,
    /// On the validation split.
    pub evaluation: Evaluation,
}

/// A fine-tuning job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// Who owns it.
    pub tenant: TenantId,
    /// Its id.
    pub id: JobId,
    /// The task that it trains.
    pub task: TaskId,
    /// The data set as it was named at submission.
    pub dataset: DatasetId,
    /// The snapshot that it reads, taken at submission.
    pub dataset_digest: Digest,
    /// As submitted, then as used once the job has been validated.
    pub hyper_parameters: HyperParameters,
    /// Where the job is.
    pub state: JobState,
    /// Stable reason of a failure, or of an early end.
    pub reason: Option<String>,
    /// What went wrong, in words.
    pub message: Option<String>,
    /// Steps done.
    pub step: u64,
    /// Steps in all; 0 before validation.
    pub total_steps: u64,
    /// How often a worker has taken the job.
    pub attempts: u32,
    /// Number of the newest claim; 0 before the first.
    pub epoch: u64,
    /// Whether its owner wants it to stop.
    pub cancel_requested: bool,
    /// The task's etag at submission.
    pub task_etag: String,
    /// The newest checkpoint.
    pub checkpoint: Option<CheckpointRecord>,
    /// The result, once the job has succeeded.
    pub result: Option<JobResult>,
    /// When it was submitted.
    pub create_time: Timestamp,
    /// When it ended.
    pub end_time: Option<Timestamp>,
}

/// A job that is about to be submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// The task to train.
    pub task: TaskId,
    /// The data set, of which a snapshot is taken.
    pub dataset: DatasetId,
    /// As submitted.
    pub hyper_parameters: HyperParameters,
    /// Unfinished jobs that the tenant may have, this one included.
    pub limit: u32,
}

/// A checkpoint in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// Steps done when it was taken.
    pub step: u64,
    /// Its blob, as `store::layout` spells keys.
    pub key: String,
    /// sha256 of the blob.
    pub sha256: Digest,
}

/// What a job made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The version.
    pub version: u32,
    /// On the validation split.
    pub evaluation: Evaluation,
    /// Mean training loss of each epoch, in nats.
    pub loss_curve: Vec<f64>,
    /// Digest of the data set snapshot.
    pub dataset_digest: Digest,
    /// Digest of the backbone.
    pub backbone_digest: Digest,
    /// The seed that was used.
    pub seed: u64,
    /// Trainable parameters.
    pub parameters: u64,
    /// Training time without waiting and validation, in microseconds.
    pub training_micros: u64,
}

/// The right to write a job: it holds while the job's epoch and state say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who owns the job.
    pub tenant: TenantId,
    /// The job.
    pub job: JobId,
    /// The claim's number.
    pub epoch: u64,
}

/// A job that a worker has taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// What every write of the worker shows.
    pub lease: Lease,
    /// The job, in state VALIDATING.
    pub job: JobRecord,
}

/// What a worker reports along with a state or with events; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobUpdate {
    /// The hyper-parameters that are used.
    pub hyper_parameters: Option<HyperParameters>,
    /// Steps done.
    pub step: Option<u64>,
    /// Steps in all.
    pub total_steps: Option<u64>,
}

/// How a job ends without a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By an error.
    Failed {
        /// Stable reason.
        reason: String,
        /// In words.
        message: String,
    },
    /// By its owner.
    Cancelled,
}

/// A version that became visible and the job that made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The version.
    pub version: VersionRecord,
    /// The job, SUCCEEDED.
    pub job: JobRecord,
    /// Whether the version is its task's desired one now.
    pub is_desired: bool,
}

/// What an import begins with.
#[derive(Debug, Clone, PartialEq)]
pub enum ImportStart {
    /// The request was answered before, with this version.
    Done(Box<VersionRecord>),
    /// The number of the new version.
    Number(AdapterVersion),
}

/// A version that became visible without a job.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedVersion {
    /// The version.
    pub version: VersionRecord,
    /// Whether it is its task's desired one now.
    pub is_desired: bool,
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRecord {
    /// 1, 2, 3 … within the job.
    pub sequence: u64,
    /// When.
    pub time: Timestamp,
    /// What.
    pub event: Event,
}

/// What happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The job changed its state.
    State {
        /// The state that the job is in now.
        state: JobState,
        /// Stable reason, when there is one.
        reason: Option<String>,
        /// In words.
        message: Option<String>,
    },
    /// Metrics of a training step.
    Step(StepMetrics),
    /// A message for people.
    Message {
        /// Whether it is a warning.
        warning: bool,
        /// In words.
        text: String,
    },
}

/// Metrics of a training step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Step, from 1.
    pub step: u64,
    /// Steps in all.
    pub total_steps: u64,
    /// Epoch, from 1.
    pub epoch: u32,
    /// Mean cross entropy of the batch, in nats.
    #[serde(deserialize_with = "float_or_null")]
    pub loss: f64,
    /// Share of the batch that was right.
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

/// JSON writes what is not a finite number as null.
fn float_or_null<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// A version whose blob is in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVersion {
    /// The number that was reserved for it.
    pub version: AdapterVersion,
    /// What its file says.
    pub manifest: VersionManifest,
    /// sha256 of the file.
    pub sha256: Digest,
    /// Size of the file in bytes.
    pub size_bytes: u64,
}

/// What a job that succeeded reports besides its version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Stable reason of an early end, for example `EARLY_STOPPED`.
    pub reason: Option<String>,
    /// Mean training loss of each epoch, in nats.
    pub loss_curve: Vec<f64>,
    /// The seed that was used.
    pub seed: u64,
    /// Training time without waiting and validation, in microseconds.
    pub training_micros: u64,
}

/// What a blob's key says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobName {
    /// A video.
    Video(VideoId),
    /// A part of an upload.
    Part(UploadId, u32),
    /// A version's file.
    Version(TaskId, AdapterVersion, Digest),
    /// A file of a job, by its whole key.
    Job(JobId, String),
}

/// Checks a display name: at most 255 bytes, no control characters.
///
/// # Errors
/// When it is longer or has some.
pub fn check_display_name(name: &str) -> Result<(), Invalid> {
    if name.len() > 255 || name.chars().any(char::is_control) {
        let shown: String = name.chars().take(80).collect();
        let problem = format!("{shown:?} is not at most 255 bytes without control characters");
        return Err(Invalid::new("display_name", problem));
    }
    Ok(())
}
