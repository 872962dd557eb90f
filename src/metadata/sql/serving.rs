//! What is asked of a task's serving, and what served before.
//!
//! Invariant: whoever asks for other versions leaves what serves in `previous`; a split begins with its main version, so its other versions never serve
//! while another main version does.

use super::super::{Error, Plan, Proof, Result, Share, TaskRecord, Timestamp};
use super::database::{Conn, query};
use super::{Database, changes, locks, rows, tasks, versions};
use crate::ids::{AdapterVersion, TaskId, TenantId};

/// Asks for the versions of a plan, if the etag is current and they exist.
pub(super) async fn set(
    store: &Database,
    (tenant, task): (&TenantId, &TaskId),
    plan: &Plan,
    etag: &str,
) -> Result<TaskRecord> {
    let (mut tx, now) = store.write().await?;
    let record = tasks::current(&mut tx, tenant, task, Some(etag)).await?;
    for version in plan.versions() {
        versions::get(&mut tx, tenant, task, version).await?;
    }
    let record = desire(&mut tx, &record, plan, now).await?;
    tx.commit().await?;
    Ok(record)
}

/// Asks for what served before.
pub(super) async fn roll_back(
    store: &Database,
    (tenant, task): (&TenantId, &TaskId),
    etag: &str,
) -> Result<TaskRecord> {
    let (mut tx, now) = store.write().await?;
    let record = tasks::current(&mut tx, tenant, task, Some(etag)).await?;
    let Some(plan) = &record.previous else {
        return Err(Error::NothingBefore { task: task.clone() });
    };
    let record = desire(&mut tx, &record, plan, now).await?;
    tx.commit().await?;
    Ok(record)
}

/// Makes a plan what is asked for. Versions that serve, or were proved for the plan before, are proved; the others are to be.
pub(super) async fn desire(
    conn: &mut Conn,
    record: &TaskRecord,
    plan: &Plan,
    now: Timestamp,
) -> Result<TaskRecord> {
    let (tenant, task) = (&record.tenant, &record.id);
    let served = in_force(record);
    let mut plan = plan.clone().unproved();
    let previous = match served {
        Some(served) if served != plan => Some(served),
        Some(_) | None => record.previous.clone(),
    };
    prove(&mut plan, record);
    changes::task_changed(conn, tenant, task, now).await?;
    let split = (!plan.is_plain()).then(|| rows::json("split", &plan));
    let previous = previous.map(|plan| rows::json("previous", &plan));
    let sql = "UPDATE tasks SET desired = $1, serving_error = NULL, revision = revision + 1, \
               split = $2, split_pending = $3, previous = $4 WHERE tenant = $5 AND id = $6 RETURNING *";
    let row = query(sql)
        .bind(plan.main.get())
        .bind(split.transpose()?)
        .bind(plan.is_pending())
        .bind(previous.transpose()?)
        .bind(tenant.as_str())
        .bind(task.as_str())
        .fetch_one(conn)
        .await?;
    tasks::read(&row)
}

/// What answers now, without the proofs.
fn in_force(record: &TaskRecord) -> Option<Plan> {
    let main = record.serving?;
    let split = record
        .split
        .clone()
        .filter(|_| record.desired == Some(main));
    Some(split.unwrap_or_else(|| main.into()).unproved())
}

/// Notes which versions of a new plan were proved for what is on record.
fn prove(plan: &mut Plan, record: &TaskRecord) {
    let is_ready = |own: &&Share| own.proof == Proof::Ready;
    let proved = record.split.iter().flat_map(Plan::others).filter(is_ready);
    let proved = proved.map(|own| own.version).chain(record.serving);
    for version in proved {
        if let Some(own) = plan.other_mut(version) {
            own.proof = Proof::Ready;
        }
    }
}

/// Notes whether a version of the split can serve.
pub(super) async fn note_member(
    store: &Database,
    (tenant, task): (&TenantId, &TaskId),
    version: AdapterVersion,
    why: Option<&str>,
) -> Result<bool> {
    let (mut tx, now) = store.write().await?;
    let proof = match why {
        None => Proof::Ready,
        Some(why) => Proof::Failed {
            why: why.to_owned(),
        },
    };
    locks::task(&mut tx, tenant, task).await?;
    if versions::is_foreign(&mut tx, store.backbone.get(), (tenant, task), version).await? {
        return Ok(false);
    }
    let mut split = match tasks::get(&mut tx, tenant, task).await {
        Ok(record) => record.split,
        // The task was deleted meanwhile.
        Err(Error::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    let share = split.as_mut().and_then(|split| split.other_mut(version));
    let Some(share) = share.filter(|own| own.proof != proof) else {
        return Ok(false);
    };
    share.proof = proof;
    let is_pending = split.as_ref().is_some_and(Plan::is_pending);
    query("UPDATE tasks SET split = $1, split_pending = $2 WHERE tenant = $3 AND id = $4")
        .bind(rows::json("split", &split)?)
        .bind(is_pending)
        .bind(tenant.as_str())
        .bind(task.as_str())
        .execute(&mut tx)
        .await?;
    tasks::end_move(tx, (tenant, task), now, true).await
}
