//! What is on record: plain values, one type for each resource, with every field that the API shows.
//!
//! Invariant: a record names its tenant; times are the database's, in microseconds since the Unix epoch.

mod access;
mod erasure;
mod feed;
mod jobs;
mod plan;
mod replica;
mod survey;
mod sweeps;
mod usage;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{
    AdapterVersion, DatasetId, JobId, RequestId, TaskId, TenantId, UploadId, VersionRef, VideoId,
};
use crate::spec::{
    AdapterConfig, Calibration, ClipSampling, Digest, Evaluation, ExampleLabels, FrameOrder,
    Invalid, LabelKind, LabelSet, Precision, Split,
};

pub use access::*;
pub use erasure::*;
pub use feed::{ChangePage, ChangeRecord, Cursor};
pub(in crate::metadata) use feed::{Place, Seen};
pub use jobs::*;
pub use plan::*;
pub use replica::*;
pub use survey::*;
pub use sweeps::*;
pub use usage::*;

use jobs::float_or_null;

/// Microseconds since the Unix epoch.
pub type Timestamp = i64;

/// Findings of the decoder's probe about a video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VideoProbe {
    /// Container by content: `mov`, `matroska`, `avi`, `mpegts`, `flv`, `asf` or `ogg`.
    pub container: String,
    /// Decoder name, for example `h264`.
    pub codec: String,
    /// Width of the stored picture in pixels.
    pub width: u32,
    /// Height of the stored picture in pixels.
    pub height: u32,
    /// Number of shown frames.
    pub frames: u32,
    /// Time from the first to the last shown frame, in microseconds.
    pub duration_micros: u64,
    /// Average frame rate in frames per second, 0 when unknown.
    pub frame_rate: f64,
    /// Clockwise rotation that players apply, in degrees, after they have mirrored a `mirrored` picture.
    pub rotation_degrees: u32,
    /// Whether players mirror the stored picture left to right, before they turn it.
    #[serde(default)]
    pub mirrored: bool,
    /// Number of frames in the order of the reference; `None` where it is `frames`, as in every record of release 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_frames: Option<u32>,
    /// Findings that did not prevent decoding.
    pub warnings: Vec<String>,
}

impl VideoProbe {
    /// The number of frames in an order.
    pub fn frames_in(&self, order: FrameOrder) -> u32 {
        match order {
            FrameOrder::Display => self.frames,
            FrameOrder::Reference => self.reference_frames.unwrap_or(self.frames),
        }
    }
}

/// A stored video.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoRecord {
    /// Tenant that owns the video.
    pub tenant: TenantId,
    /// Id of the video.
    pub id: VideoId,
    /// Name that the uploader gave to the video.
    pub display_name: String,
    /// Size of the container file in bytes.
    pub size_bytes: u64,
    /// sha256 of the container file.
    pub sha256: Digest,
    /// Findings of the probe.
    pub probe: VideoProbe,
    /// Time when the upload finished.
    pub create_time: Timestamp,
}

/// A video that is about to be put on record; its blob is in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVideo {
    /// Id of the video.
    pub id: VideoId,
    /// Size of the container file in bytes.
    pub size_bytes: u64,
    /// sha256 of the container file.
    pub sha256: Digest,
    /// Findings of the probe.
    pub probe: VideoProbe,
}

/// A resumable upload.
#[derive(Debug, Clone, PartialEq)]
pub struct UploadRecord {
    /// Tenant that owns the upload.
    pub tenant: TenantId,
    /// Id of the upload.
    pub id: UploadId,
    /// Name for people, which the video gets.
    pub display_name: String,
    /// Bytes that are durable: the sum of the parts, or the video's size once the upload has finished.
    pub committed_bytes: u64,
    /// The video, once the upload has finished.
    pub video: Option<VideoRecord>,
    /// Time when the upload was opened.
    pub create_time: Timestamp,
    /// Time when the upload expires unless it is written to before; `None` once it has finished.
    pub expire_time: Option<Timestamp>,
}

/// Limits of unfinished uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadLimits {
    /// How long an upload stays without a write.
    pub expiry: Duration,
    /// Unfinished uploads that a tenant may have.
    pub uploads: u32,
    /// Bytes that a tenant's unfinished uploads may have, all together.
    pub bytes: u64,
}

/// Unfinished uploads, of one tenant or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnfinishedUploads {
    /// Number of the uploads.
    pub uploads: u64,
    /// Durable bytes of the uploads.
    pub bytes: u64,
}

/// How far a walk over videos that are older than their tenant's stay has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgedPlace {
    /// Tenant whose videos were looked at last.
    pub tenant: TenantId,
    /// Time and id of the last video that was looked at; `None` when the tenant has no more.
    pub last: Option<(Timestamp, VideoId)>,
}

/// Some of the videos that are older than their tenant's stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgedVideos {
    /// Videos that nothing names, with their tenants.
    pub unnamed: Vec<(TenantId, VideoId)>,
    /// Number of videos that were looked at.
    pub seen: u64,
    /// Where the walk goes on; `None` at its end.
    pub next: Option<AgedPlace>,
}

/// A part of an upload that has ended, whose blob may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedPart {
    /// Tenant that owned the upload.
    pub tenant: TenantId,
    /// Id of the upload.
    pub upload: UploadId,
    /// Number of the part.
    pub number: u32,
}

/// A durable part of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRecord {
    /// Number of the part, which is in the name of its blob; parts of one upload never share a number.
    pub number: u32,
    /// Offset of the part in the file, in bytes.
    pub offset: u64,
    /// Size of the part in bytes.
    pub size: u64,
}

/// How many examples of one label one split has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelCount {
    /// Label of the examples.
    pub label: String,
    /// Split of the examples.
    pub split: Split,
    /// Number of the examples.
    pub examples: u64,
}

/// A data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetRecord {
    /// Tenant that owns the data set.
    pub tenant: TenantId,
    /// Id of the data set.
    pub id: DatasetId,
    /// Name of the data set for people.
    pub display_name: String,
    /// Whether its labels exclude one another; immutable.
    pub label_kind: LabelKind,
    /// Counts by label, then split, of the first labels: of at most 1,000.
    pub counts: Vec<LabelCount>,
    /// Number of labels of the data set.
    pub labels: u64,
    /// Number of examples of the data set.
    pub examples: u64,
    /// Time when the data set was created.
    pub create_time: Timestamp,
}

/// A data set that is about to be created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewDataset<'a> {
    /// Name of the data set for people.
    pub display_name: &'a str,
    /// Whether its labels exclude one another.
    pub label_kind: LabelKind,
}

impl<'a> From<&'a str> for NewDataset<'a> {
    fn from(display_name: &'a str) -> Self {
        Self {
            display_name,
            label_kind: LabelKind::Single,
        }
    }
}

/// A labelled video of a data set or of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExampleRecord {
    /// Video of the example.
    pub video: VideoId,
    /// Labels of the video: exactly one, or any number where labels do not exclude one another.
    pub labels: ExampleLabels,
    /// Split that the example belongs to.
    pub split: Split,
}

/// A task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecord {
    /// Tenant that owns the task.
    pub tenant: TenantId,
    /// Id of the task.
    pub id: TaskId,
    /// Name of the task for people.
    pub display_name: String,
    /// Shape of the task's adapters; immutable.
    pub adapter: AdapterConfig,
    /// Sampling of the task's clips; immutable.
    pub sampling: ClipSampling,
    /// Whether a finished job's version is served without being asked.
    pub auto_serve: bool,
    /// Whether jobs also train heads without adapters and publish the best of all; immutable. The shape is then that of the adapters.
    pub auto_head: bool,
    /// The version that answers now.
    pub serving: Option<AdapterVersion>,
    /// The version that was asked for.
    pub desired: Option<AdapterVersion>,
    /// Why the desired version is not serving.
    pub serving_error: Option<String>,
    /// How requests are shared out once the desired version, which is the main one, serves; `None` when it answers all of them.
    pub split: Option<Plan>,
    /// Plan that served before the desired version was asked for.
    pub previous: Option<Plan>,
    /// Whether the versions that serve are to stay in memory.
    pub pinned: bool,
    /// Changes with everything that a caller or a job changes of the task: its name, `auto_serve`, the desired version. That the engine makes a
    /// desired version serve is no such change, else nobody could hold a current etag while a swap is under way.
    pub etag: String,
    /// Time when the task was created.
    pub create_time: Timestamp,
}

/// A task that is about to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Id of the task.
    pub id: TaskId,
    /// Name of the task for people.
    pub display_name: String,
    /// Shape of the task's adapters.
    pub adapter: AdapterConfig,
    /// Sampling of the task's clips.
    pub sampling: ClipSampling,
    /// Whether a finished job's version is served without being asked.
    pub auto_serve: bool,
    /// Whether jobs also train heads without adapters and publish the best of all.
    pub auto_head: bool,
}

/// Changes of a task; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskUpdate {
    /// Name of the task for people.
    pub display_name: Option<String>,
    /// Whether a finished job's version is served without being asked.
    pub auto_serve: Option<bool>,
}

/// The version that serves a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingRecord {
    /// Which version serves.
    pub version: VersionRef,
    /// The backbone that the version was trained on.
    pub backbone_digest: Digest,
    /// Why the task's desired version is not served.
    pub serving_error: Option<String>,
    /// Whether the serving version is the desired one, too.
    pub is_desired: bool,
}

/// A version that is to stay in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedRecord {
    /// Reference of the version.
    pub version: VersionRef,
    /// Size of the version's file in bytes.
    pub size_bytes: u64,
}

/// An immutable, published set of adapters and a head.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionRecord {
    /// Tenant that owns the version.
    pub tenant: TenantId,
    /// Task of the version.
    pub task: TaskId,
    /// Number of the version; never given twice, even when a task is deleted and made anew.
    pub version: AdapterVersion,
    /// Manifest of the version, which its file has, too.
    pub manifest: VersionManifest,
    /// sha256 of the version's file.
    pub sha256: Digest,
    /// Size of the version's file in bytes.
    pub size_bytes: u64,
    /// Time when the version was published.
    pub create_time: Timestamp,
    /// Metrics on the test split, which the job that made the version measured once it was published. The version's file does not have them.
    pub test: Option<Evaluation>,
}

/// Manifest of a version: what its file states about itself, and its record as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionManifest {
    /// Labels of the version: row i of the head is label i.
    pub labels: LabelSet,
    /// Shape of the adapters.
    pub adapter: AdapterConfig,
    /// How clips are sampled.
    pub sampling: ClipSampling,
    /// Digest of the backbone that the version was trained on, over its canonical tensors and constants.
    pub backbone_digest: Digest,
    /// sha256 of the file's tensor bytes, without its header.
    pub tensors_sha256: Digest,
    /// Number of trainable parameters.
    pub parameters: u64,
    /// Precision of training.
    pub precision: Precision,
    /// Id of the job that made the version; empty when the version was imported from a file that does not say.
    pub job: String,
    /// Digest of the data set snapshot that the version was trained on; zeros when it was imported from a file that does not say.
    pub dataset_digest: Digest,
    /// The version that training started from.
    pub parent: Option<u32>,
    /// Metrics on the validation split.
    pub evaluation: Evaluation,
    /// What the validation split says about the scores; absent in versions of releases that did not say, and when the split was too small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

/// Target of an import.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportTarget {
    /// Id of the task that gets the version.
    pub task: TaskId,
    /// Task that is made, in the transaction that makes the version visible, when there is none of the id; a task that exists has to be of the same shape.
    pub create: Option<NewTask>,
    /// Etag that the task must have; `None` for any.
    pub etag: Option<String>,
    /// Request id, for idempotency.
    pub request: Option<RequestId>,
    /// sha256 of the file that came in.
    pub sha256: Digest,
    /// Labels that the caller gave.
    pub labels: Option<LabelSet>,
}

/// Beginning of an import.
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

/// A version whose blob is in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVersion {
    /// Number that was reserved for the version.
    pub version: AdapterVersion,
    /// Manifest of the version, which its file has, too.
    pub manifest: VersionManifest,
    /// sha256 of the version's file.
    pub sha256: Digest,
    /// Size of the version's file in bytes.
    pub size_bytes: u64,
}

/// Name of a blob, as its key states it.
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
    /// The examples of a snapshot, by its digest.
    Snapshot(Digest),
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
