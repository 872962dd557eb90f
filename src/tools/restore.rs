//! `frameshift restore`: a backup becomes a data directory again, with its objects in a folder or a bucket.
//!
//! Invariant: nothing that exists is overwritten; the database appears last, when everything that it names has been copied, and the collector deletes
//! nothing before `frameshift fsck` has found nothing wrong.

use std::fs;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;

use super::transfer::{self, Done, Transfer};
use crate::metadata::{self, backup};
use crate::store::{self, Bucket, DirectoryLock, Store};
use crate::tools::show;

/// Arguments of `frameshift restore`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folder that `frameshift backup` wrote. Without it, nothing is restored: the collector only deletes nothing until `frameshift fsck` finds nothing
    /// wrong, for a database or a bucket that was restored by other means
    #[arg(value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// The server's data directory [default: what the server's own configuration says]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The server's configuration file [env: FRAMESHIFT_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Reasons why nothing, or not everything, was restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder is no backup.
    #[error("{} is no backup: it has no metadata.sqlite", directory.display())]
    NoBackup {
        /// The folder.
        directory: PathBuf,
    },
    /// There is a database already.
    #[error("{} exists: restore into an empty data directory", path.display())]
    Exists {
        /// The database's file.
        path: PathBuf,
    },
    /// There are objects already, of another database.
    #[error("the place of the objects holds those of database {owner}, and the backup is of {id}")]
    OtherObjects {
        /// Id of the database that the objects belong to, or `unknown`.
        owner: String,
        /// Id of the database in the backup.
        id: String,
    },
    /// The file system refused.
    #[error("cannot use {}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The database cannot be copied.
    #[error("cannot copy the database")]
    Metadata(#[from] metadata::Error),
    /// An object cannot be copied.
    #[error("cannot copy the objects")]
    Store(#[from] store::Error),
    /// Objects of the backup are missing or damaged.
    #[error(
        "{missing} objects are missing in the backup and {damaged} are damaged, the first is {first}; everything else was restored"
    )]
    Incomplete {
        /// Number of missing objects.
        missing: usize,
        /// Number of damaged objects.
        damaged: usize,
        /// Key of the first one.
        first: String,
    },
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exists { .. } | Self::OtherObjects { .. } | Self::File { .. } => {
                super::CANNOT_CREATE
            }
            Self::NoBackup { .. } => 66,
            Self::Metadata(_) | Self::Store(_) => 69,
            Self::Incomplete { .. } => 65,
        }
    }
}

/// Restores a backup, or only stops the collector when there is none.
///
/// # Errors
/// When not everything could be restored; an interrupted restore can be repeated.
pub fn run<'a>(
    from: Option<&'a Path>,
    data_dir: &'a Path,
    bucket: Option<&'a Bucket>,
) -> BoxFuture<'a, Result<(), Error>> {
    // Boxed, so that it is compiled with this crate alone.
    Box::pin(async move {
        match from {
            Some(from) => restore(from, data_dir, bucket).await,
            None => {
                transfer::store(bucket, data_dir)?.hold_collector().await?;
                show("the collector deletes nothing until `frameshift fsck` finds nothing wrong");
                Ok(())
            }
        }
    })
}

async fn restore(from: &Path, data_dir: &Path, bucket: Option<&Bucket>) -> Result<(), Error> {
    let source = from.join("metadata.sqlite");
    if !source.is_file() {
        return Err(Error::NoBackup {
            directory: from.into(),
        });
    }
    let _lock = DirectoryLock::acquire(data_dir)?;
    let path = data_dir.join("metadata.sqlite");
    for path in [&path, &data_dir.join("metadata.sqlite-wal")] {
        if path.exists() {
            return Err(Error::Exists { path: path.clone() });
        }
    }
    let contents = backup::contents(&source).await?;
    let objects = Transfer {
        from: Store::open(&from.join("objects"))?,
        to: transfer::store(bucket, data_dir)?,
    };
    let id = contents.id.unwrap_or_default();
    belongs(&objects.to, &id).await?;
    objects.to.hold_collector().await?;
    // A database of a release before ids gets one when it is opened.
    if !id.is_empty() {
        objects.to.identify(&id).await?;
    }
    let mut done = Done::default();
    let missing = objects.copy(contents.blobs, &mut done).await?;
    appear(&source, &path).await?;
    show(format_args!(
        "{} objects, {} bytes, and the database were restored to {}; `frameshift fsck` lets the collector go on",
        done.keys.len(),
        done.bytes,
        data_dir.display()
    ));
    match missing.first().or(done.damaged.first()) {
        Some(first) => Err(Error::Incomplete {
            missing: missing.len(),
            damaged: done.damaged.len(),
            first: first.clone(),
        }),
        None => Ok(()),
    }
}

/// Refuses a place with objects of another database. Those of this one may be left by a restore that was interrupted.
async fn belongs(to: &Store, id: &str) -> Result<(), Error> {
    let owner = match to.identity().await? {
        Some(owner) if owner == id => return Ok(()),
        Some(owner) => owner,
        None if to.has_blobs().await? => "unknown".into(),
        None => return Ok(()),
    };
    Err(Error::OtherObjects {
        owner,
        id: id.into(),
    })
}

/// Copies the database; it appears whole.
async fn appear(source: &Path, path: &Path) -> Result<(), Error> {
    let file = |source| Error::File {
        path: path.into(),
        source,
    };
    let copy = path.with_extension("sqlite.new");
    match fs::remove_file(&copy) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(file(error)),
        Ok(()) | Err(_) => {}
    }
    backup::copy(source, &copy).await?;
    fs::rename(&copy, path).map_err(file)?;
    let folder = path.parent().unwrap_or(path);
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(file)
}
