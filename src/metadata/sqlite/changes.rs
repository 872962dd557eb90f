//! The change feed: what a process that keeps tasks in memory has to look at again.
//!
//! Invariant: a change is noted in the transaction that makes it, and SQLite has one writer, so the order of the sequence is that of the commits:
//! a reader that has seen a number has seen all below it.

use async_trait::async_trait;
use sqlx::{Row, SqliteConnection};

use super::super::{ChangePage, ChangeRecord, Changes, Cursor, Result, Timestamp};
use super::Sqlite;
use super::rows::Columns;
use crate::ids::{TaskId, TenantId};

/// How long the row of a deletion stays, in microseconds: longer than any process that still serves can have been without the database.
const DELETIONS: Timestamp = 24 * 60 * 60 * 1_000_000;
/// The kind of a task's row.
const TASK: &str = "task";

#[async_trait]
impl Changes for Sqlite {
    async fn changes_since(&self, after: Option<Cursor>, limit: u32) -> Result<ChangePage> {
        let mut tx = self.read().await?;
        let feed = sqlx::query("SELECT newest, forgotten FROM change_feed")
            .fetch_one(&mut *tx)
            .await?;
        let (newest, forgotten) = (feed.int("newest")?, feed.int("forgotten")?);
        let at_end = |is_gap| ChangePage {
            changes: Vec::new(),
            cursor: Cursor(newest),
            is_gap,
            is_last: true,
        };
        let after = match after {
            None => return Ok(at_end(false)),
            // A number that was never given is another database's: an older copy was put back.
            Some(Cursor(after)) if after < forgotten || after > newest => return Ok(at_end(true)),
            Some(Cursor(after)) => after,
        };
        let sql = "SELECT tenant, id, sequence, is_deleted FROM changes \
                   WHERE sequence > ? AND kind = ? ORDER BY sequence LIMIT ?";
        let rows = sqlx::query(sql)
            .bind(after)
            .bind(TASK)
            .bind(limit)
            .fetch_all(&mut *tx)
            .await?;
        let is_last = rows.len() < limit as usize;
        let cursor = match rows.last() {
            Some(row) if !is_last => row.int("sequence")?,
            Some(_) | None => newest,
        };
        let read = |row: &sqlx::sqlite::SqliteRow| {
            Ok(ChangeRecord {
                tenant: row.id("tenant")?,
                task: row.id("id")?,
                is_deleted: row.flag("is_deleted")?,
            })
        };
        Ok(ChangePage {
            changes: rows.iter().map(read).collect::<Result<_>>()?,
            cursor: Cursor(cursor),
            is_gap: false,
            is_last,
        })
    }
}

/// Notes that a task was made or changed, or that something of it was: a version, an error.
pub(super) async fn task_changed(
    conn: &mut SqliteConnection,
    tenant: &TenantId,
    task: &TaskId,
    now: Timestamp,
) -> Result<()> {
    note(conn, (tenant, task), false, now).await
}

/// Notes that a task was deleted, and forgets deletions that everybody has seen.
pub(super) async fn task_deleted(
    conn: &mut SqliteConnection,
    tenant: &TenantId,
    task: &TaskId,
    now: Timestamp,
) -> Result<()> {
    let old = now - DELETIONS;
    let sql = "UPDATE change_feed SET forgotten = MAX(forgotten, COALESCE((SELECT MAX(sequence) \
               FROM changes WHERE is_deleted = 1 AND change_time < ?), 0))";
    sqlx::query(sql).bind(old).execute(&mut *conn).await?;
    sqlx::query("DELETE FROM changes WHERE is_deleted = 1 AND change_time < ?")
        .bind(old)
        .execute(&mut *conn)
        .await?;
    note(conn, (tenant, task), true, now).await
}

async fn note(
    conn: &mut SqliteConnection,
    (tenant, task): (&TenantId, &TaskId),
    is_deleted: bool,
    now: Timestamp,
) -> Result<()> {
    let sql = "UPDATE change_feed SET newest = newest + 1 RETURNING newest";
    let sequence: i64 = sqlx::query(sql).fetch_one(&mut *conn).await?.try_get(0)?;
    let sql = "INSERT INTO changes (tenant, kind, id, sequence, is_deleted, change_time) \
               VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, kind, id) DO UPDATE SET \
               sequence = excluded.sequence, is_deleted = excluded.is_deleted, \
               change_time = excluded.change_time";
    sqlx::query(sql)
        .bind(tenant.as_str())
        .bind(TASK)
        .bind(task.as_str())
        .bind(sequence)
        .bind(is_deleted)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}
