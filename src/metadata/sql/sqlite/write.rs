//! The transaction that writes to SQLite's file.
//!
//! Invariant: a transaction that changed something raises the count of commits with it, and the ledger hears of the count only when the transaction is
//! on the disk; one that changed nothing writes nothing.

use sqlx::{AssertSqlSafe, Row, Transaction};

use super::super::super::{Result, Timestamp};
use super::File;

/// SQLite's count of changes on the connection when a transaction began.
pub(in super::super) struct Count(i64);

type Tx = Transaction<'static, sqlx::Sqlite>;

impl File {
    /// A transaction that has the write lock, and its time.
    pub(in super::super) async fn begin(&self) -> Result<(Tx, Count, Timestamp)> {
        let begun = self.try_begin().await;
        if let Err(error) = &begun {
            self.writes.note(error);
        }
        begun
    }

    async fn try_begin(&self) -> Result<(Tx, Count, Timestamp)> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(pages) = self.faults.pages() {
            let limit = AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
            sqlx::query(limit).execute(&mut *tx).await?;
        }
        let sql = "SELECT CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER), total_changes()";
        let row = sqlx::query(sql).fetch_one(&mut *tx).await?;
        Ok((tx, Count(row.try_get(1)?), row.try_get(0)?))
    }

    /// Makes what a transaction did durable.
    pub(in super::super) async fn commit(&self, tx: Tx, begun: Count) -> Result<()> {
        match try_commit(tx, begun).await {
            Ok(Some(commits)) => {
                self.ledger.note(commits).await;
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                self.writes.note(&error);
                Err(error)
            }
        }
    }
}

/// Commits. Returns the new count, when something was changed.
async fn try_commit(mut tx: Tx, Count(changes): Count) -> Result<Option<u64>> {
    let sql = "UPDATE store SET commits = commits + 1 WHERE total_changes() > ? \
               RETURNING commits";
    let commits: Option<i64> = sqlx::query_scalar(sql)
        .bind(changes)
        .fetch_optional(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(commits.and_then(|commits| u64::try_from(commits).ok()))
}
