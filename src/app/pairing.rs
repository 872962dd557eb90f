//! Checks that the database and the objects beside it belong together.
//!
//! Invariant: a server never serves, and never deletes objects that no record names, with a database other than the one that the objects belong to,
//! unless the operator accepted it. Nothing is written before that is known, so that a missing file can still be put back.

use std::fs;

use super::{Error, objects};
use crate::config::Config;
use crate::metadata::Database;
use crate::store::Store;

/// Opens the database that belongs to the store's objects.
pub(super) async fn open(config: &Config, store: &Store) -> Result<Database, Error> {
    if let Some(server) = &config.database_server {
        let database = Database::connect(server.clone()).await?;
        return paired(config, store, database).await;
    }
    let database = config.database();
    let is_accepted = config.accept_data_loss;
    let is_missing = fs::metadata(&database.path).map_or(true, |file| file.len() == 0);
    let owner = store.identity().await?;
    let missing = || Error::DatabaseMissing {
        directory: config.data_dir.clone(),
        objects: objects::place(config),
    };
    if is_missing && !is_accepted && (owner.is_some() || store.has_blobs().await?) {
        return Err(missing());
    }
    let database = Database::open(database).await?;
    paired(config, store, database).await
}

/// The database, if it is the one that the objects belong to.
async fn paired(config: &Config, store: &Store, database: Database) -> Result<Database, Error> {
    let is_accepted = config.accept_data_loss;
    let owner = store.identity().await?;
    let missing = || Error::DatabaseMissing {
        directory: config.data_dir.clone(),
        objects: objects::place(config),
    };
    let problem = match owner {
        Some(owner) if owner == database.id() => return Ok(database),
        Some(owner) => Some(Error::OtherDatabase {
            directory: config.data_dir.clone(),
            objects: objects::place(config),
            database: database.id().into(),
            owner,
        }),
        // Earlier releases noted no owner. Their databases have records wherever there are objects.
        None if database.is_empty().await? && store.has_blobs().await? => Some(missing()),
        None => None,
    };
    match problem {
        Some(problem) if !is_accepted => {
            // A write-ahead log that is left behind would be applied to the database that the operator puts in this one's place.
            database.close().await?;
            return Err(problem);
        }
        Some(problem) => tracing::warn!(%problem, "accepted by accept_data_loss"),
        None => {}
    }
    store.identify(database.id()).await?;
    Ok(database)
}
