//! Immutable blobs by key, and the lock that makes a data directory one process's own.
//!
//! Invariant: a write that returned is on the disk, whole; a key is written by one writer only, with one content. The only user of object_store.

mod blobs;
mod faulty;
pub mod layout;
mod lock;

use std::io;
use std::path::PathBuf;

pub use blobs::{Blob, Store, Writer, Written};
pub use faulty::Faults;
pub use layout::Key;
pub use lock::DirectoryLock;

use crate::spec::Digest;

/// Why a blob could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such blob.
    #[error("object {key} does not exist")]
    NotFound {
        /// Its key.
        key: String,
    },
    /// The bytes are not those that were stored.
    #[error("object {key} is damaged: expected sha256 {expected}, found {found}")]
    Digest {
        /// Its key.
        key: String,
        /// What the record says.
        expected: Digest,
        /// What the bytes give.
        found: Digest,
    },
    /// Another process has the data directory.
    #[error("data directory {} is in use by another process", directory.display())]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// The data directory cannot be made or opened.
    #[error("cannot open data directory {}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A stored text is not a key.
    #[error("{text:?} is not an object's key")]
    Key {
        /// The text.
        text: String,
    },
    /// The store failed.
    #[error("cannot {action} object {key}")]
    Backend {
        /// What was tried.
        action: &'static str,
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
