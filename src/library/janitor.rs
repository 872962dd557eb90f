//! Removes what has had its time: expired uploads with their parts, request ids, events, deleted data sets, snapshots, jobs.
//!
//! Invariant: records change in short transactions, one after another, so that a pass never keeps other writers waiting; wherever it is cut, the next
//! pass goes on and leaves nothing behind.

use std::time::Duration;

use super::{Library, Result};
use crate::faults;
use crate::metadata::UnfinishedUploads;
use crate::store::layout;

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
}

impl Duty {
    fn name(self) -> &'static str {
        match self {
            Self::Janitor => "janitor",
            Self::Collector => "collector",
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
    /// Examples of snapshots.
    pub snapshots: u64,
    /// Jobs, with the last of their events.
    pub jobs: u64,
    /// The unfinished uploads that are left.
    pub left: UnfinishedUploads,
}

/// Calls until nothing is left to do; sums up.
macro_rules! all {
    ($call:expr) => {{
        let mut sum = 0;
        loop {
            match $call.await? {
                0 => break sum,
                some => sum += some,
            }
        }
    }};
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
    /// When the database fails; what was removed stays removed.
    pub async fn tidy(&self) -> Result<Removed> {
        let metadata = &self.inner.metadata;
        let retention = self.inner.config.retention;
        let mut removed = Removed {
            uploads: all!(metadata.expire_uploads()),
            ..Removed::default()
        };
        faults::point("upload-ended");
        removed.parts = self.remove_ended_parts().await?;
        removed.requests = all!(metadata.forget_uploads(retention.requests))
            + all!(metadata.forget_requests(retention.requests));
        removed.events = all!(metadata.thin_events(retention.steps));
        if let Some(age) = retention.events {
            removed.events += all!(metadata.forget_events(age));
        }
        removed.datasets = all!(metadata.forget_datasets());
        removed.snapshots = all!(metadata.forget_snapshots(retention.snapshots));
        if let Some(age) = retention.jobs {
            removed.jobs = all!(metadata.forget_jobs(age));
        }
        removed.left = metadata.unfinished_uploads().await?;
        Ok(removed)
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
