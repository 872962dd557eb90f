//! Clean-up of a store: listings, the trash, files of writes that never ended, empty folders.
//!
//! Invariant: nothing here reads a whole listing into memory, and a file that vanishes meanwhile is not an error.

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

/// Folder of blobs that were taken for orphans. No tenant can have this name.
const TRASH: &str = ".trash";

impl Store {
    /// Lists every blob of this program, in no particular order, without the trash. Not for a hot path.
    pub fn list(&self) -> BoxStream<'_, Result<Blob, Error>> {
        let blob = |meta: ObjectMeta| Blob {
            key: Key::from_path(meta.location),
            size: meta.size,
            modified: meta.last_modified.timestamp_micros(),
        };
        let listed = self.objects.list(None).map_ok(blob).map_err(listing);
        // Files that this program did not write are not its to delete.
        let own = |blob: &Blob| std::future::ready(blob.key.name().is_some());
        listed.try_filter(own).boxed()
    }

    /// Moves a blob to the trash, from where [`Store::empty_trash`] deletes it after it has lain there long enough; `now` is in microseconds since
    /// the Unix epoch. A blob that does not exist is not an error.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn discard(&self, key: &Key, now: i64) -> Result<(), Error> {
        let seconds = now.div_euclid(1_000_000).to_string();
        let head = [PathPart::from(TRASH), PathPart::from(seconds)];
        let to = Path::from_iter(head.into_iter().chain(key.path().parts()));
        match self.objects.rename(key.path(), &to).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(of_store("discard", key.as_str(), error)),
        }
    }

    /// Deletes blobs that have been in the trash since `now - age`. Returns their number.
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

    /// Removes files of writes that never ended because their process was killed, and that were not touched since `before` (microseconds since the
    /// Unix epoch). Returns their number. Not for a hot path.
    ///
    /// # Errors
    /// When the store's folder cannot be read.
    pub async fn remove_unfinished(&self, before: i64) -> Result<u64, Error> {
        let is_staged = |name: &str| {
            name.rsplit_once('#')
                .is_some_and(|(_, number)| number.parse::<u32>().is_ok())
        };
        // object_store writes beside a blob's own name, with `#` and a number after it, until the blob is whole.
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

    /// Removes folders that are empty and were not changed since `before` (microseconds since the Unix epoch). Returns their number.
    ///
    /// # Errors
    /// When the store's folder cannot be read.
    pub async fn remove_empty_folders(&self, before: i64) -> Result<u64, Error> {
        let remove = move |folder: &Folder| {
            // A folder with content cannot be removed, so nothing has to be checked first.
            if modified(folder)? > before || fs::remove_dir(folder).is_err() {
                return Ok(0);
            }
            Ok(1)
        };
        self.sweep(move |folder| walk(folder, &|_| Ok(0), &remove))
            .await
    }

    /// Does blocking work on a local store's folder; other stores have nothing to do.
    async fn sweep(
        &self,
        work: impl FnOnce(&Folder) -> std::io::Result<u64> + Send + 'static,
    ) -> Result<u64, Error> {
        let Some(folder) = self.folder.clone() else {
            return Ok(0);
        };
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        done.map_err(std::io::Error::other)
            .and_then(|result| result)
            .map_err(|error| Error::of_storage("list", "*", error.into()))
    }
}

fn listing(error: object_store::Error) -> Error {
    of_store("list", "*", error)
}

fn micros_before(now: i64, age: Duration) -> i64 {
    now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
}

/// When a file or folder was last changed, in microseconds since the Unix epoch.
fn modified(path: &Folder) -> std::io::Result<i64> {
    let since = path
        .metadata()?
        .modified()?
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

type Visit<'a> = &'a dyn Fn(&Folder) -> std::io::Result<u64>;

/// Visits a folder's content, folders after their own content. Sums up what the visits return; what vanishes on the way counts as nothing.
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

/// Counts an entry that no longer existed as nothing.
fn vanished(result: std::io::Result<u64>) -> std::io::Result<u64> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        other => other,
    }
}
