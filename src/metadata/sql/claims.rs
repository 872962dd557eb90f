//! Who gets which job: claims, claims that ended without a word, and what a process that ended says about the jobs that it ran.
//!
//! Invariant: only a job that ran alone when a process ended is charged with that; a suspect runs without neighbours until it has passed the step
//! at which the process ended. Where processes share the records, nobody waits for a suspect: there a job is charged when its process had no other job, and
//! one that loses its worker again and again without a new checkpoint is ended as well.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::MutexGuard;

use super::super::{Claim, JobRecord, Lease, PROCESS_LOST, Release, Result, Timestamp};
use super::database::{Conn, Query, Row, query, skipping};
use super::jobs::{after, announce, end};
use super::rows::{self, Columns};
use super::{Database, owners, turns};
use crate::spec::{Digest, JobState};

/// How often in a row a process may end with a job, alone and at one place, before the job is ended.
const MAX_CRASHES: i64 = 2;
/// How often in a row a worker may be lost with a job, the only one of its process and at one place, before the job is ended: machines end, too.
const MAX_LOST_ALONE: i64 = 3;
/// How often a worker may be lost with a job since its newest checkpoint, before the job is ended.
const MAX_LOST: u32 = 12;
/// How long a suspect keeps others waiting after it was claimed, if it does not clear itself before.
const ALONE: Duration = Duration::from_secs(600);
/// How often the pause after a crash is doubled at most.
const DOUBLINGS: u32 = 6;

// Every statement names its index: a claim must not become slow with the number of jobs because a planner guessed.

/// Whether any job waits.
const ANY_WAITING: &str = "SELECT EXISTS (SELECT 1 FROM jobs INDEXED BY waiting_jobs \
     WHERE state = 'queued' AND paused = 0) AS found";
/// How many jobs wait that a process may claim: one walk over the index, so that it is asked seldom.
const WAITING: &str = "SELECT (SELECT COUNT(*) FROM jobs INDEXED BY jobs_by_start \
     WHERE state = 'queued' AND paused = 0 AND suspect_step IS NULL \
     AND (CAST($1 AS TEXT) IS NULL OR backbone IS NULL OR backbone = $1)) \
     + (SELECT COUNT(*) FROM jobs INDEXED BY suspected_jobs \
     WHERE suspect_step IS NOT NULL AND state = 'queued' AND paused = 0 \
     AND (CAST($1 AS TEXT) IS NULL OR backbone IS NULL OR backbone = $1)) AS jobs";
/// Whether a suspect is at work.
const SUSPECT_AT_WORK: &str = "SELECT EXISTS (SELECT 1 FROM jobs INDEXED BY leased_jobs \
     WHERE lease_end IS NOT NULL AND suspect_step IS NOT NULL AND claim_time > $1) AS found";
/// The suspect to be tried next. The newest claim first: what was going well for long is the less likely cause.
const SUSPECT: &str = "SELECT tenant, id FROM jobs INDEXED BY suspected_jobs \
     WHERE suspect_step IS NOT NULL AND state = 'queued' AND paused = 0 AND not_before <= $1 \
     AND (CAST($2 AS TEXT) IS NULL OR backbone IS NULL OR backbone = $2) \
     ORDER BY claim_time DESC, tenant, id LIMIT 1";
/// Jobs whose lease has run out.
const LOST: &str =
    "SELECT * FROM jobs INDEXED BY leased_jobs WHERE lease_end IS NOT NULL AND lease_end <= $1";

/// Jobs and the workers that have them.
const AT_WORK: &str = "SELECT tenant, id, worker FROM jobs INDEXED BY leased_jobs \
     WHERE lease_end IS NOT NULL";
/// Jobs and the workers that were lost with them since their newest checkpoint.
const LOST_BEFORE: &str = "SELECT tenant, id, lost_worker AS worker FROM jobs INDEXED BY lost_jobs \
     WHERE lost_worker IS NOT NULL AND end_time IS NULL";

/// What a process before this one was working on. Whoever opens a file that is one process's own knows that it is gone; the first of those here who look for
/// jobs puts it back.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// How long a job is held back that was the only one; `None` once there is nothing to put back. Held for a look only, never across an await.
    pause: Mutex<Option<Duration>>,
    /// Whether a look was given up, which may have put jobs back all the same.
    is_cut: AtomicBool,
    /// Jobs that ended when they were put back, until somebody is told. Whoever puts back holds it, so that nobody claims meanwhile.
    ended: tokio::sync::Mutex<Vec<JobRecord>>,
}

impl Left {
    /// Takes every claim so far for one of a process that is gone.
    pub(super) fn begin(&self, pause: Duration) {
        self.is_cut.store(false, Ordering::SeqCst);
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = Some(pause);
    }

    /// Puts back what there is. Returns the jobs that ended thereby, to be told.
    async fn put_back(&self, store: &Database) -> Result<MutexGuard<'_, Vec<JobRecord>>> {
        let mut ended = self.ended.lock().await;
        let pause = *self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pause) = pause {
            let is_first = !self.is_cut.swap(true, Ordering::SeqCst);
            let recovered = recover(store, pause, is_first).await;
            let is_cut = recovered.is_err() && !is_first;
            self.is_cut.store(is_cut, Ordering::SeqCst);
            ended.extend(recovered?);
            *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(ended)
    }
}

/// Puts back every job that has a worker. Returns those that ended thereby. That there is none says something about the process before this one only when
/// nobody looked before.
async fn recover(store: &Database, pause: Duration, is_first: bool) -> Result<Vec<JobRecord>> {
    let (mut tx, now) = store.write().await?;
    let lost = lost_jobs(query(LOST), &mut tx, Timestamp::MAX, &[]).await?;
    if lost.is_empty() && is_first {
        // The process before this one ended without any of them, so that whatever ends processes here needs no job for it.
        let sql = "UPDATE jobs INDEXED BY unfinished_jobs_by_tenant \
                   SET crashes = 0, crash_step = NULL WHERE crashes > 0 AND end_time IS NULL";
        query(sql).execute(&mut tx).await?;
    }
    let mut ended = Vec::new();
    for job in &lost {
        let pause = (lost.len() == 1).then_some(pause);
        ended.extend(crashed(&mut tx, job, pause, now).await?);
    }
    tx.commit().await?;
    let jobs = lost.len() - ended.len();
    if jobs > 0 {
        tracing::info!(jobs, "jobs of an earlier process go on");
    }
    Ok(ended)
}

/// Puts back jobs whose lease has run out, but for those that are known to be alive. Returns those that ended thereby: by their owners' wish, or because too
/// many workers were lost with them.
pub(super) async fn release_lost(store: &Database, alive: &[Lease]) -> Result<Vec<JobRecord>> {
    let ended = std::mem::take(&mut *store.left.put_back(store).await?);
    if !ended.is_empty() {
        return Ok(ended);
    }
    // Nearly always there is none, which a reader finds without keeping writers waiting.
    let mut reader = store.read().await?;
    let now = reader.now().await?;
    if lost_jobs(query(LOST), &mut reader, now, alive)
        .await?
        .is_empty()
    {
        return Ok(Vec::new());
    }
    drop(reader);
    let (mut tx, now) = store.write().await?;
    let mut parts = parts(AT_WORK, &mut tx).await?;
    let lost = lost_jobs(skipping(LOST), &mut tx, now, alive).await?;
    parts.extend(self::parts(LOST_BEFORE, &mut tx).await?);
    let mut ended = Vec::new();
    for job in lost {
        if lose(&mut tx, &job, is_alone(&parts, &job), now).await? {
            ended.push(owners::get(&mut tx, &job.tenant, job.id).await?);
        }
    }
    tx.commit().await?;
    Ok(ended)
}

/// Gives a job back that a worker has.
pub(super) async fn release(
    conn: &mut Conn,
    job: &JobRecord,
    why: Release,
    now: Timestamp,
) -> Result<()> {
    let told = match why {
        Release::Drained => ("WORKER_DRAINED", "the worker is shutting down"),
        Release::Paused => ("JOB_PAUSED", "its owner paused the job"),
        Release::AfterError => {
            let sql = "UPDATE jobs SET errors = errors + 1 WHERE tenant = $1 AND id = $2";
            query(sql)
                .bind(job.tenant.as_str())
                .bind(job.id.to_string())
                .execute(&mut *conn)
                .await?;
            ("INTERNAL", "an internal error interrupted the job")
        }
    };
    put_back(conn, job, told, now).await.map(drop)
}

/// Takes the next job: a suspect before others, and nothing beside a suspect.
pub(super) async fn claim(
    store: &Database,
    worker: &str,
    lease: Duration,
) -> Result<Option<Claim>> {
    drop(store.left.put_back(store).await?);
    // Nearly always none waits, which a reader finds without keeping writers waiting.
    let mut reader = store.look().await?;
    let waits = query(ANY_WAITING).fetch_one(&mut reader).await?;
    drop(reader);
    if !waits.flag("found")? {
        return Ok(None);
    }
    let (mut tx, now) = store.write().await?;
    let backbone = store.backbone.get().map(Digest::to_string);
    let row = loop {
        let Some((tenant, id)) = next(&mut tx, backbone.clone(), now).await? else {
            return Ok(None);
        };
        // Until here its owner may have cancelled or paused it: then another one is looked for.
        let sql = "UPDATE jobs SET state = $1, epoch = epoch + 1, attempts = attempts + 1, worker = $2, \
                   lease_end = $3, claim_time = $4, checked = 0, \
                   step = CAST(COALESCE(json_extract(checkpoint, '$.step'), '0') AS BIGINT) \
                   WHERE tenant = $5 AND id = $6 AND state = 'queued' AND paused = 0 RETURNING *";
        let claimed = query(sql)
            .bind(rows::name("state", JobState::Validating)?)
            .bind(worker)
            .bind(after(now, lease))
            .bind(now)
            .bind(tenant)
            .bind(id)
            .fetch_optional(&mut tx)
            .await?;
        if let Some(row) = claimed {
            break row;
        }
    };
    let mut job = owners::read(&row)?;
    job.last_event = announce(&mut tx, &job, JobState::Validating, None, now).await?;
    tx.commit().await?;
    let lease = Lease {
        tenant: job.tenant.clone(),
        job: job.id,
        epoch: job.epoch,
    };
    Ok(Some(Claim { lease, job }))
}

/// Jobs that wait for a worker which has the backbone of this process.
pub(super) async fn count_waiting(store: &Database) -> Result<u64> {
    let backbone = store.backbone.get().map(Digest::to_string);
    let asked = query(WAITING).bind(backbone);
    let row = asked.fetch_one(&mut store.browse().await?).await?;
    row.number("jobs")
}

/// The key of the job that is to be claimed next.
async fn next(
    conn: &mut Conn,
    backbone: Option<String>,
    now: Timestamp,
) -> Result<Option<(String, String)>> {
    let closed = query(SUSPECT_AT_WORK)
        .bind(now.saturating_sub(after(0, ALONE)))
        .fetch_one(&mut *conn)
        .await?;
    if closed.flag("found")? {
        return Ok(None);
    }
    let suspect = skipping(SUSPECT)
        .bind(now)
        .bind(backbone.clone())
        .fetch_optional(&mut *conn)
        .await?;
    let found = match suspect {
        Some(suspect) => Some(suspect),
        None => return turns::next(conn, backbone.as_deref(), now).await,
    };
    let key = |row: Row| Ok((row.text("tenant")?, row.text("id")?));
    found.map(key).transpose()
}

/// Jobs whose worker has not been heard of until its lease ran out.
async fn lost_jobs(
    selection: Query,
    conn: &mut Conn,
    now: Timestamp,
    alive: &[Lease],
) -> Result<Vec<JobRecord>> {
    let found = selection.bind(now).fetch_all(conn).await?;
    let mut lost = Vec::new();
    for row in &found {
        let job = owners::read(row)?;
        let is_alive = |lease: &Lease| {
            lease.tenant == job.tenant && lease.job == job.id && lease.epoch == job.epoch
        };
        if !alive.iter().any(is_alive) {
            lost.push(job);
        }
    }
    Ok(lost)
}

/// A job that a process has, or was lost with.
struct Part {
    tenant: String,
    job: String,
    process: String,
}

impl Part {
    fn is_of(&self, job: &JobRecord) -> bool {
        self.job == job.id.to_string() && self.tenant == job.tenant.as_str()
    }
}

/// Jobs and their processes.
async fn parts(selection: &'static str, conn: &mut Conn) -> Result<Vec<Part>> {
    let part = |row: &Row| {
        let worker = row.optional_text("worker")?.unwrap_or_default();
        // A worker is named by its process, which has another name after each start, and its number.
        let process = worker
            .rsplit_once('/')
            .map_or(&*worker, |(process, _)| process);
        Ok(Part {
            tenant: row.text("tenant")?,
            job: row.text("id")?,
            process: process.to_owned(),
        })
    };
    let found = query(selection).fetch_all(conn).await?;
    found.iter().map(part).collect()
}

/// Whether no other job is of the process that has this one, the first of its parts.
fn is_alone(parts: &[Part], job: &JobRecord) -> bool {
    let own = parts.iter().find(|part| part.is_of(job));
    own.is_some_and(|own| {
        let mut beside = parts.iter().filter(|part| part.process == own.process);
        beside.all(|part| part.is_of(job))
    })
}

/// How the end of a process counts for a job.
struct Charge {
    /// Whether the job was alone, so that it may be the cause.
    is_alone: bool,
    /// Whether it counts since the newest checkpoint.
    is_loss: bool,
    /// Whether the job runs without neighbours from now on.
    is_suspect: bool,
}

/// Counts the end of a process. Returns how often in a row one ended with the job alone at this place, and how many did since its newest checkpoint.
async fn count(conn: &mut Conn, job: &JobRecord, charge: &Charge) -> Result<(i64, u32)> {
    // The columns on the right have their values from before.
    let sql = "UPDATE jobs SET lost_worker = worker, losses = losses + $1, \
               suspect_step = CASE WHEN $2 = 1 THEN step ELSE suspect_step END, \
               crashes = CASE WHEN $3 = 0 THEN crashes WHEN crash_step IS NOT DISTINCT FROM step \
               AND crash_checked IS NOT DISTINCT FROM checked THEN crashes + 1 ELSE 1 END, \
               crash_step = CASE WHEN $3 = 1 THEN step ELSE crash_step END, \
               crash_checked = CASE WHEN $3 = 1 THEN checked ELSE crash_checked END \
               WHERE tenant = $4 AND id = $5 RETURNING crashes, losses";
    let row = query(sql)
        .bind(charge.is_loss)
        .bind(charge.is_suspect)
        .bind(charge.is_alone)
        .bind(job.tenant.as_str())
        .bind(job.id.to_string())
        .fetch_one(conn)
        .await?;
    Ok((row.int("crashes")?, row.number("losses")?))
}

/// A job whose worker was lost: it waits again, or ends when its owner wants that or it lost too many. Returns whether it ended.
async fn lose(conn: &mut Conn, job: &JobRecord, is_alone: bool, now: Timestamp) -> Result<bool> {
    let charge = Charge {
        is_alone: is_alone && !job.cancel_requested,
        is_loss: true,
        is_suspect: false,
    };
    let (crashes, losses) = count(conn, job, &charge).await?;
    let message = if charge.is_alone && crashes >= MAX_LOST_ALONE {
        format!(
            "the server's process ended {crashes} times at step {} of this job while it ran no other job",
            job.step
        )
    } else if losses >= MAX_LOST && !job.cancel_requested {
        format!("the server's process ended {losses} times since the newest checkpoint of this job")
    } else {
        let why = ("WORKER_LOST", "the worker ended without a word");
        return put_back(conn, job, why, now).await;
    };
    let why = Some((PROCESS_LOST.to_owned(), message));
    end(conn, job, JobState::Failed, why, now).await?;
    Ok(true)
}

/// A job whose process ended with it. One that ran alone is charged, and waits for a pause that grows; returns it when that ended it.
async fn crashed(
    conn: &mut Conn,
    job: &JobRecord,
    charge: Option<Duration>,
    now: Timestamp,
) -> Result<Option<JobRecord>> {
    let is_charged = charge.is_some() && !job.cancel_requested;
    let counted = Charge {
        is_alone: is_charged,
        is_loss: is_charged,
        is_suspect: true,
    };
    let (crashes, losses) = count(conn, job, &counted).await?;
    if is_charged && crashes >= MAX_CRASHES {
        let message = format!(
            "the server's process ended {crashes} times at step {} of this job while no other job ran",
            job.step
        );
        let why = Some((PROCESS_LOST.to_owned(), message));
        end(conn, job, JobState::Failed, why, now).await?;
        return owners::get(conn, &job.tenant, job.id).await.map(Some);
    }
    if let Some(pause) = charge {
        let pause = pause.saturating_mul(1 << losses.saturating_sub(1).min(DOUBLINGS));
        query("UPDATE jobs SET not_before = $1 WHERE tenant = $2 AND id = $3")
            .bind(after(now, pause))
            .bind(job.tenant.as_str())
            .bind(job.id.to_string())
            .execute(&mut *conn)
            .await?;
    }
    let why = (PROCESS_LOST, "the server's process ended without a word");
    let has_ended = put_back(conn, job, why, now).await?;
    if has_ended {
        return owners::get(conn, &job.tenant, job.id).await.map(Some);
    }
    Ok(None)
}

/// Takes a job from its worker: it waits again, or ends when its owner wants that, which is returned.
async fn put_back(
    conn: &mut Conn,
    job: &JobRecord,
    why: (&str, &str),
    now: Timestamp,
) -> Result<bool> {
    if job.cancel_requested {
        end(conn, job, JobState::Cancelled, None, now).await?;
        return Ok(true);
    }
    let sql = "UPDATE jobs SET state = $1, worker = NULL, lease_end = NULL \
               WHERE tenant = $2 AND id = $3";
    query(sql)
        .bind(rows::name("state", JobState::Queued)?)
        .bind(job.tenant.as_str())
        .bind(job.id.to_string())
        .execute(&mut *conn)
        .await?;
    announce(conn, job, JobState::Queued, Some(why), now).await?;
    Ok(false)
}
