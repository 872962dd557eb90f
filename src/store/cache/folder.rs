//! The cache's folder: names of copies, files that are being written, and what an earlier process left.
//!
//! Invariant: only files that this program wrote are read or removed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempPath;

use super::super::blobs::blocking;
use super::super::{Error, Key};
use super::Name;
use super::copy::Copy;

/// Beginning of the names of files that are being written.
const STAGED: &str = ".fill-";

/// What an earlier process left, the oldest first.
pub(super) struct Found {
    pub(super) copies: Vec<(Name, Copy)>,
    /// Number that no copy has.
    pub(super) next: u64,
}

/// Returns the path of a copy.
pub(super) fn path(folder: &Path, name: Name, number: u64) -> PathBuf {
    let hex: String = name.0.iter().map(|byte| format!("{byte:02x}")).collect();
    folder.join(format!("{hex}-{number}"))
}

fn parse(file: &str) -> Option<(Name, u64)> {
    let (hex, number) = file.split_once('-')?;
    if hex.len() != 32 || !hex.bytes().all(|letter| letter.is_ascii_hexdigit()) {
        return None;
    }
    let value = u128::from_str_radix(hex, 16).ok()?;
    Some((Name(value.to_be_bytes()), number.parse().ok()?))
}

/// Reads the folder, and removes what was not finished.
pub(super) fn read(folder: &Path) -> std::io::Result<Found> {
    let mut found: Vec<(SystemTime, Name, Copy)> = Vec::new();
    let mut next = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.file_name();
        let Some(file) = file.to_str() else { continue };
        if file.starts_with(STAGED) {
            remove(&entry.path());
            continue;
        }
        let (Some((name, number)), Ok(metadata)) = (parse(file), entry.metadata()) else {
            continue;
        };
        if !metadata.is_file() {
            continue;
        }
        next = next.max(number.saturating_add(1));
        let copy = Copy::found(entry.path(), metadata.len());
        found.push((metadata.modified()?, name, copy));
    }
    found.sort_by_key(|(modified, _, _)| *modified);
    let copies = found.into_iter().map(|(_, name, copy)| (name, copy));
    Ok(Found {
        copies: copies.collect(),
        next,
    })
}

/// Creates a file that is removed unless it is kept.
pub(super) async fn stage(key: &Key, folder: &Path) -> Result<(File, TempPath), Error> {
    let folder = folder.to_owned();
    let made = blocking("copy", key, move || {
        let staged = tempfile::Builder::new()
            .prefix(STAGED)
            .tempfile_in(folder)?;
        Ok(staged.into_parts())
    });
    made.await
}

/// Gives a file that is complete its name. It is not synced: a copy that a crash damaged is found by its digest.
pub(super) async fn keep(key: &Key, staged: TempPath, path: PathBuf) -> Result<(), Error> {
    let named = move || staged.persist(path).map_err(|error| error.error);
    blocking("copy", key, named).await
}

/// Removes a file, off the async threads; whoever has it open can still read it.
pub(super) fn remove(path: &Path) {
    let path = path.to_owned();
    let unlink = move || {
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "a copy cannot be removed from the cache");
        }
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(unlink)),
        Err(_) => unlink(),
    }
}
