//! Which process loads and warms up what is asked of a task, before it serves.
//!
//! Invariant: one process at a time has the proof of a task, by the database's clock; one that ends without a word keeps it until its time is over.

use std::time::Duration;

use super::super::{Result, TaskRecord, Timestamp};
use super::database::{Conn, query};
use super::{Database, micros, tasks, versions};
use crate::ids::{TaskId, TenantId};

/// How long only processes that have a version of the task in memory may begin with a proof, in microseconds: for them it costs the least.
pub(super) const PREFERENCE: Timestamp = 1_000_000;

/// Tasks that are read at once.
const PAGE: u32 = 1000;

/// What is to be proved: versions that are to serve, then other versions of splits, since each has an index of its own. The order and the limit matter to
/// PostgreSQL: its statistics say nothing of `IS DISTINCT FROM`, so that it would read all tasks, but a page in the order of an index comes from that index.
const PENDING: &str = "SELECT * FROM (SELECT * FROM tasks INDEXED BY pending_tasks \
    WHERE (tenant, id) > ($1, $2) AND desired IS DISTINCT FROM serving AND serving_error IS NULL \
    ORDER BY tenant, id LIMIT $5) AS moves \
    UNION ALL SELECT * FROM (SELECT * FROM tasks INDEXED BY pending_splits \
    WHERE (tenant, id) > ($3, $4) AND split_pending = 1 AND desired IS NOT DISTINCT FROM serving \
    ORDER BY tenant, id LIMIT $5) AS splits";

/// All tasks of which something is to be proved, but those of another backbone.
pub(super) async fn pending(store: &Database) -> Result<Vec<TaskRecord>> {
    let mut conn = store.look().await?;
    let mut all = Vec::new();
    let [mut move_after, mut split_after] = [const { (String::new(), String::new()) }; 2];
    loop {
        let page = query(PENDING).bind(&move_after.0).bind(&move_after.1);
        let page = page.bind(&split_after.0).bind(&split_after.1).bind(PAGE);
        let rows = page.fetch_all(&mut conn).await?;
        for row in &rows {
            let task = tasks::read(row)?;
            let after = match task.desired == task.serving {
                true => &mut split_after,
                false => &mut move_after,
            };
            *after = (task.tenant.to_string(), task.id.to_string());
            if !is_foreign(store, &mut conn, &task).await? {
                all.push(task);
            }
        }
        if rows.len() < PAGE as usize {
            return Ok(all);
        }
    }
}

/// Whether what is asked of a task is of another backbone.
async fn is_foreign(store: &Database, conn: &mut Conn, task: &TaskRecord) -> Result<bool> {
    match task.desired {
        Some(version) => {
            let key = (&task.tenant, &task.id);
            versions::is_foreign(conn, store.backbone.get(), key, version).await
        }
        None => Ok(false),
    }
}

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

#[cfg(test)]
mod tests {
    use super::super::super::{Config, NewTask, Tasks as _};
    use super::*;
    use crate::spec::{AdapterConfig, ClipSampling};

    #[tokio::test]
    async fn what_is_to_be_proved_may_be_more_than_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::at(folder.path().join("metadata.sqlite"));
        let database = Database::open(config).await.unwrap();
        let (a, first): (TenantId, TaskId) = ("a".parse().unwrap(), "t".parse().unwrap());
        let task = NewTask {
            id: first.clone(),
            display_name: String::new(),
            adapter: AdapterConfig::LINEAR_PROBE,
            sampling: ClipSampling::uniform(std::num::NonZeroU16::MIN),
            auto_serve: true,
            auto_head: false,
        };
        database.create_task(&a, task, None).await.unwrap();
        let change = async |sql: &'static str| {
            let (mut tx, _) = database.write().await.unwrap();
            query(sql).execute(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
        };
        change("UPDATE tasks SET desired = 1").await;
        let more = PAGE as usize * 2 + 500;
        let ids: Vec<TaskId> = (1..more)
            .map(|n| format!("t{n}").parse().unwrap())
            .collect();
        database.copy_task(&a, &first, &ids).await.unwrap();
        // Splits of which another version waits, and tasks of which nothing does.
        change("UPDATE tasks SET serving = 1, split_pending = 1 WHERE id LIKE '%3'").await;
        change("UPDATE tasks SET serving = 1 WHERE id LIKE '%7'").await;
        let waits = |id: &&TaskId| !id.as_str().ends_with('7');
        let mut expected: Vec<_> = [&first].into_iter().chain(&ids).filter(waits).collect();
        expected.sort();
        let found = pending(&database).await.unwrap();
        let mut found: Vec<_> = found.iter().map(|task| &task.id).collect();
        found.sort();
        assert_eq!(found, expected);
    }
}
