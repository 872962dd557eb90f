//! Snapshots of data sets, and which of their videos are known to decode.
//!
//! Invariant: a snapshot never changes and is named by what it holds; nobody reads one before it is complete.

use async_trait::async_trait;

use super::{ExampleRecord, Result};
use crate::ids::{DatasetId, TenantId, VideoId};
use crate::spec::Digest;

/// The immutable list of examples that a data set held at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// sha256 over every example: the video's id and digest, label and split, in the order of the videos' ids.
    pub digest: Digest,
    /// Number of examples.
    pub examples: u64,
}

/// Snapshots, for whoever trains on them.
#[async_trait]
pub trait Snapshots {
    /// Keeps what the data set holds at one moment of this call as an immutable snapshot. It is stored in pages, each in a short transaction, so that
    /// other writers do not wait for it; the data set may change meanwhile.
    async fn snapshot_dataset(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
    ) -> Result<SnapshotRecord>;
    /// Reads at most `limit` examples of a complete snapshot in the order of their videos' ids: those after `after`, or the first ones. Fewer than
    /// `limit` are the last ones.
    async fn snapshot_examples(
        &self,
        tenant: &TenantId,
        digest: Digest,
        after: Option<VideoId>,
        limit: u32,
    ) -> Result<Vec<ExampleRecord>>;
    /// The videos, of those that are named, that nobody has decoded yet under a sampling. `sampling` is a digest of everything that decides whether a
    /// video decodes.
    async fn undecoded(
        &self,
        tenant: &TenantId,
        sampling: Digest,
        videos: &[VideoId],
    ) -> Result<Vec<VideoId>>;
    /// Remembers that videos decode under a sampling, for as long as they exist. Videos that are gone are ignored.
    async fn remember_decoded(
        &self,
        tenant: &TenantId,
        sampling: Digest,
        videos: &[VideoId],
    ) -> Result<()>;
}
