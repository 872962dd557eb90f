//! The lock on a data directory.
//!
//! Invariant: while a [`DirectoryLock`] lives, no other process holds one for its directory, whatever happens to the files in it; the kernel lets go of
//! it when the process ends, however it ends.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::Error;

/// Makes a directory this process's own until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
    _directory: File,
}

impl DirectoryLock {
    /// Takes the directory, which is made when it is not there.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it.
    pub fn acquire(directory: &Path) -> Result<Self, Error> {
        let cannot = |source| Error::Directory {
            directory: directory.into(),
            source,
        };
        fs::create_dir_all(directory).map_err(cannot)?;
        // The file tells releases that lock nothing else; it stays when the lock goes: removing it would let two processes lock two files of one name.
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("lock"))
            .map_err(cannot)?;
        // The directory itself cannot be removed from under a running server as a file in it can.
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

/// Locks a file; false when another process has it.
fn take(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// As [`take`]. File systems on a network lock no directories; there the file has to do.
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
