//! The records with faults that a test asks for: a database that is away, and how often it was asked.
//!
//! Invariant: a call that is refused did not reach the records.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::*;

/// What a test wants of the records.
#[derive(Debug, Clone, Default)]
pub struct Outages(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_away: bool,
    calls: HashMap<&'static str, u64>,
}

/// Records that fail when they are told to.
#[derive(Debug)]
struct Faulty {
    records: Arc<dyn MetadataStore>,
    faults: Outages,
}

impl Outages {
    /// The same records with these faults.
    pub fn wrap(&self, records: Arc<dyn MetadataStore>) -> Arc<dyn MetadataStore> {
        Arc::new(Faulty {
            records,
            faults: self.clone(),
        })
    }

    /// From now on every call fails, or none.
    pub fn set_away(&self, is_away: bool) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_away = is_away;
    }

    /// How often a use case was asked, refused calls included.
    pub fn calls(&self, use_case: &str) -> u64 {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.calls.get(use_case).copied().unwrap_or(0)
    }

    fn pass(&self, use_case: &'static str) -> Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state.calls.entry(use_case).or_default() += 1;
        if state.is_away {
            return Err(Error::Unavailable("a test took the database away".into()));
        }
        Ok(())
    }
}

/// Every use case of a trait, passed on.
macro_rules! pass {
    ($Trait:ident: $($name:ident($($argument:ident: $type:ty),*) -> $Out:ty;)+) => {
        #[async_trait]
        impl $Trait for Faulty {
            $(async fn $name(&self, $($argument: $type),*) -> Result<$Out> {
                self.faults.pass(stringify!($name))?;
                self.records.$name($($argument),*).await
            })+
        }
    };
}

pass! {
    Videos:
    create_upload(tenant: &TenantId, display_name: &str, request: Option<RequestId>, limits: &UploadLimits) -> UploadRecord;
    list_uploads(tenant: &TenantId, page: &PageRequest) -> Page<UploadRecord>;
    get_upload(tenant: &TenantId, upload: UploadId) -> UploadRecord;
    find_uploaded(tenant: &TenantId, display_name: &str, sha256: Digest, request: RequestId) -> Option<VideoRecord>;
    record_video(tenant: &TenantId, display_name: &str, video: NewVideo, request: Option<RequestId>) -> VideoRecord;
    begin_part(tenant: &TenantId, upload: UploadId, offset: u64, limits: &UploadLimits) -> u32;
    commit_part(tenant: &TenantId, upload: UploadId, part: PartRecord, limits: &UploadLimits) -> u64;
    list_parts(tenant: &TenantId, upload: UploadId) -> Vec<PartRecord>;
    finish_upload(tenant: &TenantId, upload: UploadId, video: NewVideo) -> VideoRecord;
    abandon_upload(tenant: &TenantId, upload: UploadId) -> Vec<PartRecord>;
    get_video(tenant: &TenantId, video: VideoId) -> VideoRecord;
    list_videos(tenant: &TenantId, page: &PageRequest) -> Page<VideoRecord>;
    delete_video(tenant: &TenantId, video: VideoId, force: bool) -> ();
    named(blobs: &[(TenantId, BlobName)]) -> Vec<bool>;
}

pass! {
    Datasets:
    create_dataset(tenant: &TenantId, dataset: &DatasetId, display_name: &str, request: Option<RequestId>) -> DatasetRecord;
    get_dataset(tenant: &TenantId, dataset: &DatasetId) -> DatasetRecord;
    list_datasets(tenant: &TenantId, page: &PageRequest) -> Page<DatasetRecord>;
    add_examples(tenant: &TenantId, dataset: &DatasetId, examples: &[ExampleRecord]) -> DatasetRecord;
    remove_examples(tenant: &TenantId, dataset: &DatasetId, videos: &[VideoId]) -> DatasetRecord;
    list_examples(tenant: &TenantId, dataset: &DatasetId, page: &PageRequest) -> Page<ExampleRecord>;
    delete_dataset(tenant: &TenantId, dataset: &DatasetId) -> ();
    snapshot_dataset(tenant: &TenantId, dataset: &DatasetId) -> SnapshotRecord;
    list_label_counts(tenant: &TenantId, dataset: &DatasetId, page: &PageRequest) -> Page<LabelCount>;
    get_snapshot(tenant: &TenantId, digest: Digest) -> SnapshotRecord;
}

pass! {
    Tasks:
    create_task(tenant: &TenantId, task: NewTask, request: Option<RequestId>) -> TaskRecord;
    get_task(tenant: &TenantId, task: &TaskId) -> TaskRecord;
    list_tasks(tenant: &TenantId, page: &PageRequest) -> Page<TaskRecord>;
    update_task(tenant: &TenantId, task: &TaskId, update: TaskUpdate, etag: Option<&str>) -> TaskRecord;
    delete_task(tenant: &TenantId, task: &TaskId, etag: Option<&str>) -> Vec<VersionRecord>;
    get_version(tenant: &TenantId, task: &TaskId, version: AdapterVersion) -> VersionRecord;
    list_versions(tenant: &TenantId, task: &TaskId, page: &PageRequest) -> Page<VersionRecord>;
    reserve_import(tenant: &TenantId, target: &ImportTarget) -> ImportStart;
    import_version(tenant: &TenantId, target: &ImportTarget, version: NewVersion) -> ImportedVersion;
    set_desired(tenant: &TenantId, task: &TaskId, version: AdapterVersion, etag: &str) -> TaskRecord;
    move_serving(tenant: &TenantId, task: &TaskId, version: AdapterVersion) -> bool;
    serving_failed(tenant: &TenantId, task: &TaskId, version: AdapterVersion, why: &str) -> bool;
    pending_tasks() -> Vec<TaskRecord>;
    serving_versions(after: Option<(&TenantId, &TaskId)>, limit: u32) -> Vec<ServingRecord>;
    note_serving(tenant: &TenantId, task: &TaskId, version: AdapterVersion, why: Option<&str>) -> bool;
}

pass! {
    Changes:
    changes_since(after: Option<Cursor>, limit: u32) -> ChangePage;
}

pass! {
    Jobs:
    submit_job(tenant: &TenantId, job: NewJob, request: Option<RequestId>) -> JobRecord;
    get_job(tenant: &TenantId, job: JobId) -> JobRecord;
    list_jobs(tenant: &TenantId, page: &PageRequest) -> Page<JobRecord>;
    cancel_job(tenant: &TenantId, job: JobId) -> JobRecord;
    list_events(tenant: &TenantId, job: JobId, after: u64, limit: u32) -> Vec<EventRecord>;
}

pass! {
    Workers:
    recover_jobs(pause: Duration) -> Recovered;
    release_lost_jobs(alive: &[Lease]) -> Vec<JobRecord>;
    count_waiting_jobs() -> u64;
    claim_job(worker: &str, lease: Duration) -> Option<Claim>;
    heartbeat(lease: &Lease, extend: Duration) -> bool;
    advance_job(lease: &Lease, from: JobState, to: JobState, update: JobUpdate) -> JobRecord;
    append_events(lease: &Lease, state: JobState, events: &[Event], update: JobUpdate) -> ();
    commit_checkpoint(lease: &Lease, checkpoint: CheckpointRecord) -> Option<CheckpointRecord>;
    release_job(lease: &Lease, why: Release) -> ();
    end_job(lease: &Lease, ending: Ending) -> JobRecord;
    reserve_version(lease: &Lease) -> AdapterVersion;
    publish_version(lease: &Lease, version: NewVersion, outcome: Outcome) -> Published;
}

pass! {
    Retention:
    expire_uploads() -> u64;
    ended_parts() -> Vec<EndedPart>;
    forget_parts(parts: &[EndedPart]) -> ();
    forget_uploads(age: Duration) -> u64;
    forget_requests(age: Duration) -> u64;
    thin_events(keep: u32) -> u64;
    forget_events(age: Duration) -> u64;
    forget_snapshots(age: Duration) -> u64;
    forget_jobs(age: Duration) -> u64;
    unfinished_uploads() -> UnfinishedUploads;
}
