//! Writing what is fetched to a local file, hashing it on the way.
//!
//! Invariant: at most [`PIECE`] and one piece of the network are in memory, and the disk is never waited for on an async thread.

use std::fs::File;
use std::io::{Seek, Write};

use sha2::{Digest as _, Sha256};

use super::blobs::on_disk;
use super::{Error, Key};
use crate::spec::Digest;

/// Bytes that are written at a time.
const PIECE: usize = 1 << 20;

/// File that is being written, with the digest of what was written.
pub(super) struct Sink {
    pub(super) file: File,
    hasher: Option<Sha256>,
}

impl Sink {
    /// Creates a sink that does not hash.
    pub(super) fn plain(file: File) -> Self {
        Self { file, hasher: None }
    }

    /// Creates a sink that hashes what is written.
    pub(super) fn hashed(file: File) -> Self {
        Self {
            file,
            hasher: Some(Sha256::new()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(())
    }
}

/// What was written.
pub(super) struct Spooled {
    pub(super) file: File,
    /// sha256 of what was written, if it was asked for.
    pub(super) sha256: Option<Digest>,
}

/// Collects small pieces and writes large ones.
pub(super) struct Spool {
    /// `None` after a failed write.
    sink: Option<Sink>,
    buffer: Vec<u8>,
}

impl Spool {
    pub(super) fn new(sink: Sink) -> Self {
        Self {
            sink: Some(sink),
            buffer: Vec::new(),
        }
    }

    /// Appends bytes. After an error the spool is of no more use.
    pub(super) async fn write(&mut self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < PIECE {
            return Ok(());
        }
        self.flush(key).await
    }

    async fn flush(&mut self, key: &Key) -> Result<(), Error> {
        let Some(mut sink) = self.sink.take() else {
            return Ok(());
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = on_disk("copy", key, move || {
            sink.write(&buffer)?;
            buffer.clear();
            Ok((sink, buffer))
        });
        let (sink, buffer) = written.await?;
        self.sink = Some(sink);
        self.buffer = buffer;
        Ok(())
    }

    /// Writes the rest.
    pub(super) async fn finish(mut self, key: &Key) -> Result<Spooled, Error> {
        self.flush(key).await?;
        let lost = || std::io::Error::other("a write before this one failed");
        let failed = |error: std::io::Error| Error::of_storage("copy", key.as_str(), error.into());
        let mut sink = self.sink.ok_or_else(|| failed(lost()))?;
        sink.file.rewind().map_err(failed)?;
        Ok(Spooled {
            file: sink.file,
            sha256: sink.hasher.map(|hasher| Digest(hasher.finalize().into())),
        })
    }
}
