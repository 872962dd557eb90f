//! The state that is checked: a database server's, a copy of a data directory's records, or the directory itself when it is to be repaired.
//!
//! Invariant: without a repair the database is only read, also beside servers that use it.

use std::path::PathBuf;

use tempfile::TempDir;

use super::super::transfer;
use super::{Error, file};
use crate::metadata::{self, Database, ServerConfig, backup};
use crate::store::{Bucket, DirectoryLock, Store};

/// Where a server's state is.
#[derive(Debug, Clone)]
pub struct State {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Bucket of the objects; none when they are in the data directory.
    pub bucket: Option<Bucket>,
    /// Server with the records; none when they are in the data directory.
    pub server: Option<ServerConfig>,
}

/// State that was opened.
pub(super) struct Source {
    pub(super) database: Database,
    pub(super) objects: Store,
    /// File that is copied, and the folder of the copies.
    live: Option<(PathBuf, TempDir)>,
    /// Lock of a data directory that nobody else uses.
    _lock: Option<DirectoryLock>,
}

impl State {
    /// Opens the state. The records are read from a copy, which opening brings to this release's schema, unless they are to be repaired.
    pub(super) async fn open(self, repairs: bool) -> Result<Source, Error> {
        let objects = || transfer::store(self.bucket.as_ref(), &self.data_dir);
        if let Some(mut server) = self.server {
            server.migrate = false;
            return Ok(Source {
                database: Database::connect(server).await?,
                objects: objects()?,
                live: None,
                _lock: None,
            });
        }
        let file_of_records = self.data_dir.join("metadata.sqlite");
        if !file_of_records.is_file() {
            return Err(Error::NoDatabase {
                directory: self.data_dir,
            });
        }
        let objects = objects()?;
        if repairs {
            let lock = DirectoryLock::acquire(&self.data_dir)?;
            let config = metadata::Config::at(file_of_records);
            return Ok(Source {
                database: Database::open(config).await?,
                objects,
                live: None,
                _lock: Some(lock),
            });
        }
        let folder = tempfile::tempdir().map_err(file(&self.data_dir))?;
        let live = Some((file_of_records, folder));
        let database = copied(&live).await?;
        Ok(Source {
            database,
            objects,
            live,
            _lock: None,
        })
    }
}

impl Source {
    /// Looks at the records once more, as they are now.
    pub(super) async fn refresh(&mut self) -> Result<(), Error> {
        if self.live.is_some() {
            let database = copied(&self.live).await?;
            let before = std::mem::replace(&mut self.database, database);
            before.close().await?;
        }
        Ok(())
    }
}

/// Opens a fresh copy of a database.
async fn copied(live: &Option<(PathBuf, TempDir)>) -> Result<Database, Error> {
    let Some((path, folder)) = live else {
        return Err(Error::NoDatabase {
            directory: PathBuf::new(),
        });
    };
    let name = format!("{}.sqlite", uuid::Uuid::now_v7());
    let copy = folder.path().join(name);
    backup::copy(path, &copy).await?;
    let config = metadata::Config {
        reserve_bytes: 0,
        ..metadata::Config::at(copy)
    };
    Ok(Database::open(config).await?)
}
