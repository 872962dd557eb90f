//! The first operator's key: from a file that an orchestrator mounts, or made beside the data directory.
//!
//! Invariant: there is no default credential and no time in which the first caller becomes an administrator; of several bootstraps at the same time, one
//! key is recorded.

use std::path::Path;
use std::time::Duration;

use super::credentials::Credentials;
use super::hash::{FileError, Hasher, read};
use super::key::{Key, NoRandomness};
use crate::metadata::{self, Actor, MetadataStore, NewKey};
use crate::spec::{Scope, Scopes};

/// Time for which a key of a bootstrap is good: a year, as that of other keys unless they say otherwise.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Why there is no first key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// No random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The records.
    #[error("the key cannot be recorded")]
    Metadata(#[from] metadata::Error),
}

impl Credentials {
    /// Records the key of the configured file, unless there is an operator's key that is good.
    ///
    /// # Errors
    /// When the file holds no key, or the key cannot be recorded.
    pub async fn bootstrap(&self) -> Result<(), Error> {
        let Some(path) = &self.config().bootstrap_file else {
            return Ok(());
        };
        let key = from_file(path)?;
        let id = key.id().clone();
        let (hasher, metadata) = (self.hasher(), self.metadata());
        match record(hasher, metadata, &key).await {
            Ok(true) => {
                tracing::info!(target: "audit", key = %id, "the first operator's key was recorded")
            }
            Ok(false) => tracing::debug!("there is an operator's key already"),
            // The same key that was revoked or has expired stays so.
            Err(metadata::Error::AlreadyExists { .. }) => tracing::warn!(
                key = %id,
                "the bootstrap key was revoked or has expired; put a new one into the file"
            ),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Makes the first operator's key; `None` when there is one that is good.
///
/// # Errors
/// When the key cannot be made or recorded.
pub async fn make(hasher: &Hasher, metadata: &dyn MetadataStore) -> Result<Option<Key>, Error> {
    let key = Key::generate()?;
    let is_first = record(hasher, metadata, &key).await?;
    Ok(is_first.then_some(key))
}

async fn record(
    hasher: &Hasher,
    metadata: &dyn MetadataStore,
    key: &Key,
) -> metadata::Result<bool> {
    let actor = Actor {
        principal: "bootstrap".into(),
        source: String::new(),
        request_id: String::new(),
    };
    let new = NewKey {
        id: key.id().clone(),
        tenant: None,
        display_name: "bootstrap".into(),
        scopes: Scopes::of(&[Scope::FleetAdmin]),
        tasks: None,
        hash: hasher.stored(key),
        created_by: "bootstrap".into(),
        lifetime: Some(LIFETIME),
    };
    metadata.bootstrap_key(new, &actor).await
}

fn from_file(path: &Path) -> Result<Key, FileError> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(bytes.trim_ascii()).ok();
    text.and_then(Key::parse)
        .ok_or_else(|| FileError::NoKey { path: path.into() })
}
