//! The records in one SQLite file, which one process owns.
//!
//! Invariant: everything that writes goes through one connection, in immediate transactions that are on the disk when they have committed; readers
//! have connections of their own, which cannot write. A connection that a failure left inside a transaction is closed, never used again.

mod audit;
pub mod backup;
mod blobs;
mod changes;
mod claims;
mod condition;
mod datasets;
mod decoded;
mod events;
mod failure;
mod faults;
mod identity;
mod imports;
mod jobs;
mod keys;
mod labels;
mod ledger;
mod owners;
mod pins;
mod removal;
mod requests;
mod reserve;
mod retention;
mod rows;
mod schema;
mod serving;
mod snapshots;
mod tasks;
mod tenants;
mod uploads;
mod usage;
mod versions;
mod videos;
mod write;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, Transaction};
use tokio::sync::watch;

use super::{Error, OpenError, Result, Timestamp};
use condition::Writes;
use ledger::Ledger;
use reserve::Reserve;
use write::WriteTx;

pub use condition::Condition;
pub use faults::Faults;

/// Connections for reading on behalf of calls that serve. Such reads are short and come from a handful of RPCs at a time.
const READERS: u32 = 4;
/// Connections for listings, which take longer: however many callers list, those that serve do not wait for them.
const LISTERS: u32 = 2;
/// Connections for taking snapshots: one after another, since each reads a whole data set.
const COPIERS: u32 = 1;
/// How long a statement waits for another process's lock, such as a backup's.
const BUSY: Duration = Duration::from_secs(10);
/// Bytes that are kept for deletions on a full disk: as much as the write-ahead log takes before it is written back.
const RESERVE: u64 = 4 << 20;

/// Where the database is and how it is opened.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file; made when it is not there.
    pub path: PathBuf,
    /// Bytes on the disk that are kept for deletions; 0 keeps none.
    pub reserve_bytes: u64,
    /// Opens a database although it lost commits that it had acknowledged.
    pub accept_data_loss: bool,
    /// What tests make fail.
    pub faults: Faults,
}

impl Config {
    /// A database in this file, with a reserve.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            reserve_bytes: RESERVE,
            accept_data_loss: false,
            faults: Faults::default(),
        }
    }
}

/// The SQLite backend. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Sqlite {
    /// One connection: SQLite has one writer at a time, and waiting for it in the pool is fair and never busy.
    writer: SqlitePool,
    reader: SqlitePool,
    lister: SqlitePool,
    copier: SqlitePool,
    writes: Writes,
    ledger: Ledger,
    reserve: Reserve,
    faults: Faults,
    path: PathBuf,
    id: String,
    /// Microseconds by which the clock runs ahead; 0 but in tests.
    ahead: Arc<AtomicI64>,
}

type Tx = Transaction<'static, sqlx::Sqlite>;

impl Sqlite {
    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// When the file cannot be opened or written, is damaged or no database, lost commits, or has the schema of a newer release.
    pub async fn open(config: Config) -> std::result::Result<Self, OpenError> {
        let path = config.path.clone();
        let opened = Self::open_file(config).await;
        opened.map_err(|error| identity::or_damaged(error, &path))
    }

    async fn open_file(config: Config) -> std::result::Result<Self, OpenError> {
        let Config { path, faults, .. } = config;
        identity::writable(&path)?;
        let (writes, reserve) = (Writes::new(), Reserve::new(&path, config.reserve_bytes));
        let writer = match writer(&path, &writes).await {
            // Even an opening takes some room: for the log and its index.
            Err(error) if error.is_temporary() && reserve.give().await => {
                writer(&path, &writes).await
            }
            opened => opened,
        }?;
        identity::undamaged(&path, &writer).await?;
        let mut conn = writer.acquire().await.map_err(Error::from)?;
        let (id, commits) = identity::of(&mut conn).await?;
        drop(conn);
        identity::complete(&path, &id, commits, config.accept_data_loss)?;
        let ledger = Ledger::new(ledger::path(&path), id.clone(), commits);
        match identity::counted(&path, &writer).await? {
            None => ledger.note(commits + 1).await,
            Some(error) => writes.note(&error),
        }
        reserve.take().await;
        Ok(Self {
            reader: readers(&path, READERS).await?,
            lister: readers(&path, LISTERS).await?,
            copier: readers(&path, COPIERS).await?,
            writer,
            writes,
            ledger,
            reserve,
            faults,
            path,
            id,
            ahead: Arc::default(),
        })
    }

    /// The database's id, which it keeps for ever.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether there is no record of anything.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn is_empty(&self) -> Result<bool> {
        identity::is_empty(&mut *self.read().await?).await
    }

    /// Whether writes work, as it changes.
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.writes.subscribe()
    }

    /// Writes something, to see whether that works again. It ends the outage if no more writes than so many have failed in it.
    ///
    /// # Errors
    /// When it does not work.
    pub async fn probe(&self, failures: u64) -> Result<()> {
        let (mut tx, _) = self.write().await?;
        sqlx::query("UPDATE store SET commits = commits + 1")
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.writes.succeeded(failures);
        Ok(())
    }

    /// What has to be done from time to time: writes the log back into the file, so that little is lost with it, and keeps room for deletions.
    ///
    /// # Errors
    /// When the log cannot be written back.
    pub async fn tidy_up(&self) -> Result<()> {
        self.reserve.take().await;
        // Readers are not waited for: the next time will do.
        self.checkpoint(Duration::ZERO).await?;
        self.ledger.sync().await;
        Ok(())
    }

    /// Waits for transactions under way, writes the log back and closes the file, which then holds everything alone.
    ///
    /// # Errors
    /// When the log cannot be written back; nothing is lost with that as long as the log stays beside the database.
    pub async fn close(&self) -> Result<()> {
        self.reader.close().await;
        self.lister.close().await;
        self.copier.close().await;
        let written = self.checkpoint(BUSY).await;
        self.writer.close().await;
        self.ledger.sync().await;
        written
    }

    /// Writes the log back and empties it, having waited for readers for at most so long.
    async fn checkpoint(&self, patience: Duration) -> Result<()> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        if fs::metadata(log).is_ok_and(|log| log.len() == 0) {
            return Ok(());
        }
        let mut conn = self.writer.acquire().await?;
        let wait = |patience: Duration| {
            let pragma = format!("PRAGMA busy_timeout = {}", patience.as_millis());
            sqlx::query(sqlx::AssertSqlSafe(pragma))
        };
        wait(patience).execute(&mut *conn).await?;
        let checkpoint = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&mut *conn)
            .await;
        wait(BUSY).execute(&mut *conn).await?;
        let is_busy: i64 = checkpoint?.try_get(0)?;
        tracing::debug!(is_busy, "the database's log was written back");
        Ok(())
    }

    /// A transaction that has the write lock, and its time.
    async fn write(&self) -> Result<(WriteTx, Timestamp)> {
        WriteTx::begin(self).await
    }

    /// A transaction that sees one state of the database.
    async fn read(&self) -> Result<Tx> {
        Ok(self.reader.begin().await?)
    }

    /// As [`Self::read`], for a listing.
    async fn list(&self) -> Result<Tx> {
        Ok(self.lister.begin().await?)
    }

    /// The database's clock.
    async fn now(&self, conn: &mut SqliteConnection) -> Result<Timestamp> {
        let sql = "SELECT CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)";
        let now: Timestamp = sqlx::query_scalar(sql).fetch_one(conn).await?;
        Ok(self.ahead_of(now))
    }

    /// A time of the machine's clock as this database's clock has it.
    fn ahead_of(&self, now: Timestamp) -> Timestamp {
        now.saturating_add(self.ahead.load(Ordering::SeqCst))
    }

    /// Moves the database's clock forward: for tests of what happens after days.
    pub fn advance_clock(&self, by: Duration) {
        self.ahead.fetch_add(micros(by), Ordering::SeqCst);
    }

    /// Runs a deletion, once more when the disk is full and its reserve could be given back.
    async fn deleting<T, F>(&self, deletion: impl Fn() -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        match deletion().await {
            Err(Error::StorageFull(_)) if self.reserve.give().await => deletion().await,
            done => done,
        }
    }
}

/// A duration as times count it.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .disable_statement_logging()
}

/// The connection that writes, with the schema up to date.
async fn writer(path: &Path, writes: &Writes) -> Result<SqlitePool> {
    let writes = writes.clone();
    // SQLite takes a transaction back by itself when the disk or memory fails, and the library then refuses to begin another on that connection.
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .after_release(move |conn, _| {
            let writes = writes.clone();
            Box::pin(async move {
                conn.ping().await?;
                let is_stuck = conn.is_in_transaction();
                if is_stuck {
                    writes.failed("the database took a transaction back: its disk or the memory failed, or the disk is full");
                }
                Ok(!is_stuck)
            })
        })
        .connect_with(options(path))
        .await?;
    schema::migrator().run(&pool).await?;
    Ok(pool)
}

/// Connections that read.
async fn readers(path: &Path, connections: u32) -> Result<SqlitePool> {
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        .after_release(|conn, _| {
            Box::pin(async move {
                conn.ping().await?;
                Ok(!conn.is_in_transaction())
            })
        })
        .connect_with(options(path).read_only(true))
        .await?;
    Ok(pool)
}

#[cfg(test)]
mod tests;
