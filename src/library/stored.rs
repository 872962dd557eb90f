//! Opening stored videos: the bytes are those that were uploaded, or they are not handed out.
//!
//! Invariant: a file's size is compared with the record at every opening, its sha256 at the first one after a start, and again when the file is
//! another one or was written to since.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Error, Library, Result};
use crate::ids::{TenantId, VideoId};
use crate::metadata::VideoRecord;
use crate::spec::Digest;
use crate::store::{self, Recorded, layout};
use crate::video;

/// Files that are remembered as whole, some 100 bytes each; when there are more, all are looked at again.
const REMEMBERED: usize = 200_000;

/// What is wrong with a stored video's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// There are none.
    Missing,
    /// The number of bytes differs.
    Size {
        /// Bytes that were uploaded.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The bytes differ.
    Sha256 {
        /// sha256 of what was uploaded.
        expected: Digest,
        /// sha256 of what is there.
        found: Digest,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there are none"),
            Self::Size { expected, found } => {
                write!(f, "{found} bytes, {expected} were uploaded")
            }
            Self::Sha256 { expected, found } => {
                write!(f, "sha256 {found}, {expected} was uploaded")
            }
        }
    }
}

/// A file as it was when its bytes were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Files whose bytes were compared.
#[derive(Debug, Default)]
pub(super) struct Whole(Mutex<HashMap<VideoId, Stamp>>);

impl Whole {
    fn knows(&self, video: VideoId, stamp: Stamp) -> bool {
        self.lock().get(&video) == Some(&stamp)
    }

    fn remember(&self, video: VideoId, stamp: Stamp) {
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(video, stamp);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<VideoId, Stamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a video's record says of its bytes.
fn recorded(record: &VideoRecord) -> Recorded {
    Recorded {
        size: record.size_bytes,
        sha256: record.sha256,
    }
}

impl Library {
    /// Opens a video for decoding, by a descriptor: its bytes are not read into memory.
    ///
    /// # Errors
    /// When the tenant has no such video, its bytes are not those that were uploaded, or the store fails.
    pub async fn open_video(
        &self,
        tenant: &TenantId,
        video: VideoId,
    ) -> Result<(VideoRecord, video::Input)> {
        let record = self.get_video(tenant, video).await?;
        let input = self.open_recorded(&record).await?;
        Ok((record, input))
    }

    /// Opens a video whose record was read before.
    ///
    /// # Errors
    /// As [`Self::open_video`].
    pub async fn open_recorded(&self, record: &VideoRecord) -> Result<video::Input> {
        let key = layout::video(&record.tenant, record.id);
        let damaged = |damage| Error::Damaged {
            video: record.id,
            damage,
        };
        let opened = match self.inner.store.open_recorded(&key, recorded(record)).await {
            Ok(opened) => opened,
            Err(store::Error::Size {
                expected, found, ..
            }) => return Err(damaged(Damage::Size { expected, found })),
            Err(store::Error::Digest {
                expected, found, ..
            }) => return Err(damaged(Damage::Sha256 { expected, found })),
            Err(error) => return Err(self.or_missing(record, error).await),
        };
        if opened.is_verified {
            return Ok(video::Input::File(opened.file));
        }
        match self.damage(record, &key, &opened.file).await? {
            None => Ok(video::Input::File(opened.file)),
            Some(damage) => Err(damaged(damage)),
        }
    }

    /// Returns whether videos are copied to a local disk before they are opened.
    pub fn has_cache(&self) -> bool {
        self.inner.store.has_cache()
    }

    /// Asks for a video's bytes before they are needed, where they have to be fetched. Returns at once.
    pub fn prefetch(&self, record: &VideoRecord) {
        let key = layout::video(&record.tenant, record.id);
        self.inner.store.prefetch(&key, recorded(record));
    }

    /// Looks whether a video's bytes are there, as many as were uploaded, without reading them.
    ///
    /// # Errors
    /// As [`Self::open_video`].
    pub async fn look_at(&self, record: &VideoRecord) -> Result<()> {
        let key = layout::video(&record.tenant, record.id);
        let (video, expected) = (record.id, record.size_bytes);
        match self.inner.store.size(&key).await {
            Ok(found) if found == expected => Ok(()),
            Ok(found) => {
                let damage = Damage::Size { expected, found };
                Err(Error::Damaged { video, damage })
            }
            Err(error) => Err(self.or_missing(record, error).await),
        }
    }

    /// What it means that a video's bytes cannot be found: the video may have been deleted since its record was read, which is no damage.
    async fn or_missing(&self, record: &VideoRecord, error: store::Error) -> Error {
        if !matches!(error, store::Error::NotFound { .. }) {
            return error.into();
        }
        match self.get_video(&record.tenant, record.id).await {
            Ok(_) => Error::Damaged {
                video: record.id,
                damage: Damage::Missing,
            },
            Err(error) => error,
        }
    }

    async fn damage(
        &self,
        record: &VideoRecord,
        key: &store::Key,
        file: &Arc<File>,
    ) -> Result<Option<Damage>> {
        let Ok(metadata) = file.metadata() else {
            return Ok(Some(Damage::Missing));
        };
        let (expected, found) = (record.size_bytes, metadata.len());
        if found != expected {
            return Ok(Some(Damage::Size { expected, found }));
        }
        let stamp = Stamp {
            inode: metadata.ino(),
            size: found,
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        };
        if self.inner.whole.knows(record.id, stamp) {
            return Ok(None);
        }
        let (expected, found) = (
            record.sha256,
            self.inner.store.digest_file(key, file).await?,
        );
        if found != expected {
            return Ok(Some(Damage::Sha256 { expected, found }));
        }
        self.inner.whole.remember(record.id, stamp);
        Ok(None)
    }
}
