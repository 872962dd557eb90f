//! How long a server may keep a caller waiting, and what it may keep for a connection.
//!
//! Invariant: behind a pooler no statement stays prepared, since the next transaction has another connection; a statement ends a little after its limit on the server at the latest, also when the server has fallen silent without a word: a connection
//! notices that by itself only after many minutes.

use std::time::Duration;

use sqlx::SqlSafeStr;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use tokio::sync::OwnedSemaphorePermit;

use super::super::super::{Error, Result, ServerConfig};

/// Time for the server to say that a statement has taken too long.
pub(super) const MARGIN: Duration = Duration::from_secs(3);

/// The bounds of a connection.
pub(in super::super) struct Bounds {
    longest: Duration,
    /// Whether the connection leads through a pooler.
    is_pooled: bool,
    /// The turns of its transaction, where such transactions or their connections are limited; held until it ends.
    turns: Vec<OwnedSemaphorePermit>,
}

impl Bounds {
    /// The bounds of a connection whose statements have this limit.
    pub(in super::super) fn new(config: &ServerConfig) -> Self {
        Self {
            longest: config.statement_timeout.saturating_add(MARGIN),
            is_pooled: config.is_pooled(),
            turns: Vec::new(),
        }
    }

    /// The same bounds, with a turn to hold.
    #[must_use]
    pub(in super::super) fn with(mut self, turn: OwnedSemaphorePermit) -> Self {
        self.turns.push(turn);
        self
    }

    /// A statement of the library, which stays prepared on a connection of its own if that is wanted.
    pub(in super::super) fn statement(
        &self,
        text: impl SqlSafeStr,
        stays_prepared: bool,
    ) -> Query<'static, sqlx::Postgres, PgArguments> {
        sqlx::query(text).persistent(stays_prepared && !self.is_pooled)
    }

    /// Runs a statement within the bounds.
    pub(in super::super) async fn keep<T>(
        &self,
        statement: impl Future<Output = sqlx::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.longest, statement).await {
            Ok(done) => Ok(done?),
            Err(late) => Err(Error::Unavailable(late.into())),
        }
    }
}
