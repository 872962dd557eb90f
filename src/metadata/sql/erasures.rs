//! Erasure of tenants: row by row, until the record of it is all that is left.
//!
//! Invariant: once the record is there, triggers refuse whatever would be the tenant's, so that nothing comes behind the erasure; every step is one short
//! transaction that leaves a database in which the next one goes on.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use super::super::{Actor, Erased, ErasureRecord, Erasures, Error, Kind, Result, Timestamp};
use super::database::{Conn, Row, query};
use super::rows::{self, Columns};
use super::{Database, audit, changes, jobs, locks, micros, owners};
use crate::ids::{JobId, TenantId};
use crate::spec::JobState;

/// Rows that one transaction takes: a few milliseconds of the only writer's time.
const BATCH: u32 = 500;

/// Jobs that one transaction ends: each takes some statements.
const JOBS: u32 = 50;

/// Deletes some rows of a tenant; rows of one key column are picked by it, so that a step is bounded. All that a tenant has is to go, so that its rows are
/// walked in pieces.
macro_rules! some_of {
    ($table:literal, $key:literal) => {
        concat!(
            "DELETE",
            " FROM ",
            $table,
            " WHERE tenant = $1 AND (",
            $key,
            ") IN (SELECT ",
            $key,
            " FROM ",
            $table,
            " WHERE tenant = $1 LIMIT $2)"
        )
    };
}

/// Videos, of which processes keep some in memory.
const VIDEOS: &str = some_of!("videos", "id");
/// Versions, which go before their tasks.
const VERSIONS: &str = some_of!("versions", "task, version");
/// What goes, in the order in which rows need each other. Tasks with their versions go before this; what tells other processes goes after it.
const STEPS: &[&str] = &[
    some_of!("sweeps", "id"),
    some_of!("events", "job, sequence"),
    some_of!("event_folds", "job"),
    some_of!("jobs", "id"),
    some_of!("dataset_versions", "dataset, number"),
    some_of!("snapshot_examples", "digest, video"),
    some_of!("snapshots", "digest"),
    some_of!("examples", "dataset, video"),
    some_of!("label_counts", "dataset, label"),
    some_of!("datasets", "id"),
    some_of!("decoded_videos", "video, sampling"),
    VIDEOS,
    some_of!("upload_reservations", "upload"),
    some_of!("parts", "upload, number"),
    some_of!("uploads", "id"),
    some_of!("requests", "method, request_id"),
    some_of!("version_numbers", "task"),
    some_of!("usage_hours", "hour, task"),
    some_of!("demands", "process"),
    some_of!("tenant_usage", "tenant"),
];

#[async_trait]
impl Erasures for Database {
    async fn begin_erasure(&self, tenant: &TenantId, actor: &Actor) -> Result<ErasureRecord> {
        // Also on a full disk.
        self.deleting(|| begin(self, tenant, actor)).await
    }

    async fn get_erasure(&self, tenant: &TenantId) -> Result<ErasureRecord> {
        let mut tx = self.read().await?;
        match get(&mut tx, tenant).await? {
            Some(record) => Ok(record),
            None => Err(missing(tenant)),
        }
    }

    async fn unfinished_erasures(&self) -> Result<Vec<TenantId>> {
        let sql = "SELECT tenant FROM erasures WHERE end_time IS NULL ORDER BY begin_time, tenant";
        let found = query(sql).fetch_all(&mut self.look().await?).await?;
        found.iter().map(|row| row.id("tenant")).collect()
    }

    async fn erase_some(&self, tenant: &TenantId) -> Result<Erased> {
        self.deleting(|| some(self, tenant)).await
    }

    async fn note_erased(&self, tenant: &TenantId, objects: u64, bytes: u64) -> Result<()> {
        let (mut tx, _) = self.write().await?;
        let sql = "UPDATE erasures SET objects = objects + $1, bytes = bytes + $2 \
                   WHERE tenant = $3 AND end_time IS NULL";
        query(sql)
            .bind(rows::int("objects", objects)?)
            .bind(rows::int("bytes", bytes)?)
            .bind(tenant.as_str())
            .execute(&mut tx)
            .await?;
        tx.commit().await
    }

    async fn settle_erasure(&self, tenant: &TenantId, pause: Duration) -> Result<bool> {
        self.deleting(|| settle(self, tenant, pause)).await
    }
}

fn missing(tenant: &TenantId) -> Error {
    Error::NotFound {
        kind: Kind::Tenant,
        name: tenant.to_string(),
    }
}

async fn begin(store: &Database, tenant: &TenantId, actor: &Actor) -> Result<ErasureRecord> {
    let record = mark(store, tenant, actor).await?;
    // In a transaction of its own, which every call repeats: a process may have ended between the two.
    let (mut tx, now) = store.write().await?;
    if record.end_time.is_none() {
        changes::tenant_changed(&mut tx, tenant, now).await?;
        tx.commit().await?;
    }
    Ok(record)
}

/// Makes the record of an erasure, unless there is one.
async fn mark(store: &Database, tenant: &TenantId, actor: &Actor) -> Result<ErasureRecord> {
    let (mut tx, now) = store.write().await?;
    if let Some(record) = get(&mut tx, tenant).await? {
        return Ok(record);
    }
    let sql = "SELECT (EXISTS (SELECT 1 FROM tenants WHERE tenant = $1) \
               OR EXISTS (SELECT 1 FROM tenant_usage WHERE tenant = $1)) AS found";
    let known = query(sql).bind(tenant.as_str()).fetch_one(&mut tx).await?;
    if !known.flag("found")? {
        return Err(missing(tenant));
    }
    // In PostgreSQL this waits for transactions that are about to create something of the tenant.
    let sql = "INSERT INTO erasures (tenant, principal, begin_time) VALUES ($1, $2, $3) \
               ON CONFLICT DO NOTHING";
    query(sql)
        .bind(tenant.as_str())
        .bind(&actor.principal)
        .bind(now)
        .execute(&mut tx)
        .await?;
    audit::note(
        &mut tx,
        actor,
        noted(tenant, "EraseTenant", String::new()),
        now,
    )
    .await?;
    let record = get(&mut tx, tenant).await?;
    tx.commit().await?;
    record.ok_or_else(|| missing(tenant))
}

fn noted<'a>(tenant: &'a TenantId, method: &'static str, detail: String) -> audit::Change<'a> {
    audit::Change {
        tenant: Some(tenant),
        method,
        resource: format!("tenants/{tenant}"),
        detail,
    }
}

/// One step: jobs stop, tasks go, then the rest in the order of [`STEPS`], and at last the keys and the tenant's own row.
async fn some(store: &Database, tenant: &TenantId) -> Result<Erased> {
    let (mut tx, now) = store.write().await?;
    // A second process that waited for the same rows would find none of them, and take that for the end.
    locks::erasure(&mut tx, tenant).await?;
    if get(&mut tx, tenant).await?.is_none() {
        return Err(missing(tenant));
    }
    if stop_jobs(&mut tx, tenant, now).await? > 0 {
        tx.commit().await?;
        return Ok(Erased::Rows(0));
    }
    if owners::unfinished(&mut tx, tenant).await? > 0 {
        return Ok(Erased::Waits);
    }
    let mut gone = drop_tasks(&mut tx, tenant, now).await?;
    for sql in STEPS {
        if gone > 0 {
            break;
        }
        let deleted = query(sql).bind(tenant.as_str()).bind(BATCH);
        gone = deleted.execute(&mut tx).await?;
        if gone > 0 && *sql == VIDEOS {
            changes::videos_deleted(&mut tx, tenant, now).await?;
        }
    }
    if gone == 0 {
        gone = drop_keys(&mut tx, tenant, now).await?;
    }
    if gone == 0 {
        let deleted = query("DELETE FROM tenants WHERE tenant = $1").bind(tenant.as_str());
        gone = deleted.execute(&mut tx).await?;
    }
    if gone == 0 {
        return Ok(Erased::Nothing);
    }
    query("UPDATE erasures SET rows_gone = rows_gone + $1 WHERE tenant = $2")
        .bind(rows::int("rows_gone", gone)?)
        .bind(tenant.as_str())
        .execute(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(Erased::Rows(gone))
}

/// Ends jobs that wait, and those whose worker has not been heard of until its lease ran out, and asks other workers to stop. Returns how many jobs it
/// changed.
async fn stop_jobs(conn: &mut Conn, tenant: &TenantId, now: Timestamp) -> Result<u64> {
    let sql = "UPDATE jobs INDEXED BY unfinished_jobs_by_tenant SET cancel_requested = 1 \
               WHERE tenant = $1 AND end_time IS NULL AND cancel_requested = 0";
    let asked = query(sql).bind(tenant.as_str()).execute(&mut *conn).await?;
    let sql = "SELECT id FROM jobs INDEXED BY unfinished_jobs_by_tenant \
               WHERE tenant = $1 AND end_time IS NULL \
               AND (lease_end IS NULL OR lease_end <= $2) LIMIT $3";
    let idle = query(sql).bind(tenant.as_str()).bind(now).bind(JOBS);
    let idle = idle.fetch_all(&mut *conn).await?;
    let mut ended = 0;
    for row in &idle {
        let id: JobId = row.id("id")?;
        locks::job(conn, tenant, id).await?;
        // Until here its worker may have been heard of.
        let sql = "SELECT * FROM jobs WHERE tenant = $1 AND id = $2 AND end_time IS NULL \
                   AND (lease_end IS NULL OR lease_end <= $3)";
        let found = query(sql)
            .bind(tenant.as_str())
            .bind(id.to_string())
            .bind(now);
        if let Some(row) = found.fetch_optional(&mut *conn).await? {
            jobs::end(conn, &owners::read(&row)?, JobState::Cancelled, None, now).await?;
            ended += 1;
        }
    }
    Ok(asked.max(ended))
}

/// Deletes some tasks, or before them some of their versions; every process hears of the tasks.
async fn drop_tasks(conn: &mut Conn, tenant: &TenantId, now: Timestamp) -> Result<u64> {
    let versions = query(VERSIONS).bind(tenant.as_str()).bind(BATCH);
    let gone = versions.execute(&mut *conn).await?;
    if gone > 0 {
        return Ok(gone);
    }
    let sql = "SELECT id FROM tasks WHERE tenant = $1 LIMIT $2";
    let found = query(sql).bind(tenant.as_str()).bind(BATCH);
    let found = found.fetch_all(&mut *conn).await?;
    if found.is_empty() {
        return Ok(0);
    }
    let ids = found.iter().map(|row| Ok([row.text("id")?]));
    let ids = json!(ids.collect::<Result<Vec<_>>>()?).to_string();
    let sql = "DELETE FROM tasks WHERE tenant = $1 \
               AND id IN (SELECT value ->> 0 FROM json_each($2))";
    let deleted = query(sql).bind(tenant.as_str()).bind(&ids);
    let gone = deleted.execute(&mut *conn).await?;
    changes::tasks_deleted(conn, tenant, &ids, now).await?;
    Ok(gone)
}

/// Deletes some keys of the tenant, so that every process hears of it.
async fn drop_keys(conn: &mut Conn, tenant: &TenantId, now: Timestamp) -> Result<u64> {
    let sql = "DELETE FROM api_keys WHERE id IN \
               (SELECT id FROM api_keys WHERE tenant = $1 LIMIT $2) RETURNING id";
    let gone = query(sql).bind(tenant.as_str()).bind(BATCH);
    let gone = gone.fetch_all(&mut *conn).await?;
    for row in &gone {
        changes::key_deleted(conn, &row.id("id")?, now).await?;
    }
    Ok(gone.len() as u64)
}

async fn settle(store: &Database, tenant: &TenantId, pause: Duration) -> Result<bool> {
    let (mut tx, now) = store.write().await?;
    let sql = "UPDATE erasures SET settle_time = COALESCE(settle_time, $1) \
               WHERE tenant = $2 AND end_time IS NULL RETURNING settle_time";
    let settled = query(sql).bind(now).bind(tenant.as_str());
    let Some(row) = settled.fetch_optional(&mut tx).await? else {
        return Ok(true);
    };
    let since = row.int("settle_time")?;
    let is_over = since.saturating_add(micros(pause)) <= now;
    if since == now && !is_over {
        // What others keep of it goes now, whatever of the begin they have heard.
        changes::videos_deleted(&mut tx, tenant, now).await?;
        changes::tenant_changed(&mut tx, tenant, now).await?;
    }
    if is_over {
        changes::forget_tenant(&mut tx, tenant).await?;
        query("UPDATE erasures SET end_time = $1 WHERE tenant = $2")
            .bind(now)
            .bind(tenant.as_str())
            .execute(&mut tx)
            .await?;
        let actor = Actor {
            principal: "server".into(),
            source: String::new(),
            request_id: String::new(),
        };
        audit::note(
            &mut tx,
            &actor,
            noted(tenant, "EndErasure", String::new()),
            now,
        )
        .await?;
    }
    tx.commit().await?;
    Ok(is_over)
}

async fn get(conn: &mut Conn, tenant: &TenantId) -> Result<Option<ErasureRecord>> {
    let found = query("SELECT * FROM erasures WHERE tenant = $1")
        .bind(tenant.as_str())
        .fetch_optional(conn)
        .await?;
    found.as_ref().map(read).transpose()
}

fn read(row: &Row) -> Result<ErasureRecord> {
    Ok(ErasureRecord {
        tenant: row.id("tenant")?,
        principal: row.text("principal")?,
        begin_time: row.int("begin_time")?,
        end_time: row.optional_int("end_time")?,
        rows: row.number("rows_gone")?,
        objects: row.number("objects")?,
        bytes: row.number("bytes")?,
    })
}
