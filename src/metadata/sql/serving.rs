//! What is asked of a task's serving, what the engine reports of it, and what served before.
//!
//! Invariant: whoever asks for other versions leaves what serves in `previous`; a split begins with its main version, so its other versions never serve
//! while another main version does.

use super::super::{Error, Plan, Proof, Result, Share, TaskRecord, Timestamp};
use super::database::{Conn, Tx, query};
use super::{Database, audit, changes, locks, proofs, rows, tasks, versions};
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
    changes::task_changed(&mut tx, tenant, task, now).await?;
    let told = tasks::named(task, asked(plan));
    audit::acted(&mut tx, tenant, told, now).await?;
    tx.commit().await?;
    Ok(record)
}

/// The versions of a plan, as the audit log has them.
fn asked(plan: &Plan) -> String {
    let versions: Vec<_> = plan.versions().map(|own| own.to_string()).collect();
    format!("versions={}", versions.join(","))
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
    let told = tasks::named(task, format!("roll back: {}", asked(plan)));
    let record = desire(&mut tx, &record, plan, now).await?;
    changes::task_changed(&mut tx, tenant, task, now).await?;
    audit::acted(&mut tx, tenant, told, now).await?;
    tx.commit().await?;
    Ok(record)
}

/// Makes a plan what is asked for. Versions that serve, or were proved for the plan before, are proved; the others are to be. The caller's transaction notes the
/// change in the feed.
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
    let split = (!plan.is_plain()).then(|| rows::json("split", &plan));
    let previous = previous.map(|plan| rows::json("previous", &plan));
    let sql = "UPDATE tasks SET desired = $1, serving_error = NULL, revision = revision + 1, \
               split = $2, split_pending = $3, previous = $4, proof = NULL, proof_end = $7 \
               WHERE tenant = $5 AND id = $6 RETURNING *";
    let row = query(sql)
        .bind(plan.main.get())
        .bind(split.transpose()?)
        .bind(plan.is_pending())
        .bind(previous.transpose()?)
        .bind(tenant.as_str())
        .bind(task.as_str())
        // What has never served is in nobody's memory.
        .bind(
            record
                .serving
                .map(|_| now.saturating_add(proofs::PREFERENCE)),
        )
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
    if !locks::task(&mut tx, tenant, task).await? {
        return Ok(false);
    }
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
    end_move(tx, (tenant, task), now, true).await
}

/// Makes a version the one that serves, if it is the desired one. Returns whether it is.
pub(super) async fn moved(
    store: &Database,
    key: (&TenantId, &TaskId),
    version: AdapterVersion,
) -> Result<bool> {
    let (tx, now) = store.write().await?;
    // The process that has the proof may still load other versions of the split.
    let sql = "UPDATE tasks SET serving = desired, serving_error = $1, \
               proof = CASE WHEN split_pending = 1 THEN proof END, \
               proof_end = CASE WHEN split_pending = 1 THEN proof_end END \
               WHERE tenant = $2 AND id = $3 AND desired = $4";
    report(tx, now, key, (sql, version, None)).await
}

/// Notes why the desired version cannot serve. Returns whether the version is desired still.
pub(super) async fn failed(
    store: &Database,
    key: (&TenantId, &TaskId),
    version: AdapterVersion,
    why: &str,
) -> Result<bool> {
    let (mut tx, now) = store.write().await?;
    if versions::is_foreign(&mut tx, store.backbone.get(), key, version).await? {
        return Ok(false);
    }
    let sql = "UPDATE tasks SET serving_error = $1, \
               proof = CASE WHEN split_pending = 1 THEN proof END, \
               proof_end = CASE WHEN split_pending = 1 THEN proof_end END \
               WHERE tenant = $2 AND id = $3 AND desired = $4";
    report(tx, now, key, (sql, version, Some(why))).await
}

/// Notes whether the version that serves still can. Returns whether that is news.
pub(super) async fn note(
    store: &Database,
    key: (&TenantId, &TaskId),
    version: AdapterVersion,
    why: Option<&str>,
) -> Result<bool> {
    let (mut tx, now) = store.write().await?;
    if versions::is_foreign(&mut tx, store.backbone.get(), key, version).await? {
        return Ok(false);
    }
    let sql = "UPDATE tasks SET serving_error = $1 WHERE tenant = $2 AND id = $3 AND serving = $4 \
               AND desired = serving AND serving_error IS DISTINCT FROM $1";
    report(tx, now, key, (sql, version, why)).await
}

/// Runs an UPDATE by which the engine reports on a version: `$1` is why it cannot serve, `$2` and `$3` name its task, `$4` is its number. Returns whether
/// that changed the task.
async fn report(
    mut tx: Tx,
    now: Timestamp,
    (tenant, task): (&TenantId, &TaskId),
    (sql, version, why): (&'static str, AdapterVersion, Option<&str>),
) -> Result<bool> {
    let changed = query(sql)
        .bind(why)
        .bind(tenant.as_str())
        .bind(task.as_str())
        .bind(version.get())
        .execute(&mut tx)
        .await?;
    end_move(tx, (tenant, task), now, changed > 0).await
}

/// Commits what the engine did to a task, with a note in the change feed if that changed it. Returns whether it did.
async fn end_move(
    mut tx: Tx,
    (tenant, task): (&TenantId, &TaskId),
    now: Timestamp,
    changed: bool,
) -> Result<bool> {
    if changed {
        changes::task_changed(&mut tx, tenant, task, now).await?;
    }
    tx.commit().await?;
    Ok(changed)
}
