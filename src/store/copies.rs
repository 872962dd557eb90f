//! Blobs made from other blobs, without writing their bytes again where the store supports that.
//!
//! Invariant: the modification time of a copy is the time of the copy, not that of its source.

use std::fs::File;

use object_store::ObjectStoreExt;
use sha2::{Digest as _, Sha256};

use super::blobs::{blocking, failed};
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
            let touched = blocking("copy", from, move || {
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
            hasher = blocking("read", key, move || {
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
