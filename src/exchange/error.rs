//! Why a file did not become a version, or a version no file.

use crate::blocking::Unfinished;
use crate::model::{self, exchange};
use crate::registry;
use crate::spec::{Digest, Invalid};

/// Why a file did not become a version, or a version no file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is of another backbone.
    #[error("it was trained on backbone {got}, the resident one is {expected}")]
    Backbone {
        /// The resident backbone.
        expected: Digest,
        /// The backbone that the file or the caller names.
        got: Digest,
    },
    /// The bytes that came are not those that were promised.
    #[error("the bytes have sha256 {got}, the header promised {expected}")]
    Sha256Mismatch {
        /// What the caller said.
        expected: Digest,
        /// What came.
        got: Digest,
    },
    /// The file cannot be read as an adapter set of this backbone.
    #[error(transparent)]
    Unreadable(exchange::Error),
    /// The file, or what the caller says of it, does not fit.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The task that was to be made is out of range or does not fit the backbone.
    #[error(transparent)]
    Task(Invalid),
    /// A stored set cannot be written as another format.
    #[error("the set cannot be written")]
    Write(#[source] model::Error),
    /// The bytes that came cannot be read back.
    #[error("the file that came cannot be read back")]
    Read(#[source] std::io::Error),
    /// The work broke off.
    #[error("the work on a file broke off")]
    Interrupted(#[from] Unfinished),
    /// Tasks, versions, records and blobs.
    #[error(transparent)]
    Registry(#[from] registry::Error),
}

impl From<exchange::Error> for Error {
    fn from(error: exchange::Error) -> Self {
        match error {
            exchange::Error::Backbone { expected, got } => Self::Backbone { expected, got },
            error @ (exchange::Error::Load(_)
            | exchange::Error::Model(_)
            | exchange::Error::NoHead(_)
            | exchange::Error::Shape(_)) => Self::Unreadable(error),
        }
    }
}
