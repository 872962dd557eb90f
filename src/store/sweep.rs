//! Clean-up of a store: listings, the trash, files of interrupted writes, empty folders.
//!
//! Invariant: no listing is read into memory as a whole, and a file that vanishes in the meantime is not an error.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path as Folder;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::{Path, PathPart};
use object_store::{ObjectMeta, ObjectStoreExt};

use super::blobs::of_store;
use super::{Blob, Error, Key, Store};
use crate::blocking::blocking_io;
use crate::ids::TenantId;

/// Folder of blobs that were found to be orphans. No tenant's name can be equal to it.
const TRASH: &str = ".trash";
/// Most blobs that one step of an erasure deletes.
const ERASED: usize = 500;
/// Deletions at a time: a bucket answers each after some milliseconds.
const DELETIONS: usize = 16;

impl Store {
    /// Lists every blob of this program except those in the trash, in no particular order. Reads the whole store, so it is not for requests.
    pub fn list(&self) -> BoxStream<'_, Result<Blob, Error>> {
        let blob = |meta: ObjectMeta| Blob {
            key: Key::from_path(meta.location),
            size: meta.size,
            modified: meta.last_modified.timestamp_micros(),
        };
        let listed = self.objects.list(None).map_ok(blob).map_err(listing);
        // Files that this program did not write must not be deleted.
        let own = |blob: &Blob| std::future::ready(blob.key.name().is_some());
        listed.try_filter(own).boxed()
    }

    /// Moves a blob to the trash, from which [`Store::empty_trash`] deletes it later; `now` is in microseconds since the Unix epoch. A blob that does
    /// not exist is not an error.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn discard(&self, key: &Key, now: i64) -> Result<(), Error> {
        if let Some(cache) = &self.cache {
            cache.forget(key).await;
        }
        let seconds = now.div_euclid(1_000_000).to_string();
        let head = [PathPart::from(TRASH), PathPart::from(seconds)];
        let to = Path::from_iter(head.into_iter().chain(key.path().parts()));
        match self.objects.rename(key.path(), &to).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(of_store("discard", key.as_str(), error)),
        }
    }

    /// Deletes the blobs that were moved to the trash before `now - age`. Returns their number.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn empty_trash(&self, now: i64, age: Duration) -> Result<u64, Error> {
        let before = micros_before(now, age);
        let trash = Path::from(TRASH);
        let mut listed = self.objects.list(Some(&trash)).map_err(listing);
        let mut deleted = 0;
        while let Some(meta) = listed.try_next().await? {
            let mut parts = meta.location.parts().skip(1);
            let since = parts.next().and_then(|part| part.as_ref().parse().ok());
            let is_old = |since: i64| since.saturating_mul(1_000_000) <= before;
            if !since.is_some_and(is_old) {
                continue;
            }
            match self.objects.delete(&meta.location).await {
                Ok(()) => deleted += 1,
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(listing(error)),
            }
        }
        Ok(deleted)
    }

    /// Deletes some of a tenant's blobs, those in the trash included. Returns the number of what it deleted and their bytes; 0 when none is left.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn erase_some(&self, tenant: &TenantId) -> Result<(u64, u64), Error> {
        let own = Path::from(tenant.as_str());
        let trash = Path::from(TRASH);
        let is_own = |meta: &ObjectMeta| {
            let thrown = meta.location.parts().nth(2);
            std::future::ready(thrown.is_some_and(|part| part.as_ref() == tenant.as_str()))
        };
        let thrown = self.objects.list(Some(&trash)).try_filter(is_own);
        let found = self.objects.list(Some(&own)).chain(thrown);
        let mut found = found.map_err(listing).take(ERASED).boxed();
        let mut erased = (0, 0);
        let mut some = Vec::new();
        while let Some(meta) = found.try_next().await? {
            some.push(meta);
        }
        drop(found);
        let deleted = some.into_iter().map(|meta| async move {
            match self.objects.delete(&meta.location).await {
                Ok(()) => Ok(Some(meta.size)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(listing(error)),
            }
        });
        let mut deleted = futures::stream::iter(deleted).buffer_unordered(DELETIONS);
        while let Some(size) = deleted.try_next().await? {
            if let Some(size) = size {
                erased = (erased.0 + 1, erased.1 + size);
            }
        }
        Ok(erased)
    }

    /// Drops the copies of these tenants' blobs that the cache of this process has. Returns their number.
    pub async fn forget_tenants(&self, tenants: &HashSet<TenantId>) -> usize {
        match &self.cache {
            Some(cache) => cache.forget_tenants(tenants).await,
            None => 0,
        }
    }

    /// Deletes the files of writes that were interrupted because their process was killed, if they have not changed since `before` (microseconds
    /// since the Unix epoch). Returns their number. Reads the whole store, so it is not for requests.
    ///
    /// # Errors
    /// When the store's folder cannot be read.
    pub async fn remove_unfinished(&self, before: i64) -> Result<u64, Error> {
        let is_staged = |name: &str| {
            name.rsplit_once('#')
                .is_some_and(|(_, number)| number.parse::<u32>().is_ok())
        };
        // object_store writes a blob to a file with the blob's name, `#` and a number, until the blob is complete.
        let remove = move |file: &Folder| {
            let name = file.file_name().and_then(|name| name.to_str());
            if name.is_some_and(is_staged) && modified(file)? <= before {
                fs::remove_file(file)?;
                return Ok(1);
            }
            Ok(0)
        };
        self.sweep(move |folder| walk(folder, &remove, &|_| Ok(0)))
            .await
    }

    /// Removes empty folders that have not changed since `before` (microseconds since the Unix epoch). Returns their number.
    ///
    /// # Errors
    /// When the store's folder cannot be read.
    pub async fn remove_empty_folders(&self, before: i64) -> Result<u64, Error> {
        let remove = move |folder: &Folder| {
            // A folder with content cannot be removed, so no check is needed.
            if modified(folder)? > before || fs::remove_dir(folder).is_err() {
                return Ok(0);
            }
            Ok(1)
        };
        self.sweep(move |folder| walk(folder, &|_| Ok(0), &remove))
            .await
    }

    /// Runs blocking work on a local store's folder; other stores have no folder, and the result is 0.
    async fn sweep(
        &self,
        work: impl FnOnce(&Folder) -> std::io::Result<u64> + Send + 'static,
    ) -> Result<u64, Error> {
        let Some(folder) = self.folder.clone() else {
            return Ok(0);
        };
        let done = blocking_io(move || work(&folder)).await;
        done.map_err(|error| Error::of_storage("list", "*", error.into()))
    }
}

fn listing(error: object_store::Error) -> Error {
    of_store("list", "*", error)
}

fn micros_before(now: i64, age: Duration) -> i64 {
    now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
}

/// Returns the modification time of a file or folder, in microseconds since the Unix epoch.
fn modified(path: &Folder) -> std::io::Result<i64> {
    let since = path
        .metadata()?
        .modified()?
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

type Visit<'a> = &'a dyn Fn(&Folder) -> std::io::Result<u64>;

/// Visits the content of a folder, each folder after its own content. Returns the sum of what the visits return; what vanishes in the meantime counts
/// as 0.
fn walk(folder: &Folder, file: Visit<'_>, emptied: Visit<'_>) -> std::io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return vanished(Err(error)),
    };
    let mut sum = 0;
    for entry in entries {
        let visited = entry.and_then(|entry| {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                let below = walk(&path, file, emptied)?;
                return Ok(below + vanished(emptied(&path))?);
            }
            file(&path)
        });
        sum += vanished(visited)?;
    }
    Ok(sum)
}

/// Counts an entry that no longer exists as 0.
fn vanished(result: std::io::Result<u64>) -> std::io::Result<u64> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        other => other,
    }
}
