//! Records and the transactions on them: videos, uploads, data sets, tasks, versions, jobs and their events; tenants and keys.
//!
//! Invariant: every method of [`MetadataStore`] is one transaction that is durable before it returns, and touches rows of the named tenant only;
//! no connection leaves this module.

mod access;
mod acting;
mod archives;
mod erasures;
mod error;
mod faulty;
mod jobs;
mod metering;
mod page;
mod records;
mod retention;
mod server;
mod snapshots;
mod sql;
mod sweeps;
mod topic;

use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;

pub use access::{AUDIT_KEPT, Access};
pub use acting::{Acting, carried};
pub use archives::{Archive, Archives, PagePlace, Unarchived};
pub use erasures::Erasures;
pub use error::{Error, Kind, OpenError, Result};
pub use faulty::{Fault, Outages};
pub use jobs::{Jobs, Workers};
pub use metering::Metering;
pub use page::{Next, Page, PageRequest};
pub use records::*;
pub use retention::Retention;
pub use server::{SchemaState, ServerConfig, UrlError};
pub use snapshots::{DatasetVersionRecord, SnapshotRecord, Snapshots};
pub use sql::{Condition, Config, Database, Faults, backup};
#[cfg(debug_assertions)]
pub use sql::{leave_out_locks, statements};
pub use sweeps::Sweeps;
pub use topic::{Topic, spread};

use crate::ids::{AdapterVersion, DatasetId, RequestId, TaskId, TenantId, UploadId, VideoId};
use crate::spec::Digest;

/// The records, as use cases. A name of another tenant is [`Error::NotFound`]. A `request` makes a create idempotent: a second call with the same
/// (tenant, method, request) returns the first one's resource as it is now, and [`Error::NotFound`] when that was deleted since; one that asks for
/// something else is [`Error::RequestReused`].
pub trait MetadataStore:
    Videos
    + Datasets
    + Snapshots
    + Archives
    + Tasks
    + Changes
    + Jobs
    + Workers
    + Sweeps
    + Retention
    + Access
    + Replicas
    + Metering
    + Erasures
    + Send
    + Sync
    + std::fmt::Debug
{
}

impl<T> MetadataStore for T where
    T: Videos
        + Datasets
        + Snapshots
        + Archives
        + Tasks
        + Changes
        + Jobs
        + Workers
        + Sweeps
        + Retention
        + Access
        + Replicas
        + Metering
        + Erasures
        + Send
        + Sync
        + std::fmt::Debug
{
}

/// Uploads and videos.
#[async_trait]
pub trait Videos {
    /// Opens an upload. [`Error::TooManyUploads`] when the tenant has as many unfinished ones as it may have.
    async fn create_upload(
        &self,
        tenant: &TenantId,
        display_name: &str,
        request: Option<RequestId>,
        limits: &UploadLimits,
    ) -> Result<UploadRecord>;
    /// Reads an upload; one that nobody wrote to for too long is [`Error::UploadExpired`], for some days.
    async fn get_upload(&self, tenant: &TenantId, upload: UploadId) -> Result<UploadRecord>;
    /// Lists unfinished uploads, oldest first.
    async fn list_uploads(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<UploadRecord>>;
    /// Finds the video that [`Videos::record_video`] recorded with this request before, if any.
    async fn find_uploaded(
        &self,
        tenant: &TenantId,
        display_name: &str,
        sha256: Digest,
        request: RequestId,
    ) -> Result<Option<VideoRecord>>;
    /// Records a video, whose blob is in the store; idempotent by `request`.
    async fn record_video(
        &self,
        tenant: &TenantId,
        display_name: &str,
        video: NewVideo,
        request: Option<RequestId>,
    ) -> Result<VideoRecord>;
    /// Gives out the number of the part that begins at `offset`, which must be the committed offset, and reserves its bytes among those of the tenant's
    /// unfinished uploads: [`Error::TooManyUploadBytes`] when there is no room. The part's blob is written, then committed. With 0 bytes nothing more is
    /// reserved.
    async fn begin_part(
        &self,
        tenant: &TenantId,
        upload: UploadId,
        offset: u64,
        size: u64,
        limits: &UploadLimits,
    ) -> Result<u32>;
    /// Makes a stored part count, if it still begins at the committed offset, and puts the upload's expiry off. Returns the new offset.
    async fn commit_part(
        &self,
        tenant: &TenantId,
        upload: UploadId,
        part: PartRecord,
        limits: &UploadLimits,
    ) -> Result<u64>;
    /// Lists the committed parts by offset.
    async fn list_parts(&self, tenant: &TenantId, upload: UploadId) -> Result<Vec<PartRecord>>;
    /// Turns an upload into a video, whose blob is in the store, and forgets the parts. When the upload has a video already, that is returned
    /// instead and `video` is not recorded.
    async fn finish_upload(
        &self,
        tenant: &TenantId,
        upload: UploadId,
        video: NewVideo,
    ) -> Result<VideoRecord>;
    /// Ends an unfinished upload; one that has ended stays so. Returns its parts, whose blobs may go, then [`Retention::forget_parts`].
    async fn abandon_upload(&self, tenant: &TenantId, upload: UploadId) -> Result<Vec<PartRecord>>;
    /// Reads a video.
    async fn get_video(&self, tenant: &TenantId, video: VideoId) -> Result<VideoRecord>;
    /// Reads many videos in one query; those that are not there are left out.
    async fn get_videos(&self, tenant: &TenantId, videos: &[VideoId]) -> Result<Vec<VideoRecord>>;
    /// Lists videos, oldest first.
    async fn list_videos(&self, tenant: &TenantId, page: &PageRequest)
    -> Result<Page<VideoRecord>>;
    /// Deletes a video. In use by a data set or an unfinished job: [`Error::InUse`], unless forced; then the examples of data sets go with it, and
    /// a tombstone keeps its id. The blob may go afterwards.
    async fn delete_video(&self, tenant: &TenantId, video: VideoId, force: bool) -> Result<()>;
    /// Returns whether a record names each of some blobs: a video, a part of an upload, a version, or a checkpoint that an unfinished job keeps.
    async fn named(&self, blobs: &[(TenantId, BlobName)]) -> Result<Vec<bool>>;
}

/// Data sets.
#[async_trait]
pub trait Datasets: Sync {
    /// Creates an empty data set.
    async fn create_dataset(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        new: NewDataset<'_>,
        request: Option<RequestId>,
    ) -> Result<DatasetRecord>;
    /// Reads a data set with the counts of its first labels.
    async fn get_dataset(&self, tenant: &TenantId, dataset: &DatasetId) -> Result<DatasetRecord>;
    /// Lists data sets by id.
    async fn list_datasets(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<DatasetRecord>>;
    /// Adds examples, all or none; a video that is there already gets the new labels and split. Missing videos: [`Error::VideosNotFound`]; another number of
    /// labels than one where labels exclude one another: [`Error::LabelCount`].
    async fn add_examples(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        examples: &[ExampleRecord],
    ) -> Result<DatasetRecord> {
        self.add_examples_within(tenant, dataset, examples, None)
            .await
    }
    /// As [`Datasets::add_examples`], for a tenant that may have so many examples in all its data sets, unless a limit of its own says otherwise. Beyond:
    /// [`Error::QuotaExceeded`].
    async fn add_examples_within(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        examples: &[ExampleRecord],
        limit: Option<u64>,
    ) -> Result<DatasetRecord>;
    /// Removes examples; videos that the data set does not have are ignored.
    async fn remove_examples(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        videos: &[VideoId],
    ) -> Result<DatasetRecord>;
    /// Lists examples by their videos' ids.
    async fn list_examples(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        page: &PageRequest,
    ) -> Result<Page<ExampleRecord>>;
    /// Lists labels in their order, with their counts by split; the page's size is in labels.
    async fn list_label_counts(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        page: &PageRequest,
    ) -> Result<Page<LabelCount>>;
    /// Deletes a data set: nobody sees it from now on. What it holds goes with it when that is little, else with [`Retention::forget_datasets`].
    /// [`Error::InUse`] when an unfinished job reads it.
    async fn delete_dataset(&self, tenant: &TenantId, dataset: &DatasetId) -> Result<()>;
}

/// Tasks and versions.
#[async_trait]
pub trait Tasks {
    /// Creates a task.
    async fn create_task(
        &self,
        tenant: &TenantId,
        task: NewTask,
        request: Option<RequestId>,
    ) -> Result<TaskRecord>;
    /// Reads a task.
    async fn get_task(&self, tenant: &TenantId, task: &TaskId) -> Result<TaskRecord>;
    /// Lists tasks by id.
    async fn list_tasks(&self, tenant: &TenantId, page: &PageRequest) -> Result<Page<TaskRecord>>;
    /// Changes a task, if `etag` is absent or current.
    async fn update_task(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        update: TaskUpdate,
        etag: Option<&str>,
    ) -> Result<TaskRecord>;
    /// Deletes a task and its versions, if `etag` is absent or current; [`Error::InUse`] when an unfinished job trains it. Returns the versions,
    /// whose blobs may go.
    async fn delete_task(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        etag: Option<&str>,
    ) -> Result<Vec<VersionRecord>>;
    /// Reads a version.
    async fn get_version(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        version: AdapterVersion,
    ) -> Result<VersionRecord>;
    /// Reads the numbers of a task's versions, from the oldest to the newest; `None` when it has none, or there is no such task. A version is deleted with its
    /// task alone, so one with a lower number was of a task that had the name before; one with a higher number was lost by a failover.
    async fn version_range(
        &self,
        tenant: &TenantId,
        task: &TaskId,
    ) -> Result<Option<RangeInclusive<AdapterVersion>>>;
    /// Lists a task's versions, oldest first.
    async fn list_versions(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        page: &PageRequest,
    ) -> Result<Page<VersionRecord>>;
    /// Gives out the number of a version that is about to be imported, if the etag is absent or current; when the request imported one before, that one.
    async fn reserve_import(&self, tenant: &TenantId, target: &ImportTarget)
    -> Result<ImportStart>;
    /// Makes a stored version visible, if the etag is absent or current; with `auto_serve` it becomes the desired one. Idempotent by the request.
    async fn import_version(
        &self,
        tenant: &TenantId,
        target: &ImportTarget,
        version: NewVersion,
    ) -> Result<ImportedVersion>;
    /// Asks for versions to serve, if `etag` is current; what serves now is remembered.
    async fn set_desired(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        plan: &Plan,
        etag: &str,
    ) -> Result<TaskRecord>;
    /// Asks for the versions that served before the last such change, if `etag` is current. [`Error::NothingBefore`] when nothing did.
    async fn roll_back(&self, tenant: &TenantId, task: &TaskId, etag: &str) -> Result<TaskRecord>;
    /// Makes the desired version the serving one. Returns whether it still is the desired one; if not, nothing changes.
    async fn move_serving(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        version: AdapterVersion,
    ) -> Result<bool>;
    /// Says why the desired version cannot serve. Returns whether it still is the desired one; if not, nothing changes.
    async fn serving_failed(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        version: AdapterVersion,
        why: &str,
    ) -> Result<bool>;
    /// Notes that a version of the split other than the main one was proved, or why it cannot serve. Returns whether that is news.
    async fn note_member(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        version: AdapterVersion,
        why: Option<&str>,
    ) -> Result<bool>;
    /// Sets whether the versions that serve a task are to stay in memory. [`Error::TooMuchPinned`] when those of the tenant's tasks would have more
    /// bytes than `limit`. The etag stays.
    async fn pin_task(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        pinned: bool,
        limit: u64,
    ) -> Result<TaskRecord>;
    /// Lists versions of all tenants that are to stay in memory, in the order of tenants and tasks: those that serve pinned tasks.
    async fn pinned_versions(&self) -> Result<Vec<PinnedRecord>>;
    /// Takes for a time the proof of what is asked of a task: loading it and warming it up, so that it can serve. Not taken when nothing is to be proved or
    /// another holder has it; in the first second only by a holder that is near: one that has a version of the task in memory. Returns whether it was taken.
    async fn claim_proof(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        holder: &str,
        is_near: bool,
        span: Duration,
    ) -> Result<bool>;
    /// Leaves a proof that the holder has to others.
    async fn release_proof(&self, tenant: &TenantId, task: &TaskId, holder: &str) -> Result<()>;
    /// Lists tasks of all tenants whose desired version is not the serving one and has not failed, or whose split has versions that are still to be proved.
    async fn pending_tasks(&self) -> Result<Vec<TaskRecord>>;
    /// Lists serving versions of all tenants in the order of tenants and tasks, those after a task, at most `limit`.
    async fn serving_versions(
        &self,
        after: Option<(&TenantId, &TaskId)>,
        limit: u32,
    ) -> Result<Vec<ServingRecord>>;
    /// Says why the serving version, when it is the desired one as well, cannot be served; `None`: it can. Returns whether that is news.
    async fn note_serving(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        version: AdapterVersion,
        why: Option<&str>,
    ) -> Result<bool>;
}

/// The feed of changes, for processes that keep tasks in memory.
#[async_trait]
pub trait Changes {
    /// Tells other processes that something may have changed, after the call that changed it: they look sooner then.
    fn tell(&self, topic: Topic);
    /// Tasks of all tenants that changed after a place in the feed, oldest change first, each once with its newest change. Without a place: none,
    /// and the feed's end. When deletions after that place are forgotten already, the page is a gap: whoever keeps something has to drop it all.
    async fn changes_since(&self, after: Option<Cursor>, limit: u32) -> Result<ChangePage>;
}

/// The processes that share the records.
#[async_trait]
pub trait Replicas {
    /// Writes what a process says of itself.
    async fn report_replica(&self, name: &str, report: &ReplicaReport) -> Result<()>;
    /// Asks a process to drain and end, and notes that in the audit log, once. One that is not on record is [`Error::NotFound`].
    async fn drain_replica(&self, name: &str, actor: &Actor) -> Result<()>;
    /// Whether somebody asked that a process drain.
    async fn is_drain_asked(&self, name: &str) -> Result<bool>;
    /// Forgets a process that ends.
    async fn forget_replica(&self, name: &str) -> Result<()>;
    /// Lists processes by name, those that have not been heard of for up to an hour too.
    async fn list_replicas(&self, page: &PageRequest) -> Result<Page<ReplicaRecord>>;
}
