//! Reading and writing blobs, whole or as streams in bounded memory.
//!
//! Invariant: bytes are never hashed or copied to a file on an async thread; a writer that is dropped leaves no blob.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::{GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt};
use sha2::{Digest as _, Sha256};

use super::{Error, Faults, Key, faulty};
use crate::spec::Digest;

/// Bytes that a [`Writer`] buffers before it writes them.
const CHUNK: usize = 8 << 20;

/// Immutable blobs by key. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) objects: Arc<dyn ObjectStore>,
    /// Folder of a local store; `None` for other stores.
    pub(super) folder: Option<Arc<Path>>,
}

/// A blob in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Key of the blob.
    pub key: Key,
    /// Size of the blob, in bytes.
    pub size: u64,
    /// Time of the write, in microseconds since the Unix epoch by the store's clock.
    pub modified: i64,
}

/// Size and digest of the blob that a [`Writer`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Size of the blob, in bytes.
    pub size: u64,
    /// sha256 of the bytes.
    pub sha256: Digest,
}

impl Store {
    /// Opens a store in a local folder, which is created if it does not exist.
    ///
    /// # Errors
    /// When the folder cannot be created or opened.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let cannot = |source| Error::Directory {
            directory: directory.into(),
            source,
        };
        fs::create_dir_all(directory).map_err(cannot)?;
        let files = LocalFileSystem::new_with_prefix(directory)
            .map_err(|error| cannot(std::io::Error::other(error)))?;
        Ok(Self {
            // Empty folders are removed later: object_store's own clean-up could remove one that another write is about to use.
            objects: Arc::new(files.with_fsync(true)),
            folder: Some(directory.into()),
        })
    }

    /// Returns the same store with faults that tests inject.
    pub fn with_faults(&self, faults: Faults) -> Self {
        Self {
            objects: faulty::wrap(Arc::clone(&self.objects), faults),
            folder: self.folder.clone(),
        }
    }

    /// Writes a blob.
    ///
    /// # Errors
    /// When the store fails; then either no blob exists or the whole one.
    pub async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), Error> {
        self.objects
            .put(key.path(), bytes.into())
            .await
            .map_err(|error| failed("write", key, error))?;
        Ok(())
    }

    /// Starts a blob that is written piece by piece.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn writer(&self, key: &Key) -> Result<Writer, Error> {
        let upload = self
            .objects
            .put_multipart(key.path())
            .await
            .map_err(|error| failed("write", key, error))?;
        Ok(Writer {
            key: key.clone(),
            upload: Some(upload),
            buffer: Vec::new(),
            hasher: Sha256::new(),
            size: 0,
        })
    }

    /// Reads a blob.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when the store fails.
    pub async fn get(&self, key: &Key) -> Result<Bytes, Error> {
        let failed = |error| failed("read", key, error);
        let found = self.objects.get(key.path()).await.map_err(failed)?;
        found.bytes().await.map_err(failed)
    }

    /// Reads a blob and verifies its sha256.
    ///
    /// # Errors
    /// [`Error::Digest`] when the bytes differ from those that were stored; otherwise the same as [`Store::get`].
    pub async fn get_verified(&self, key: &Key, sha256: Digest) -> Result<Bytes, Error> {
        let bytes = self.get(key).await?;
        let copy = bytes.clone();
        let found = blocking("read", key, move || Ok(digest(&copy))).await?;
        if found == sha256 {
            Ok(bytes)
        } else {
            Err(Error::Digest {
                key: key.to_string(),
                expected: sha256,
                found,
            })
        }
    }

    /// Opens a blob for reading by position, without reading it into memory: the file of a local blob, else an unlinked temporary copy.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when the store fails.
    pub async fn open_file(&self, key: &Key) -> Result<Arc<File>, Error> {
        let found = self
            .objects
            .get(key.path())
            .await
            .map_err(|error| failed("open", key, error))?;
        let mut pieces = match found.payload {
            GetResultPayload::File(file, _) => return Ok(Arc::new(file)),
            GetResultPayload::Stream(pieces) => pieces,
        };
        let mut file = blocking("open", key, tempfile::tempfile).await?;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| failed("open", key, error))?;
            file = blocking("open", key, move || {
                file.write_all(&piece)?;
                Ok(file)
            })
            .await?;
        }
        blocking("open", key, move || {
            file.rewind()?;
            Ok(Arc::new(file))
        })
        .await
    }

    /// Returns the sha256 of a file that [`Store::open_file`] opened, reading it piece by piece.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn digest_file(&self, key: &Key, file: &Arc<File>) -> Result<Digest, Error> {
        let file = Arc::clone(file);
        let work = move || {
            let mut hasher = Sha256::new();
            let mut piece = vec![0; 1 << 20];
            let mut offset = 0;
            loop {
                let read = file.read_at(&mut piece, offset)?;
                if read == 0 {
                    return Ok(Digest(hasher.finalize().into()));
                }
                hasher.update(&piece[..read]);
                offset += read as u64;
            }
        };
        blocking("read", key, work).await
    }

    /// Deletes a blob; a blob that does not exist counts as deleted.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete(&self, key: &Key) -> Result<(), Error> {
        match self.objects.delete(key.path()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("delete", key, error)),
        }
    }

    /// Returns whether the blob exists.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn exists(&self, key: &Key) -> Result<bool, Error> {
        match self.objects.head(key.path()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed("look at", key, error)),
        }
    }

    /// Size of a blob in bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when the store fails.
    pub async fn size(&self, key: &Key) -> Result<u64, Error> {
        let found = self.objects.head(key.path()).await;
        Ok(found.map_err(|error| failed("look at", key, error))?.size)
    }

    /// Keys of all blobs, in no particular order.
    pub(super) fn keys(&self) -> impl Stream<Item = Result<Key, Error>> + Send + use<> {
        self.objects
            .list(None)
            .map_ok(|meta| Key::from_path(meta.location))
            .map_err(|error| of_store("list", "*", error))
    }
}

/// Writes one blob piece by piece. The blob exists, complete, when [`Writer::finish`] returns.
#[derive(Debug)]
pub struct Writer {
    key: Key,
    /// Upload in progress; `None` once the blob is complete.
    upload: Option<Box<dyn MultipartUpload>>,
    /// Bytes that are not written yet: less than [`CHUNK`] plus one piece.
    buffer: Vec<u8>,
    hasher: Sha256,
    size: u64,
}

impl Writer {
    /// Returns the number of bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When the store fails; the writer can then no longer be used.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.size += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= CHUNK {
            let rest = self.buffer.split_off(CHUNK);
            let full = std::mem::replace(&mut self.buffer, rest);
            self.flush(full).await?;
        }
        Ok(())
    }

    /// Completes the blob, which makes it exist. Returns its size and digest.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn finish(mut self) -> Result<Written, Error> {
        let rest = std::mem::take(&mut self.buffer);
        if !rest.is_empty() {
            self.flush(rest).await?;
        }
        if let Some(upload) = &mut self.upload {
            let completed = upload.complete().await;
            completed.map_err(|error| failed("write", &self.key, error))?;
        }
        self.upload = None;
        Ok(Written {
            size: self.size,
            sha256: Digest(self.hasher.clone().finalize().into()),
        })
    }

    async fn flush(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        let bytes = Bytes::from(bytes);
        let Some(upload) = &mut self.upload else {
            return Ok(());
        };
        let written = upload.put_part(bytes.clone().into());
        let mut hasher = self.hasher.clone();
        let hashed = blocking("write", &self.key, move || {
            hasher.update(&bytes);
            Ok(hasher)
        });
        let (written, hasher) = futures::join!(written, hashed);
        written.map_err(|error| failed("write", &self.key, error))?;
        self.hasher = hasher?;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else {
            return;
        };
        let key = self.key.clone();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        // A bucket keeps, and bills, the parts of an upload that was never completed.
        runtime.spawn(async move {
            if let Err(error) = upload.abort().await {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(%key, error, "an unfinished object could not be aborted");
            }
        });
    }
}

/// Returns the sha256 of bytes.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

pub(super) fn failed(action: &'static str, key: &Key, error: object_store::Error) -> Error {
    if matches!(error, object_store::Error::NotFound { .. }) {
        return Error::NotFound {
            key: key.to_string(),
        };
    }
    of_store(action, key.as_str(), error)
}

/// Classifies an error of the underlying store: an invalid request is permanent, every other error may be temporary.
pub(super) fn of_store(action: &'static str, key: &str, error: object_store::Error) -> Error {
    let is_refused = matches!(
        error,
        object_store::Error::InvalidPath { .. }
            | object_store::Error::NotSupported { .. }
            | object_store::Error::NotImplemented { .. }
            | object_store::Error::UnknownConfigurationKey { .. }
    );
    if is_refused {
        return Error::Backend {
            action,
            key: key.into(),
            source: error.into(),
        };
    }
    Error::of_storage(action, key, error.into())
}

pub(super) async fn blocking<T: Send + 'static>(
    action: &'static str,
    key: &Key,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other)
        .and_then(|result| result)
        .map_err(|error| Error::of_storage(action, key.as_str(), error.into()))
}
