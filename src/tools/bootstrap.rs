//! `frameshift keys bootstrap`: the first operator's key, made beside the data directory of a server that does not run.
//!
//! Invariant: the command needs write access to the server's files, and with it to everything that the server stores.

use std::io::Write;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use secrecy::ExposeSecret;

use crate::client;
use crate::metadata::{self, Database};
use crate::store::{self, DirectoryLock};
use crate::tenancy::{Hasher, bootstrap};
use crate::tools::show;

/// Reasons why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A server runs on the data directory.
    #[error("{source}: stop the server first, or start it with --bootstrap-key-file")]
    Directory {
        /// Why the directory cannot be taken.
        #[source]
        source: store::Error,
    },
    /// The database cannot be opened.
    #[error("cannot open the database")]
    Metadata(#[from] metadata::OpenError),
    /// The key cannot be made.
    #[error(transparent)]
    Key(#[from] bootstrap::Error),
    /// There is an operator's key that is good.
    #[error(
        "there is an operator's key already: it can make others, with `frameshift keys create --operator`"
    )]
    Exists,
    /// The key's file cannot be written.
    #[error(transparent)]
    Out(#[from] client::Error),
}

impl Error {
    /// Returns the exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Directory { .. } | Self::Metadata(_) | Self::Key(_) => 69,
            Self::Exists => 1,
            Self::Out(error) => error.exit_code(),
        }
    }
}

/// Where the records are, and where the key goes.
#[derive(Debug)]
pub struct Place {
    /// The server's data directory.
    pub data_dir: PathBuf,
    /// The database in it.
    pub database: metadata::Config,
    /// The pepper that the server hashes with.
    pub pepper: Option<PathBuf>,
    /// File for the key.
    pub out: Option<PathBuf>,
}

/// Makes the key, and shows it once.
pub fn run(place: Place) -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(make(place))
}

async fn make(place: Place) -> Result<(), Error> {
    let lock = DirectoryLock::acquire(&place.data_dir);
    let _lock = lock.map_err(|source| Error::Directory { source })?;
    let hasher = Hasher::new(place.pepper.as_deref()).map_err(bootstrap::Error::from)?;
    let database = Database::open(place.database).await?;
    // Before the key is made, so that none is lost for want of a place.
    let out = place.out.as_deref().map(client::keys::open).transpose();
    let made = match out {
        Ok(out) => Ok((out, bootstrap::make(&hasher, &database).await)),
        Err(error) => Err(error),
    };
    let closed = database.close().await.map_err(bootstrap::Error::from);
    let (out, key) = made?;
    let Some(key) = key? else {
        if let Some((path, _)) = &out {
            remove(path);
        }
        return Err(Error::Exists);
    };
    closed?;
    let secret = key.reveal();
    match out {
        Some((path, mut file)) => {
            let written =
                writeln!(file, "{}", secret.expose_secret()).and_then(|()| file.sync_all());
            written.map_err(|source| client::Error::Write { path, source })?;
            show(format!("keys/{}", key.id()));
        }
        None => show(secret.expose_secret()),
    }
    Ok(())
}

/// Takes an empty file away again.
fn remove(path: &Path) {
    // What stays is empty and says nothing.
    let _ = std::fs::remove_file(path);
}
