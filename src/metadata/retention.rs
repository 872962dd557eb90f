//! What has expired goes.

use std::time::Duration;

use async_trait::async_trait;

use super::{AgedPlace, AgedVideos, EndedPart, Result, UnfinishedUploads};
use crate::ids::TenantId;

/// Removal of what has expired, for all tenants. Each call is one short transaction over a bounded number of rows, so that it never keeps other writers waiting
/// for long, and says how many rows it took: it is called again until it took none. Wherever it is cut, the next call goes on.
#[async_trait]
pub trait Retention {
    /// Ends uploads that have expired.
    async fn expire_uploads(&self) -> Result<u64>;
    /// Parts of uploads that have ended, whose blobs may go; empty when there are none.
    async fn ended_parts(&self) -> Result<Vec<EndedPart>>;
    /// Forgets parts whose blobs are gone.
    async fn forget_parts(&self, parts: &[EndedPart]) -> Result<()>;
    /// Forgets uploads that ended longer than `age` ago and have no parts any more.
    async fn forget_uploads(&self, age: Duration) -> Result<u64>;
    /// Forgets request ids that are older than `age`.
    async fn forget_requests(&self, age: Duration) -> Result<u64>;
    /// Leaves at most `keep` events of steps, evenly spread, of each job that has ended.
    async fn thin_events(&self, keep: u32) -> Result<u64>;
    /// Forgets the events of jobs that ended longer than `age` ago, except changes of state.
    async fn forget_events(&self, age: Duration) -> Result<u64>;
    /// Forgets the examples of snapshots that no unfinished job reads and that were taken longer than `age` ago; their digests stay while a job names them.
    /// Those of a version are forgotten only when they are in a blob, a week after they were taken or read.
    async fn forget_snapshots(&self, age: Duration) -> Result<u64>;
    /// Drops the records of snapshots without rows that no job and no version names any more, after which their blobs are collected. Looks at all of them:
    /// once in an hour is often enough.
    async fn drop_unnamed_snapshots(&self) -> Result<u64>;
    /// Removes what data sets that were deleted hold, and then their rows.
    async fn forget_datasets(&self) -> Result<u64>;
    /// Tenants with jobs that ended so long ago, or as long ago as their tenant's jobs stay; without an age, those of such tenants only. Some of them, none
    /// when there are none.
    async fn tenants_with_aged_jobs(&self, age: Option<Duration>) -> Result<Vec<TenantId>>;
    /// Forgets jobs of a tenant that ended so long ago, or as long ago as the tenant's jobs stay.
    async fn forget_jobs(&self, tenant: &TenantId, age: Option<Duration>) -> Result<u64>;
    /// Looks at some of the videos that are older than their tenant's stay, after a place, for those that no data set and no unfinished job names.
    async fn aged_videos(&self, after: Option<&AgedPlace>) -> Result<AgedVideos>;
    /// Takes for a time what one process at a time does for all, such as these calls, unless another has it. Returns whether it was taken; the holder
    /// may take it again.
    async fn take_duty(&self, duty: &str, holder: &str, span: Duration) -> Result<bool>;
    /// Counts the unfinished uploads of all tenants.
    async fn unfinished_uploads(&self) -> Result<UnfinishedUploads>;
}
