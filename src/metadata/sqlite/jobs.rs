//! Jobs as workers see them: claimed, kept alive, moved on, ended, published.
//!
//! Invariant: a job has at most one worker; every write of a worker names its epoch and the state that it believes in, and changes nothing when
//! either is not so; every change of state is an event of the same transaction.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::super::{
    CheckpointRecord, Claim, Ending, Error, Event, JobRecord, JobResult, JobUpdate, Lease,
    NewVersion, Outcome, Published, Result, Timestamp, Workers,
};
use super::rows::{self, Columns};
use super::{Sqlite, events, owners, tasks, versions};
use crate::ids::AdapterVersion;
use crate::spec::JobState;

/// Claims that may end without a word, one after another without a checkpoint in between, before the job is given up.
const MAX_LOSSES: i64 = 5;

#[async_trait]
impl Workers for Sqlite {
    async fn recover_jobs(&self) -> Result<u64> {
        let (mut tx, now) = self.write().await?;
        let lost = lost_jobs(&mut tx, Timestamp::MAX).await?;
        for job in &lost {
            put_back(&mut tx, job, true, now).await?;
        }
        tx.commit().await?;
        Ok(lost.len() as u64)
    }

    async fn claim_job(&self, worker: &str, lease: Duration) -> Result<Option<Claim>> {
        let (mut tx, now) = self.write().await?;
        for job in lost_jobs(&mut tx, now).await? {
            put_back(&mut tx, &job, true, now).await?;
        }
        let sql = "UPDATE jobs SET state = ?1, epoch = epoch + 1, attempts = attempts + 1, \
                   worker = ?2, lease_end = ?3 WHERE (tenant, id) = ( \
                   SELECT tenant, id FROM jobs AS waiting WHERE state = ?4 AND end_time IS NULL \
                   ORDER BY (SELECT COUNT(*) FROM jobs AS running \
                   WHERE running.tenant = waiting.tenant AND running.lease_end IS NOT NULL), \
                   create_time, id LIMIT 1) RETURNING *";
        let row = sqlx::query(sql)
            .bind(rows::name("state", JobState::Validating)?)
            .bind(worker)
            .bind(after(now, lease))
            .bind(rows::name("state", JobState::Queued)?)
            .fetch_optional(&mut *tx)
            .await?;
        let claim = match row {
            Some(row) => {
                let job = owners::read(&row)?;
                announce(&mut tx, &job, JobState::Validating, None, now).await?;
                let lease = Lease {
                    tenant: job.tenant.clone(),
                    job: job.id,
                    epoch: job.epoch,
                };
                Some(Claim { lease, job })
            }
            None => None,
        };
        tx.commit().await?;
        Ok(claim)
    }

    async fn heartbeat(&self, lease: &Lease, extend: Duration) -> Result<bool> {
        let (mut tx, now) = self.write().await?;
        let sql = "UPDATE jobs SET lease_end = ? WHERE tenant = ? AND id = ? AND epoch = ? \
                   AND lease_end IS NOT NULL RETURNING cancel_requested";
        let row = sqlx::query(sql)
            .bind(after(now, extend))
            .bind(lease.tenant.as_str())
            .bind(lease.job.to_string())
            .bind(rows::int("epoch", lease.epoch)?)
            .fetch_optional(&mut *tx)
            .await?
            .ok_or_else(|| lost(lease))?;
        tx.commit().await?;
        row.flag("cancel_requested")
    }

    async fn advance_job(
        &self,
        lease: &Lease,
        from: JobState,
        to: JobState,
        update: JobUpdate,
    ) -> Result<JobRecord> {
        let (mut tx, now) = self.write().await?;
        change(&mut tx, lease, (from, to), &update).await?;
        let job = owners::get(&mut tx, &lease.tenant, lease.job).await?;
        announce(&mut tx, &job, to, None, now).await?;
        tx.commit().await?;
        Ok(job)
    }

    async fn append_events(
        &self,
        lease: &Lease,
        state: JobState,
        events: &[Event],
        update: JobUpdate,
    ) -> Result<()> {
        let (mut tx, now) = self.write().await?;
        change(&mut tx, lease, (state, state), &update).await?;
        for event in events {
            events::append(&mut tx, &lease.tenant, lease.job, now, event).await?;
        }
        tx.commit().await
    }

    async fn commit_checkpoint(
        &self,
        lease: &Lease,
        checkpoint: CheckpointRecord,
    ) -> Result<Option<CheckpointRecord>> {
        let (mut tx, _) = self.write().await?;
        let update = JobUpdate {
            step: Some(checkpoint.step),
            ..JobUpdate::default()
        };
        change(
            &mut tx,
            lease,
            (JobState::Running, JobState::Running),
            &update,
        )
        .await?;
        let job = owners::get(&mut tx, &lease.tenant, lease.job).await?;
        let sql = "UPDATE jobs SET checkpoint = ?, losses = 0 WHERE tenant = ? AND id = ?";
        sqlx::query(sql)
            .bind(rows::json("checkpoint", &checkpoint)?)
            .bind(lease.tenant.as_str())
            .bind(lease.job.to_string())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(job.checkpoint)
    }

    async fn release_job(&self, lease: &Lease) -> Result<()> {
        let (mut tx, now) = self.write().await?;
        let job = held(&mut tx, lease).await?;
        put_back(&mut tx, &job, false, now).await?;
        tx.commit().await
    }

    async fn end_job(&self, lease: &Lease, ending: Ending) -> Result<JobRecord> {
        let (mut tx, now) = self.write().await?;
        let job = held(&mut tx, lease).await?;
        match ending {
            Ending::Failed { reason, message } => {
                let why = Some((reason, message));
                end(&mut tx, &job, JobState::Failed, why, now).await?;
            }
            Ending::Cancelled => end(&mut tx, &job, JobState::Cancelled, None, now).await?,
        }
        let job = owners::get(&mut tx, &lease.tenant, lease.job).await?;
        tx.commit().await?;
        Ok(job)
    }

    async fn reserve_version(&self, lease: &Lease) -> Result<AdapterVersion> {
        let (mut tx, _) = self.write().await?;
        let job = held(&mut tx, lease).await?;
        if let Some(version) = reserved(&mut tx, lease).await? {
            return Ok(version);
        }
        let version = versions::next_number(&mut tx, &lease.tenant, &job.task).await?;
        sqlx::query("UPDATE jobs SET reserved_version = ? WHERE tenant = ? AND id = ?")
            .bind(version.get())
            .bind(lease.tenant.as_str())
            .bind(lease.job.to_string())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(version)
    }

    async fn publish_version(
        &self,
        lease: &Lease,
        version: NewVersion,
        outcome: Outcome,
    ) -> Result<Published> {
        let (mut tx, now) = self.write().await?;
        let states = (JobState::Publishing, JobState::Publishing);
        change(&mut tx, lease, states, &JobUpdate::default()).await?;
        if reserved(&mut tx, lease).await? != Some(version.version) {
            return Err(lost(lease));
        }
        let job = owners::get(&mut tx, &lease.tenant, lease.job).await?;
        let record = versions::insert(&mut tx, &lease.tenant, &job.task, &version, now).await?;
        let is_desired = ask_to_serve(&mut tx, &job, version.version, now).await?;
        set_result(&mut tx, &job, version, &outcome).await?;
        let why = outcome.reason.map(|reason| (reason, String::new()));
        end(&mut tx, &job, JobState::Succeeded, why, now).await?;
        let job = owners::get(&mut tx, &lease.tenant, lease.job).await?;
        tx.commit().await?;
        Ok(Published {
            version: record,
            job,
            is_desired,
        })
    }
}

fn lost(lease: &Lease) -> Error {
    Error::LeaseLost {
        job: lease.job,
        epoch: lease.epoch,
    }
}

fn after(now: Timestamp, lease: Duration) -> Timestamp {
    now.saturating_add(i64::try_from(lease.as_micros()).unwrap_or(i64::MAX))
}

/// Jobs whose worker has not been heard of until its lease ran out.
async fn lost_jobs(conn: &mut SqliteConnection, now: Timestamp) -> Result<Vec<JobRecord>> {
    let sql = "SELECT * FROM jobs WHERE lease_end IS NOT NULL AND lease_end <= ?";
    let found = sqlx::query(sql).bind(now).fetch_all(conn).await?;
    found.iter().map(owners::read).collect()
}

/// The job, if the worker has it.
async fn held(conn: &mut SqliteConnection, lease: &Lease) -> Result<JobRecord> {
    let sql = "SELECT * FROM jobs WHERE tenant = ? AND id = ? AND epoch = ? \
               AND lease_end IS NOT NULL";
    let found = sqlx::query(sql)
        .bind(lease.tenant.as_str())
        .bind(lease.job.to_string())
        .bind(rows::int("epoch", lease.epoch)?)
        .fetch_optional(conn)
        .await?;
    found.map_or_else(|| Err(lost(lease)), |row| owners::read(&row))
}

async fn reserved(conn: &mut SqliteConnection, lease: &Lease) -> Result<Option<AdapterVersion>> {
    let sql = "SELECT reserved_version FROM jobs WHERE tenant = ? AND id = ?";
    let row = sqlx::query(sql)
        .bind(lease.tenant.as_str())
        .bind(lease.job.to_string())
        .fetch_one(conn)
        .await?;
    row.version("reserved_version")
}

/// Moves a job from a state to one that is not final, if the worker has it and it is in the former.
async fn change(
    conn: &mut SqliteConnection,
    lease: &Lease,
    (from, to): (JobState, JobState),
    update: &JobUpdate,
) -> Result<()> {
    let sql = "UPDATE jobs SET state = ?, hyper_parameters = COALESCE(?, hyper_parameters), \
               step = COALESCE(?, step), total_steps = COALESCE(?, total_steps) \
               WHERE tenant = ? AND id = ? AND epoch = ? AND state = ? AND lease_end IS NOT NULL";
    let hyper_parameters = update.hyper_parameters.as_ref();
    let count = |value: Option<u64>| value.map(|value| rows::int("step", value)).transpose();
    let changed = sqlx::query(sql)
        .bind(rows::name("state", to)?)
        .bind(
            hyper_parameters
                .map(rows::stored_hyper_parameters)
                .transpose()?,
        )
        .bind(count(update.step)?)
        .bind(count(update.total_steps)?)
        .bind(lease.tenant.as_str())
        .bind(lease.job.to_string())
        .bind(rows::int("epoch", lease.epoch)?)
        .bind(rows::name("state", from)?)
        .execute(conn)
        .await?;
    if changed.rows_affected() == 0 {
        return Err(lost(lease));
    }
    Ok(())
}

async fn announce(
    conn: &mut SqliteConnection,
    job: &JobRecord,
    state: JobState,
    why: Option<(&str, &str)>,
    now: Timestamp,
) -> Result<()> {
    let (reason, message) = why.unzip();
    let event = Event::State {
        state,
        reason: reason.map(Into::into),
        message: message.filter(|text| !text.is_empty()).map(Into::into),
    };
    events::append(conn, &job.tenant, job.id, now, &event).await
}

/// Takes a job from its worker: it waits again, or ends when its owner wants that or when too many workers were lost with it.
async fn put_back(
    conn: &mut SqliteConnection,
    job: &JobRecord,
    was_lost: bool,
    now: Timestamp,
) -> Result<()> {
    if job.cancel_requested {
        return end(conn, job, JobState::Cancelled, None, now).await;
    }
    let sql = "UPDATE jobs SET state = ?, worker = NULL, lease_end = NULL, losses = losses + ? \
               WHERE tenant = ? AND id = ? RETURNING losses";
    let losses: i64 = sqlx::query_scalar(sql)
        .bind(rows::name("state", JobState::Queued)?)
        .bind(was_lost)
        .bind(job.tenant.as_str())
        .bind(job.id.to_string())
        .fetch_one(&mut *conn)
        .await?;
    if losses >= MAX_LOSSES {
        let message = format!("{losses} workers in a row ended while they had the job");
        let why = Some(("ATTEMPTS_EXHAUSTED".to_owned(), message));
        return end(conn, job, JobState::Failed, why, now).await;
    }
    let why = if was_lost {
        ("WORKER_LOST", "the worker ended without a word")
    } else {
        ("WORKER_DRAINED", "the worker is shutting down")
    };
    announce(conn, job, JobState::Queued, Some(why), now).await
}

/// Ends a job.
pub(super) async fn end(
    conn: &mut SqliteConnection,
    job: &JobRecord,
    state: JobState,
    why: Option<(String, String)>,
    now: Timestamp,
) -> Result<()> {
    let (reason, message) = why.clone().unzip();
    let sql = "UPDATE jobs SET state = ?, reason = ?, message = ?, end_time = ?, worker = NULL, \
               lease_end = NULL WHERE tenant = ? AND id = ?";
    sqlx::query(sql)
        .bind(rows::name("state", state)?)
        .bind(reason)
        .bind(message.filter(|text| !text.is_empty()))
        .bind(now)
        .bind(job.tenant.as_str())
        .bind(job.id.to_string())
        .execute(&mut *conn)
        .await?;
    let why = why
        .as_ref()
        .map(|(reason, message)| (reason.as_str(), message.as_str()));
    announce(conn, job, state, why, now).await
}

/// Makes a job's version its task's desired one, if the task wants that and is what it was at submission.
async fn ask_to_serve(
    conn: &mut SqliteConnection,
    job: &JobRecord,
    version: AdapterVersion,
    now: Timestamp,
) -> Result<bool> {
    let task = tasks::get(conn, &job.tenant, &job.task).await?;
    if !task.auto_serve {
        return Ok(false);
    }
    if task.etag != job.task_etag {
        let text = format!(
            "version {version} is not served: the task was changed since the job was submitted"
        );
        let event = Event::Message {
            warning: true,
            text,
        };
        events::append(conn, &job.tenant, job.id, now, &event).await?;
        return Ok(false);
    }
    tasks::desire(conn, &job.tenant, &job.task, version, now).await?;
    Ok(true)
}

async fn set_result(
    conn: &mut SqliteConnection,
    job: &JobRecord,
    version: NewVersion,
    outcome: &Outcome,
) -> Result<()> {
    let result = JobResult {
        version: version.version.get(),
        evaluation: version.manifest.evaluation,
        loss_curve: outcome.loss_curve.clone(),
        dataset_digest: version.manifest.dataset_digest,
        backbone_digest: version.manifest.backbone_digest,
        seed: outcome.seed,
        parameters: version.manifest.parameters,
        training_micros: outcome.training_micros,
    };
    sqlx::query("UPDATE jobs SET result = ? WHERE tenant = ? AND id = ?")
        .bind(rows::json("result", &result)?)
        .bind(job.tenant.as_str())
        .bind(job.id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}
