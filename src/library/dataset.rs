//! Data sets: named lists of (video, label, split), and their immutable snapshots.
//!
//! Invariant: what a caller names is checked here before it reaches a record.

use super::{Library, Result};
use crate::ids::{DatasetId, RequestId, TenantId, VideoId};
use crate::metadata::{
    DatasetRecord, ExampleRecord, LabelCount, Page, PageRequest, SnapshotRecord, check_display_name,
};
use crate::spec::{Digest, Invalid, check_label};

/// Examples of one call.
const MAX_EXAMPLES: usize = 1000;

impl Library {
    /// Creates an empty data set; idempotent by `request`.
    ///
    /// # Errors
    /// When the tenant has one of that id, the display name is malformed, [`crate::metadata::Error::RequestReused`], or when the database fails.
    pub async fn create_dataset(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        display_name: &str,
        request: Option<RequestId>,
    ) -> Result<DatasetRecord> {
        check_display_name(display_name)?;
        let metadata = &self.inner.metadata;
        Ok(metadata
            .create_dataset(tenant, dataset, display_name, request)
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

    /// Adds 1 to 1000 examples, all or none; a video that is there already gets the new label and split.
    ///
    /// # Errors
    /// When a label is malformed, a video is named twice or does not exist (every one is named), or the database fails.
    pub async fn add_examples(
        &self,
        tenant: &TenantId,
        dataset: &DatasetId,
        examples: &[ExampleRecord],
    ) -> Result<DatasetRecord> {
        check_count("examples", examples.len())?;
        let mut seen = std::collections::HashSet::new();
        for example in examples {
            check_label(&example.label)?;
            if !seen.insert(example.video) {
                let problem = format!("videos/{} is there twice", example.video);
                return Err(Invalid::new("examples", problem).into());
            }
        }
        let metadata = &self.inner.metadata;
        Ok(metadata.add_examples(tenant, dataset, examples).await?)
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
