//! Which connection a statement gets: the first one where it is soon free, another one where it is not.
//!
//! Invariant: a connection is opened only when the others were in use for [`PATIENCE`], so that the loops of an idle server, whose statements take a millisecond
//! and often meet, need one between them; a statement that takes long holds up no other.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{AssertSqlSafe, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::super::{Result, ServerConfig};
use super::spare::Spare;
use super::{Stale, connect};

/// How long a statement waits for a connection before another one is opened: several statements' time, and less than a connection takes to open across a network.
const PATIENCE: Duration = Duration::from_millis(20);

/// The connections of a server. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Pools {
    /// The connection that is always there.
    first: PgPool,
    /// Whose statement has it: waiting for the pool itself could not be given up without losing a connection that is being opened or tested.
    turn: Arc<Semaphore>,
    /// Those for what does not fit on the first.
    more: PgPool,
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

    /// The turn on the first connection, to keep for as long as it is in use, or `None` for another one.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.turn);
        if let Ok(turn) = Arc::clone(&turn).try_acquire_owned() {
            return Some(turn);
        }
        if self.more.num_idle() > 0 {
            return None;
        }
        let waited = tokio::time::timeout(PATIENCE, turn.acquire_owned());
        waited.await.ok()?.ok()
    }

    /// The pool of whoever has the turn on the first connection, or has not.
    fn pool(&self, has_turn: bool) -> &PgPool {
        match has_turn {
            true => &self.first,
            false => &self.more,
        }
    }

    /// A connection for one statement, and the turn to keep as long.
    pub(super) async fn acquire(
        &self,
    ) -> Result<(PoolConnection<sqlx::Postgres>, Option<OwnedSemaphorePermit>)> {
        let turn = self.turn().await;
        let conn = self.pool(turn.is_some()).acquire().await?;
        self.note(turn.is_some());
        Ok((conn, turn))
    }

    /// A transaction, and the turn to keep as long. It is opened in a task of its own: a caller that leaves after the statement was sent would give the
    /// connection back with the transaction open, and the next statements on it would be part of it.
    pub(super) async fn begin(
        &self,
        begin: &str,
    ) -> sqlx::Result<(
        Transaction<'static, sqlx::Postgres>,
        Option<OwnedSemaphorePermit>,
    )> {
        let turn = self.turn().await;
        let has_turn = turn.is_some();
        let pool = self.pool(has_turn).clone();
        let begin = AssertSqlSafe(begin.to_owned());
        let opened = tokio::spawn(async move { Ok((pool.begin_with(begin).await?, turn)) });
        let opened = opened.await.map_err(std::io::Error::from)?;
        self.note(has_turn);
        opened
    }

    fn note(&self, has_turn: bool) {
        if !has_turn {
            self.spare.taken(&self.more);
        }
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
