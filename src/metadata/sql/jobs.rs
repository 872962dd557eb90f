//! Jobs as workers see them: claimed, kept alive, moved on, ended, published.
//!
//! Invariant: a job has at most one worker; every write of a worker names its epoch and the state that it believes in, and changes nothing when
//! either is not so; every change of state is an event of the same transaction.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{
    BUDGET_SPENT, CheckpointRecord, Claim, EARLY_STOPPED, Ending, Error, Event, JobRecord,
    JobUpdate, Lease, NewVersion, Published, Release, Result, Timestamp, TrainingSummary, Unwanted,
    Workers,
};
use super::database::{Conn, locking, query};
use super::publishing::{self, Served};
use super::rows::{self, Columns};
use super::{Database, claims, events, locks, metering, owners, versions};
use crate::ids::AdapterVersion;
use crate::spec::{Digest, Evaluation, JobState};

#[async_trait]
impl Workers for Database {
    fn is_exclusive(&self) -> bool {
        Self::is_exclusive(self)
    }

    fn bind_backbone(&self, backbone: Digest) {
        // The first word counts: a process has one backbone.
        let _ = self.backbone.set(backbone);
    }

    async fn release_lost_jobs(&self, alive: &[Lease]) -> Result<Vec<JobRecord>> {
        claims::release_lost(self, alive).await
    }

    async fn claim_job(&self, worker: &str, lease: Duration) -> Result<Option<Claim>> {
        claims::claim(self, worker, lease).await
    }

    async fn count_waiting_jobs(&self) -> Result<u64> {
        claims::count_waiting(self).await
    }

    async fn heartbeat(&self, lease: &Lease, extend: Duration) -> Result<Option<Unwanted>> {
        let (mut tx, now) = self.write().await?;
        let sql = "UPDATE jobs SET lease_end = $1 WHERE tenant = $2 AND id = $3 AND epoch = $4 \
                   AND lease_end IS NOT NULL RETURNING cancel_requested, paused";
        let row = query(sql)
            .bind(after(now, extend))
            .bind(lease.tenant.as_str())
            .bind(lease.job.to_string())
            .bind(rows::int("epoch", lease.epoch)?)
            .fetch_optional(&mut tx)
            .await?
            .ok_or_else(|| lost(lease))?;
        tx.commit().await?;
        Ok(match (row.flag("cancel_requested")?, row.flag("paused")?) {
            (true, _) => Some(Unwanted::Cancel),
            (false, true) => Some(Unwanted::Pause),
            (false, false) => None,
        })
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
        let mut job = owners::get(&mut tx, &lease.tenant, lease.job).await?;
        job.last_event = announce(&mut tx, &job, to, None, now).await?;
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
        if !events.is_empty() {
            events::append_all(&mut tx, (&lease.tenant, lease.job), now, events).await?;
        }
        tx.commit().await
    }

    async fn commit_checkpoint(
        &self,
        lease: &Lease,
        checkpoint: CheckpointRecord,
    ) -> Result<Vec<CheckpointRecord>> {
        let (mut tx, now) = self.write().await?;
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
        // What happened at an earlier step does not count any more; a suspect that has passed its step is none.
        let sql = "UPDATE jobs SET checkpoint = $1, losses = 0, lost_worker = NULL, errors = 0, \
                   crashes = CASE WHEN crash_step >= $2 THEN crashes ELSE 0 END, \
                   suspect_step = CASE WHEN suspect_step >= $2 THEN suspect_step END, \
                   earlier_checkpoints = $5 WHERE tenant = $3 AND id = $4";
        let (kept, dropped) = job.retained(&checkpoint, job.hyper_parameters.keep_checkpoints);
        query(sql)
            .bind(rows::json("checkpoint", &checkpoint)?)
            .bind(rows::int("step", checkpoint.step)?)
            .bind(lease.tenant.as_str())
            .bind(lease.job.to_string())
            .bind(rows::json("earlier_checkpoints", &kept)?)
            .execute(&mut tx)
            .await?;
        let before = job.checkpoint.as_ref().map_or(0, |own| own.clip_frames);
        let trained = checkpoint.clip_frames.saturating_sub(before);
        metering::trained(&mut tx, (&lease.tenant, &job.task), trained, now).await?;
        tx.commit().await?;
        Ok(dropped)
    }

    async fn release_job(&self, lease: &Lease, why: Release) -> Result<()> {
        let (mut tx, now) = self.write().await?;
        let job = held(&mut tx, lease).await?;
        claims::release(&mut tx, &job, why, now).await?;
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
        query("UPDATE jobs SET reserved_version = $1 WHERE tenant = $2 AND id = $3")
            .bind(version.get())
            .bind(lease.tenant.as_str())
            .bind(lease.job.to_string())
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(version)
    }

    async fn publish_version(
        &self,
        lease: &Lease,
        version: NewVersion,
        summary: TrainingSummary,
    ) -> Result<Published> {
        let (mut tx, now) = self.write().await?;
        let states = (JobState::Publishing, JobState::Publishing);
        let job = owners::get(&mut tx, &lease.tenant, lease.job).await?;
        locks::tenant(&mut tx, &lease.tenant).await?;
        if !locks::task(&mut tx, &lease.tenant, &job.task).await? {
            return Err(lost(lease));
        }
        change(&mut tx, lease, states, &JobUpdate::default()).await?;
        if reserved(&mut tx, lease).await? != Some(version.version) {
            return Err(lost(lease));
        }
        let job = owners::get(&mut tx, &lease.tenant, lease.job).await?;
        let record = versions::insert(&mut tx, &lease.tenant, &job.task, &version, now).await?;
        let served = publishing::ask_to_serve(&mut tx, &job, &version, now).await?;
        publishing::set_result(&mut tx, &job, version, &summary).await?;
        let is_desired = matches!(served, Served::Desired);
        let why = match (summary.reason, served) {
            // That it is not served is what its owner has to act on.
            (Some(early), Served::Not(reason, message))
                if early == EARLY_STOPPED || early == BUDGET_SPENT =>
            {
                Some((reason.to_owned(), message))
            }
            (Some(reason), _) => Some((reason, String::new())),
            (None, Served::Not(reason, message)) => Some((reason.to_owned(), message)),
            (None, Served::Desired | Served::Unasked) => None,
        };
        match summary.has_test {
            true => keep_reason(&mut tx, &job, why).await?,
            false => end(&mut tx, &job, JobState::Succeeded, why, now).await?,
        }
        let job = owners::get(&mut tx, &lease.tenant, lease.job).await?;
        tx.commit().await?;
        Ok(Published {
            version: record,
            job,
            is_desired,
        })
    }

    async fn finish_job(
        &self,
        lease: &Lease,
        test: Evaluation,
        event: Option<Event>,
    ) -> Result<JobRecord> {
        let (mut tx, now) = self.write().await?;
        let states = (JobState::Publishing, JobState::Publishing);
        change(&mut tx, lease, states, &JobUpdate::default()).await?;
        let job = owners::get(&mut tx, &lease.tenant, lease.job).await?;
        let Some(mut result) = job.result.clone() else {
            return Err(lost(lease));
        };
        let version = result.version;
        versions::set_test(&mut tx, &lease.tenant, &job.task, version, &test).await?;
        result.test = Some(test);
        publishing::write_result(&mut tx, &job, &result).await?;
        if let Some(event) = event {
            events::append(&mut tx, &lease.tenant, lease.job, now, &event).await?;
        }
        end(&mut tx, &job, JobState::Succeeded, success(&job), now).await?;
        let job = owners::get(&mut tx, &lease.tenant, lease.job).await?;
        tx.commit().await?;
        Ok(job)
    }
}

fn lost(lease: &Lease) -> Error {
    Error::LeaseLost {
        job: lease.job,
        epoch: lease.epoch,
    }
}

pub(super) fn after(now: Timestamp, lease: Duration) -> Timestamp {
    now.saturating_add(i64::try_from(lease.as_micros()).unwrap_or(i64::MAX))
}

/// The job, if the worker has it, locked.
async fn held(conn: &mut Conn, lease: &Lease) -> Result<JobRecord> {
    let sql = "SELECT * FROM jobs WHERE tenant = $1 AND id = $2 AND epoch = $3 \
               AND lease_end IS NOT NULL";
    let found = locking(sql)
        .bind(lease.tenant.as_str())
        .bind(lease.job.to_string())
        .bind(rows::int("epoch", lease.epoch)?)
        .fetch_optional(conn)
        .await?;
    found.map_or_else(|| Err(lost(lease)), |row| owners::read(&row))
}

async fn reserved(conn: &mut Conn, lease: &Lease) -> Result<Option<AdapterVersion>> {
    let sql = "SELECT reserved_version FROM jobs WHERE tenant = $1 AND id = $2";
    let row = query(sql)
        .bind(lease.tenant.as_str())
        .bind(lease.job.to_string())
        .fetch_one(conn)
        .await?;
    row.version("reserved_version")
}

/// Moves a job from a state to one that is not final, if the worker has it and it is in the former.
async fn change(
    conn: &mut Conn,
    lease: &Lease,
    (from, to): (JobState, JobState),
    update: &JobUpdate,
) -> Result<()> {
    // A job that reaches its publication has passed whatever it was suspected of.
    let sql = "UPDATE jobs SET state = $1, hyper_parameters = COALESCE($2, hyper_parameters), \
               step = COALESCE($3, step), total_steps = COALESCE($4, total_steps), \
               checked = COALESCE($5, checked), \
               suspect_step = CASE WHEN $1 = 'publishing' THEN NULL ELSE suspect_step END \
               WHERE tenant = $6 AND id = $7 AND epoch = $8 AND state = $9 \
               AND lease_end IS NOT NULL";
    let hyper_parameters = update.hyper_parameters.as_ref();
    let count = |value: Option<u64>| value.map(|value| rows::int("step", value)).transpose();
    let changed = query(sql)
        .bind(rows::name("state", to)?)
        .bind(
            hyper_parameters
                .map(|own| rows::json("hyper_parameters", own))
                .transpose()?,
        )
        .bind(count(update.step)?)
        .bind(count(update.total_steps)?)
        .bind(count(update.checked)?)
        .bind(lease.tenant.as_str())
        .bind(lease.job.to_string())
        .bind(rows::int("epoch", lease.epoch)?)
        .bind(rows::name("state", from)?)
        .execute(conn)
        .await?;
    if changed == 0 {
        return Err(lost(lease));
    }
    Ok(())
}

/// Appends the event of a job's new state. Returns its number.
pub(super) async fn announce(
    conn: &mut Conn,
    job: &JobRecord,
    state: JobState,
    why: Option<(&str, &str)>,
    now: Timestamp,
) -> Result<u64> {
    let (reason, message) = why.unzip();
    let event = Event::State {
        state,
        reason: reason.map(Into::into),
        message: message.filter(|text| !text.is_empty()).map(Into::into),
    };
    events::append(conn, &job.tenant, job.id, now, &event).await
}

/// Why a job with a version has succeeded with less than was asked for, as its publication said.
fn success(job: &JobRecord) -> Option<(String, String)> {
    let reason = job.reason.clone()?;
    Some((reason, job.message.clone().unwrap_or_default()))
}

/// Keeps the reason of a job that is to succeed once its test split was measured.
async fn keep_reason(
    conn: &mut Conn,
    job: &JobRecord,
    why: Option<(String, String)>,
) -> Result<()> {
    let (reason, message) = why.unzip();
    query("UPDATE jobs SET reason = $1, message = $2 WHERE tenant = $3 AND id = $4")
        .bind(reason)
        .bind(message.filter(|text| !text.is_empty()))
        .bind(job.tenant.as_str())
        .bind(job.id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Ends a job. One whose version is published succeeds, whatever keeps it from measuring its test split.
pub(super) async fn end(
    conn: &mut Conn,
    job: &JobRecord,
    state: JobState,
    why: Option<(String, String)>,
    now: Timestamp,
) -> Result<()> {
    let (state, why) = match job.result {
        Some(_) => (JobState::Succeeded, success(job)),
        None => (state, why),
    };
    let (reason, message) = why.clone().unzip();
    let sql = "UPDATE jobs SET state = $1, reason = $2, message = $3, end_time = $4, worker = NULL, \
               lease_end = NULL WHERE tenant = $5 AND id = $6";
    query(sql)
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
    announce(conn, job, state, why, now).await.map(drop)
}
