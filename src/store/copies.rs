//! Blobs made from other blobs, without writing their bytes again where the store supports that.
//!
//! Invariant: the modification time of a copy is the time of the copy, not that of its source.

use std::fs::File;

use object_store::ObjectStoreExt;
use sha2::{Digest as _, Sha256};

use super::blobs::{failed, on_disk};
use super::fetch::Fetch;
use super::spool::{Sink, Spool};
use super::{Error, Key, Store, Written};
use crate::spec::Digest;
use crate::telemetry;

impl Store {
    /// Copies a blob to a second key. In a local folder both keys name the same file, which takes space once.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when the store fails.
    pub async fn copy(&self, from: &Key, to: &Key) -> Result<(), Error> {
        if let Some(folder) = &self.folder {
            // Both keys share the file's time, and the collector treats an old blob that no record names yet as an orphan.
            let path = folder.join(from.as_str());
            let touched = on_disk("copy", from, move || {
                File::open(path)?.set_modified(telemetry::now())
            });
            if let Err(error) = touched.await
                && self.exists(from).await?
            {
                return Err(error);
            }
        }
        let copied = self.objects.copy(from.path(), to.path()).await;
        copied.map_err(|error| failed("copy", from, error))
    }

    /// Returns the size and digest of a blob, which is read piece by piece.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when the store fails.
    pub async fn measured(&self, key: &Key) -> Result<Written, Error> {
        if self.is_folder() {
            let file = self.open_file(key).await?;
            let size = file.metadata();
            let size =
                size.map_err(|error| Error::of_storage("read", key.as_str(), error.into()))?;
            return Ok(Written {
                size: size.len(),
                sha256: self.digest_file(key, &file).await?,
            });
        }
        let read = |error| failed("read", key, error);
        let mut fetch = Fetch::begin(&self.objects, key.path())
            .await
            .map_err(read)?;
        let nowhere = || std::fs::File::options().write(true).open("/dev/null");
        let mut spool = Spool::new(Sink::hashed(on_disk("read", key, nowhere).await?));
        while let Some(piece) = fetch.next().await.map_err(read)? {
            spool.write(key, &piece).await?;
        }
        let size = fetch.size();
        let sha256 = spool.finish(key).await?.sha256;
        // A sink that hashes always has a digest.
        let sha256 = sha256.ok_or_else(|| Error::NotFound {
            key: key.to_string(),
        })?;
        Ok(Written { size, sha256 })
    }

    /// Returns the size and digest that a [`super::Writer`] would give for these blobs one after another, without writing them. One blob is in memory
    /// at a time.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when the store fails.
    pub async fn written(&self, keys: &[Key]) -> Result<Written, Error> {
        let (mut hasher, mut size) = (Sha256::new(), 0);
        for key in keys {
            let bytes = self.get(key).await?;
            size += bytes.len() as u64;
            hasher = on_disk("read", key, move || {
                hasher.update(&bytes);
                Ok(hasher)
            })
            .await?;
        }
        Ok(Written {
            size,
            sha256: Digest(hasher.finalize().into()),
        })
    }
}
