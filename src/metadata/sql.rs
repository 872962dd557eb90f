//! The use cases in SQL, once for both databases.
//!
//! Invariant: every statement is written once; only [`database`] asks which database it runs on, and only [`sqlite`] and [`postgres`] know how theirs is
//! opened.

mod aged;
mod archives;
mod audit;
mod blobs;
mod changes;
mod claims;
mod condition;
mod database;
mod dataset_versions;
mod datasets;
mod decoded;
mod duties;
mod erasures;
mod events;
mod failure;
mod fill;
mod folds;
mod imports;
mod jobs;
mod keys;
mod labels;
mod locks;
mod metering;
mod owners;
mod pins;
#[cfg(feature = "postgres")]
mod postgres;
mod proofs;
mod publishing;
mod removal;
mod replicas;
mod requests;
mod retention;
mod rows;
mod schema;
mod serving;
mod snapshots;
mod sources;
mod sqlite;
mod survey;
mod sweeps;
mod tasks;
mod tenants;
mod terms;
mod turns;
mod uploads;
mod usage;
mod versions;
mod videos;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use super::{Error, OpenError, Result, SchemaState, ServerConfig, Timestamp, Topic};
use claims::Left;
use database::{Backend, Conn, Purpose, Tx, query};
use rows::Columns as _;
use sqlite::File;

use crate::spec::Digest;

pub use condition::Condition;
#[cfg(debug_assertions)]
pub use database::{leave_out_locks, statements};
pub use sqlite::{Config, Faults, backup};

/// Database of the records. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Database {
    backend: Backend,
    /// The backbone of this process, where processes with others share the records.
    backbone: Arc<OnceLock<Digest>>,
    /// What a process before this one had, where one process owns the records.
    left: Arc<Left>,
    /// Microseconds by which the clock runs ahead; 0 but in tests.
    ahead: Arc<AtomicI64>,
}

impl Database {
    /// Opens the file and brings its schema up to date. Whatever workers had is taken for lost from then on: the file is one process's own.
    ///
    /// # Errors
    /// When the file cannot be opened or written, is damaged or no database, lost commits, or has the schema of a newer release.
    pub async fn open(config: Config) -> std::result::Result<Self, OpenError> {
        let pause = config.crash_pause;
        let opened = Self::over(Backend::Sqlite(File::open(config).await?));
        opened.left.begin(pause);
        Ok(opened)
    }

    /// Connects to a PostgreSQL server, once it answers and has the schema of this release.
    ///
    /// # Errors
    /// When it does not answer in time, refuses the credentials, or has a schema that the release does not fit.
    pub async fn connect(config: ServerConfig) -> Result<Self> {
        Ok(Self::over(Backend::connect(config).await?))
    }

    /// Brings the schema on a PostgreSQL server up to date, unless only asked how it stands.
    ///
    /// # Errors
    /// When the server does not answer in time, or refuses the credentials or the statements.
    pub async fn migrate(config: &ServerConfig, only_check: bool) -> Result<SchemaState> {
        database::migrate(config, only_check).await
    }

    /// Returns whether one process owns the records.
    pub fn is_exclusive(&self) -> bool {
        self.backend.is_exclusive()
    }

    fn over(backend: Backend) -> Self {
        Self {
            backend,
            backbone: Arc::default(),
            left: Arc::default(),
            ahead: Arc::default(),
        }
    }

    /// Returns the database's id, which never changes.
    pub fn id(&self) -> &str {
        self.backend.id()
    }

    /// Returns whether there is no record of anything.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn is_empty(&self) -> Result<bool> {
        is_empty(&mut self.look().await?).await
    }

    /// Returns a watch on whether writes work.
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.backend.condition()
    }

    /// Writes something, to see whether that works again. Ends the outage if no more writes than so many have failed in it.
    ///
    /// # Errors
    /// When it does not work.
    pub async fn probe(&self, failures: u64) -> Result<()> {
        self.backend.probe(failures).await
    }

    /// Does what has to be done from time to time, such as writing SQLite's log back into its file.
    ///
    /// # Errors
    /// When it cannot be done now.
    pub async fn tidy_up(&self) -> Result<()> {
        self.backend.tidy_up().await
    }

    /// Waits for transactions under way and closes the database; SQLite's file then holds everything alone.
    ///
    /// # Errors
    /// When the log cannot be written back; nothing is lost with that as long as the log stays beside the database.
    pub async fn close(&self) -> Result<()> {
        self.backend.close().await
    }

    /// Returns the hints that processes which share the records send each other; `None` where one process owns them.
    pub fn heard(&self) -> Option<broadcast::Receiver<Topic>> {
        self.backend.heard()
    }

    /// Sends and hears hints for as long as this is polled, and closes connections that are not needed; it never ends.
    pub async fn exchange_hints(&self) {
        self.backend.exchange_hints().await;
    }

    /// A transaction that writes, and its time.
    async fn write(&self) -> Result<(Tx, Timestamp)> {
        let (tx, now) = self.backend.write().await?;
        Ok((tx, self.ahead_of(now)))
    }

    /// A transaction that sees one state of the database.
    async fn read(&self) -> Result<Conn> {
        self.backend.read(Purpose::Serving).await
    }

    /// As [`Self::read`], for a listing.
    async fn list(&self) -> Result<Conn> {
        self.backend.read(Purpose::Listing).await
    }

    /// As [`Self::read`], for a copy of a whole data set.
    async fn copy(&self) -> Result<Conn> {
        self.backend.read(Purpose::Copying).await
    }

    /// A connection for one statement that reads.
    async fn look(&self) -> Result<Conn> {
        self.backend.once(Purpose::Serving).await
    }

    /// As [`Self::look`], for a listing.
    async fn browse(&self) -> Result<Conn> {
        self.backend.once(Purpose::Listing).await
    }

    /// The database's clock.
    async fn now(&self, conn: &mut Conn) -> Result<Timestamp> {
        Ok(self.ahead_of(conn.now().await?))
    }

    /// A time of the machine's clock as this database's clock has it.
    fn ahead_of(&self, now: Timestamp) -> Timestamp {
        now.saturating_add(self.ahead.load(Ordering::SeqCst))
    }

    /// Moves the database's clock forward: for tests of what happens after days.
    pub fn advance_clock(&self, by: Duration) {
        self.ahead.fetch_add(micros(by), Ordering::SeqCst);
    }

    /// Takes whatever workers have for lost, as opening a file does: for tests of what a process leaves. Does nothing in a build that ships when other processes
    /// have the records too, since their jobs are not lost.
    pub fn forget_workers(&self, pause: Duration) {
        if cfg!(debug_assertions) || self.is_exclusive() {
            self.left.begin(pause);
        }
    }

    /// Runs a deletion, once more when the disk is full and its reserve could be given back.
    async fn deleting<T, F>(&self, deletion: impl Fn() -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        match deletion().await {
            Err(Error::StorageFull(_)) if self.backend.give_reserve().await => deletion().await,
            done => done,
        }
    }
}

/// A duration as times count it.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Whether there is no record of anything.
async fn is_empty(conn: &mut Conn) -> Result<bool> {
    let sql = "SELECT NOT (EXISTS (SELECT 1 FROM videos) OR EXISTS (SELECT 1 FROM uploads) \
               OR EXISTS (SELECT 1 FROM datasets) OR EXISTS (SELECT 1 FROM tasks) \
               OR EXISTS (SELECT 1 FROM jobs) OR EXISTS (SELECT 1 FROM requests) \
               OR EXISTS (SELECT 1 FROM version_numbers)) AS is_empty";
    query(sql).fetch_one(conn).await?.flag("is_empty")
}

#[cfg(test)]
mod tests;
