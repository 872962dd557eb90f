//! `frameshift backup`: a copy of the database and of every object that it names, also beside a server that runs.
//!
//! Invariant: a backup without an error is whole: `metadata.sqlite` appears in it last, and everything that its records name lies beside it.

use std::fs;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;

use super::transfer::{self, Done, Transfer};
use crate::metadata::{self, backup};
use crate::store::{self, Bucket, Store};
use crate::tools::show;

/// Number of times that the database is copied again because objects were deleted while they were being copied.
const PASSES: usize = 20;

/// Arguments of `frameshift backup`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folder to write; it must not be there yet, or be empty
    #[arg(value_name = "DIR")]
    pub to: PathBuf,
    /// The server's data directory [default: what the server's own configuration says]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The server's configuration file [env: FRAMESHIFT_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Reasons why there is no backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder to write to is not empty.
    #[error("{} is not empty", directory.display())]
    NotEmpty {
        /// The folder.
        directory: PathBuf,
    },
    /// There is no database.
    #[error("{} is no data directory: it has no metadata.sqlite", directory.display())]
    NoDatabase {
        /// The folder.
        directory: PathBuf,
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
    /// Objects that the records name are not there, though nobody deletes them.
    #[error(
        "{count} objects that records name do not exist, the first is {first}; everything else was copied"
    )]
    Missing {
        /// Number of objects.
        count: usize,
        /// Key of the first object.
        first: String,
    },
    /// Objects are not what their records say; they were copied as they are.
    #[error("{count} objects are damaged, the first is {first}; everything else was copied")]
    Damaged {
        /// Number of objects.
        count: usize,
        /// Key of the first object.
        first: String,
    },
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotEmpty { .. } | Self::File { .. } => super::CANNOT_CREATE,
            Self::NoDatabase { .. } => 66,
            Self::Metadata(_) | Self::Store(_) => 69,
            Self::Missing { .. } | Self::Damaged { .. } => 65,
        }
    }
}

/// Copies the database of a data directory and the objects that it names, which are in `bucket` or beside the database.
///
/// # Errors
/// When the backup is not whole; it is then of use only as far as the error says.
pub fn run<'a>(
    data_dir: &'a Path,
    bucket: Option<&'a Bucket>,
    to: &'a Path,
) -> BoxFuture<'a, Result<(), Error>> {
    // Boxed, so that it is compiled with this crate alone.
    Box::pin(copy(data_dir, bucket, to))
}

async fn copy(data_dir: &Path, bucket: Option<&Bucket>, to: &Path) -> Result<(), Error> {
    let database = data_dir.join("metadata.sqlite");
    if !database.is_file() {
        return Err(Error::NoDatabase {
            directory: data_dir.into(),
        });
    }
    prepare(to)?;
    let target = Target {
        objects: Transfer {
            from: transfer::store(bucket, data_dir)?,
            to: Store::open(&to.join("objects"))?,
        },
        copy: to.join("metadata.sqlite.new"),
    };
    let mut done = Done::default();
    let mut missing = Vec::new();
    for _ in 0..PASSES {
        missing = target.pass(&database, &mut done).await?;
        if missing.is_empty() {
            break;
        }
        // Something was deleted after the database was copied: a newer copy does not name it.
    }
    let file = |source| Error::File {
        path: to.into(),
        source,
    };
    fs::rename(&target.copy, to.join("metadata.sqlite")).map_err(file)?;
    fs::File::open(to)
        .and_then(|folder| folder.sync_all())
        .map_err(file)?;
    show(format_args!(
        "{} objects, {} bytes, and the database were copied to {}",
        done.keys.len(),
        done.bytes,
        to.display()
    ));
    if let Some(first) = missing.first() {
        return Err(Error::Missing {
            count: missing.len(),
            first: first.clone(),
        });
    }
    match done.damaged.first() {
        Some(first) => Err(Error::Damaged {
            count: done.damaged.len(),
            first: first.clone(),
        }),
        None => Ok(()),
    }
}

fn prepare(to: &Path) -> Result<(), Error> {
    let file = |source| Error::File {
        path: to.into(),
        source,
    };
    fs::create_dir_all(to).map_err(file)?;
    if fs::read_dir(to).map_err(file)?.next().is_some() {
        return Err(Error::NotEmpty {
            directory: to.into(),
        });
    }
    Ok(())
}

/// Source and target of the copy.
struct Target {
    objects: Transfer,
    /// The database's copy, until the backup is whole.
    copy: PathBuf,
}

impl Target {
    /// Copies the database, then what it names and is not copied yet. Returns the keys of what is gone.
    async fn pass(&self, database: &Path, done: &mut Done) -> Result<Vec<String>, Error> {
        if self.copy.exists() {
            fs::remove_file(&self.copy).map_err(|source| Error::File {
                path: self.copy.clone(),
                source,
            })?;
        }
        backup::copy(database, &self.copy).await?;
        let contents = backup::contents(&self.copy).await?;
        if let Some(id) = &contents.id {
            self.objects.to.identify(id).await?;
        }
        Ok(self.objects.copy(contents.blobs, done).await?)
    }
}
