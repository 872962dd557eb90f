//! The change feed: what a process that keeps tasks or credentials in memory has to look at again.
//!
//! Invariant: a change is noted in the transaction that makes it, which has the feed's row until it has committed, so the order of the sequence is that
//! of the commits: a reader that has seen a number has seen all below it.

use async_trait::async_trait;

use super::super::{
    AccessChange, AccessChanges, ChangePage, ChangeRecord, Changes, Cursor, Result, Timestamp,
    Topic,
};
use super::Database;
use super::database::{Conn, Row, query};
use super::rows::{Columns, corrupt};
use crate::ids::{KeyId, TaskId, TenantId};

/// How long the row of a deletion stays, in microseconds: longer than any process that still serves can have been without the database.
const DELETIONS: Timestamp = 24 * 60 * 60 * 1_000_000;
/// The kind of a task's row.
const TASK: &str = "task";
/// The kind of an API key's row, which names no tenant.
const KEY: &str = "key";
/// The kind of a tenant's own row.
const TENANT: &str = "tenant";

#[async_trait]
impl Changes for Database {
    fn tell(&self, topic: Topic) {
        self.backend.tell(topic);
    }

    async fn changes_since(&self, after: Option<Cursor>, limit: u32) -> Result<ChangePage> {
        let mut tx = self.read().await?;
        let (after, newest) = match Place::of(&mut tx, after).await? {
            Place::End { cursor, is_gap } => {
                return Ok(ChangePage {
                    changes: Vec::new(),
                    cursor,
                    is_gap,
                    is_last: true,
                });
            }
            Place::After { after, newest } => (after, newest),
        };
        let sql = "SELECT tenant, id, sequence, is_deleted FROM changes \
                   WHERE sequence > $1 AND kind = $2 ORDER BY sequence LIMIT $3";
        let rows = query(sql)
            .bind(after)
            .bind(TASK)
            .bind(limit)
            .fetch_all(&mut tx)
            .await?;
        let (cursor, is_last) = end(&rows, limit, newest)?;
        let read = |row: &Row| {
            Ok(ChangeRecord {
                tenant: row.id("tenant")?,
                task: row.id("id")?,
                is_deleted: row.flag("is_deleted")?,
            })
        };
        Ok(ChangePage {
            changes: rows.iter().map(read).collect::<Result<_>>()?,
            cursor,
            is_gap: false,
            is_last,
        })
    }
}

/// Where a reader of the feed stands.
enum Place {
    /// At its end, perhaps after changes that it can no longer be told.
    End { cursor: Cursor, is_gap: bool },
    /// Behind a change, with others after it, up to the newest.
    After { after: i64, newest: i64 },
}

impl Place {
    async fn of(conn: &mut Conn, after: Option<Cursor>) -> Result<Self> {
        let feed = query("SELECT newest, forgotten FROM change_feed")
            .fetch_one(conn)
            .await?;
        let (newest, forgotten) = (feed.int("newest")?, feed.int("forgotten")?);
        let cursor = Cursor(newest);
        Ok(match after {
            None => Self::End {
                cursor,
                is_gap: false,
            },
            // A number that was never given is another database's: an older copy was put back.
            Some(Cursor(after)) if after < forgotten || after > newest => Self::End {
                cursor,
                is_gap: true,
            },
            Some(Cursor(after)) => Self::After { after, newest },
        })
    }
}

/// Where a page ends, and whether it is the last.
fn end(rows: &[Row], limit: u32, newest: i64) -> Result<(Cursor, bool)> {
    let is_last = rows.len() < limit as usize;
    let cursor = match rows.last() {
        Some(row) if !is_last => row.int("sequence")?,
        Some(_) | None => newest,
    };
    Ok((Cursor(cursor), is_last))
}

/// The changes of keys and tenants.
pub(super) async fn of_access(
    store: &Database,
    after: Option<Cursor>,
    limit: u32,
) -> Result<AccessChanges> {
    let mut tx = store.read().await?;
    let (after, newest) = match Place::of(&mut tx, after).await? {
        Place::End { cursor, is_gap } => {
            return Ok(AccessChanges {
                changes: Vec::new(),
                cursor,
                is_gap,
                is_last: true,
            });
        }
        Place::After { after, newest } => (after, newest),
    };
    let sql = "SELECT kind, id, sequence FROM changes \
               WHERE sequence > $1 AND kind IN ($2, $3) ORDER BY sequence LIMIT $4";
    let rows = query(sql)
        .bind(after)
        .bind(KEY)
        .bind(TENANT)
        .bind(limit)
        .fetch_all(&mut tx)
        .await?;
    let (cursor, is_last) = end(&rows, limit, newest)?;
    let read = |row: &Row| match row.text("kind")?.as_str() {
        KEY => Ok(AccessChange::Key(row.id("id")?)),
        TENANT => Ok(AccessChange::Tenant(row.id("id")?)),
        other => Err(corrupt("kind", format!("{other} was not asked for"))),
    };
    Ok(AccessChanges {
        changes: rows.iter().map(read).collect::<Result<_>>()?,
        cursor,
        is_gap: false,
        is_last,
    })
}

/// Notes that a key was made or changed.
pub(super) async fn key_changed(conn: &mut Conn, key: &KeyId, now: Timestamp) -> Result<()> {
    note(conn, (KEY, "", key.as_str()), false, now).await
}

/// Notes that a tenant was made or changed.
pub(super) async fn tenant_changed(
    conn: &mut Conn,
    tenant: &TenantId,
    now: Timestamp,
) -> Result<()> {
    let name = tenant.as_str();
    note(conn, (TENANT, name, name), false, now).await
}

/// Notes that a task was made or changed, or that something of it was: a version, an error.
pub(super) async fn task_changed(
    conn: &mut Conn,
    tenant: &TenantId,
    task: &TaskId,
    now: Timestamp,
) -> Result<()> {
    note(conn, (TASK, tenant.as_str(), task.as_str()), false, now).await
}

/// Notes that a task was deleted, and forgets deletions that everybody has seen.
pub(super) async fn task_deleted(
    conn: &mut Conn,
    tenant: &TenantId,
    task: &TaskId,
    now: Timestamp,
) -> Result<()> {
    let old = now - DELETIONS;
    let sql = "SELECT MAX(sequence) AS newest FROM changes \
               WHERE is_deleted = 1 AND change_time < $1";
    let row = query(sql).bind(old).fetch_one(&mut *conn).await?;
    if let Some(newest) = row.optional_int("newest")? {
        query("UPDATE change_feed SET forgotten = $1 WHERE forgotten < $1")
            .bind(newest)
            .execute(&mut *conn)
            .await?;
    }
    query("DELETE FROM changes WHERE is_deleted = 1 AND change_time < $1")
        .bind(old)
        .execute(&mut *conn)
        .await?;
    note(conn, (TASK, tenant.as_str(), task.as_str()), true, now).await
}

async fn note(
    conn: &mut Conn,
    (kind, tenant, id): (&'static str, &str, &str),
    is_deleted: bool,
    now: Timestamp,
) -> Result<()> {
    let sql = "UPDATE change_feed SET newest = newest + 1 RETURNING newest";
    let sequence: i64 = query(sql).fetch_one(&mut *conn).await?.int("newest")?;
    let sql = "INSERT INTO changes (tenant, kind, id, sequence, is_deleted, change_time) \
               VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, kind, id) DO UPDATE SET \
               sequence = excluded.sequence, is_deleted = excluded.is_deleted, \
               change_time = excluded.change_time";
    query(sql)
        .bind(tenant)
        .bind(kind)
        .bind(id)
        .bind(sequence)
        .bind(is_deleted)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}
