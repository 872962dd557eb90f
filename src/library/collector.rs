//! Collects blobs that no record names: what a crash between a write and its commit left.
//!
//! Invariant: a blob goes only when it is older than the configured age and, asked again before it moves, no record names it; it goes to the trash
//! first. Nothing goes while a restore has not been checked. A look that finds more orphans than the configured share of all blobs takes none: then the records are more likely wrong than the blobs.

use futures::{StreamExt, TryStreamExt};

use super::{Library, Result};
use crate::faults;
use crate::ids::TenantId;
use crate::metadata::BlobName;
use crate::store::layout::Name;
use crate::store::{Blob, Key};

/// Blobs that the records are asked about at a time.
const ASKED: usize = 1000;
/// Orphans that one look takes, so that their keys are a few megabytes of memory; the next look takes more.
const TAKEN: usize = 20_000;

/// What a look for orphans found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs in the store, without the trash.
    pub blobs: u64,
    /// Blobs that no record names and that are old enough.
    pub orphans: u64,
    /// Orphans that were moved to the trash: none when they are too large a share of all blobs.
    pub moved: u64,
    /// Blobs that were deleted because they had lain in the trash long enough.
    pub deleted: u64,
    /// Files of writes that never ended.
    pub unfinished: u64,
    /// Empty folders that were removed.
    pub folders: u64,
    /// Whether nothing was looked at, because a restore has not been checked yet.
    pub is_held: bool,
}

impl Collected {
    /// Whether the orphans stay because there are too many of them.
    pub fn is_held_back(&self) -> bool {
        self.orphans > 0 && self.moved == 0
    }

    /// Whether some were moved, and others left for the next look.
    pub fn has_left_some(&self) -> bool {
        self.moved > 0 && self.moved < self.orphans
    }
}

impl Library {
    /// Returns whether the objects are in a folder, where looking at all of them costs nothing but time.
    pub fn is_in_folder(&self) -> bool {
        self.inner.store.is_folder()
    }

    /// Removes files of writes that an earlier process never ended: those that nobody has touched since `start`, when this process began
    /// (microseconds since the Unix epoch). Returns how many.
    ///
    /// # Errors
    /// When the store's folder cannot be read.
    pub async fn remove_unfinished(&self, start: i64) -> Result<u64> {
        Ok(self.inner.store.remove_unfinished(start).await?)
    }

    /// Moves orphans that are older than the configured age at `now` (microseconds since the Unix epoch) to the trash, and deletes what has lain
    /// there long enough. Records of snapshots that nothing names any more are dropped first.
    ///
    /// # Errors
    /// When the store fails or the database does.
    pub async fn collect_orphans(&self, now: i64) -> Result<Collected> {
        let (store, config) = (&self.inner.store, &self.inner.config);
        if store.is_collector_held().await? {
            return Ok(Collected {
                is_held: true,
                ..Collected::default()
            });
        }
        while self.inner.metadata.drop_unnamed_snapshots().await? > 0 {}
        let before = |age: std::time::Duration| {
            now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
        };
        let mut collected = Collected {
            deleted: store.empty_trash(now, config.trash_age).await?,
            unfinished: store.remove_unfinished(before(config.orphan_age)).await?,
            ..Collected::default()
        };
        let orphans = self
            .find_orphans(before(config.orphan_age), &mut collected)
            .await?;
        let allowed = u128::from(collected.blobs) * u128::from(config.orphan_share);
        if u128::from(collected.orphans) * 100 <= allowed {
            collected.moved = self.discard(orphans, now).await?;
        }
        collected.folders = store
            .remove_empty_folders(before(config.folder_age))
            .await?;
        Ok(collected)
    }

    /// Removes copies in this process's cache of blobs that no record names any more: another process may have deleted them. Returns how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_copies(&self) -> Result<u64> {
        let mut forgotten = 0;
        for some in self.inner.store.copied().chunks(ASKED) {
            for key in self.unnamed(some.to_vec()).await? {
                self.inner.store.forget_copy(&key).await;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    /// Looks at every blob once. Returns the first orphans and counts all.
    async fn find_orphans(&self, before: i64, collected: &mut Collected) -> Result<Vec<Key>> {
        let mut pages = self.inner.store.list().try_ready_chunks(ASKED).boxed();
        let mut orphans = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| error.1)?;
            collected.blobs += page.len() as u64;
            let old = |blob: &Blob| blob.modified <= before;
            let keys = page.into_iter().filter(old).map(|blob| blob.key).collect();
            let unnamed = self.unnamed(keys).await?;
            collected.orphans += unnamed.len() as u64;
            let room = TAKEN.saturating_sub(orphans.len());
            orphans.extend(unnamed.into_iter().take(room));
        }
        Ok(orphans)
    }

    /// Moves orphans to the trash. Returns how many; one that a record names by now stays.
    async fn discard(&self, orphans: Vec<Key>, now: i64) -> Result<u64> {
        let mut moved = 0;
        for some in orphans.chunks(ASKED) {
            for key in self.unnamed(some.to_vec()).await? {
                self.inner.store.discard(&key, now).await?;
                faults::point("orphan-discarded");
                moved += 1;
            }
        }
        Ok(moved)
    }

    /// The blobs of these that no record names.
    async fn unnamed(&self, keys: Vec<Key>) -> Result<Vec<Key>> {
        let asked: Vec<(Key, (TenantId, BlobName))> = keys
            .into_iter()
            .filter_map(|key| {
                let (tenant, name) = key.name()?;
                let name = blob_name(&key, name);
                Some((key, (tenant, name)))
            })
            .collect();
        let (keys, names): (Vec<Key>, Vec<_>) = asked.into_iter().unzip();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let named = self.inner.metadata.named(&names).await?;
        let unnamed = keys.into_iter().zip(named).filter(|(_, named)| !named);
        Ok(unnamed.map(|(key, _)| key).collect())
    }
}

fn blob_name(key: &Key, name: Name) -> BlobName {
    match name {
        Name::Video(video) => BlobName::Video(video),
        Name::Part(upload, number) => BlobName::Part(upload, number),
        Name::Version(task, version, sha256) => BlobName::Version(task, version, sha256),
        Name::Job(job, _) => BlobName::Job(job, key.to_string()),
        Name::Snapshot(digest) => BlobName::Snapshot(digest),
    }
}
