//! The transaction that writes.
//!
//! Invariant: a transaction that changed something raises the count of commits with it, and the ledger hears of the count only when the transaction is
//! on the disk; one that changed nothing writes nothing.

use std::ops::{Deref, DerefMut};

use sqlx::{AssertSqlSafe, Row, SqliteConnection, Transaction};

use super::super::{Result, Timestamp};
use super::Sqlite;
use super::condition::Writes;
use super::ledger::Ledger;

/// A transaction that has the write lock. Dropping it takes back what it did.
pub(super) struct WriteTx {
    tx: Transaction<'static, sqlx::Sqlite>,
    writes: Writes,
    ledger: Ledger,
    /// SQLite's count of changes on this connection when the transaction began.
    changes: i64,
}

impl WriteTx {
    /// A transaction and its time.
    pub(super) async fn begin(store: &Sqlite) -> Result<(Self, Timestamp)> {
        let begun = Self::try_begin(store).await;
        if let Err(error) = &begun {
            store.writes.note(error);
        }
        begun
    }

    async fn try_begin(store: &Sqlite) -> Result<(Self, Timestamp)> {
        let mut tx = store.writer.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(pages) = store.faults.pages() {
            let limit = AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
            sqlx::query(limit).execute(&mut *tx).await?;
        }
        let sql = "SELECT CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER), total_changes()";
        let row = sqlx::query(sql).fetch_one(&mut *tx).await?;
        let (now, changes): (Timestamp, i64) = (row.try_get(0)?, row.try_get(1)?);
        let (writes, ledger) = (store.writes.clone(), store.ledger.clone());
        Ok((
            Self {
                tx,
                writes,
                ledger,
                changes,
            },
            store.ahead_of(now),
        ))
    }

    /// Makes what the transaction did durable.
    pub(super) async fn commit(self) -> Result<()> {
        let (writes, ledger) = (self.writes.clone(), self.ledger.clone());
        match self.try_commit().await {
            Ok(Some(commits)) => {
                ledger.note(commits).await;
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                writes.note(&error);
                Err(error)
            }
        }
    }

    /// Commits. Returns the new count, when something was changed.
    async fn try_commit(mut self) -> Result<Option<u64>> {
        let sql = "UPDATE store SET commits = commits + 1 WHERE total_changes() > ? \
                   RETURNING commits";
        let commits: Option<i64> = sqlx::query_scalar(sql)
            .bind(self.changes)
            .fetch_optional(&mut *self.tx)
            .await?;
        self.tx.commit().await?;
        Ok(commits.and_then(|commits| u64::try_from(commits).ok()))
    }
}

impl Deref for WriteTx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.tx
    }
}

impl DerefMut for WriteTx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }
}
