//! Whether the database and the blobs beside it belong together.
//!
//! Invariant: a server never serves, and never collects what no record names, with a database that is not the one whose blobs these are, unless the
//! operator accepted that. Nothing is written before that is known, so that what is missing can still be put back.

use std::fs;

use super::Error;
use crate::config::Config;
use crate::metadata::Sqlite;
use crate::store::Store;

/// Opens the database of these blobs.
pub(super) async fn open(config: &Config, store: &Store) -> Result<Sqlite, Error> {
    let database = config.database();
    let is_accepted = config.accept_data_loss;
    let is_missing = fs::metadata(&database.path).map_or(true, |file| file.len() == 0);
    let owner = store.identity().await?;
    let missing = || Error::DatabaseMissing {
        directory: config.data_dir.clone(),
    };
    if is_missing && !is_accepted && (owner.is_some() || store.has_blobs().await?) {
        return Err(missing());
    }
    let database = Sqlite::open(database).await?;
    let problem = match owner {
        Some(owner) if owner == database.id() => return Ok(database),
        Some(owner) => Some(Error::OtherDatabase {
            directory: config.data_dir.clone(),
            database: database.id().into(),
            owner,
        }),
        // The release before noted no owner. Its database has records wherever there are blobs.
        None if database.is_empty().await? && store.has_blobs().await? => Some(missing()),
        None => None,
    };
    match problem {
        Some(problem) if !is_accepted => {
            // A log that stayed would be taken for that of the database that is put in this one's place.
            database.close().await?;
            return Err(problem);
        }
        Some(problem) => tracing::warn!(%problem, "accepted by accept_data_loss"),
        None => {}
    }
    store.identify(database.id()).await?;
    Ok(database)
}
