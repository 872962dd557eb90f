//! The records in one SQLite file, which one process owns.
//!
//! Invariant: everything that writes goes through one connection, in immediate transactions that are on the disk when they have committed; readers
//! have connections of their own, which cannot write.

mod blobs;
mod datasets;
mod events;
mod jobs;
mod owners;
mod requests;
mod rows;
mod tasks;
mod uploads;
mod versions;
mod videos;

use std::path::PathBuf;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, SqliteConnection, Transaction};

use super::{Error, Result, Timestamp};

/// Connections for reading. Reads are short and come from a handful of RPCs at a time.
const READERS: u32 = 4;
/// How long a statement waits for another process's lock, such as a backup's.
const BUSY: Duration = Duration::from_secs(10);

/// Where the database is.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file; made when it is not there.
    pub path: PathBuf,
}

/// The SQLite backend. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Sqlite {
    /// One connection: SQLite has one writer at a time, and waiting for it in the pool is fair and never busy.
    writer: SqlitePool,
    reader: SqlitePool,
}

type Tx = Transaction<'static, sqlx::Sqlite>;

impl Sqlite {
    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// When the file cannot be opened, is not a database, or has the schema of a newer release.
    pub async fn open(config: Config) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(&config.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY)
            .disable_statement_logging();
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await?;
        sqlx::migrate!("src/metadata/migrations")
            .run(&writer)
            .await
            .map_err(|error| Error::Backend(Box::new(error)))?;
        let reader = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Self { writer, reader })
    }

    /// Waits for transactions under way and closes the file.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// A transaction that has the write lock, and its time.
    async fn write(&self) -> Result<(Tx, Timestamp)> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let now = now(&mut tx).await?;
        Ok((tx, now))
    }

    /// A transaction that sees one state of the database.
    async fn read(&self) -> Result<Tx> {
        Ok(self.reader.begin().await?)
    }
}

/// The database's clock.
async fn now(conn: &mut SqliteConnection) -> Result<Timestamp> {
    let sql = "SELECT CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)";
    Ok(sqlx::query_scalar(sql).fetch_one(conn).await?)
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if matches!(
            error,
            sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
        ) {
            Self::Unavailable(Box::new(error))
        } else {
            Self::Backend(Box::new(error))
        }
    }
}
