//! Jobs, as their owners and as workers see them.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    CheckpointRecord, Claim, Ending, Event, EventRecord, JobRecord, JobUpdate, Lease, NewJob,
    NewVersion, Page, PageRequest, Published, Release, Result, TrainingSummary, Unwanted,
};
use crate::ids::{AdapterVersion, JobId, RequestId, TenantId};
use crate::spec::{Digest, Evaluation, JobState};

/// Jobs, for their owners.
#[async_trait]
pub trait Jobs: Send + Sync {
    /// Queues a job: takes the data set's snapshot, as [`Snapshots::snapshot_dataset`] does, and remembers the task's etag.
    ///
    /// [`Snapshots::snapshot_dataset`]: super::Snapshots::snapshot_dataset
    async fn submit_job(
        &self,
        tenant: &TenantId,
        job: NewJob,
        request: Option<RequestId>,
    ) -> Result<JobRecord>;
    /// Reads a job.
    async fn get_job(&self, tenant: &TenantId, job: JobId) -> Result<JobRecord>;
    /// The job that a submission with this request id made; `None` when there was none, or it is too long ago.
    async fn requested_job(&self, tenant: &TenantId, request: RequestId) -> Result<Option<JobId>>;
    /// Lists jobs, oldest first.
    async fn list_jobs(&self, tenant: &TenantId, page: &PageRequest) -> Result<Page<JobRecord>>;
    /// Asks a job to stop. One that waits is CANCELLED at once, one that a worker has when the worker sees it.
    async fn cancel_job(&self, tenant: &TenantId, job: JobId) -> Result<JobRecord>;
    /// Makes a job wait until it is resumed, or lets one go on that waits for that. One that a worker has is given back when the worker sees it.
    async fn pause_job(&self, tenant: &TenantId, job: JobId, is_paused: bool) -> Result<JobRecord>;
    /// Lists events after a sequence number, at most `limit`.
    async fn list_events(
        &self,
        tenant: &TenantId,
        job: JobId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>>;
    /// Sequence numbers of the newest events of these jobs; those that are not there are left out.
    async fn newest_events(&self, jobs: &[(TenantId, JobId)]) -> Result<Vec<(JobId, u64)>>;
}

/// Jobs, for workers.
#[async_trait]
pub trait Workers {
    /// Whether one process owns the records, so that no other can take a job whose lease has run out.
    fn is_exclusive(&self) -> bool {
        false
    }
    /// Says which backbone the process has, once, where processes with others share the records: from then on the jobs that it submits are for that backbone,
    /// it claims no others', and versions of others are left to their processes.
    fn bind_backbone(&self, backbone: Digest);
    /// Puts back jobs whose lease has run out, except `alive`, of which the caller knows better than the clock of the database. Returns those that
    /// ended thereby: since their owners want that, or FAILED with [`PROCESS_LOST`] when the third process in a row that had no other job ended at the same
    /// step, or the twelfth of any since the newest checkpoint.
    ///
    /// A process that owns the records, by [`Workers::is_exclusive`], knows when it opens them that all leases have run out. The first such call, or the first
    /// claim, puts those jobs back. One that was the only one is charged with the end of its process and may be claimed again after
    /// [`Config::crash_pause`], which doubles each time; the second time at the same step it is FAILED with [`PROCESS_LOST`].
    ///
    /// [`Config::crash_pause`]: super::Config::crash_pause
    /// [`PROCESS_LOST`]: super::PROCESS_LOST
    async fn release_lost_jobs(&self, alive: &[Lease]) -> Result<Vec<JobRecord>>;
    /// Takes the next job: tenants take turns by the clip-frames of their jobs, and of a tenant's jobs the one with the highest priority goes first, then the
    /// oldest. Jobs that ran when a process ended come first, one at a
    /// time and nothing beside them until they are past that step. The job that is returned has the number of the claim's own event.
    async fn claim_job(&self, worker: &str, lease: Duration) -> Result<Option<Claim>>;
    /// Counts the jobs that wait for a worker and that this process could claim: those for its backbone, and those for any.
    async fn count_waiting_jobs(&self) -> Result<u64>;
    /// Extends the lease. Returns what the owner wants, when that is not that the worker goes on.
    async fn heartbeat(&self, lease: &Lease, extend: Duration) -> Result<Option<Unwanted>>;
    /// Moves a job from one state to another, with an event.
    async fn advance_job(
        &self,
        lease: &Lease,
        from: JobState,
        to: JobState,
        update: JobUpdate,
    ) -> Result<JobRecord>;
    /// Appends events to a job that is in `state`.
    async fn append_events(
        &self,
        lease: &Lease,
        state: JobState,
        events: &[Event],
        update: JobUpdate,
    ) -> Result<()>;
    /// Records a stored checkpoint of a RUNNING job. Returns those that the job does not keep, whose blobs may go.
    async fn commit_checkpoint(
        &self,
        lease: &Lease,
        checkpoint: CheckpointRecord,
    ) -> Result<Vec<CheckpointRecord>>;
    /// Gives a job back unfinished; the next claim goes on from the newest checkpoint.
    async fn release_job(&self, lease: &Lease, why: Release) -> Result<()>;
    /// Ends a job without a version. Returns it; the blobs of its checkpoints may go.
    async fn end_job(&self, lease: &Lease, ending: Ending) -> Result<JobRecord>;
    /// Gives out the number that the job's version will have: always the same one for one job.
    async fn reserve_version(&self, lease: &Lease) -> Result<AdapterVersion>;
    /// Makes a stored version visible and its PUBLISHING job SUCCEEDED, if its test split is not to be measured first. With `auto_serve` the version becomes the desired one if the task's etag is
    /// what it was at submission; otherwise a warning event says that it did not.
    async fn publish_version(
        &self,
        lease: &Lease,
        version: NewVersion,
        summary: TrainingSummary,
    ) -> Result<Published>;
    /// Ends a PUBLISHING job whose version is visible: its metrics on the test split become the version's and the job's, with an event. Whatever else
    /// ends such a job, it is SUCCEEDED.
    async fn finish_job(
        &self,
        lease: &Lease,
        test: Evaluation,
        event: Option<Event>,
    ) -> Result<JobRecord>;
}
