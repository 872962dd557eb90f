//! Why a transaction did not happen, and what it was about.
//!
//! Invariant: no type of the database library is in here, so that no caller depends on one.

use std::path::PathBuf;

use super::Quota;
use crate::blocking::Unfinished;
use crate::ids::{
    DatasetId, JobId, KeyId, RequestId, SweepId, TaskId, TenantId, UploadId, VideoId,
};

/// A kind of resource, as error messages and resource names call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A video.
    Video,
    /// A resumable upload.
    Upload,
    /// A data set.
    Dataset,
    /// A snapshot of a data set.
    Snapshot,
    /// A version of a data set.
    DatasetVersion,
    /// A task.
    Task,
    /// An adapter version.
    Version,
    /// A job.
    Job,
    /// A search over many jobs.
    Sweep,
    /// A tenant.
    Tenant,
    /// An API key.
    Key,
    /// A process that shares the records.
    Replica,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Video => "video",
            Self::Upload => "upload",
            Self::Dataset => "dataset",
            Self::Snapshot => "dataset snapshot",
            Self::DatasetVersion => "dataset version",
            Self::Task => "task",
            Self::Version => "adapter version",
            Self::Job => "job",
            Self::Sweep => "sweep",
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::Replica => "replica",
        })
    }
}

/// Why a transaction did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tenant has no such resource; another's looks the same.
    #[error("{kind} {name} does not exist")]
    NotFound {
        /// Kind of the resource.
        kind: Kind,
        /// Id of the resource.
        name: String,
    },
    /// The tenant does not have these videos.
    #[error("{} of the named videos do not exist, the first is {}", videos.len(), first(videos))]
    VideosNotFound {
        /// Ids of all videos that are missing.
        videos: Vec<VideoId>,
    },
    /// The tenant has one of that id.
    #[error("{kind} {name} exists already")]
    AlreadyExists {
        /// Kind of the resource.
        kind: Kind,
        /// Id of the resource.
        name: String,
    },
    /// Something still needs the resource, and the deletion was not forced or cannot be.
    #[error("{kind} {name} is in use by {user_kind} {user}")]
    InUse {
        /// Kind of the resource that was to be deleted.
        kind: Kind,
        /// Id of the resource.
        name: String,
        /// Kind of what needs the resource.
        user_kind: Kind,
        /// Id of what needs the resource.
        user: String,
    },
    /// Somebody changed the task since the etag was read.
    #[error("task {task} was changed: its etag is not {etag:?} any more")]
    EtagMismatch {
        /// Id of the task.
        task: TaskId,
        /// Etag that the caller gave.
        etag: String,
    },
    /// The task has no version to go back to: none served before the present one.
    #[error("task {task} has nothing to go back to: nothing else served before")]
    NothingBefore {
        /// Id of the task.
        task: TaskId,
    },
    /// The versions of the tenant's pinned tasks would have more bytes than is allowed.
    #[error(
        "the serving versions of the tenant's pinned tasks would have {bytes} bytes, at most {limit} may stay in memory"
    )]
    TooMuchPinned {
        /// Bytes that they would have.
        bytes: u64,
        /// Most bytes that they may have.
        limit: u64,
    },
    /// A part does not begin where the durable bytes end.
    #[error("upload {upload} has {committed} committed bytes, a part cannot begin at {offset}")]
    OffsetMismatch {
        /// Id of the upload.
        upload: UploadId,
        /// Bytes that are durable.
        committed: u64,
        /// Offset at which the part begins.
        offset: u64,
    },
    /// The upload is a video already.
    #[error("upload {upload} has finished")]
    UploadFinished {
        /// Id of the upload.
        upload: UploadId,
    },
    /// A data set would have more labels than it may have.
    #[error("data set {dataset} would have {labels} labels, at most {limit} are allowed")]
    TooManyLabels {
        /// Id of the data set.
        dataset: DatasetId,
        /// Number of labels that it would have.
        labels: usize,
        /// Most that is allowed.
        limit: usize,
    },
    /// An example has another number of labels than one in a data set whose labels exclude one another.
    #[error(
        "the labels of data set {dataset} exclude one another: video {video} needs exactly one, and has {labels}"
    )]
    LabelCount {
        /// Id of the data set.
        dataset: DatasetId,
        /// Video of the example.
        video: VideoId,
        /// Number of labels that the example has.
        labels: usize,
    },
    /// The upload was not written to for so long that it is gone.
    #[error("upload {upload} has expired: nothing was written to it for too long")]
    UploadExpired {
        /// Id of the upload.
        upload: UploadId,
    },
    /// The tenant has as many unfinished uploads as it may have.
    #[error("the tenant has {limit} unfinished uploads, no more are allowed")]
    TooManyUploads {
        /// How many it may have.
        limit: u32,
    },
    /// The tenant's unfinished uploads have as many bytes as they may have.
    #[error(
        "the tenant's unfinished uploads have {used} bytes and may have {limit}, no more are taken"
    )]
    TooManyUploadBytes {
        /// Most bytes that they may have, all together.
        limit: u64,
        /// Bytes that they have, those of parts that are being written included.
        used: u64,
    },
    /// A request id was used again for another request.
    #[error(
        "request_id {request} was used for another {method}: {}; use a new id for a new request",
        differing(differs)
    )]
    RequestReused {
        /// The request id.
        request: RequestId,
        /// Method that the request id was used for, as the API calls it.
        method: &'static str,
        /// Paths of the fields that differ; empty when the earlier content is not known any more.
        differs: Vec<String>,
    },
    /// A request id was used again after what it had made was deleted.
    #[error(
        "request_id {request} made {kind} {name}, which was deleted since: use a new id to make another"
    )]
    RequestSpent {
        /// The request id.
        request: RequestId,
        /// Kind of what the request made.
        kind: Kind,
        /// Id of the resource.
        name: String,
    },
    /// The tenant has as many unfinished jobs as it may have.
    #[error("the tenant has {limit} unfinished jobs, no more are allowed")]
    TooManyJobs {
        /// How many it may have.
        limit: u32,
    },
    /// The tenant has as many sweeps under way as it may have.
    #[error("the tenant has {limit} sweeps under way, no more are allowed")]
    TooManySweeps {
        /// How many it may have.
        limit: u32,
    },
    /// The data set has as many versions as it may have.
    #[error("the data set has {limit} versions, no more are allowed: delete some")]
    TooManyVersions {
        /// How many it may have.
        limit: u32,
    },
    /// The sweep has ended, so that it cannot be cancelled.
    #[error("sweep {sweep} has ended")]
    SweepFinished {
        /// The sweep.
        sweep: SweepId,
    },
    /// The tenant was changed since its etag was read.
    #[error("tenant {tenant} was changed: etag {etag:?} is not current")]
    TenantChanged {
        /// Id of the tenant.
        tenant: TenantId,
        /// Etag that the caller gave, shortened to 80 characters.
        etag: String,
    },
    /// The tenant is being erased, or was.
    #[error("the tenant was erased")]
    TenantErased,
    /// The key was revoked or has expired.
    #[error("key {key} was revoked or has expired")]
    KeyEnded {
        /// Id of the key.
        key: KeyId,
    },
    /// The tenant stores as much as it may.
    #[error("the tenant has {used} {} of at most {limit}, and {more} more are not allowed", quota.name())]
    QuotaExceeded {
        /// Quantity that is limited.
        quota: Quota,
        /// Largest allowed value.
        limit: u64,
        /// Amount that is used.
        used: u64,
        /// Amount that was to be added.
        more: u64,
    },
    /// The job has ended.
    #[error("job {job} has ended")]
    JobFinished {
        /// Id of the job.
        job: JobId,
    },
    /// The worker no longer has the job: a newer claim, another state, or an end. It must stop and write nothing more.
    #[error("epoch {epoch} of job {job} may not write any more")]
    LeaseLost {
        /// Id of the job.
        job: JobId,
        /// The worker's epoch.
        epoch: u64,
    },
    /// A page size below 0.
    #[error("page_size: expected 0 to 1000, got {size}")]
    PageSize {
        /// Size that the caller asked for.
        size: i32,
    },
    /// A page token that this listing did not give.
    #[error("page_token is not from an answer of this listing")]
    PageToken,
    /// A stored record cannot be read.
    #[error("column {column} of a stored record cannot be read")]
    Corrupt {
        /// Name of the column.
        column: &'static str,
        /// Reason why the column cannot be read.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database cannot be reached, is locked by another process, or its disk fails; the same call may succeed later.
    #[error("the database is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database's disk is full; the same call may succeed when there is room again.
    #[error("the database's disk is full")]
    StorageFull(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database refused a statement or a migration.
    #[error("the database failed")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be written, so that nothing could be recorded.
    #[error("database {} cannot be written: its mode or its file system forbids it", path.display())]
    ReadOnly {
        /// Path of the database.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("database {} is damaged, restore it from a backup: {problem}", path.display())]
    Damaged {
        /// Path of the database.
        path: PathBuf,
        /// What SQLite found first.
        problem: String,
    },
    /// The database is older than what it acknowledged: its write-ahead log was lost or cut, or an older copy was put in its place.
    #[error(
        "database {} has lost its last {lost} changes: put its metadata.sqlite-wal back, or restore a backup into an empty directory, or go on \
         without them with --accept-data-loss",
        path.display()
    )]
    CommitsLost {
        /// Path of the database.
        path: PathBuf,
        /// How many acknowledged transactions are missing.
        lost: u64,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

impl From<Unfinished> for Error {
    fn from(error: Unfinished) -> Self {
        Self::Backend(error.into())
    }
}

impl Error {
    /// Whether the same call may succeed later without anybody changing the request: the disk, a lock or the connection failed.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::StorageFull(_))
    }
}

/// What a reused request id does not have in common with its first use.
fn differing(fields: &[String]) -> String {
    match fields {
        [] => "it asked for something else".to_owned(),
        [one] => format!("{one} differs"),
        several => format!("{} differ", several.join(", ")),
    }
}

fn first(videos: &[VideoId]) -> String {
    videos.first().map(ToString::to_string).unwrap_or_default()
}

/// Result of a transaction.
pub type Result<T> = std::result::Result<T, Error>;
