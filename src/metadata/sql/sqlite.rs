//! The records in one SQLite file, which one process owns.
//!
//! Invariant: everything that writes goes through one connection, in immediate transactions that are on the disk when they have committed; readers
//! have connections of their own, which cannot write. A connection that a failure left inside a transaction is closed, never used again.

pub mod backup;
mod faults;
pub(super) mod identity;
mod ledger;
mod reserve;

pub(super) mod write;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

use super::super::{Error, OpenError, Result, Seen, Timestamp};
use super::condition::Writes;
use super::database::Purpose;
use ledger::Ledger;
use reserve::Reserve;

pub use faults::Faults;

/// Connections for reading on behalf of calls that serve. Such reads are short and come from a handful of RPCs at a time.
const READERS: u32 = 4;
/// Connections for listings, which take longer: however many callers list, those that serve do not wait for them.
const LISTERS: u32 = 2;
/// Connections for taking snapshots: one after another, since each reads a whole data set.
const COPIERS: u32 = 1;
/// Bytes of pages that a connection for reading keeps in memory, at most. Any commit voids them, and the kernel has the file's pages too.
const READ_PAGES: u64 = 256 << 10;
/// Bytes of pages that the connection for writing keeps in memory, at most: more than usual transactions touch.
const WRITTEN_PAGES: u64 = 1 << 20;
/// How long a statement waits for another process's lock, such as a backup's.
const BUSY: Duration = Duration::from_secs(10);
/// Bytes that are kept for deletions on a full disk: as much as the write-ahead log takes before it is written back.
const RESERVE: u64 = 4 << 20;

/// Configuration of the database's file.
#[derive(Debug, Clone)]
pub struct Config {
    /// Path of the file, which is created when it does not exist.
    pub path: PathBuf,
    /// Bytes on the disk that are kept for deletions; 0 keeps none.
    pub reserve_bytes: u64,
    /// Time for which a job is held back that ran alone when the process before ended; doubles each time.
    pub crash_pause: Duration,
    /// Opens a database although it lost commits that it had acknowledged.
    pub accept_data_loss: bool,
    /// Faults that tests ask for.
    pub faults: Faults,
}

impl Config {
    /// Returns the configuration of a database in this file, with a reserve.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            reserve_bytes: RESERVE,
            crash_pause: Duration::from_secs(10),
            accept_data_loss: false,
            faults: Faults::default(),
        }
    }
}

/// The file. Clones share the connections.
#[derive(Debug, Clone)]
pub(super) struct File {
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
}

impl File {
    /// Opens the file and brings its schema up to date.
    ///
    /// # Errors
    /// When the file cannot be opened or written, is damaged or no database, lost commits, or has the schema of a newer release.
    pub(super) async fn open(config: Config) -> std::result::Result<Self, OpenError> {
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
        })
    }

    /// The database's id, which it keeps for ever.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Whether writes work.
    pub(super) fn writes(&self) -> &Writes {
        &self.writes
    }

    /// The connections that read for a purpose.
    pub(super) fn readers(&self, purpose: Purpose) -> &SqlitePool {
        match purpose {
            Purpose::Serving => &self.reader,
            Purpose::Listing => &self.lister,
            Purpose::Copying => &self.copier,
        }
    }

    /// Writes something, to see whether that works again. It ends the outage if no more writes than so many have failed in it.
    pub(super) async fn probe(&self, failures: u64) -> Result<()> {
        let (mut tx, _, _) = self.begin().await?;
        sqlx::query("UPDATE store SET commits = commits + 1")
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.writes.succeeded(failures);
        Ok(())
    }

    /// Writes the log back into the file, so that little is lost with it, and keeps room for deletions.
    pub(super) async fn tidy_up(&self) -> Result<()> {
        self.reserve.take().await;
        // Readers are not waited for: the next time will do.
        self.checkpoint(Duration::ZERO).await?;
        self.ledger.sync().await;
        Ok(())
    }

    /// Waits for transactions under way, writes the log back and closes the file, which then holds everything alone. Nothing is lost with a log that
    /// cannot be written back as long as it stays beside the database.
    pub(super) async fn close(&self) -> Result<()> {
        self.reader.close().await;
        self.lister.close().await;
        self.copier.close().await;
        let written = self.checkpoint(BUSY).await;
        self.writer.close().await;
        self.ledger.sync().await;
        written
    }

    /// Gives back the room that was kept for deletions. Returns whether there was any.
    pub(super) async fn give_reserve(&self) -> bool {
        self.reserve.give().await
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
}

/// SQLite's clock.
pub(super) async fn now(conn: &mut SqliteConnection) -> Result<Timestamp> {
    let sql = "SELECT CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)";
    Ok(sqlx::query_scalar(sql).fetch_one(conn).await?)
}

/// Gives out the number of a change. The only writer has committed it before the next is given out.
pub(super) async fn change(conn: &mut SqliteConnection) -> Result<i64> {
    let sql = "UPDATE change_feed SET newest = newest + 1 RETURNING newest";
    Ok(sqlx::query_scalar(sql).fetch_one(conn).await?)
}

/// The changes that can be seen. The file is one process's own, which has lost nothing for as long as it runs.
pub(super) async fn seen(conn: &mut SqliteConnection) -> Result<Seen> {
    let sql = "SELECT newest FROM change_feed";
    Ok(Seen::up_to(sqlx::query_scalar(sql).fetch_one(conn).await?))
}

fn options(path: &Path, pages: u64) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        // A negative number counts KiB, not pages.
        .pragma("cache_size", format!("-{}", pages >> 10))
        .disable_statement_logging()
}

/// The connection that writes, with the schema up to date.
async fn writer(path: &Path, writes: &Writes) -> Result<SqlitePool> {
    let writes = writes.clone();
    // SQLite takes a transaction back by itself when the disk or memory fails, and the library then refuses to begin another on that connection.
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        // Each has just been asked, when it was released: a second question would be a turn of its thread for every statement.
        .test_before_acquire(false)
        .after_release(move |conn, _| {
            let writes = writes.clone();
            Box::pin(async move {
                let is_stuck = is_stuck(conn).await?;
                if is_stuck {
                    writes.failed("the database took a transaction back: its disk or the memory failed, or the disk is full");
                }
                Ok(!is_stuck)
            })
        })
        .connect_with(options(path, WRITTEN_PAGES))
        .await?;
    super::schema::sqlite().run(&pool).await?;
    Ok(pool)
}

/// Whether a connection that was released stays inside a transaction. One that is there at first may still have a rollback before it; one that is not has nothing
/// before it that begins a transaction and does not take it back. The pool asks every connection besides, so that this costs most of them no turn of their thread.
async fn is_stuck(conn: &mut SqliteConnection) -> sqlx::Result<bool> {
    if !conn.is_in_transaction() {
        return Ok(false);
    }
    conn.ping().await?;
    Ok(conn.is_in_transaction())
}

/// Connections that read.
async fn readers(path: &Path, connections: u32) -> Result<SqlitePool> {
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .after_release(|conn, _| Box::pin(async move { Ok(!is_stuck(conn).await?) }))
        .connect_with(options(path, READ_PAGES).read_only(true))
        .await?;
    Ok(pool)
}
