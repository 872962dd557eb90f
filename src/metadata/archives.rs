//! Blobs of snapshots: where the examples of a snapshot are once no job reads them.
//!
//! Invariant: the examples of a snapshot that a version names are rows, or in a blob that the record describes, at every moment.

use std::time::Duration;

use async_trait::async_trait;

use super::{ExampleRecord, Result, Timestamp};
use crate::ids::TenantId;
use crate::spec::Digest;

/// Blob with the examples of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archive {
    /// Size of the blob in bytes.
    pub size_bytes: u64,
    /// sha256 of the blob's bytes.
    pub sha256: Digest,
}

/// Snapshot whose examples could leave the database if they were in a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unarchived {
    /// When it was taken or read.
    pub create_time: Timestamp,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which one.
    pub digest: Digest,
}

/// Place of a page among those of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagePlace {
    /// Whether no page comes before it.
    pub is_first: bool,
    /// Whether no page comes after it.
    pub is_last: bool,
}

/// Snapshots whose examples leave the database for a blob, and come back.
#[async_trait]
pub trait Archives {
    /// Some of the complete snapshots that a job or a version names, without a blob, that no unfinished job reads and whose rows could be forgotten if they
    /// had one, the oldest first: those after one, or the first ones; none when there are none.
    async fn unarchived_snapshots(
        &self,
        age: Duration,
        after: Option<&Unarchived>,
    ) -> Result<Vec<Unarchived>>;
    /// Notes that the examples of a complete snapshot are in its blob. Returns whether the snapshot is there.
    async fn note_archive(
        &self,
        tenant: &TenantId,
        digest: Digest,
        archive: Archive,
    ) -> Result<bool>;
    /// The blob that the examples of a snapshot have to be read from; `None` when they are rows, which stay for as long as those of one that was just taken.
    async fn find_archive(&self, tenant: &TenantId, digest: Digest) -> Result<Option<Archive>>;
    /// Stores examples of a snapshot as rows again. The pages are given in order, and the last one makes the snapshot readable. Only the first one begins it:
    /// [`super::Error::Unavailable`] when it was forgotten since. Returns whether all examples are there, which another process may have stored.
    async fn refill_snapshot(
        &self,
        tenant: &TenantId,
        digest: Digest,
        examples: &[ExampleRecord],
        page: PagePlace,
    ) -> Result<bool>;
}
