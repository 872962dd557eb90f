//! Which connection a statement gets: the first one where it is soon free, another one where it is not.
//!
//! Invariant: a connection is opened only when the others were in use for [`PATIENCE`], so that the loops of an idle server, whose statements take a millisecond
//! and often meet, need one between them; a statement that takes long, or whose caller left before it ended, holds up no other.

use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{AssertSqlSafe, SqlSafeStr, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::super::super::{Result, ServerConfig};
use super::bounds::MARGIN;
use super::spare::Spare;
use super::{Stale, connect};

/// How long a statement waits for a connection before another one is opened: several statements' time, and less than a connection takes to open across a network.
const PATIENCE: Duration = Duration::from_millis(20);

/// A connection, and the turn on it to keep for as long as it is in use.
type Taken = (PoolConnection<sqlx::Postgres>, OwnedSemaphorePermit);

/// The connections of a server. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Pools {
    /// The connection that is always there.
    first: PgPool,
    /// Whose statement has it: waiting for the pool itself could not be given up without losing a connection that is being opened or tested.
    turn: Arc<Semaphore>,
    /// Those for what does not fit on the first.
    more: PgPool,
    /// Whose statements have those.
    room: Arc<Semaphore>,
    /// How long a statement waits for any of them, and how long it may take.
    longest: Duration,
    statement: Duration,
    /// How hints are listened for, past a pooler where there is one: each time on a connection of its own.
    listening: PgPool,
    spare: Spare,
}

impl Pools {
    /// Pools that open their connections when they are needed.
    pub(super) fn new(config: &ServerConfig, stale: &Stale) -> Result<Self> {
        let listening = u32::from(!config.is_pooled());
        let more = config.connections.saturating_sub(1 + listening).max(1);
        Ok(Self {
            first: connect::pool(config, 1, stale.clone())?,
            turn: Arc::new(Semaphore::new(1)),
            more: connect::pool(config, more, stale.clone())?,
            room: Arc::new(Semaphore::new(more as usize)),
            longest: config.connect_timeout,
            statement: config.statement_timeout.saturating_add(MARGIN),
            listening: connect::pool(&config.past_pooler(), 1, Stale::default())?,
            spare: Spare::default(),
        })
    }

    /// The pool of the first connection, for the start, when nobody else has it.
    pub(super) fn first(&self) -> &PgPool {
        &self.first
    }

    /// The pool whose like each connection to listen on has; it ends with this one.
    pub(super) fn listening(&self) -> &PgPool {
        &self.listening
    }

    /// A connection for one statement, and the turn to keep as long.
    pub(super) async fn acquire(&self) -> sqlx::Result<Taken> {
        if let Some(turn) = self.turn().await
            && let Some(taken) = self.first_by(turn).await
        {
            return taken;
        }
        let either = async {
            tokio::select! {
                biased;
                room = Arc::clone(&self.room).acquire_owned() => (false, room),
                turn = Arc::clone(&self.turn).acquire_owned() => (true, turn),
            }
        };
        let waited = timeout(self.longest, either).await;
        let (is_first, turn) = waited.map_err(|_late| sqlx::Error::PoolTimedOut)?;
        let turn = turn.map_err(|_closed| sqlx::Error::PoolClosed)?;
        if is_first {
            return Ok((self.first.acquire().await?, turn));
        }
        let conn = self.more.acquire().await?;
        self.spare.taken(&self.more);
        Ok((conn, turn))
    }

    /// The turn on the first connection, or `None` for another one.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.turn);
        if let Ok(turn) = Arc::clone(&turn).try_acquire_owned() {
            return Some(turn);
        }
        if self.more.num_idle() > 0 {
            return None;
        }
        timeout(PATIENCE, turn.acquire_owned()).await.ok()?.ok()
    }

    /// The first connection, for whoever has the turn on it, or `None` when it does not come back soon: whoever had it before left in mid-statement.
    async fn first_by(&self, turn: OwnedSemaphorePermit) -> Option<sqlx::Result<Taken>> {
        let pool = self.first.clone();
        let taking = async move { Ok((pool.acquire().await?, turn)) };
        if self.first.size() == 0 || self.first.num_idle() > 0 {
            return Some(taking.await);
        }
        let mut taking = Box::pin(taking);
        if let Ok(taken) = timeout(PATIENCE, taking.as_mut()).await {
            return Some(taken);
        }
        // The turn is taken until it is back, so that others need not wait to find out.
        tokio::spawn(taking);
        None
    }

    /// A transaction, and the turn to keep as long. It is opened in a task of its own: a caller that leaves after the statement was sent would give the
    /// connection back with the transaction open, and the next statements on it would be part of it.
    pub(super) async fn begin(
        &self,
        begin: &str,
    ) -> sqlx::Result<(Transaction<'static, sqlx::Postgres>, OwnedSemaphorePermit)> {
        let (conn, turn) = self.acquire().await?;
        let begin = AssertSqlSafe(begin.to_owned()).into_sql_str();
        let limit = self.statement;
        let opened = tokio::spawn(async move {
            // Nobody may be left who gives up.
            let opened = timeout(limit, Transaction::begin(conn, Some(begin))).await;
            let opened = opened.map_err(|_late| Error::from(ErrorKind::TimedOut))?;
            Ok((opened?, turn))
        });
        opened.await.map_err(Error::from)?
    }

    /// Closes connections that are not needed, for as long as this is polled.
    pub(super) async fn close_spare(&self) {
        self.spare.close(&self.more).await;
    }

    /// Connections that are open.
    pub(super) fn size(&self) -> u32 {
        self.first.size() + self.more.size() + self.listening.size()
    }

    /// Uses other options for connections that are opened from now on.
    pub(super) fn set_options(&self, options: PgConnectOptions, listening: PgConnectOptions) {
        self.first.set_connect_options(options.clone());
        self.more.set_connect_options(options);
        self.listening.set_connect_options(listening);
    }

    /// Waits for what is under way and closes all connections.
    pub(super) async fn close(&self) {
        tokio::join!(
            self.first.close(),
            self.more.close(),
            self.listening.close()
        );
    }
}
