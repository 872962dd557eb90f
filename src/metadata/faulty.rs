//! The records with faults that a test asks for: a database that is away, and how often it was asked.
//!
//! Invariant: a call that is refused did not reach the records, unless it was its answer that was to be lost.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::ids::{JobId, KeyId, SweepId};
use crate::spec::{Evaluation, JobState, LabelKind};

/// Faults that a test wants of the records.
#[derive(Debug, Clone, Default)]
pub struct Outages(Arc<Mutex<State>>);

/// How a call to the records fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The database is away.
    Away,
    /// The database's disk is full.
    Full,
    /// The database never answers.
    Silent,
    /// The database does what it was asked, and its answer is lost.
    Lost,
}

#[derive(Debug, Default)]
struct State {
    is_away: bool,
    faults: HashMap<&'static str, Fault>,
    calls: HashMap<&'static str, u64>,
}

/// Records that fail when they are told to.
#[derive(Debug)]
struct Faulty {
    records: Arc<dyn MetadataStore>,
    faults: Outages,
}

impl Outages {
    /// Returns the same records with these faults.
    pub fn wrap(&self, records: Arc<dyn MetadataStore>) -> Arc<dyn MetadataStore> {
        Arc::new(Faulty {
            records,
            faults: self.clone(),
        })
    }

    /// Makes every call fail from now on, or none.
    pub fn set_away(&self, is_away: bool) {
        self.state().is_away = is_away;
    }

    /// Makes every call of one use case fail like this from now on, or none.
    pub fn set_fault(&self, use_case: &'static str, fault: Option<Fault>) {
        let mut state = self.state();
        match fault {
            Some(fault) => state.faults.insert(use_case, fault),
            None => state.faults.remove(use_case),
        };
    }

    /// Returns how often a use case was asked, refused calls included.
    pub fn calls(&self, use_case: &str) -> u64 {
        self.state().calls.get(use_case).copied().unwrap_or(0)
    }

    /// Refuses a call, or lets it through. Returns whether its answer is to be lost.
    async fn pass(&self, use_case: &'static str) -> Result<bool> {
        let fault = {
            let mut state = self.state();
            *state.calls.entry(use_case).or_default() += 1;
            let away = state.is_away.then_some(Fault::Away);
            away.or_else(|| state.faults.get(use_case).copied())
        };
        match fault {
            None => Ok(false),
            Some(Fault::Away) => Err(Error::Unavailable("a test took the database away".into())),
            Some(Fault::Full) => Err(Error::StorageFull("a test filled the disk".into())),
            Some(Fault::Silent) => std::future::pending().await,
            Some(Fault::Lost) => Ok(true),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every field is whole after every single operation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every use case of a trait, passed on; what is no call to the records stands in braces.
macro_rules! pass {
    ($Trait:ident $({ $($plain:tt)* })?: $($name:ident($($argument:ident: $type:ty),*) -> $Out:ty;)+) => {
        #[async_trait]
        impl $Trait for Faulty {
            $($($plain)*)?
            $(async fn $name(&self, $($argument: $type),*) -> Result<$Out> {
                let is_lost = self.faults.pass(stringify!($name)).await?;
                let answer = self.records.$name($($argument),*).await?;
                match is_lost {
                    true => Err(Error::Unavailable("a test lost the answer".into())),
                    false => Ok(answer),
                }
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
    begin_part(tenant: &TenantId, upload: UploadId, offset: u64, size: u64, limits: &UploadLimits) -> u32;
    commit_part(tenant: &TenantId, upload: UploadId, part: PartRecord, limits: &UploadLimits) -> u64;
    list_parts(tenant: &TenantId, upload: UploadId) -> Vec<PartRecord>;
    finish_upload(tenant: &TenantId, upload: UploadId, video: NewVideo) -> VideoRecord;
    abandon_upload(tenant: &TenantId, upload: UploadId) -> Vec<PartRecord>;
    get_video(tenant: &TenantId, video: VideoId) -> VideoRecord;
    get_videos(tenant: &TenantId, videos: &[VideoId]) -> Vec<VideoRecord>;
    list_videos(tenant: &TenantId, page: &PageRequest) -> Page<VideoRecord>;
    delete_video(tenant: &TenantId, video: VideoId, force: bool) -> ();
    named(blobs: &[(TenantId, BlobName)]) -> Vec<bool>;
}

pass! {
    Datasets:
    create_dataset(tenant: &TenantId, dataset: &DatasetId, new: NewDataset<'_>, request: Option<RequestId>) -> DatasetRecord;
    get_dataset(tenant: &TenantId, dataset: &DatasetId) -> DatasetRecord;
    list_datasets(tenant: &TenantId, page: &PageRequest) -> Page<DatasetRecord>;
    add_examples_within(tenant: &TenantId, dataset: &DatasetId, examples: &[ExampleRecord], limit: Option<u64>) -> DatasetRecord;
    remove_examples(tenant: &TenantId, dataset: &DatasetId, videos: &[VideoId]) -> DatasetRecord;
    list_examples(tenant: &TenantId, dataset: &DatasetId, page: &PageRequest) -> Page<ExampleRecord>;
    delete_dataset(tenant: &TenantId, dataset: &DatasetId) -> ();
    list_label_counts(tenant: &TenantId, dataset: &DatasetId, page: &PageRequest) -> Page<LabelCount>;
}

pass! {
    Snapshots:
    snapshot_dataset(tenant: &TenantId, dataset: &DatasetId) -> SnapshotRecord;
    snapshot_examples(tenant: &TenantId, digest: Digest, after: Option<VideoId>, limit: u32) -> Vec<ExampleRecord>;
    snapshot_kind(tenant: &TenantId, digest: Digest) -> LabelKind;
    create_dataset_version(tenant: &TenantId, dataset: &DatasetId, note: &str, limit: u32) -> DatasetVersionRecord;
    get_dataset_version(tenant: &TenantId, dataset: &DatasetId, number: u32) -> DatasetVersionRecord;
    list_dataset_versions(tenant: &TenantId, dataset: &DatasetId, page: &PageRequest) -> Page<DatasetVersionRecord>;
    delete_dataset_version(tenant: &TenantId, dataset: &DatasetId, number: u32) -> ();
    undecoded(tenant: &TenantId, sampling: Digest, videos: &[VideoId]) -> Vec<VideoId>;
    remember_decoded(tenant: &TenantId, sampling: Digest, videos: &[VideoId]) -> ();
    sketches(tenant: &TenantId, kind: Digest, videos: &[VideoId]) -> Vec<(VideoId, String)>;
    remember_sketches(tenant: &TenantId, kind: Digest, sketches: &[(VideoId, String)]) -> ();
}

pass! {
    Archives:
    unarchived_snapshots(age: Duration, after: Option<&Unarchived>) -> Vec<Unarchived>;
    note_archive(tenant: &TenantId, digest: Digest, archive: Archive) -> bool;
    find_archive(tenant: &TenantId, digest: Digest) -> Option<Archive>;
    refill_snapshot(tenant: &TenantId, digest: Digest, examples: &[ExampleRecord], page: PagePlace) -> bool;
}

pass! {
    Sweeps:
    submit_sweep(tenant: &TenantId, spec: SweepSpec, limit: u32, request: Option<RequestId>) -> SweepRecord;
    requested_sweep(tenant: &TenantId, request: RequestId) -> Option<SweepId>;
    get_sweep(tenant: &TenantId, sweep: SweepId) -> SweepRecord;
    list_sweeps(tenant: &TenantId, page: &PageRequest) -> Page<SweepSummary>;
    cancel_sweep(tenant: &TenantId, sweep: SweepId) -> SweepRecord;
    open_sweeps(after: Option<(Timestamp, SweepId)>, limit: u32) -> Vec<SweepRecord>;
    move_sweep(sweep: &SweepRecord, update: SweepUpdate) -> bool;
    forget_sweeps(age: Duration) -> u64;
}

pass! {
    Tasks:
    create_task(tenant: &TenantId, task: NewTask, request: Option<RequestId>) -> TaskRecord;
    get_task(tenant: &TenantId, task: &TaskId) -> TaskRecord;
    list_tasks(tenant: &TenantId, page: &PageRequest) -> Page<TaskRecord>;
    update_task(tenant: &TenantId, task: &TaskId, update: TaskUpdate, etag: Option<&str>) -> TaskRecord;
    delete_task(tenant: &TenantId, task: &TaskId, etag: Option<&str>) -> Vec<VersionRecord>;
    get_version(tenant: &TenantId, task: &TaskId, version: AdapterVersion) -> VersionRecord;
    version_range(tenant: &TenantId, task: &TaskId) -> Option<RangeInclusive<AdapterVersion>>;
    list_versions(tenant: &TenantId, task: &TaskId, page: &PageRequest) -> Page<VersionRecord>;
    reserve_import(tenant: &TenantId, target: &ImportTarget) -> ImportStart;
    import_version(tenant: &TenantId, target: &ImportTarget, version: NewVersion) -> ImportedVersion;
    set_desired(tenant: &TenantId, task: &TaskId, plan: &Plan, etag: &str) -> TaskRecord;
    roll_back(tenant: &TenantId, task: &TaskId, etag: &str) -> TaskRecord;
    note_member(tenant: &TenantId, task: &TaskId, version: AdapterVersion, why: Option<&str>) -> bool;
    move_serving(tenant: &TenantId, task: &TaskId, version: AdapterVersion) -> bool;
    serving_failed(tenant: &TenantId, task: &TaskId, version: AdapterVersion, why: &str) -> bool;
    pin_task(tenant: &TenantId, task: &TaskId, pinned: bool, limit: u64) -> TaskRecord;
    pinned_versions() -> Vec<PinnedRecord>;
    claim_proof(tenant: &TenantId, task: &TaskId, holder: &str, is_near: bool, span: Duration) -> bool;
    release_proof(tenant: &TenantId, task: &TaskId, holder: &str) -> ();
    pending_tasks() -> Vec<TaskRecord>;
    serving_versions(after: Option<(&TenantId, &TaskId)>, limit: u32) -> Vec<ServingRecord>;
    note_serving(tenant: &TenantId, task: &TaskId, version: AdapterVersion, why: Option<&str>) -> bool;
}

pass! {
    Changes { fn tell(&self, topic: Topic) { self.records.tell(topic); } }:
    changes_since(after: Option<Cursor>, limit: u32) -> ChangePage;
}

pass! {
    Jobs:
    submit_job(tenant: &TenantId, job: NewJob, request: Option<RequestId>) -> JobRecord;
    get_job(tenant: &TenantId, job: JobId) -> JobRecord;
    requested_job(tenant: &TenantId, request: RequestId) -> Option<JobId>;
    list_jobs(tenant: &TenantId, page: &PageRequest) -> Page<JobRecord>;
    cancel_job(tenant: &TenantId, job: JobId) -> JobRecord;
    pause_job(tenant: &TenantId, job: JobId, is_paused: bool) -> JobRecord;
    list_events(tenant: &TenantId, job: JobId, after: u64, limit: u32) -> Vec<EventRecord>;
    newest_events(jobs: &[(TenantId, JobId)]) -> Vec<(JobId, u64)>;
}

pass! {
    Workers {
        fn is_exclusive(&self) -> bool { self.records.is_exclusive() }
        fn bind_backbone(&self, backbone: Digest) { self.records.bind_backbone(backbone); }
    }:
    release_lost_jobs(alive: &[Lease]) -> Vec<JobRecord>;
    count_waiting_jobs() -> u64;
    claim_job(worker: &str, lease: Duration) -> Option<Claim>;
    heartbeat(lease: &Lease, extend: Duration) -> Option<Unwanted>;
    advance_job(lease: &Lease, from: JobState, to: JobState, update: JobUpdate) -> JobRecord;
    append_events(lease: &Lease, state: JobState, events: &[Event], update: JobUpdate) -> ();
    commit_checkpoint(lease: &Lease, checkpoint: CheckpointRecord) -> Vec<CheckpointRecord>;
    release_job(lease: &Lease, why: Release) -> ();
    end_job(lease: &Lease, ending: Ending) -> JobRecord;
    reserve_version(lease: &Lease) -> AdapterVersion;
    publish_version(lease: &Lease, version: NewVersion, summary: TrainingSummary) -> Published;
    finish_job(lease: &Lease, test: Evaluation, event: Option<Event>) -> JobRecord;
}

pass! {
    Replicas:
    report_replica(name: &str, report: &ReplicaReport) -> ();
    drain_replica(name: &str, actor: &Actor) -> ();
    is_drain_asked(name: &str) -> bool;
    forget_replica(name: &str) -> ();
    list_replicas(page: &PageRequest) -> Page<ReplicaRecord>;
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
    drop_unnamed_snapshots() -> u64;
    forget_datasets() -> u64;
    tenants_with_aged_jobs(age: Option<Duration>) -> Vec<TenantId>;
    forget_jobs(tenant: &TenantId, age: Option<Duration>) -> u64;
    aged_videos(after: Option<&AgedPlace>) -> AgedVideos;
    take_duty(duty: &str, holder: &str, span: Duration) -> bool;
    unfinished_uploads() -> UnfinishedUploads;
}

pass! {
    Metering:
    record_usage(batch: &UsageBatch) -> bool;
    exchange_demands(process: &str, own: &[TenantDemand], window: Duration) -> Vec<FleetDemand>;
    note_stored_bytes() -> u64;
    list_usage(ask: &UsageQuery, page: &PageRequest) -> Page<UsageRecord>;
    forget_usage(age: Duration) -> u64;
}

pass! {
    Erasures:
    begin_erasure(tenant: &TenantId, actor: &Actor) -> ErasureRecord;
    get_erasure(tenant: &TenantId) -> ErasureRecord;
    unfinished_erasures() -> Vec<TenantId>;
    erase_some(tenant: &TenantId) -> Erased;
    note_erased(tenant: &TenantId, objects: u64, bytes: u64) -> ();
    settle_erasure(tenant: &TenantId, pause: Duration) -> bool;
}

pass! {
    Access:
    create_tenant(tenant: &TenantId, display_name: &str, actor: &Actor) -> TenantRecord;
    get_tenant(tenant: &TenantId) -> TenantRecord;
    list_tenants(page: &PageRequest) -> Page<TenantRecord>;
    update_tenant(tenant: &TenantId, update: TenantUpdate, etag: Option<&str>, actor: &Actor) -> TenantRecord;
    list_terms(after: Option<&TenantId>, limit: u32) -> Vec<(TenantId, Terms)>;
    get_terms(tenant: &TenantId) -> Option<Terms>;
    create_key(key: NewKey, actor: &Actor) -> KeyRecord;
    bootstrap_key(key: NewKey, actor: &Actor) -> bool;
    find_key(key: &KeyId) -> Option<KnownKey>;
    list_keys(owner: &KeyOwner, page: &PageRequest) -> Page<KeyRecord>;
    rotate_key(owner: &KeyOwner, key: &KeyId, hash: SecretHash, overlap: Duration, actor: &Actor) -> KeyRecord;
    revoke_key(owner: &KeyOwner, key: &KeyId, actor: &Actor) -> KeyRecord;
    list_audit(owner: &KeyOwner, page: &PageRequest) -> Page<AuditRecord>;
    forget_audit(age: Duration) -> u64;
    note_refused(refused: &[RefusedRecord]) -> ();
    note_key_use(used: &[(KeyId, i64)]) -> ();
    page_key(proposed: Digest) -> Digest;
    access_changes(after: Option<Cursor>, limit: u32) -> AccessChanges;
}
