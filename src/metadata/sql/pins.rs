//! Tasks whose serving versions are to stay in memory.
//!
//! Invariant: when a task is pinned, the files of the versions that serve its tenant's pinned tasks fit the limit; what serves later may have others.

use super::super::{Error, PinnedRecord, Plan, Proof, Result, Share, TaskRecord};
use super::database::{Conn, query};
use super::rows::Columns;
use super::{Database, audit, changes, locks, tasks};
use crate::ids::{AdapterVersion, TaskId, TenantId, VersionRef};

/// Pins a task within the limit of its tenant, or unpins it.
pub(super) async fn pin(
    store: &Database,
    (tenant, task): (&TenantId, &TaskId),
    pinned: bool,
    limit: u64,
) -> Result<TaskRecord> {
    let (mut tx, now) = store.write().await?;
    locks::tenant(&mut tx, tenant).await?;
    let sql = "UPDATE tasks SET pinned = $1 WHERE tenant = $2 AND id = $3 RETURNING *";
    let found = query(sql)
        .bind(pinned)
        .bind(tenant.as_str())
        .bind(task.as_str())
        .fetch_optional(&mut tx)
        .await?;
    let row = found.ok_or_else(|| tasks::missing(task))?;
    let record = tasks::read(&row)?;
    if pinned {
        let all = versions(&mut tx, Some(tenant)).await?;
        let bytes = all.iter().map(|own| own.size_bytes).sum();
        if bytes > limit {
            return Err(Error::TooMuchPinned { bytes, limit });
        }
    }
    changes::task_changed(&mut tx, tenant, task, now).await?;
    let detail = format!("pinned={pinned}");
    audit::acted(&mut tx, tenant, tasks::named(task, detail), now).await?;
    tx.commit().await?;
    Ok(record)
}

/// Versions that serve pinned tasks, of one tenant or of all.
pub(super) async fn versions(
    conn: &mut Conn,
    tenant: Option<&TenantId>,
) -> Result<Vec<PinnedRecord>> {
    let sql = "SELECT * FROM tasks WHERE pinned = 1 AND (CAST($1 AS TEXT) IS NULL OR tenant = $1) \
               ORDER BY tenant, id";
    let found = query(sql)
        .bind(tenant.map(TenantId::as_str))
        .fetch_all(&mut *conn)
        .await?;
    let mut pinned = Vec::new();
    for row in &found {
        let task = tasks::read(row)?;
        for version in serving(&task) {
            let size = "SELECT size_bytes FROM versions \
                        WHERE tenant = $1 AND task = $2 AND version = $3";
            let size = query(size)
                .bind(task.tenant.as_str())
                .bind(task.id.as_str())
                .bind(version.get())
                .fetch_optional(&mut *conn)
                .await?;
            let Some(size) = size else {
                continue;
            };
            pinned.push(PinnedRecord {
                version: VersionRef {
                    tenant: task.tenant.clone(),
                    task: task.id.clone(),
                    version,
                },
                size_bytes: size.number("size_bytes")?,
            });
        }
    }
    Ok(pinned)
}

/// The version that serves a task, and those that share its requests and were proved.
fn serving(task: &TaskRecord) -> Vec<AdapterVersion> {
    let is_serving = |plan: &&Plan| task.serving == Some(plan.main);
    let is_ready = |own: &&Share| own.proof == Proof::Ready;
    let members = task.split.iter().filter(is_serving);
    let members = members.flat_map(|plan| plan.members.iter().filter(is_ready));
    let members = members.map(|own| own.version);
    let mut all: Vec<_> = task.serving.into_iter().chain(members).collect();
    all.dedup();
    all
}
