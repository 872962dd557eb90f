//! Room on the disk that is kept for deletions: a file without content that is given back when the disk is full.
//!
//! Invariant: the file is taken again only when the disk has several times its size to spare.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::blocking::blocking_io;

/// Free room, in sizes of the reserve, below which none is taken: it is to be there when the disk fills up, not to fill it.
const AMPLE: u64 = 8;

/// The reserve of one database. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Reserve {
    path: Arc<Path>,
    bytes: u64,
}

impl Reserve {
    /// A reserve of so many bytes beside the database; of none with 0.
    pub(super) fn new(database: &Path, bytes: u64) -> Self {
        let path: PathBuf = database.with_extension("reserve");
        Self {
            path: path.into(),
            bytes,
        }
    }

    /// Gives the room back. Returns whether there was any.
    pub(super) async fn give(&self) -> bool {
        let path = Arc::clone(&self.path);
        let removed = blocking_io(move || fs::remove_file(path)).await;
        let given = removed.is_ok();
        if given {
            tracing::warn!("the disk is full: its reserve was given back, for deletions");
        }
        given
    }

    /// Takes the room, if there is enough and it is not taken already.
    pub(super) async fn take(&self) {
        let reserve = self.clone();
        let taken = blocking_io(move || reserve.allocate()).await;
        if let Err(error) = taken {
            tracing::debug!(%error, "no room can be kept for deletions");
        }
    }

    fn allocate(&self) -> std::io::Result<()> {
        if self.bytes == 0 || self.path.exists() {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let disk = statvfs(folder)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < AMPLE * self.bytes {
            return Ok(());
        }
        let file = File::create(&self.path)?;
        let allocated = fallocate(&file, FallocateFlags::empty(), 0, self.bytes);
        if let Err(error) = allocated {
            // Half a reserve would look like a whole one.
            fs::remove_file(&self.path)?;
            return Err(error.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_given_back_once_and_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("metadata.sqlite");
        let reserve = Reserve::new(&database, 1 << 16);
        assert!(!reserve.give().await);
        for _ in 0..2 {
            reserve.take().await;
            let file = fs::metadata(&reserve.path).unwrap();
            assert_eq!(file.len(), 1 << 16);
            assert!(std::os::unix::fs::MetadataExt::blocks(&file) * 512 >= 1 << 16);
            assert!(reserve.give().await);
            assert!(!reserve.give().await && !reserve.path.exists());
        }
    }

    #[tokio::test]
    async fn a_disk_without_much_room_keeps_none() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("metadata.sqlite");
        let reserve = Reserve::new(&database, u64::MAX / AMPLE);
        reserve.take().await;
        assert!(!reserve.path.exists());
    }
}
