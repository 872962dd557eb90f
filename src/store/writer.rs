//! Writing one blob piece by piece, in bounded memory.
//!
//! Invariant: the blob exists, complete, when [`Writer::finish`] has returned, and not before; a writer that is dropped leaves no blob.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutResult};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use super::blobs::{Written, failed, on_disk};
use super::{Error, Key};
use crate::spec::Digest;

/// Bytes of a part.
pub(super) const PART: usize = 8 << 20;
/// Parts that are sent at a time: one is on its way while the next one is filled.
const FLYING: usize = 2;

/// Writes one blob piece by piece.
#[derive(Debug)]
pub struct Writer {
    key: Key,
    objects: Arc<dyn ObjectStore>,
    /// Upload in progress; none before the first full part, and none once the blob is complete.
    upload: Option<Box<dyn MultipartUpload>>,
    flying: JoinSet<object_store::Result<()>>,
    /// Bytes that are not sent yet: less than [`PART`] plus one piece.
    buffer: Vec<u8>,
    hasher: Sha256,
    size: u64,
}

impl Writer {
    /// Starts a blob. A store in a folder makes the file now, so that a disk that fails is noticed before anything is received.
    pub(super) async fn new(
        objects: &Arc<dyn ObjectStore>,
        key: &Key,
        is_folder: bool,
    ) -> Result<Self, Error> {
        let mut writer = Self {
            key: key.clone(),
            objects: Arc::clone(objects),
            upload: None,
            flying: JoinSet::new(),
            buffer: Vec::new(),
            hasher: Sha256::new(),
            size: 0,
        };
        if is_folder {
            writer.begin().await?;
        }
        Ok(writer)
    }

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
        while self.buffer.len() >= PART {
            let rest = self.buffer.split_off(PART);
            let full = std::mem::replace(&mut self.buffer, rest);
            self.send(full.into()).await?;
        }
        Ok(())
    }

    /// Completes the blob, which makes it exist. Returns its size and digest.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn finish(mut self) -> Result<Written, Error> {
        let rest = Bytes::from(std::mem::take(&mut self.buffer));
        if self.upload.is_none() {
            // One request instead of three.
            self.hash(rest.clone()).await?;
            let put = self.objects.put(self.path(), rest.into()).await;
            put.map_err(|error| failed("write", &self.key, error))?;
        } else {
            if !rest.is_empty() {
                self.send(rest).await?;
            }
            self.landed(0).await?;
            self.complete().await?;
        }
        self.upload = None;
        Ok(Written {
            size: self.size,
            sha256: Digest(self.hasher.clone().finalize().into()),
        })
    }

    fn path(&self) -> &Path {
        self.key.path()
    }

    async fn begin(&mut self) -> Result<(), Error> {
        let begun = self.objects.put_multipart(self.path()).await;
        self.upload = Some(begun.map_err(|error| failed("write", &self.key, error))?);
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), Error> {
        let completed = match &mut self.upload {
            Some(upload) => upload.complete().await.map(drop::<PutResult>),
            None => Ok(()),
        };
        completed.map_err(|error| failed("write", &self.key, error))
    }

    async fn send(&mut self, part: Bytes) -> Result<(), Error> {
        if self.upload.is_none() {
            self.begin().await?;
        }
        self.landed(FLYING - 1).await?;
        if let Some(upload) = &mut self.upload {
            self.flying.spawn(upload.put_part(part.clone().into()));
        }
        self.hash(part).await
    }

    /// Waits until at most so many parts are on their way.
    async fn landed(&mut self, most: usize) -> Result<(), Error> {
        while self.flying.len() > most {
            let Some(landed) = self.flying.join_next().await else {
                return Ok(());
            };
            let landed = landed.unwrap_or_else(|error| Err(error.into()));
            landed.map_err(|error| failed("write", &self.key, error))?;
        }
        Ok(())
    }

    async fn hash(&mut self, bytes: Bytes) -> Result<(), Error> {
        let mut hasher = self.hasher.clone();
        let hashed = on_disk("write", &self.key, move || {
            hasher.update(&bytes);
            Ok(hasher)
        });
        self.hasher = hashed.await?;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else {
            return;
        };
        let (key, mut flying) = (self.key.clone(), std::mem::take(&mut self.flying));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        // A bucket keeps, and bills, the parts of an upload that was never completed; a part that lands later would stay.
        runtime.spawn(async move {
            flying.shutdown().await;
            if let Err(error) = upload.abort().await {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(%key, error, "an unfinished object could not be aborted");
            }
        });
    }
}
