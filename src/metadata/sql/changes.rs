//! The change feed: what a process that keeps tasks, videos or credentials in memory has to look at again.
//!
//! Invariant: a change is noted, with its transaction's number, in the transaction that makes it. A reader takes what it can see now and could not see
//! before, so that a transaction that commits late is told late, and never left out; writers do not wait for each other.

use async_trait::async_trait;

use super::super::{
    AccessChange, AccessChanges, ChangePage, ChangeRecord, Changes, Cursor, Error, Place, Result,
    Seen, Timestamp, Topic,
};
use super::database::{Conn, Row, query};
use super::rows::{Columns, corrupt};
use super::{Database, locks};
use crate::ids::{KeyId, TaskId, TenantId};

/// How long the row of a deletion stays, in microseconds: longer than any process that still serves can have been without the database.
const DELETIONS: Timestamp = 24 * 60 * 60 * 1_000_000;
/// The kind of a task's row.
const TASK: &str = "task";
/// The kind of the row of a tenant's deleted videos.
const VIDEOS: &str = "videos";
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
        let found = Found::since(self, after, [TASK, VIDEOS], limit).await?;
        let (mut changes, mut videos) = (Vec::new(), Vec::new());
        for row in &found.rows {
            let tenant = row.id("tenant")?;
            match row.text("kind")?.as_str() {
                VIDEOS => videos.push(tenant),
                _ => changes.push(ChangeRecord {
                    tenant,
                    task: row.id("id")?,
                    is_deleted: row.flag("is_deleted")?,
                }),
            }
        }
        Ok(ChangePage {
            changes,
            videos,
            cursor: found.cursor,
            is_gap: found.is_gap,
            is_last: found.is_last,
        })
    }
}

/// A page of changes.
struct Found {
    rows: Vec<Row>,
    cursor: Cursor,
    is_gap: bool,
    is_last: bool,
}

impl Found {
    /// Changes of two kinds after a place in the feed.
    async fn since(
        store: &Database,
        after: Option<Cursor>,
        kinds: [&str; 2],
        limit: u32,
    ) -> Result<Self> {
        let (mut tx, now) = look(store).await?;
        let end = |is_gap| Self {
            rows: Vec::new(),
            cursor: Cursor::end(now.clone()),
            is_gap,
            is_last: true,
        };
        let Some(Cursor { seen, page }) = after else {
            return Ok(end(false));
        };
        let feed = query("SELECT forgotten, forgotten_open FROM change_feed");
        let feed = feed.fetch_one(&mut tx).await?;
        let open: Vec<i64> = serde_json::from_str(&feed.text("forgotten_open")?)
            .map_err(|error| corrupt("forgotten_open", error))?;
        // A number that was never given is another database's: an older copy was put back. A server that lost something gives numbers again.
        let is_missed = seen.misses(feed.int("forgotten")?, &open);
        if is_missed || seen.end > now.end || seen.epoch != now.epoch {
            return Ok(end(true));
        }
        let (until, last) = match page {
            Some(Place { until, last }) => (until, last),
            None => (now, (0, String::new(), String::new(), String::new())),
        };
        let rows = unseen(&mut tx, (&seen, &until, &last), kinds, limit).await?;
        let is_last = rows.len() < limit as usize;
        let cursor = match rows.last() {
            Some(row) if !is_last => {
                let text = |column| row.text(column);
                let last = (
                    row.int("sequence")?,
                    text("tenant")?,
                    text("kind")?,
                    text("id")?,
                );
                let page = Some(Place { until, last });
                Cursor { seen, page }
            }
            Some(_) | None => Cursor::end(until),
        };
        Ok(Self {
            rows,
            cursor,
            is_gap: false,
            is_last,
        })
    }
}

/// A transaction that reads, and the changes that it can see.
async fn look(store: &Database) -> Result<(Conn, Seen)> {
    let mut tx = store.read().await?;
    if let Some(seen) = tx.seen().await? {
        return Ok((tx, seen));
    }
    drop(tx);
    store.backend.begin_epoch().await?;
    let mut tx = store.read().await?;
    let seen = tx.seen().await?;
    let lost =
        || Error::Unavailable("the database has just lost what it had begun to count".into());
    Ok((tx, seen.ok_or_else(lost)?))
}

/// Changes that are not seen yet, those of them that could be seen at one moment, after one of these.
async fn unseen(
    conn: &mut Conn,
    (seen, until, last): (&Seen, &Seen, &(i64, String, String, String)),
    kinds: [&str; 2],
    limit: u32,
) -> Result<Vec<Row>> {
    let sql = "SELECT tenant, kind, id, sequence, is_deleted FROM changes \
               WHERE sequence >= $1 AND sequence < $2 \
               AND (sequence >= $3 OR sequence IN (SELECT CAST(value AS BIGINT) FROM json_each($4))) \
               AND sequence NOT IN (SELECT CAST(value AS BIGINT) FROM json_each($5)) \
               AND kind IN ($6, $7) AND (sequence, tenant, kind, id) > ($8, $9, $10, $11) \
               ORDER BY sequence, tenant, kind, id LIMIT $12";
    let (sequence, tenant, kind, id) = last;
    query(sql)
        .bind(seen.begin)
        .bind(until.end)
        .bind(seen.end)
        .bind(seen.open_json())
        .bind(until.open_json())
        .bind(kinds[0])
        .bind(kinds[1])
        .bind(sequence)
        .bind(tenant)
        .bind(kind)
        .bind(id)
        .bind(limit)
        .fetch_all(conn)
        .await
}

/// The changes of keys and tenants.
pub(super) async fn of_access(
    store: &Database,
    after: Option<Cursor>,
    limit: u32,
) -> Result<AccessChanges> {
    let found = Found::since(store, after, [KEY, TENANT], limit).await?;
    let read = |row: &Row| match row.text("kind")?.as_str() {
        KEY => Ok(AccessChange::Key(row.id("id")?)),
        TENANT => Ok(AccessChange::Tenant(row.id("id")?)),
        other => Err(corrupt("kind", format!("{other} was not asked for"))),
    };
    Ok(AccessChanges {
        changes: found.rows.iter().map(read).collect::<Result<_>>()?,
        cursor: found.cursor,
        is_gap: found.is_gap,
        is_last: found.is_last,
    })
}

/// Notes that a tenant's videos were deleted.
pub(super) async fn videos_deleted(
    conn: &mut Conn,
    tenant: &TenantId,
    now: Timestamp,
) -> Result<()> {
    note(conn, (VIDEOS, tenant.as_str(), ""), false, now).await
}

/// Notes that a key was made or changed.
pub(super) async fn key_changed(conn: &mut Conn, key: &KeyId, now: Timestamp) -> Result<()> {
    note(conn, (KEY, "", key.as_str()), false, now).await
}

/// Notes that a key is gone, and forgets deletions that everybody has seen.
pub(super) async fn key_deleted(conn: &mut Conn, key: &KeyId, now: Timestamp) -> Result<()> {
    forget_deletions(conn, now).await?;
    note(conn, (KEY, "", key.as_str()), true, now).await
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
    forget_deletions(conn, now).await?;
    note(conn, (TASK, tenant.as_str(), task.as_str()), true, now).await
}

/// Notes that tasks of a tenant were deleted, and forgets deletions that everybody has seen; as JSON, an array of arrays that begin with an id.
pub(super) async fn tasks_deleted(
    conn: &mut Conn,
    tenant: &TenantId,
    tasks: &str,
    now: Timestamp,
) -> Result<()> {
    forget_deletions(conn, now).await?;
    let sequence = conn.change().await?;
    let sql = "INSERT INTO changes (tenant, kind, id, sequence, is_deleted, change_time) \
               SELECT $1, $2, value ->> 0, $3, 1, $4 FROM json_each($5) WHERE TRUE \
               ON CONFLICT (tenant, kind, id) DO UPDATE SET \
               sequence = excluded.sequence, is_deleted = excluded.is_deleted, \
               change_time = excluded.change_time";
    query(sql)
        .bind(tenant.as_str())
        .bind(TASK)
        .bind(sequence)
        .bind(now)
        .bind(tasks)
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets deletions that everybody has seen who still serves.
async fn forget_deletions(conn: &mut Conn, now: Timestamp) -> Result<()> {
    let old = now - DELETIONS;
    let sql = "SELECT MAX(sequence) AS newest FROM changes \
               WHERE is_deleted = 1 AND change_time < $1";
    let row = query(sql).bind(old).fetch_one(&mut *conn).await?;
    let Some(newest) = row.optional_int("newest")? else {
        return Ok(());
    };
    locks::feed(conn).await?;
    query("DELETE FROM changes WHERE is_deleted = 1 AND change_time < $1")
        .bind(old)
        .execute(&mut *conn)
        .await?;
    forgotten(conn, newest).await
}

/// Forgets every change of a tenant. Whoever has not read them has to drop all that it keeps.
pub(super) async fn forget_tenant(conn: &mut Conn, tenant: &TenantId) -> Result<()> {
    let sql = "SELECT MAX(sequence) AS newest FROM changes WHERE tenant = $1";
    let found = query(sql)
        .bind(tenant.as_str())
        .fetch_one(&mut *conn)
        .await?;
    let Some(newest) = found.optional_int("newest")? else {
        return Ok(());
    };
    locks::feed(conn).await?;
    query("DELETE FROM changes WHERE tenant = $1")
        .bind(tenant.as_str())
        .execute(&mut *conn)
        .await?;
    forgotten(conn, newest).await
}

/// Notes up to which number changes are gone. Those of transactions that are open now are not among them: what was deleted could be seen. The feed is locked
/// before the deletion, so that of two such notes the later one knows what the earlier one deleted.
async fn forgotten(conn: &mut Conn, newest: i64) -> Result<()> {
    // Without an epoch nobody has a place in the feed, and the first one that looks begins one.
    let seen = conn.seen().await?;
    let open = seen.map_or_else(|| "[]".to_owned(), |seen| seen.open_json());
    let sql = "UPDATE change_feed SET forgotten_open = $1, \
               forgotten = CASE WHEN forgotten < $2 THEN $2 ELSE forgotten END";
    query(sql).bind(open).bind(newest).execute(conn).await?;
    Ok(())
}

async fn note(
    conn: &mut Conn,
    (kind, tenant, id): (&'static str, &str, &str),
    is_deleted: bool,
    now: Timestamp,
) -> Result<()> {
    let sequence = conn.change().await?;
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
