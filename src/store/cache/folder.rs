//! The cache's folder: names of copies, files that are being written, and what an earlier process left.
//!
//! Invariant: only files that this program wrote are read or removed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempPath;

use super::super::blobs::on_disk;
use super::super::{Error, Key};
use super::copy::Copy;
use crate::blocking;

/// Beginning of the names of files that are being written.
const STAGED: &str = ".fill-";
/// Stands for the `/` of keys in the names of copies; no name of a resource has it.
const SLASH: &str = "=";

/// What an earlier process left, the oldest first.
pub(super) struct Leftovers {
    pub(super) copies: Vec<(Key, Copy)>,
    /// Number that no copy has.
    pub(super) next: u64,
}

/// Returns the path of a copy.
pub(super) fn path(folder: &Path, key: &Key, number: u64) -> PathBuf {
    folder.join(format!("{}-{number}", key.as_str().replace('/', SLASH)))
}

fn parse(file: &str) -> Option<(Key, u64)> {
    let (key, number) = file.rsplit_once('-')?;
    let key = Key::parse(&key.replace(SLASH, "/")).ok()?;
    Some((key, number.parse().ok()?))
}

/// Whether a file has the name of a copy of before copies were named after their keys: 32 hexadecimal digits and a number.
fn is_of_before(file: &str) -> bool {
    let Some((digest, number)) = file.split_once('-') else {
        return false;
    };
    let is_digest = digest.len() == 32 && digest.bytes().all(|letter| letter.is_ascii_hexdigit());
    is_digest && number.parse::<u64>().is_ok()
}

/// Reads the folder, and removes what was not finished and what nothing finds by its name any more.
pub(super) fn read(folder: &Path) -> std::io::Result<Leftovers> {
    let mut found: Vec<(SystemTime, Key, Copy)> = Vec::new();
    let mut next = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.file_name();
        let Some(file) = file.to_str() else { continue };
        if file.starts_with(STAGED) || is_of_before(file) {
            remove(&entry.path());
            continue;
        }
        let (Some((key, number)), Ok(metadata)) = (parse(file), entry.metadata()) else {
            continue;
        };
        if !metadata.is_file() {
            continue;
        }
        next = next.max(number.saturating_add(1));
        let copy = Copy::found(entry.path(), metadata.len());
        found.push((metadata.modified()?, key, copy));
    }
    found.sort_by_key(|(modified, _, _)| *modified);
    let copies = found.into_iter().map(|(_, key, copy)| (key, copy));
    Ok(Leftovers {
        copies: copies.collect(),
        next,
    })
}

/// Creates a file that is removed unless it is kept.
pub(super) async fn stage(key: &Key, folder: &Path) -> Result<(File, TempPath), Error> {
    let folder = folder.to_owned();
    let made = on_disk("copy", key, move || {
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
    on_disk("copy", key, named).await
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
    blocking::in_background(unlink);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_copies_of_before_are_told_from_others() {
        let digest = "0f".repeat(16);
        assert!(is_of_before(&format!("{digest}-7")));
        for other in [
            "notes-7",
            "acme=videos=x-7",
            &digest,
            &format!("{digest}-x"),
        ] {
            assert!(!is_of_before(other), "{other}");
        }
    }
}
