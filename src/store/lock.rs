//! The lock on a data directory.
//!
//! Invariant: while a [`DirectoryLock`] lives, no other process holds one for its directory; the kernel lets go of it when the process ends, however
//! it ends.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::Error;

/// Makes a directory this process's own until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
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
        // The file stays when the lock goes: removing it would let two processes lock two files of one name.
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("lock"))
            .map_err(cannot)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked {
                directory: directory.into(),
            }),
            Err(errno) => Err(cannot(errno.into())),
        }
    }
}
