//! The connections below the use cases: to SQLite's file or to a PostgreSQL server.
//!
//! Invariant: no use case asks which of the two it runs on; every statement is one text with `$1`, `$2` … for its values, and `INDEXED BY`, which only
//! SQLite needs and knows, is left out for PostgreSQL.

mod query;
mod row;

use sqlx::Transaction;
use sqlx::pool::PoolConnection;
use tokio::sync::{broadcast, watch};

use super::super::{Result, SchemaState, Seen, ServerConfig, Timestamp, Topic};
use super::condition::{Condition, Writes};
#[cfg(feature = "postgres")]
use super::postgres::{Bounds, Server};
use super::sqlite::File;
use super::sqlite::write::Count;

pub(super) use query::{Query, locking, query, sharing, skipping};
#[cfg(debug_assertions)]
pub use query::{leave_out_locks, statements};
pub(super) use row::Row;

/// The database below the use cases. Clones share the connections.
#[derive(Debug, Clone)]
pub(super) enum Backend {
    /// One file, which this process owns.
    Sqlite(File),
    /// A server, which many processes share.
    #[cfg(feature = "postgres")]
    Postgres(Server),
}

/// For what a connection reads: each purpose has connections of its own in SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A call that serves.
    Serving,
    /// A listing, which takes longer.
    Listing,
    /// A snapshot of a whole data set.
    Copying,
}

/// A connection, inside a transaction unless it is for one statement only. Dropping it takes back what the transaction did.
pub(super) enum Conn {
    /// A transaction in SQLite, and whom a failure of its statements concerns when it writes.
    Sqlite(Transaction<'static, sqlx::Sqlite>, Option<Writes>),
    /// One statement in SQLite.
    SqliteOnce(PoolConnection<sqlx::Sqlite>),
    /// A transaction in PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(Transaction<'static, sqlx::Postgres>, Bounds),
    /// One statement in PostgreSQL.
    #[cfg(feature = "postgres")]
    PostgresOnce(PoolConnection<sqlx::Postgres>, Bounds),
}

/// What a program without PostgreSQL says of it.
#[cfg(not(feature = "postgres"))]
fn missing<T>() -> Result<T> {
    let problem = "this program was built without PostgreSQL, the feature `postgres`";
    Err(super::super::Error::Backend(problem.into()))
}

/// Brings the schema on a server up to date, unless only asked how it stands.
#[cfg_attr(not(feature = "postgres"), allow(clippy::unused_async))]
pub(super) async fn migrate(config: &ServerConfig, only_check: bool) -> Result<SchemaState> {
    #[cfg(feature = "postgres")]
    return super::postgres::migrate(config, only_check).await;
    #[cfg(not(feature = "postgres"))]
    {
        let _ = (config, only_check);
        missing()
    }
}

impl Backend {
    /// Connects to a PostgreSQL server.
    #[cfg_attr(not(feature = "postgres"), allow(clippy::unused_async))]
    pub(super) async fn connect(config: ServerConfig) -> Result<Self> {
        #[cfg(feature = "postgres")]
        return Ok(Self::Postgres(Server::open(config).await?));
        #[cfg(not(feature = "postgres"))]
        {
            drop(config);
            missing()
        }
    }

    /// Whether one process owns the database.
    pub(super) fn is_exclusive(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// Whether connections lead through a pooler, which may have fewer than all processes together.
    pub(super) fn is_pooled(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.is_pooled(),
        }
    }

    /// The database's id, which it keeps for ever.
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Sqlite(file) => file.id(),
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.id(),
        }
    }

    /// Whether writes work, as it changes.
    pub(super) fn condition(&self) -> watch::Receiver<Condition> {
        match self {
            Self::Sqlite(file) => file.writes().subscribe(),
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.writes().subscribe(),
        }
    }

    /// A transaction that writes, and the database's time. SQLite has one at a time; in PostgreSQL each statement sees what was committed before it.
    pub(super) async fn write(&self) -> Result<(Tx, Timestamp)> {
        // The beginning and the time.
        query::count(2);
        match self {
            Self::Sqlite(file) => {
                let (tx, count, now) = file.begin().await?;
                let mark = Mark::Sqlite(file.clone(), count);
                let conn = Conn::Sqlite(tx, Some(file.writes().clone()));
                Ok((Tx { conn, mark }, now))
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => {
                let (tx, bounds, now) = server.begin().await?;
                let mark = Mark::Postgres(server.clone());
                let conn = Conn::Postgres(tx, bounds);
                Ok((Tx { conn, mark }, now))
            }
        }
    }

    /// A transaction that reads one state of the database.
    pub(super) async fn read(&self, purpose: Purpose) -> Result<Conn> {
        query::count(1);
        match self {
            Self::Sqlite(file) => {
                let tx = file.readers(purpose).begin().await?;
                Ok(Conn::Sqlite(tx, None))
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => {
                // A copy needs a second connection for what it writes.
                let turn = match purpose {
                    Purpose::Copying => Some(server.turn().await?),
                    Purpose::Serving | Purpose::Listing => None,
                };
                let (tx, bounds) = server.begin_reading().await?;
                let bounds = match turn {
                    Some(turn) => bounds.with(turn),
                    None => bounds,
                };
                Ok(Conn::Postgres(tx, bounds))
            }
        }
    }

    /// A connection for one statement that reads.
    pub(super) async fn once(&self, purpose: Purpose) -> Result<Conn> {
        match self {
            Self::Sqlite(file) => {
                let conn = file.readers(purpose).acquire().await?;
                Ok(Conn::SqliteOnce(conn))
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(server) if server.is_pooled() => {
                let (tx, bounds) = server.begin_reading().await?;
                Ok(Conn::Postgres(tx, bounds))
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => {
                let (conn, bounds) = server.acquire().await?;
                Ok(Conn::PostgresOnce(conn, bounds))
            }
        }
    }

    /// Writes something, to see whether that works. It ends the outage if no more writes than so many have failed in it.
    pub(super) async fn probe(&self, failures: u64) -> Result<()> {
        match self {
            Self::Sqlite(file) => file.probe(failures).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.probe(failures).await,
        }
    }

    /// Does what has to be done from time to time.
    pub(super) async fn tidy_up(&self) -> Result<()> {
        match self {
            Self::Sqlite(file) => file.tidy_up().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.tidy_up().await,
        }
    }

    /// Has the server gather what it plans its statements by. SQLite has all it needs with the schema.
    pub(super) async fn gather_statistics(&self) -> Result<()> {
        match self {
            Self::Sqlite(_) => Ok(()),
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.gather_statistics().await,
        }
    }

    /// Whether this process may delete from the audit log: on a server the role that it connects as may lack that right.
    pub(super) async fn may_forget_audit(&self) -> Result<bool> {
        match self {
            Self::Sqlite(_) => Ok(true),
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.may_forget_audit().await,
        }
    }

    /// Connections to the database, of all processes, but for the one that asks; none to a file.
    pub(super) async fn other_connections(&self) -> Result<u64> {
        match self {
            Self::Sqlite(_) => Ok(0),
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.other_connections().await,
        }
    }

    /// Waits for transactions under way and closes the connections.
    pub(super) async fn close(&self) -> Result<()> {
        match self {
            Self::Sqlite(file) => file.close().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => {
                server.close().await;
                Ok(())
            }
        }
    }

    /// Begins a time for which the number of a change is given once, where there is none.
    pub(super) async fn begin_epoch(&self) -> Result<()> {
        match self {
            Self::Sqlite(_) => Ok(()),
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.begin_epoch().await,
        }
    }

    /// Tells other processes that something may have changed.
    pub(super) fn tell(&self, topic: Topic) {
        match self {
            // Nobody else has the file.
            Self::Sqlite(_) => {
                let _ = topic;
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.hints().tell(topic),
        }
    }

    /// What processes tell each other; `None` where nobody does.
    pub(super) fn heard(&self) -> Option<broadcast::Receiver<Topic>> {
        match self {
            Self::Sqlite(_) => None,
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => Some(server.hints().heard()),
        }
    }

    /// Sends and hears hints for as long as this is polled.
    pub(super) async fn exchange_hints(&self) {
        match self {
            Self::Sqlite(_) => std::future::pending().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.exchange_hints().await,
        }
    }

    /// Gives back room that was kept for deletions. Returns whether there was any.
    pub(super) async fn give_reserve(&self) -> bool {
        match self {
            Self::Sqlite(file) => file.give_reserve().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => false,
        }
    }
}

impl Conn {
    /// The database's clock, in microseconds since the Unix epoch.
    pub(super) async fn now(&mut self) -> Result<Timestamp> {
        query::count(1);
        match self {
            Self::Sqlite(tx, _) => super::sqlite::now(&mut *tx).await,
            Self::SqliteOnce(conn) => super::sqlite::now(&mut *conn).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(tx, bounds) => super::postgres::now(&mut *tx, bounds).await,
            #[cfg(feature = "postgres")]
            Self::PostgresOnce(conn, bounds) => super::postgres::now(&mut *conn, bounds).await,
        }
    }

    /// The number of a change that the transaction makes: SQLite counts them; in PostgreSQL it is the transaction's own, so that nobody waits for it.
    pub(super) async fn change(&mut self) -> Result<i64> {
        query::count(1);
        match self {
            Self::Sqlite(tx, _) => super::sqlite::change(&mut *tx).await,
            Self::SqliteOnce(conn) => super::sqlite::change(&mut *conn).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(tx, bounds) => super::postgres::change(&mut *tx, bounds).await,
            #[cfg(feature = "postgres")]
            Self::PostgresOnce(conn, bounds) => super::postgres::change(&mut *conn, bounds).await,
        }
    }

    /// The changes that the transaction can see; `None` when their numbers may be given again, until [`Backend::begin_epoch`].
    pub(super) async fn seen(&mut self) -> Result<Option<Seen>> {
        query::count(1);
        match self {
            Self::Sqlite(tx, _) => super::sqlite::seen(&mut *tx).await.map(Some),
            Self::SqliteOnce(conn) => super::sqlite::seen(&mut *conn).await.map(Some),
            #[cfg(feature = "postgres")]
            Self::Postgres(tx, bounds) => super::postgres::seen(&mut *tx, bounds).await,
            #[cfg(feature = "postgres")]
            Self::PostgresOnce(conn, bounds) => super::postgres::seen(&mut *conn, bounds).await,
        }
    }
}

/// A transaction that writes. Dropping it takes back what it did.
pub(super) struct Tx {
    conn: Conn,
    mark: Mark,
}

/// What a transaction needs to become durable, and whom its failure concerns.
enum Mark {
    Sqlite(File, Count),
    #[cfg(feature = "postgres")]
    Postgres(Server),
}

impl Tx {
    /// Makes what the transaction did durable.
    pub(super) async fn commit(self) -> Result<()> {
        match (self.conn, self.mark) {
            // The file's count of commits and the end.
            (Conn::Sqlite(tx, _), Mark::Sqlite(file, count)) => {
                query::count(2);
                file.commit(tx, count).await
            }
            #[cfg(feature = "postgres")]
            (Conn::Postgres(tx, _), Mark::Postgres(server)) => {
                query::count(1);
                server.commit(tx).await
            }
            // A transaction is begun with the mark of its own database.
            _ => Err(super::super::Error::Backend("no transaction".into())),
        }
    }
}

impl std::ops::Deref for Tx {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl std::ops::DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}
