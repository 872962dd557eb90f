//! The count of commits in a small file of its own beside the database: it tells that a write-ahead log was lost or cut, which SQLite itself takes for
//! transactions that never were.
//!
//! Invariant: the file never counts a commit that the database did not acknowledge. It may lag behind after a power cut, since it is synced only
//! from time to time, so that it costs no second sync for each commit.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::blocking::blocking_io;

/// The count's file; a database that no path leads to has none. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Ledger(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Whose commits are counted.
    id: String,
    commits: u64,
    file: Option<File>,
}

/// What a ledger's file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) commits: u64,
}

/// Where the ledger of a database is.
pub(super) fn path(database: &Path) -> PathBuf {
    database.with_extension("commits")
}

impl Ledger {
    /// The ledger of the database `id`, which has so many commits.
    pub(super) fn new(path: PathBuf, id: String, commits: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            path,
            id,
            commits,
            file: None,
        })))
    }

    /// Reads what was noted before; `None` when there is no such file or it is not a ledger's.
    pub(super) fn read(path: &Path) -> Option<Entry> {
        let mut text = String::new();
        // A ledger has one short line.
        let file = File::open(path).ok()?;
        file.take(256).read_to_string(&mut text).ok()?;
        let (id, commits) = text.lines().next()?.split_once(' ')?;
        Some(Entry {
            id: id.into(),
            commits: commits.trim().parse().ok()?,
        })
    }

    /// Notes the count after a commit, off the async threads. A file that cannot be written lags behind, no more.
    pub(super) async fn note(&self, commits: u64) {
        let ledger = self.clone();
        let noted = blocking_io(move || ledger.write(commits)).await;
        if let Err(error) = noted {
            tracing::debug!(%error, "the count of commits cannot be written");
        }
    }

    /// Makes the file durable, off the async threads.
    pub(super) async fn sync(&self) {
        let ledger = self.clone();
        let synced = blocking_io(move || {
            let inner = ledger.0.lock().unwrap_or_else(PoisonError::into_inner);
            inner.file.as_ref().map_or(Ok(()), File::sync_all)
        });
        if let Err(error) = synced.await {
            tracing::debug!(%error, "the count of commits cannot be synced");
        }
    }

    fn write(&self, commits: u64) -> std::io::Result<()> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Commits are noted in any order.
        if inner.file.is_some() && commits <= inner.commits {
            return Ok(());
        }
        inner.commits = inner.commits.max(commits);
        let line = format!("{} {:020}\n", inner.id, inner.commits);
        if inner.file.is_none() {
            let file = File::options()
                .create(true)
                .truncate(true)
                .write(true)
                .open(&inner.path)?;
            inner.file = Some(file);
        }
        match &inner.file {
            Some(file) => file.write_all_at(line.as_bytes(), 0),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_highest_count_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&folder.path().join("metadata.sqlite"));
        assert_eq!(Ledger::read(&path), None);
        let ledger = Ledger::new(path.clone(), "x".into(), 3);
        for commits in [5, 4, 12] {
            ledger.note(commits).await;
        }
        let id = "x".to_owned();
        let commits = 12;
        assert_eq!(Ledger::read(&path), Some(Entry { id, commits }));
    }

    #[test]
    fn what_is_no_ledger_is_none() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "x", "x y", "x -1"] {
            let path = folder.path().join("metadata.commits");
            std::fs::write(&path, text).unwrap();
            assert_eq!(Ledger::read(&path), None, "{text:?}");
        }
    }
}
