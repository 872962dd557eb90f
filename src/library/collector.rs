//! Collects blobs that no record names: what a crash between a write and its commit left.
//!
//! Invariant: a blob goes only when it is older than the configured age and, checked again in one transaction, nothing names it.

use super::{Library, Result};
use crate::metadata::BlobName;
use crate::store::layout::Name;

impl Library {
    /// Deletes orphans that are older than the configured age at `now` (microseconds since the Unix epoch). Returns how many.
    ///
    /// # Errors
    /// When the store cannot be listed or the database fails.
    pub async fn collect_orphans(&self, now: i64) -> Result<u64> {
        let inner = &self.inner;
        let age = inner.config.orphan_age;
        let mut collected = inner.store.remove_unfinished(now, age).await?;
        for blob in inner.store.list_older(now, age).await? {
            let Some((tenant, name)) = blob.key.name() else {
                // Not written by this program, so not for it to delete.
                continue;
            };
            let name = match name {
                Name::Video(video) => BlobName::Video(video),
                Name::Part(upload, number) => BlobName::Part(upload, number),
                Name::Version(task, version, sha256) => BlobName::Version(task, version, sha256),
                Name::Job(job, _) => BlobName::Job(job, blob.key.to_string()),
            };
            if !inner.metadata.is_named(&tenant, &name).await? {
                inner.drop_blob(&blob.key).await;
                collected += 1;
            }
        }
        Ok(collected)
    }
}
