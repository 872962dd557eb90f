//! Lock of a data directory.
//!
//! Invariant: while a [`DirectoryLock`] exists, no other process holds one for its directory, whatever happens to the files in it; the kernel
//! releases it when the process ends, however it ends.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::Error;

/// Lock that makes a directory exclusive to this process until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
    _directory: File,
}

impl DirectoryLock {
    /// Locks the directory, and creates it if it does not exist.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process holds the lock, [`Error::Directory`] when the directory cannot be created or opened.
    pub fn acquire(directory: &Path) -> Result<Self, Error> {
        let cannot = |source| Error::Directory {
            directory: directory.into(),
            source,
        };
        fs::create_dir_all(directory).map_err(cannot)?;
        // Older releases lock only this file. It stays when the lock is released, since removing it would let two processes lock two different files
        // of the same name.
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("lock"))
            .map_err(cannot)?;
        // The directory itself, unlike a file in it, cannot be deleted and created again under a running server.
        let itself = File::open(directory).map_err(cannot)?;
        let is_ours = take(&file).map_err(cannot)? && take_directory(&itself).map_err(cannot)?;
        if !is_ours {
            return Err(Error::Locked {
                directory: directory.into(),
            });
        }
        Ok(Self {
            _file: file,
            _directory: itself,
        })
    }
}

/// Locks a file. Returns false when another process holds the lock.
fn take(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Locks a directory like [`take`]. Returns true where a network file system cannot lock directories; the lock on the file then has to suffice.
fn take_directory(directory: &File) -> io::Result<bool> {
    match take(directory) {
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::BADF | Errno::INVAL | Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS)
            ) =>
        {
            Ok(true)
        }
        taken => taken,
    }
}
