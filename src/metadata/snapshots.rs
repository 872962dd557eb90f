//! Snapshots of data sets, and which of their videos are known to decode.
//!
//! Invariant: a snapshot never changes and is named by what it holds; nobody reads one before it is complete.

use async_trait::async_trait;

use super::{ExampleRecord, Page, PageRequest, Result, Timestamp};
use crate::ids::{DatasetId, TenantId, VideoId};
use crate::spec::{Digest, LabelKind};

/// The immutable list of examples that a data set held at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// sha256 over every example: the video's id and digest, labels and split, in the order of the videos' ids, after the kind of the labels when they do not
    /// exclude one another.
    pub digest: Digest,
    /// Number of examples.
    pub examples: u64,
}

/// A version of a data set: a snapshot with a number, which is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetVersionRecord {
    /// Data set of the version.
    pub dataset: DatasetId,
    /// Number of the version within its data set, from 1.
    pub number: u32,
    /// What the version holds.
    pub snapshot: SnapshotRecord,
    /// Note of whoever made the version.
    pub note: String,
    /// Time when the version was made.
    pub create_time: Timestamp,
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
    /// Whether the labels of a complete snapshot exclude one another.
    async fn snapshot_kind(&self, tenant: &TenantId, digest: Digest) -> Result<LabelKind>;
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
    /// Makes what the data set holds now its next version; when that is what its newest version holds, that version is returned, with its own note.
    /// [`super::Error::TooManyVersions`] when the data set has as many as it may have.
    async fn create_dataset_version(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        note: &str,
        limit: u32,
    ) -> Result<DatasetVersionRecord>;
    /// Reads a version of a data set.
    async fn get_dataset_version(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        number: u32,
    ) -> Result<DatasetVersionRecord>;
    /// Lists a data set's versions, oldest first.
    async fn list_dataset_versions(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        page: &PageRequest,
    ) -> Result<Page<DatasetVersionRecord>>;
    /// Deletes a version; its examples go as those of any snapshot. Its number is not given again.
    async fn delete_dataset_version(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        number: u32,
    ) -> Result<()>;
    /// The sketches of one kind that are known of the videos that are named.
    async fn sketches(
        &self,
        tenant: &TenantId,
        kind: Digest,
        videos: &[VideoId],
    ) -> Result<Vec<(VideoId, String)>>;
    /// Remembers sketches of videos, for as long as these exist. Videos that are gone, or have one of this kind, are ignored. For [`Self::undecoded`], a
    /// video with a sketch counts as decoded under the sketch's kind.
    async fn remember_sketches(
        &self,
        tenant: &TenantId,
        kind: Digest,
        sketches: &[(VideoId, String)],
    ) -> Result<()>;
}
