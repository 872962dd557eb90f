//! Removes what has had its time: expired uploads with their parts, request ids, events, deleted data sets, snapshots, jobs.
//!
//! Invariant: records change in short transactions, one after another, so that a pass never keeps other writers waiting; wherever it is cut, the next
//! pass goes on and leaves nothing behind.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::{Error, Library, Result};
use crate::faults;
use crate::metadata::{self, AgedPlace, UnfinishedUploads};
use crate::store::layout;

/// Videos that stay, at which one pass looks for aged ones: some ten milliseconds of the database's time.
const LOOKED: u64 = 10_000;
/// Videos for which a call of the database counts at least.
const CALL: u64 = 100;

/// How long what has ended stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Request ids, and the knowledge that an upload expired or was deleted.
    pub requests: Duration,
    /// Events of a job's steps that stay when the job has ended.
    pub steps: u32,
    /// Events of a job that has ended, but for changes of state; `None` keeps them as long as the job.
    pub events: Option<Duration>,
    /// Examples of a snapshot that no unfinished job reads.
    pub snapshots: Duration,
    /// Jobs that have ended; `None` keeps them.
    pub jobs: Option<Duration>,
    /// What tenants used.
    pub usage: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        Self {
            requests: days(7),
            steps: 2000,
            events: Some(days(30)),
            // A snapshot may be taken shortly before the job that reads it is on record.
            snapshots: days(1),
            jobs: Some(days(90)),
            // 25 months.
            usage: days(761),
        }
    }
}

/// What one server at a time does for all that share a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Deleting what has expired.
    Janitor,
    /// Looking for objects that no record names.
    Collector,
    /// Erasing tenants.
    Eraser,
}

impl Duty {
    fn name(self) -> &'static str {
        match self {
            Self::Janitor => "janitor",
            Self::Collector => "collector",
            Self::Eraser => "eraser",
        }
    }
}

/// What a pass removed, in rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Uploads that expired.
    pub uploads: u64,
    /// Parts of uploads that had ended, with their blobs.
    pub parts: u64,
    /// Request ids and marks of uploads that ended long ago.
    pub requests: u64,
    /// Events.
    pub events: u64,
    /// Rows of data sets that were deleted.
    pub datasets: u64,
    /// Snapshots whose examples were copied into blobs.
    pub archived: u64,
    /// Examples of snapshots.
    pub snapshots: u64,
    /// Jobs, with the last of their events, and sweeps.
    pub jobs: u64,
    /// Videos that were older than their tenant's stay.
    pub videos: u64,
    /// Rows of what tenants used.
    pub usage: u64,
    /// The unfinished uploads that are left.
    pub left: UnfinishedUploads,
}

/// Calls until nothing is left to do; sums up.
macro_rules! all {
    ($call:expr) => {
        async {
            let mut sum = 0;
            loop {
                match $call.await? {
                    0 => break Result::<u64>::Ok(sum),
                    some => sum += some,
                }
            }
        }
    };
}

/// The first failure of a pass. What one kind fails with keeps no other from going.
#[derive(Default)]
struct Failure(Option<Error>);

impl Failure {
    /// What a step removed; a failure is kept.
    fn took(&mut self, step: Result<u64>) -> u64 {
        step.unwrap_or_else(|error| {
            self.0.get_or_insert(error);
            0
        })
    }
}

impl Library {
    /// Takes a duty for a time, where several servers share the database. Returns whether it is this server's now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn take_duty(&self, duty: Duty, replica: &str, span: Duration) -> Result<bool> {
        let metadata = &self.inner.metadata;
        if metadata.is_exclusive() {
            return Ok(true);
        }
        Ok(metadata.take_duty(duty.name(), replica, span).await?)
    }

    /// Removes what has had its time.
    ///
    /// # Errors
    /// When the database or the store fails for some of it, after the rest had its turn; what was removed stays removed.
    pub async fn tidy(&self) -> Result<Removed> {
        let metadata = &self.inner.metadata;
        let retention = self.inner.config.retention;
        let mut removed = Removed::default();
        let mut failure = Failure::default();
        removed.uploads = failure.took(all!(metadata.expire_uploads()).await);
        faults::point("upload-ended");
        removed.parts = failure.took(self.remove_ended_parts().await);
        removed.requests = failure.took(all!(metadata.forget_uploads(retention.requests)).await);
        removed.requests += failure.took(all!(metadata.forget_requests(retention.requests)).await);
        removed.events = failure.took(all!(metadata.thin_events(retention.steps)).await);
        if let Some(age) = retention.events {
            removed.events += failure.took(all!(metadata.forget_events(age)).await);
        }
        removed.datasets = failure.took(all!(metadata.forget_datasets()).await);
        removed.archived = failure.took(self.archive_snapshots(retention.snapshots).await);
        // What could not be copied is not forgotten: its record names no blob.
        removed.snapshots =
            failure.took(all!(metadata.forget_snapshots(retention.snapshots)).await);
        removed.jobs = failure.took(self.remove_aged_jobs(retention.jobs).await);
        if let Some(age) = retention.jobs {
            removed.jobs += failure.took(all!(metadata.forget_sweeps(age)).await);
        }
        removed.videos = failure.took(self.remove_aged_videos().await);
        removed.usage = failure.took(all!(metadata.forget_usage(retention.usage)).await);
        failure.took(all!(metadata.note_stored_bytes()).await);
        if let Some(error) = failure.0 {
            return Err(error);
        }
        removed.left = metadata.unfinished_uploads().await?;
        Ok(removed)
    }

    /// Forgets jobs that ended longer ago than their tenant's stay, or those of all. Returns how many rows that took.
    async fn remove_aged_jobs(&self, age: Option<Duration>) -> Result<u64> {
        let metadata = &self.inner.metadata;
        let mut removed = 0;
        loop {
            let before = removed;
            for tenant in metadata.tenants_with_aged_jobs(age).await? {
                removed += all!(metadata.forget_jobs(&tenant, age)).await?;
            }
            // A job that somebody else has under way is left to the next pass.
            if removed == before {
                return Ok(removed);
            }
        }
    }

    /// Deletes videos that are older than their tenant's stay. Returns how many. A pass looks at so many of those that stay, because something names them,
    /// and the next one goes on behind them.
    async fn remove_aged_videos(&self) -> Result<u64> {
        let (mut removed, mut looked) = (0, 0);
        let mut failed = None;
        while looked < LOOKED && failed.is_none() {
            let after = self.aged().clone();
            let found = self.inner.metadata.aged_videos(after.as_ref()).await?;
            let is_end = found.next.is_none();
            // Also when a deletion fails: what is left is found again on the next round.
            *self.aged() = found.next;
            let before = removed;
            for (tenant, video) in found.unnamed {
                match self.delete_video(&tenant, video, false).await {
                    Ok(()) => removed += 1,
                    // Somebody uses it by now, or deleted it, or its tenant is being erased since.
                    Err(Error::Metadata(
                        metadata::Error::InUse { .. }
                        | metadata::Error::NotFound { .. }
                        | metadata::Error::TenantErased,
                    )) => {}
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            looked += found.seen.saturating_sub(removed - before).max(CALL);
            if is_end {
                break;
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(removed),
        }
    }

    /// How far the walk over aged videos has come.
    fn aged(&self) -> MutexGuard<'_, Option<AgedPlace>> {
        // The place is whole after every single assignment.
        self.inner
            .aged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes the blobs of uploads that have ended, then the rows that say that there are some. Returns how many.
    async fn remove_ended_parts(&self) -> Result<u64> {
        let (store, metadata) = (&self.inner.store, &self.inner.metadata);
        let mut removed = 0;
        loop {
            let parts = metadata.ended_parts().await?;
            if parts.is_empty() {
                return Ok(removed);
            }
            for part in &parts {
                let key = layout::part(&part.tenant, part.upload, part.number);
                store.delete(&key).await?;
            }
            faults::point("parts-removed");
            metadata.forget_parts(&parts).await?;
            removed += parts.len() as u64;
        }
    }
}
