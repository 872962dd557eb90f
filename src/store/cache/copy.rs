//! One copy of a blob on the cache's disk.
//!
//! Invariant: its file is opened for as long as somebody reads it, and no longer, so that thousands of copies need no descriptors.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OnceCell;

use super::super::Key;
use super::super::blobs::{digest_of, on_disk};
use crate::spec::Digest;

/// Copy of a blob.
#[derive(Debug)]
pub(super) struct Copy {
    path: PathBuf,
    size: u64,
    /// The file while somebody reads it. Held for a look only, never across an await.
    open: Mutex<Weak<File>>,
    /// Set when the bytes were compared with the digest.
    verified: OnceCell<()>,
}

/// The copy is not what it should be.
struct Damaged;

impl Copy {
    /// Creates the description of a copy whose bytes were compared while they were written.
    pub(super) fn verified(path: PathBuf, size: u64, file: &Arc<File>) -> Self {
        Self {
            path,
            size,
            open: Mutex::new(Arc::downgrade(file)),
            verified: OnceCell::new_with(Some(())),
        }
    }

    /// Creates the description of a copy that an earlier process left.
    pub(super) fn found(path: PathBuf, size: u64) -> Self {
        Self {
            path,
            size,
            open: Mutex::new(Weak::new()),
            verified: OnceCell::new(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Opens the file; `None` when it is gone or not what it should be.
    pub(super) async fn open(&self, key: &Key, sha256: Digest) -> Option<Arc<File>> {
        let known = self
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .upgrade();
        let file = match known {
            Some(file) => file,
            None => self.reopen(key).await?,
        };
        let compared = self.verified.get_or_try_init(|| async {
            let read = Arc::clone(&file);
            match on_disk("read", key, move || digest_of(&read)).await {
                Ok(found) if found == sha256 => Ok(()),
                Ok(_) | Err(_) => Err(Damaged),
            }
        });
        compared.await.ok()?;
        Some(file)
    }

    async fn reopen(&self, key: &Key) -> Option<Arc<File>> {
        let (path, size) = (self.path.clone(), self.size);
        let opened = on_disk("open", key, move || {
            let file = File::open(path)?;
            let is_whole = file.metadata()?.len() == size;
            Ok(is_whole.then(|| Arc::new(file)))
        });
        let file = opened.await.ok()??;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open = Arc::downgrade(&file);
        Some(file)
    }
}
