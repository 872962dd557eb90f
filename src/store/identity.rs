//! Id of the database that a store's blobs belong to.
//!
//! Invariant: the id is stored among the blobs, so that it is copied with them; no tenant's key can be equal to its key.

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
