//! Data sets: named lists of (video, label, split), and their immutable snapshots.
//!
//! Invariant: what a caller names is checked here before it reaches a record.

use std::collections::HashMap;

use super::{Library, Result, Sketch};
use crate::ids::{DatasetId, RequestId, TenantId, VideoId};
use crate::metadata::{
    DatasetRecord, DatasetVersionRecord, ExampleRecord, LabelCount, NewDataset, Page, PageRequest,
    SnapshotRecord, check_display_name,
};
use crate::spec::{Digest, Invalid, LabelKind, check_label};

/// Examples of one call.
const MAX_EXAMPLES: usize = 1000;
/// Versions of a data set: each keeps a list of its examples.
const MAX_VERSIONS: u32 = 100;
/// Bytes of a version's note.
const MAX_NOTE: usize = 1000;

impl Library {
    /// Creates an empty data set; idempotent by `request`.
    ///
    /// # Errors
    /// When the tenant has one of that id, the display name is malformed, [`crate::metadata::Error::RequestReused`], or when the database fails.
    pub async fn create_dataset(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        new: impl Into<NewDataset<'_>>,
        request: Option<RequestId>,
    ) -> Result<DatasetRecord> {
        let new = new.into();
        check_display_name(new.display_name)?;
        let metadata = &self.inner.metadata;
        Ok(metadata
            .create_dataset(tenant, dataset, new, request)
            .await?)
    }

    /// Reads a data set with the counts of its first labels.
    ///
    /// # Errors
    /// When the tenant has no such data set, or the database fails.
    pub async fn get_dataset(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
    ) -> Result<DatasetRecord> {
        Ok(self.inner.metadata.get_dataset(tenant, dataset).await?)
    }

    /// Lists data sets by id.
    ///
    /// # Errors
    /// When the page token is not from this listing, or the database fails.
    pub async fn list_datasets(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<DatasetRecord>> {
        Ok(self.inner.metadata.list_datasets(tenant, page).await?)
    }

    /// Adds 1 to 1000 examples, all or none; a video that is there already gets the new labels and split.
    ///
    /// # Errors
    /// When a label is malformed, an example has another number of labels than one where labels exclude one another, a video is named twice or does not exist (every one is named), or the database fails.
    pub async fn add_examples(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        examples: &[ExampleRecord],
    ) -> Result<DatasetRecord> {
        check_count("examples", examples.len())?;
        let mut seen = std::collections::HashSet::new();
        for example in examples {
            example.labels.iter().try_for_each(check_label)?;
            if !seen.insert(example.video) {
                let problem = format!("videos/{} is there twice", example.video);
                return Err(Invalid::new("examples", problem).into());
            }
        }
        let metadata = &self.inner.metadata;
        let limit = self.inner.config.examples;
        Ok(metadata
            .add_examples_within(tenant, dataset, examples, limit)
            .await?)
    }

    /// Removes 1 to 1000 examples by video; videos that the data set does not have are ignored.
    ///
    /// # Errors
    /// When the tenant has no such data set, or the database fails.
    pub async fn remove_examples(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        videos: &[VideoId],
    ) -> Result<DatasetRecord> {
        check_count("videos", videos.len())?;
        let metadata = &self.inner.metadata;
        Ok(metadata.remove_examples(tenant, dataset, videos).await?)
    }

    /// Lists examples in the order of their videos' ids.
    ///
    /// # Errors
    /// When the tenant has no such data set, the page token is not from this listing, or the database fails.
    pub async fn list_examples(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        page: &PageRequest,
    ) -> Result<Page<ExampleRecord>> {
        let metadata = &self.inner.metadata;
        Ok(metadata.list_examples(tenant, dataset, page).await?)
    }

    /// Lists labels in their order, with their counts by split; the page's size is in labels.
    ///
    /// # Errors
    /// When the tenant has no such data set, the page token is not from this listing, or the database fails.
    pub async fn list_label_counts(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        page: &PageRequest,
    ) -> Result<Page<LabelCount>> {
        let metadata = &self.inner.metadata;
        Ok(metadata.list_label_counts(tenant, dataset, page).await?)
    }

    /// Deletes a data set; its videos stay.
    ///
    /// # Errors
    /// [`crate::metadata::Error::InUse`] when an unfinished job reads it.
    pub async fn delete_dataset(&self, tenant: &TenantId, dataset: &DatasetId) -> Result<()> {
        Ok(self.inner.metadata.delete_dataset(tenant, dataset).await?)
    }

    /// Keeps what a data set holds now.
    ///
    /// # Errors
    /// When the tenant has no such data set, or the database fails.
    pub async fn snapshot(&self, tenant: &TenantId, dataset: &DatasetId) -> Result<SnapshotRecord> {
        let metadata = &self.inner.metadata;
        Ok(metadata.snapshot_dataset(tenant, dataset).await?)
    }

    /// Makes what a data set holds now its next version; the newest one is returned when it holds that already.
    ///
    /// # Errors
    /// No such data set, a note that is too long, too many versions, or when the database fails.
    pub async fn create_version(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        note: &str,
    ) -> Result<DatasetVersionRecord> {
        if note.len() > MAX_NOTE || note.chars().any(|own| own.is_control() && own != '\n') {
            let problem = format!("expected at most {MAX_NOTE} bytes without control characters");
            return Err(Invalid::new("note", problem).into());
        }
        let metadata = &self.inner.metadata;
        let version = metadata.create_dataset_version(tenant, dataset, note, MAX_VERSIONS);
        Ok(version.await?)
    }

    /// Lists a data set's versions, oldest first.
    ///
    /// # Errors
    /// When the tenant has no such data set, the page token is not from this listing, or the database fails.
    pub async fn list_versions(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        page: &PageRequest,
    ) -> Result<Page<DatasetVersionRecord>> {
        let metadata = &self.inner.metadata;
        Ok(metadata
            .list_dataset_versions(tenant, dataset, page)
            .await?)
    }

    /// Deletes a version of a data set.
    ///
    /// # Errors
    /// When the tenant has no such version, or the database fails.
    pub async fn delete_version(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        number: u32,
    ) -> Result<()> {
        let metadata = &self.inner.metadata;
        Ok(metadata
            .delete_dataset_version(tenant, dataset, number)
            .await?)
    }

    /// The snapshot of a version, or of what the data set holds now. Its examples can be read then, for a day at least.
    ///
    /// # Errors
    /// When the tenant has no such data set or version, or the database or the store fails.
    pub async fn snapshot_at(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        version: Option<u32>,
    ) -> Result<SnapshotRecord> {
        let Some(number) = version else {
            let taken = self.snapshot(tenant, dataset).await?;
            // It may have been taken long ago, when the data set held the same.
            self.open_snapshot(tenant, taken.digest).await?;
            return Ok(taken);
        };
        let metadata = &self.inner.metadata;
        let version = metadata
            .get_dataset_version(tenant, dataset, number)
            .await?;
        self.open_snapshot(tenant, version.snapshot.digest).await?;
        Ok(version.snapshot)
    }

    /// The sketches of one kind of some videos, as far as they are known.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sketches(
        &self,
        tenant: &TenantId,
        kind: Digest,
        videos: &[VideoId],
    ) -> Result<HashMap<VideoId, Sketch>> {
        let known = self.inner.metadata.sketches(tenant, kind, videos).await?;
        // One that cannot be read is none: it is taken again by another release.
        let read = |(video, text): (VideoId, String)| Some((video, Sketch::parse(&text)?));
        Ok(known.into_iter().filter_map(read).collect())
    }

    /// Whether the labels of a snapshot exclude one another.
    ///
    /// # Errors
    /// When the tenant has no such snapshot, or the database fails.
    pub async fn snapshot_kind(&self, tenant: &TenantId, digest: Digest) -> Result<LabelKind> {
        Ok(self.inner.metadata.snapshot_kind(tenant, digest).await?)
    }

    /// Reads a page of a snapshot that was taken before, such as a job's: at most `limit` examples in the order of their videos' ids, those after `after`.
    ///
    /// # Errors
    /// When the tenant has no such snapshot, or the database fails.
    pub async fn snapshot_examples(
        &self,
        tenant: &TenantId,
        digest: Digest,
        after: Option<VideoId>,
        limit: u32,
    ) -> Result<Vec<ExampleRecord>> {
        let metadata = &self.inner.metadata;
        Ok(metadata
            .snapshot_examples(tenant, digest, after, limit)
            .await?)
    }
}

fn check_count(field: &'static str, count: usize) -> std::result::Result<(), Invalid> {
    if (1..=MAX_EXAMPLES).contains(&count) {
        return Ok(());
    }
    let problem = format!("expected 1 to {MAX_EXAMPLES}, got {count}");
    Err(Invalid::new(field, problem))
}
