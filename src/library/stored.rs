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
use crate::store::{self, layout};
use crate::video;

/// Files that are remembered as whole, some 100 bytes each; when there are more, all are looked at again.
const REMEMBERED: usize = 200_000;

/// What is wrong with a stored video's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// There are none.
    Missing,
    /// They are more or fewer.
    Size {
        /// Bytes that were uploaded.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// They are others.
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
        let key = layout::video(tenant, video);
        let file = match self.inner.store.open_file(&key).await {
            Ok(file) => file,
            Err(store::Error::NotFound { .. }) => {
                // The video may have been deleted between its record and its file, which is no damage.
                self.get_video(tenant, video).await?;
                let damage = Damage::Missing;
                return Err(Error::Damaged { video, damage });
            }
            Err(error) => return Err(error.into()),
        };
        match self.damage(&record, &key, &file).await? {
            None => Ok((record, video::Input::File(file))),
            Some(damage) => Err(Error::Damaged { video, damage }),
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
