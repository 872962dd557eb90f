//! Copies of blobs on a local disk, before a bucket or a folder on a network disk.
//!
//! Invariant: a copy is handed out only after its bytes were compared with the digest of the record: while it is made, and at its first use after a
//! restart. The copies take at most the configured bytes, those that are being made a quarter of that more. A disk that is full or fails costs time only.

mod copy;
mod folder;

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::ObjectStore;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::blobs::failed;
use super::fetch::Fetch;
use super::spool::{Sink, Spool};
use super::{DirectoryLock, Error, Key, Recorded};
use crate::blocking::blocking_io;
use crate::ids::TenantId;
use crate::spec::Digest;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::CacheUse;
use copy::Copy;

/// Blobs that are fetched at a time; each holds a few MiB of memory.
const FETCHES: usize = 16;
/// Blobs that wait to be fetched before they are needed; further ones are not remembered.
const AHEAD: usize = 64;
/// Blobs that are fetched at a time before they are needed, so that those that are needed now find the network free.
const PREFETCHES: usize = 4;
/// Time for which nothing is put on a disk that was full or failed.
const PAUSE: Duration = Duration::from_secs(30);
/// Unit of the index's weights, in bytes: the blocks of most file systems.
const BLOCK: u64 = 4096;

/// Where the cache is and how large it may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Folder of the copies, for this process alone.
    pub folder: PathBuf,
    /// Most bytes of all copies.
    pub bytes: u64,
}

/// Copies of blobs by key. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    shared: Arc<Shared>,
    objects: Arc<dyn ObjectStore>,
}

type Index = moka::future::Cache<Key, Arc<Copy>>;

struct Shared {
    folder: PathBuf,
    /// Largest blob that is kept.
    largest: u64,
    index: Index,
    /// Blocks that blobs may take while they are fetched.
    room: Semaphore,
    fetches: Semaphore,
    ahead: Arc<Semaphore>,
    prefetches: Semaphore,
    /// Number of the next copy: two copies of one key never share a path.
    number: AtomicU64,
    /// Time until which nothing is written. Held for a look only, never across an await.
    paused: Mutex<Option<Instant>>,
    metrics: Metrics,
    _lock: DirectoryLock,
}

/// Reason why no copy was made.
#[derive(Debug)]
enum Fault {
    /// The store below failed, or its bytes are not those of the record.
    Store(Error),
    /// The cache's disk failed.
    Disk(Error),
    /// The blob is too large.
    Large,
}

/// File that was just written, for the caller who filled the cache.
type Slot = Mutex<Option<Arc<File>>>;

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({})", self.folder.display())
    }
}

impl Cache {
    /// Opens a cache and takes over the copies of an earlier process.
    pub(super) async fn open(
        config: Config,
        objects: Arc<dyn ObjectStore>,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let lock = DirectoryLock::acquire(&config.folder)?;
        let folder = config.folder.clone();
        let found = blocking_io(move || folder::read(&folder)).await;
        let found = found.map_err(|source| Error::Directory {
            directory: config.folder.clone(),
            source,
        })?;
        let largest = config.bytes / 4;
        let shared = Shared {
            index: index(config.bytes),
            room: Semaphore::new(blocks(largest) as usize),
            largest,
            fetches: Semaphore::new(FETCHES),
            ahead: Arc::new(Semaphore::new(AHEAD)),
            prefetches: Semaphore::new(PREFETCHES),
            number: AtomicU64::new(found.next),
            paused: Mutex::new(None),
            folder: config.folder,
            metrics,
            _lock: lock,
        };
        for (key, copy) in found.copies {
            shared.index.insert(key, Arc::new(copy)).await;
        }
        shared.settle().await;
        let shared = Arc::new(shared);
        Ok(Self { shared, objects })
    }

    /// Returns the same cache over a decorated store.
    pub(super) fn over(
        &self,
        wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            objects: wrap(Arc::clone(&self.objects)),
        }
    }

    /// Opens the copy of a blob, which is made if there is none. `None` when the blob cannot be kept here and has to be read from the store.
    pub(super) async fn file(
        &self,
        key: &Key,
        sha256: Digest,
        size: Option<u64>,
    ) -> Result<Option<Arc<File>>, Error> {
        let (file, what) = self.look_up(key, sha256, size).await?;
        self.shared.metrics.cache_used(what);
        Ok(file)
    }

    /// Makes a copy of a blob in the background, if there is none and not too many wait already.
    pub(super) fn prefetch(&self, key: &Key, recorded: Recorded) {
        if self.shared.index.contains_key(key) || self.shared.is_paused() {
            return;
        }
        let Ok(place) = Arc::clone(&self.shared.ahead).try_acquire_owned() else {
            return;
        };
        let (cache, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            let _place = place;
            let Ok(_turn) = cache.shared.prefetches.acquire().await else {
                return;
            };
            let looked = cache.look_up(&key, recorded.sha256, Some(recorded.size));
            match looked.await {
                Ok((_, CacheUse::Miss)) => cache.shared.metrics.cache_used(CacheUse::Prefetched),
                Ok(_) => {}
                // Whoever needs the blob is told.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(%key, error, "an object cannot be fetched before it is needed");
                }
            }
        });
    }

    /// Drops the copy of a blob.
    pub(super) async fn forget(&self, key: &Key) {
        self.shared.index.invalidate(key).await;
        self.shared.settle().await;
    }

    /// Drops the copies of all blobs of these tenants, in one walk over the copies. Returns their number.
    pub(super) async fn forget_tenants(&self, tenants: &HashSet<TenantId>) -> usize {
        let names: HashSet<&str> = tenants.iter().map(TenantId::as_str).collect();
        let owner = |key: &Key| {
            key.as_str()
                .split('/')
                .next()
                .map(|own| names.contains(own))
        };
        let is_own = |key: &Key| owner(key) == Some(true);
        let keys: Vec<Key> = self.keys().into_iter().filter(is_own).collect();
        for key in &keys {
            self.forget(key).await;
        }
        keys.len()
    }

    /// Returns the keys of all copies.
    pub(super) fn keys(&self) -> Vec<Key> {
        let copies = self.shared.index.iter();
        copies.map(|(key, _)| (*key).clone()).collect()
    }

    async fn look_up(
        &self,
        key: &Key,
        sha256: Digest,
        size: Option<u64>,
    ) -> Result<(Option<Arc<File>>, CacheUse), Error> {
        let shared = &self.shared;
        // A copy may vanish or turn out to be damaged; then it is made once more.
        for _ in 0..2 {
            if shared.is_paused() && !shared.index.contains_key(key) {
                return Ok((None, CacheUse::Disk));
            }
            let slot = Slot::default();
            let fill = Box::pin(self.fill(key, sha256, size, &slot));
            let copy = match shared.index.try_get_with_by_ref(key, fill).await {
                Ok(copy) => copy,
                Err(fault) => return shared.failed(&fault).map(|what| (None, what)),
            };
            if let Some(file) = slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
                shared.settle().await;
                return Ok((Some(file), CacheUse::Miss));
            }
            if let Some(file) = copy.open(key, sha256).await {
                return Ok((Some(file), CacheUse::Hit));
            }
            shared.metrics.cache_damaged();
            shared.index.invalidate(key).await;
        }
        Ok((None, CacheUse::Evicted))
    }

    /// Fetches a blob into a file; all who wait for the same blob wait for one fetch.
    async fn fill(
        &self,
        key: &Key,
        sha256: Digest,
        size: Option<u64>,
        slot: &Slot,
    ) -> Result<Arc<Copy>, Fault> {
        let shared = &self.shared;
        // Neither semaphore is ever closed.
        let _turn = shared.fetches.acquire().await;
        let read = |error| Fault::Store(failed("read", key, error));
        let mut fetch = Fetch::begin(&self.objects, key.path())
            .await
            .map_err(read)?;
        let found = fetch.size();
        if let Some(expected) = size.filter(|expected| *expected != found) {
            let key = key.to_string();
            return Err(Fault::Store(Error::Size {
                key,
                expected,
                found,
            }));
        }
        if found > shared.largest {
            return Err(Fault::Large);
        }
        let _room = shared.room.acquire_many(blocks(found)).await;
        let (file, staged) = folder::stage(key, &shared.folder)
            .await
            .map_err(Fault::Disk)?;
        let mut spool = Spool::new(Sink::hashed(file));
        while let Some(piece) = fetch.next().await.map_err(read)? {
            spool.write(key, &piece).await.map_err(Fault::Disk)?;
        }
        let spooled = spool.finish(key).await.map_err(Fault::Disk)?;
        if let Some(found) = spooled.sha256.filter(|found| *found != sha256) {
            return Err(Fault::Store(Error::Digest {
                key: key.to_string(),
                expected: sha256,
                found,
            }));
        }
        let number = shared.number.fetch_add(1, Ordering::Relaxed);
        let path = folder::path(&shared.folder, key, number);
        folder::keep(key, staged, path.clone())
            .await
            .map_err(Fault::Disk)?;
        shared.metrics.cache_filled(found);
        let file = Arc::new(spooled.file);
        let copy = Copy::verified(path, found, &file);
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(Arc::new(copy))
    }
}

impl Shared {
    fn is_paused(&self) -> bool {
        let paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        paused.is_some_and(|until| Instant::now() < until)
    }

    /// What a fill that failed means to one of those who wait for it.
    fn failed(&self, fault: &Arc<Fault>) -> Result<CacheUse, Error> {
        match &**fault {
            Fault::Store(error) => Err(again(error, fault)),
            Fault::Large => Ok(CacheUse::Large),
            Fault::Disk(error) => {
                let until = Instant::now() + PAUSE;
                *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
                let error = error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "the cache's disk is full or fails: objects are read without it"
                );
                Ok(CacheUse::Disk)
            }
        }
    }

    /// Lets the index evict what is too much now.
    async fn settle(&self) {
        self.index.run_pending_tasks().await;
        self.metrics
            .cache_bytes(self.index.weighted_size().saturating_mul(BLOCK));
    }
}

/// Fault that several callers share, as the cause of an error of each.
#[derive(Debug)]
struct Joint(Arc<Fault>);

impl fmt::Display for Joint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the fetch that several callers waited for failed")
    }
}

impl std::error::Error for Joint {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Fault::Store(error) | Fault::Disk(error) => error.source(),
            Fault::Large => None,
        }
    }
}

/// Returns the same error for another caller.
fn again(error: &Error, fault: &Arc<Fault>) -> Error {
    match error {
        Error::NotFound { key } => Error::NotFound { key: key.clone() },
        Error::Digest {
            key,
            expected,
            found,
        } => Error::Digest {
            key: key.clone(),
            expected: *expected,
            found: *found,
        },
        Error::Size {
            key,
            expected,
            found,
        } => Error::Size {
            key: key.clone(),
            expected: *expected,
            found: *found,
        },
        Error::Backend { action, key, .. } => Error::Backend {
            action,
            key: key.clone(),
            source: Box::new(Joint(Arc::clone(fault))),
        },
        Error::StorageFull { action, key, .. } | Error::Unavailable { action, key, .. } => {
            Error::Unavailable {
                action,
                key: key.clone(),
                source: Box::new(Joint(Arc::clone(fault))),
            }
        }
        Error::Bucket { .. }
        | Error::Locked { .. }
        | Error::Directory { .. }
        | Error::Key { .. } => Error::Unavailable {
            action: "read",
            key: String::new(),
            source: Box::new(Joint(Arc::clone(fault))),
        },
    }
}

/// The index: by weight, and one that a single pass over many blobs does not empty of those that are used often.
fn index(bytes: u64) -> Index {
    Index::builder()
        .max_capacity(bytes / BLOCK)
        .weigher(|_, copy: &Arc<Copy>| blocks(copy.size()))
        .eviction_listener(|_, copy, _| folder::remove(copy.path()))
        .build()
}

/// Blocks of a file of so many bytes; an empty one has its entry in the folder, too.
fn blocks(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BLOCK).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
