//! Immutable blobs by key, and the lock that makes a data directory exclusive to one process.
//!
//! Invariant: a write that has returned is durable and complete; each key is written by one writer only, with one content. Only this module uses
//! object_store.

mod blobs;
pub mod bucket;
pub mod cache;
mod circuit;
mod copies;
pub mod download;
mod faulty;
mod fetch;
mod identity;
pub mod layout;
mod lock;
mod spool;
mod sweep;
mod writer;

use std::io;
use std::path::PathBuf;

pub use blobs::{Blob, Opened, Recorded, Store, Written};
pub use bucket::Bucket;
pub use faulty::Faults;
pub use layout::Key;
pub use lock::DirectoryLock;
pub use writer::Writer;

use crate::spec::Digest;

/// Reason why a blob could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob does not exist.
    #[error("object {key} does not exist")]
    NotFound {
        /// Key of the blob.
        key: String,
    },
    /// The bytes of the blob differ from those that were stored.
    #[error("object {key} is damaged: expected sha256 {expected}, found {found}")]
    Digest {
        /// Key of the blob.
        key: String,
        /// Digest in the record.
        expected: Digest,
        /// Digest of the bytes.
        found: Digest,
    },
    /// The blob has more or fewer bytes than were stored.
    #[error("object {key} is damaged: expected {expected} bytes, found {found}")]
    Size {
        /// Key of the blob.
        key: String,
        /// Size in the record.
        expected: u64,
        /// Size of the blob.
        found: u64,
    },
    /// The bucket cannot be used with these settings.
    #[error("cannot use the bucket {url}")]
    Bucket {
        /// URL of the bucket.
        url: String,
        /// Reason.
        #[source]
        source: Cause,
    },
    /// Another process uses the data directory.
    #[error("data directory {} is in use by another process", directory.display())]
    Locked {
        /// Path of the directory.
        directory: PathBuf,
    },
    /// The data directory cannot be created or opened.
    #[error("cannot open data directory {}", directory.display())]
    Directory {
        /// Path of the directory.
        directory: PathBuf,
        /// Error of the file system.
        #[source]
        source: io::Error,
    },
    /// A stored text is not a key.
    #[error("{text:?} is not an object's key")]
    Key {
        /// The stored text.
        text: String,
    },
    /// The disk or the quota of the store is full; the same call may succeed once there is room again.
    #[error("cannot {action} object {key}: the storage is full")]
    StorageFull {
        /// Action that failed.
        action: &'static str,
        /// Key of the object.
        key: String,
        /// Error of the storage.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The storage failed to read or write; the same call may succeed later.
    #[error("cannot {action} object {key} now")]
    Unavailable {
        /// Action that failed.
        action: &'static str,
        /// Key of the object.
        key: String,
        /// Error of the storage.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store rejected the request.
    #[error("cannot {action} object {key}")]
    Backend {
        /// Action that failed.
        action: &'static str,
        /// Key of the object.
        key: String,
        /// Error of the store.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Error {
    /// Returns whether the same call may succeed later: the storage is full or temporarily unavailable.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::StorageFull { .. } | Self::Unavailable { .. })
    }

    /// Creates the error of a storage failure on an object or a file: full, or temporarily unavailable.
    pub fn of_storage(action: &'static str, key: impl Into<String>, source: Cause) -> Self {
        let key = key.into();
        if is_full(&*source) {
            Self::StorageFull {
                action,
                key,
                source,
            }
        } else {
            Self::Unavailable {
                action,
                key,
                source,
            }
        }
    }
}

/// Returns whether an error is caused by an I/O error of a full disk or quota.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|io| {
            matches!(
                io.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        }) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_full_quota_are_told_from_other_failures() {
        let full = rustix::io::Errno::NOSPC;
        let quota = rustix::io::Errno::DQUOT;
        let failing = rustix::io::Errno::IO;
        for (errno, is_full) in [(full, true), (quota, true), (failing, false)] {
            let below = object_store::Error::Generic {
                store: "test",
                source: Box::new(io::Error::from(errno)),
            };
            let error = Error::of_storage("write", "a/videos/b", Box::new(below));
            assert_eq!(
                matches!(error, Error::StorageFull { .. }),
                is_full,
                "{errno}"
            );
            assert!(error.is_temporary(), "{errno}");
        }
    }
}
