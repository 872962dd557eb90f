//! Reading and writing blobs, whole or as streams in bounded memory.
//!
//! Invariant: bytes are never hashed or copied to a file on an async thread.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt};
use sha2::{Digest as _, Sha256};

use super::cache::{self, Cache};
use super::fetch::Fetch;
use super::spool::{Sink, Spool};
use super::writer::{PART, Writer};
use super::{Bucket, Error, Faults, Key, circuit, faulty};
use crate::blocking::blocking_io;
use crate::spec::Digest;
use crate::telemetry::Metrics;

/// Memory that reading a blob reserves at once; a larger blob takes more as it comes.
const RESERVED: u64 = 64 << 20;

/// Immutable blobs by key. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) objects: Arc<dyn ObjectStore>,
    /// Folder of a local store; `None` for other stores.
    pub(super) folder: Option<Arc<Path>>,
    /// Files on a local disk that hold copies of blobs.
    pub(super) cache: Option<Cache>,
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

/// What a record says of a blob's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Size of the blob, in bytes.
    pub size: u64,
    /// sha256 of the bytes.
    pub sha256: Digest,
}

/// Blob that was opened for reading by position.
#[derive(Debug)]
pub struct Opened {
    /// File with the blob's bytes.
    pub file: Arc<File>,
    /// Whether the bytes were compared with the record.
    pub is_verified: bool,
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
            cache: None,
        })
    }

    /// Opens a store in a bucket. Nothing is sent yet.
    ///
    /// # Errors
    /// When the settings of the bucket are incomplete, or its credentials cannot be read.
    pub fn in_bucket(bucket: &Bucket, metrics: Metrics) -> Result<Self, Error> {
        Ok(Self {
            objects: circuit::wrap(bucket.open()?, metrics),
            folder: None,
            cache: None,
        })
    }

    /// Returns an empty store in memory; for tests.
    pub fn in_memory() -> Self {
        Self {
            objects: Arc::new(InMemory::new()),
            folder: None,
            cache: None,
        }
    }

    /// Returns the same store with a cache on a local disk before it.
    ///
    /// # Errors
    /// When the folder of the cache cannot be created, read or locked.
    pub async fn with_cache(self, config: cache::Config, metrics: Metrics) -> Result<Self, Error> {
        let cache = Cache::open(config, Arc::clone(&self.objects), metrics).await?;
        Ok(Self {
            cache: Some(cache),
            ..self
        })
    }

    /// Returns whether the blobs are in a folder of this machine.
    pub fn is_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// Returns the same store with faults that tests inject.
    pub fn with_faults(&self, faults: Faults) -> Self {
        Self {
            objects: faulty::wrap(Arc::clone(&self.objects), faults.clone()),
            folder: self.folder.clone(),
            cache: self
                .cache
                .as_ref()
                .map(|cache| cache.over(|objects| faulty::wrap(objects, faults))),
        }
    }

    /// Writes a blob.
    ///
    /// # Errors
    /// When the store fails; then either no blob exists or the whole one.
    pub async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), Error> {
        if !self.is_folder() && bytes.len() > PART {
            // No request of a bucket moves more than a part, so that each has a time limit that fits all.
            let mut writer = self.writer(key).await?;
            for part in bytes.chunks(PART) {
                writer.write(part).await?;
            }
            return writer.finish().await.map(drop::<Written>);
        }
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
        Writer::new(&self.objects, key, self.is_folder()).await
    }

    /// Reads a blob.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when the store fails.
    pub async fn get(&self, key: &Key) -> Result<Bytes, Error> {
        let failed = |error| failed("read", key, error);
        if self.is_folder() {
            let found = self.objects.get(key.path()).await.map_err(failed)?;
            return found.bytes().await.map_err(failed);
        }
        let begun = Fetch::begin(&self.objects, key.path()).await;
        let mut fetch = begun.map_err(failed)?;
        let size = usize::try_from(fetch.size().min(RESERVED)).unwrap_or(0);
        let mut bytes = Vec::with_capacity(size);
        while let Some(piece) = fetch.next().await.map_err(failed)? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }

    /// Reads a blob and verifies its sha256.
    ///
    /// # Errors
    /// [`Error::Digest`] when the bytes differ from those that were stored; otherwise the same as [`Store::get`].
    pub async fn get_verified(&self, key: &Key, sha256: Digest) -> Result<Bytes, Error> {
        if let Some(cache) = &self.cache
            && let Some(file) = cache.file(key, sha256, None).await?
        {
            // The copy was compared with the digest when it was made; its disk may have damaged it since.
            let (bytes, found) = read_whole(key, file).await?;
            if found == sha256 {
                return Ok(bytes);
            }
            cache.forget(key).await;
        }
        let (bytes, found) = self.get_digested(key).await?;
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

    /// Reads a blob and computes its sha256; a local file in one turn of a blocking thread, since every turn waits for the processor where it is busy.
    async fn get_digested(&self, key: &Key) -> Result<(Bytes, Digest), Error> {
        let bytes = if self.is_folder() {
            let found = self.objects.get(key.path()).await;
            let found = found.map_err(|error| failed("read", key, error))?;
            if let GetResultPayload::File(file, _) = found.payload {
                return read_whole(key, Arc::new(file)).await;
            }
            let bytes = found.bytes().await;
            bytes.map_err(|error| failed("read", key, error))?
        } else {
            self.get(key).await?
        };
        let copy = bytes.clone();
        let found = on_disk("read", key, move || Ok(digest(&copy))).await?;
        Ok((bytes, found))
    }

    /// Opens a blob for reading by position, without reading it into memory: the file of a local blob, else an unlinked temporary copy.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when the store fails.
    pub async fn open_file(&self, key: &Key) -> Result<Arc<File>, Error> {
        if self.is_folder() {
            let found = self.objects.get(key.path()).await;
            let found = found.map_err(|error| failed("open", key, error))?;
            if let GetResultPayload::File(file, _) = found.payload {
                return Ok(Arc::new(file));
            }
        }
        let begun = Fetch::begin(&self.objects, key.path()).await;
        let mut fetch = begun.map_err(|error| failed("open", key, error))?;
        let file = on_disk("open", key, tempfile::tempfile).await?;
        let mut spool = Spool::new(Sink::plain(file));
        while let Some(piece) = fetch.next().await.transpose() {
            let piece = piece.map_err(|error| failed("open", key, error))?;
            spool.write(key, &piece).await?;
        }
        Ok(Arc::new(spool.finish(key).await?.file))
    }

    /// Opens a blob whose bytes a record describes, from the cache where there is one.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Size`] or [`Error::Digest`] when the bytes were looked at and are not those of the record; or when the store fails.
    pub async fn open_recorded(&self, key: &Key, recorded: Recorded) -> Result<Opened, Error> {
        if let Some(cache) = &self.cache
            && let Some(file) = cache
                .file(key, recorded.sha256, Some(recorded.size))
                .await?
        {
            return Ok(Opened {
                file,
                is_verified: true,
            });
        }
        Ok(Opened {
            file: self.open_file(key).await?,
            is_verified: false,
        })
    }

    /// Returns whether there is a cache before the store.
    pub fn has_cache(&self) -> bool {
        self.cache.is_some()
    }

    /// Asks the cache to have a blob before it is opened. Returns at once; does nothing without a cache, or when it is busy.
    pub fn prefetch(&self, key: &Key, recorded: Recorded) {
        if let Some(cache) = &self.cache {
            cache.prefetch(key, recorded);
        }
    }

    /// Returns the keys of all copies in the cache, none without a cache.
    pub fn copied(&self) -> Vec<Key> {
        self.cache.as_ref().map(Cache::keys).unwrap_or_default()
    }

    /// Removes the copy of a blob from the cache; the blob itself stays.
    pub async fn forget_copy(&self, key: &Key) {
        if let Some(cache) = &self.cache {
            cache.forget(key).await;
        }
    }

    /// Returns the sha256 of a file that [`Store::open_file`] opened, reading it piece by piece.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn digest_file(&self, key: &Key, file: &Arc<File>) -> Result<Digest, Error> {
        let file = Arc::clone(file);
        on_disk("read", key, move || digest_of(&file)).await
    }

    /// Deletes a blob; a blob that does not exist counts as deleted.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete(&self, key: &Key) -> Result<(), Error> {
        if let Some(cache) = &self.cache {
            cache.forget(key).await;
        }
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

/// Reads a file into memory, and computes the sha256 of its bytes.
async fn read_whole(key: &Key, file: Arc<File>) -> Result<(Bytes, Digest), Error> {
    let work = move || {
        let size = file.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(size).map_err(std::io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        let found = digest(&bytes);
        Ok((Bytes::from(bytes), found))
    };
    on_disk("read", key, work).await
}

/// Returns the sha256 of a file, which is read piece by piece.
pub(super) fn digest_of(file: &File) -> std::io::Result<Digest> {
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

/// Runs work with the file of an object on a blocking thread; its error names the action and the object.
pub(super) async fn on_disk<T: Send + 'static>(
    action: &'static str,
    key: &Key,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = blocking_io(work).await;
    done.map_err(|error| Error::of_storage(action, key.as_str(), error.into()))
}
