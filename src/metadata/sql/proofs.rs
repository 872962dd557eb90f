//! Which process loads and warms up what is asked of a task, before it serves.
//!
//! Invariant: one process at a time has the proof of a task, by the database's clock; one that ends without a word keeps it until its time is over.

use std::time::Duration;

use super::super::{Result, Timestamp};
use super::database::query;
use super::{Database, micros};
use crate::ids::{TaskId, TenantId};

/// How long only processes that have a version of the task in memory may begin with a proof, in microseconds: for them it costs the least.
pub(super) const PREFERENCE: Timestamp = 1_000_000;

/// Takes the proof of a task for a time, unless nothing is to be proved or another process has it. Returns whether it was taken.
pub(super) async fn claim(
    store: &Database,
    (tenant, task): (&TenantId, &TaskId),
    holder: &str,
    is_near: bool,
    span: Duration,
) -> Result<bool> {
    let (mut tx, now) = store.write().await?;
    let sql = "UPDATE tasks SET proof = $1, proof_end = $2 WHERE tenant = $3 AND id = $4 \
               AND ((desired IS DISTINCT FROM serving AND serving_error IS NULL) OR split_pending = 1) \
               AND (proof_end IS NULL OR proof_end <= $5 OR proof = $1 OR (proof IS NULL AND $6 = 1))";
    let taken = query(sql)
        .bind(holder)
        .bind(now.saturating_add(micros(span)))
        .bind(tenant.as_str())
        .bind(task.as_str())
        .bind(now)
        .bind(is_near)
        .execute(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(taken > 0)
}

/// Leaves the proof of a task to others.
pub(super) async fn release(
    store: &Database,
    (tenant, task): (&TenantId, &TaskId),
    holder: &str,
) -> Result<()> {
    let (mut tx, _) = store.write().await?;
    let sql = "UPDATE tasks SET proof = NULL, proof_end = NULL \
               WHERE tenant = $1 AND id = $2 AND proof = $3";
    query(sql)
        .bind(tenant.as_str())
        .bind(task.as_str())
        .bind(holder)
        .execute(&mut tx)
        .await?;
    tx.commit().await
}
