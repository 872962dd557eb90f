//! Blobs made of other blobs, without writing their bytes again where the store supports that.
//!
//! Invariant: a copy counts as written when it was made: its age is that of the copy, not of its source.

use std::fs::File;

use object_store::ObjectStoreExt;
use sha2::{Digest as _, Sha256};

use super::blobs::{blocking, failed};
use super::{Error, Key, Store, Written};
use crate::spec::Digest;
use crate::telemetry;

impl Store {
    /// Gives a blob a second key. In a local folder both are the same file, which takes room once.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when the store fails.
    pub async fn copy(&self, from: &Key, to: &Key) -> Result<(), Error> {
        if let Some(folder) = &self.folder {
            // Both names share the time, and the collector takes old blobs that no record names yet for left-overs.
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

    /// The size and digest that a [`super::Writer`] would give for these blobs one after another, without writing them. One blob is in memory at a
    /// time.
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
