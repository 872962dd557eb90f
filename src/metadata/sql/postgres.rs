//! The records on a PostgreSQL server, which many processes share.
//!
//! Invariant: a transaction that writes is READ COMMITTED and locks the row that decides before it reads it; one that reads several rows is REPEATABLE
//! READ. Behind a pooler everything is a transaction, or one message that prepares nothing. No statement waits for a lock or runs for longer than the limits, and a server that takes no writes is left at once.

mod bounds;
mod connect;
mod hints;
mod pools;
mod schema;
mod spare;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _, Transaction};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::{Error, Result, Seen, ServerConfig, Timestamp};
use super::condition::Writes;
use crate::blocking::blocking;

pub(super) use bounds::Bounds;
use hints::Hints;
use pools::Pools;
pub(super) use schema::migrate;

/// The server's clock, in microseconds since the Unix epoch. It goes on during a transaction.
const NOW: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT) AS now, \
                   current_setting('transaction_read_only') = 'on' AS is_read_only";

type Tx = Transaction<'static, sqlx::Postgres>;

/// The server. Clones share the connections.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pools: Pools,
    config: Arc<ServerConfig>,
    writes: Writes,
    id: Arc<str>,
    /// When a connection was found to take no writes: it and older ones may lead to a primary that is none any more.
    stale: Stale,
    hints: Hints,
    /// Turns of transactions that copy a data set: each needs a second connection, so that half of them are left.
    copies: Arc<Semaphore>,
    /// The transactions' first words, with the limits in them.
    begin: Arc<str>,
    begin_reading: Arc<str>,
}

/// Before which moment connections were opened that are not to be used again.
#[derive(Debug, Clone, Default)]
struct Stale(Arc<Mutex<Option<Instant>>>);

impl Stale {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection of this age may be used.
    fn is_fresh(&self, age: Duration) -> bool {
        let noted = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.is_none_or(|noted| age < noted.elapsed())
    }
}

impl Server {
    /// Connects, once the server answers and has the schema of this release.
    pub(super) async fn open(config: ServerConfig) -> Result<Self> {
        let stale = Stale::default();
        let pools = Pools::new(&config, &stale)?;
        let limits = connect::limits(&config);
        let server = Self {
            begin: format!("BEGIN ISOLATION LEVEL READ COMMITTED; {limits}").into(),
            begin_reading: format!("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; {limits}")
                .into(),
            id: schema::prepare(pools.first(), &config).await?.into(),
            writes: Writes::new(),
            hints: Hints::new(&config),
            copies: Arc::new(Semaphore::new(
                (config.connections.saturating_sub(1) / 2).max(1) as usize,
            )),
            config: Arc::new(config),
            pools,
            stale,
        };
        Ok(server)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn writes(&self) -> &Writes {
        &self.writes
    }

    /// Hints among servers.
    pub(super) fn hints(&self) -> &Hints {
        &self.hints
    }

    /// Sends and hears hints for as long as this is polled, and closes connections that are not needed.
    pub(super) async fn exchange_hints(&self) {
        tokio::join!(self.hints.exchange(&self.pools), self.pools.close_spare());
    }

    /// A transaction that writes, its bounds, and its time.
    pub(super) async fn begin(&self) -> Result<(Tx, Bounds, Timestamp)> {
        let begun = self.try_begin().await;
        if let Err(error) = &begun {
            self.writes.note(error);
        }
        begun
    }

    async fn try_begin(&self) -> Result<(Tx, Bounds, Timestamp)> {
        let (mut tx, bounds) = self.transaction(&self.begin).await?;
        let now = bounds.statement(NOW, true);
        let row = bounds.keep(now.fetch_one(&mut *tx)).await?;
        if row.try_get("is_read_only")? {
            self.stale.note();
            return Err(Error::Unavailable(
                "the server takes no writes: it may be a standby, or was one's primary".into(),
            ));
        }
        let now = row.try_get("now")?;
        Ok((tx, bounds, now))
    }

    /// Makes what a transaction did durable.
    pub(super) async fn commit(&self, tx: Tx) -> Result<()> {
        let committed = self.bounds().keep(tx.commit()).await;
        if let Err(error) = &committed {
            self.writes.note(error);
        }
        committed
    }

    /// A transaction that sees one state of the database, and its bounds.
    pub(super) async fn begin_reading(&self) -> Result<(Tx, Bounds)> {
        self.transaction(&self.begin_reading).await
    }

    async fn transaction(&self, begin: &str) -> Result<(Tx, Bounds)> {
        let bounds = self.bounds();
        let (tx, turn) = bounds.keep(self.pools.begin(begin)).await?;
        Ok((tx, bounds.with(turn)))
    }

    /// The bounds of a connection.
    fn bounds(&self) -> Bounds {
        Bounds::new(&self.config)
    }

    /// A turn to copy a data set.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.copies).acquire_owned();
        let turn = tokio::time::timeout(self.config.statement_timeout, turn).await;
        let turn = turn.map_err(|late| Error::Unavailable(late.into()))?;
        turn.map_err(|closed| Error::Unavailable(closed.into()))
    }

    /// Whether connections lead through a pooler, which may run two messages of a statement on two of its own, unless they are of one transaction.
    pub(super) fn is_pooled(&self) -> bool {
        self.config.is_pooled()
    }

    /// A connection for one statement, and its bounds.
    pub(super) async fn acquire(&self) -> Result<(PoolConnection<sqlx::Postgres>, Bounds)> {
        let (conn, turn) = self.pools.acquire().await?;
        Ok((conn, self.bounds().with(turn)))
    }

    /// Begins an epoch of the numbers of transactions, unless there is one.
    pub(super) async fn begin_epoch(&self) -> Result<()> {
        let (mut tx, bounds, _) = self.begin().await?;
        let sql = "INSERT INTO change_epoch (one, id) VALUES (1, $1) ON CONFLICT (one) DO NOTHING";
        let id = uuid::Uuid::now_v7().to_string();
        let insert = bounds.statement(sql, false).bind(id);
        bounds.keep(insert.execute(&mut *tx)).await?;
        self.commit(tx).await
    }

    /// Begins a transaction that could write, to see whether writes work again.
    pub(super) async fn probe(&self, failures: u64) -> Result<()> {
        let (tx, _bounds, _) = self.begin().await?;
        tx.commit().await?;
        self.writes.succeeded(failures);
        Ok(())
    }

    /// Reads the password again, for connections that are opened from now on.
    pub(super) async fn tidy_up(&self) -> Result<()> {
        let config = Arc::clone(&self.config);
        let read = blocking(move || {
            let direct = connect::options(&config.past_pooler())?;
            Ok::<_, Error>((connect::options(&config)?, direct))
        });
        let (options, direct) = read.await??;
        self.pools.set_options(options, direct);
        Ok(())
    }

    /// Has the server look at all tables now.
    pub(super) async fn gather_statistics(&self) -> Result<()> {
        let (mut conn, bounds) = self.acquire().await?;
        let analyze = sqlx::raw_sql("ANALYZE").execute(&mut *conn);
        bounds.keep(analyze).await.map(drop)
    }

    /// Whether the role of this process may delete from the audit log.
    pub(super) async fn may_forget_audit(&self) -> Result<bool> {
        let sql = "SELECT has_table_privilege('audit_events', 'DELETE') AS may";
        let (mut conn, bounds) = self.acquire().await?;
        let row = sqlx::query(sql).fetch_one(&mut *conn);
        let row = bounds.keep(row).await?;
        Ok(row.try_get("may")?)
    }

    /// Connections to the database, of all other processes.
    pub(super) async fn other_connections(&self) -> Result<u64> {
        let sql = format!(
            "SELECT COUNT(*) AS connections FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = '{}'",
            connect::NAME
        );
        let (mut conn, bounds) = self.acquire().await?;
        let count = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut *conn);
        let count = bounds.keep(count).await?;
        let count: i64 = count.try_get("connections")?;
        let own = u64::from(self.pools.size());
        Ok(u64::try_from(count).unwrap_or(0).saturating_sub(own))
    }

    pub(super) async fn close(&self) {
        self.pools.close().await;
    }
}

/// The server's clock.
pub(super) async fn now(conn: &mut PgConnection, bounds: &Bounds) -> Result<Timestamp> {
    let now = bounds.statement(NOW, true);
    Ok(bounds.keep(now.fetch_one(conn)).await?.try_get("now")?)
}

/// The number of the transaction, which it gets now if it has none.
pub(super) async fn change(conn: &mut PgConnection, bounds: &Bounds) -> Result<i64> {
    let sql = "SELECT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) AS own";
    let own = bounds.statement(sql, true);
    Ok(bounds.keep(own.fetch_one(conn)).await?.try_get("own")?)
}

/// The transactions that can be seen; `None` when the server has no epoch, since it lost what it had not written to its disk.
pub(super) async fn seen(conn: &mut PgConnection, bounds: &Bounds) -> Result<Option<Seen>> {
    let sql =
        "SELECT CAST(pg_current_snapshot() AS TEXT) AS own, pg_is_in_recovery() AS is_standby";
    let own = bounds.statement(sql, true);
    let row = bounds.keep(own.fetch_one(&mut *conn)).await?;
    let text: String = row.try_get("own")?;
    let epoch = match row.try_get("is_standby")? {
        // A standby repeats what is on the primary's disk, and has no unlogged tables.
        true => "standby".to_owned(),
        false => {
            // The row's own transaction tells the epoch from that of another server which the table was copied from.
            let sql = "SELECT id || '/' || CAST(xmin AS TEXT) AS epoch FROM change_epoch";
            let epoch = bounds.statement(sql, true).fetch_optional(conn);
            let Some(row) = bounds.keep(epoch).await? else {
                return Ok(None);
            };
            row.try_get("epoch")?
        }
    };
    let unreadable = || Error::Backend(format!("the snapshot {text:?} cannot be read").into());
    Seen::parse(epoch, &text).map(Some).ok_or_else(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_are_older_than_a_refused_write_are_not_used() {
        let stale = Stale::default();
        assert!(stale.is_fresh(Duration::MAX));
        stale.note();
        assert!(!stale.is_fresh(Duration::from_secs(60)));
        assert!(!stale.is_fresh(Duration::from_secs(1)));
        let before = Instant::now() - Duration::from_secs(60);
        *stale.0.lock().unwrap() = Some(before);
        assert!(stale.is_fresh(Duration::from_secs(30)));
    }
}
