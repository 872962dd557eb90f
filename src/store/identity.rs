//! What a store says of itself: the database that its blobs belong to, and whether the collector must leave them alone.
//!
//! Invariant: both are stored among the blobs, so that they are copied with them; no tenant's key can be equal to their keys.

use bytes::Bytes;
use futures::TryStreamExt;

use super::{Error, Store, layout};

impl Store {
    /// Returns the id of the database that the blobs belong to; `None` when it was never written.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn identity(&self) -> Result<Option<String>, Error> {
        match self.get(&layout::identity()).await {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the id of the database that the blobs belong to.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn identify(&self, id: &str) -> Result<(), Error> {
        let bytes = Bytes::from(format!("{id}\n"));
        self.put(&layout::identity(), bytes).await
    }

    /// Keeps the collector from deleting anything until [`Store::release_collector`]: after a restore, blobs whose records were lost look like orphans.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn hold_collector(&self) -> Result<(), Error> {
        let why = Bytes::from_static(b"a restore that frameshift fsck has not checked yet\n");
        self.put(&layout::held(), why).await
    }

    /// Lets the collector delete again.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn release_collector(&self) -> Result<(), Error> {
        self.delete(&layout::held()).await
    }

    /// Returns whether the collector must not delete anything.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn is_collector_held(&self) -> Result<bool, Error> {
        self.exists(&layout::held()).await
    }

    /// Returns whether any blob exists that a record may name. Reads a listing up to the first such blob.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn has_blobs(&self) -> Result<bool, Error> {
        let mut found = std::pin::pin!(self.keys());
        while let Some(key) = found.try_next().await? {
            if key.name().is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
