//! Queries of a check of the whole state.

use super::Timestamp;
use crate::ids::{DatasetId, JobId, TaskId, TenantId};
use crate::metadata::BlobName;
use crate::spec::Digest;

/// Blob that a record names, with what the record says of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedBlob {
    /// Tenant that owns the blob.
    pub tenant: TenantId,
    /// What the blob is.
    pub name: BlobName,
    /// Size of the blob, where a record has it.
    pub size: Option<u64>,
    /// sha256 of the bytes, where a record has it.
    pub sha256: Option<Digest>,
}

/// Kind of records that name blobs, in the order in which a survey reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    /// Videos that were not deleted.
    Videos,
    /// Parts of uploads.
    Parts,
    /// Versions of tasks.
    Versions,
    /// The newest checkpoints of unfinished jobs.
    Checkpoints,
    /// The examples of snapshots that have a blob.
    Snapshots,
}

impl BlobKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Videos,
        Self::Parts,
        Self::Versions,
        Self::Checkpoints,
        Self::Snapshots,
    ];
}

/// Place in the listing of one kind, after which the next page begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlobPlace {
    /// Tenant of the last record.
    pub tenant: String,
    /// Id of the last record.
    pub id: String,
    /// Number of the last record below the id.
    pub number: i64,
}

/// Records that contradict one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contradiction {
    /// A task names a version that does not exist.
    NoVersion {
        /// Tenant of the task.
        tenant: TenantId,
        /// Id of the task.
        task: TaskId,
        /// Number that the task names.
        version: i64,
        /// Whether it is the version that serves, and not the desired one.
        is_serving: bool,
    },
    /// The record of a version that a task names cannot be read.
    UnreadableVersion {
        /// Tenant of the task.
        tenant: TenantId,
        /// Id of the task.
        task: TaskId,
        /// Number of the version.
        version: i64,
        /// What is wrong with the record.
        problem: String,
    },
    /// A job is leased for longer than any worker leases.
    LeaseTooLong {
        /// Tenant of the job.
        tenant: TenantId,
        /// Id of the job.
        job: JobId,
        /// End of the lease.
        lease_end: Timestamp,
    },
    /// The counts of what a tenant stores are not what it stores.
    Usage {
        /// The tenant.
        tenant: TenantId,
        /// Videos that exist and are not counted; negative when too many are counted.
        videos: i64,
        /// Bytes that exist and are not counted.
        bytes: i64,
        /// Tasks that exist and are not counted.
        tasks: i64,
        /// Versions that exist and are not counted.
        versions: i64,
    },
    /// The number of a data set's examples is not what it holds; the tenant's quota counts by it.
    Examples {
        /// The tenant.
        tenant: TenantId,
        /// Id of the data set.
        dataset: DatasetId,
        /// Examples that exist and are not counted; negative when too many are counted.
        not_counted: i64,
    },
    /// The counts of a data set's label are not those of its examples.
    Labels {
        /// The tenant.
        tenant: TenantId,
        /// Id of the data set.
        dataset: String,
        /// The label.
        label: String,
    },
}
