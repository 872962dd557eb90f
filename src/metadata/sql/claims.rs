//! Who gets which job: claims, claims that ended without a word, and what a process that ended says about the jobs that it ran.
//!
//! Invariant: only a job that ran alone when a process ended is charged with that; a suspect runs without neighbours until it has passed the step
//! at which the process ended.

use std::time::Duration;

use super::super::{Claim, JobRecord, Lease, PROCESS_LOST, Recovered, Release, Result, Timestamp};
use super::database::{Conn, Query, Row, query, skipping};
use super::jobs::{after, announce, end};
use super::rows::{self, Columns};
use super::{Database, locks, owners};
use crate::spec::{Digest, JobState};

/// How often in a row a process may end with a job, alone and at one place, before the job is ended.
const MAX_CRASHES: i64 = 2;
/// How long a suspect keeps others waiting after it was claimed, if it does not clear itself before.
const ALONE: Duration = Duration::from_secs(600);
/// How often the pause after a crash is doubled at most.
const DOUBLINGS: u32 = 6;

// Every statement names its index: a claim must not become slow with the number of jobs because a planner guessed.

/// Whether any job waits.
const ANY_WAITING: &str = "SELECT EXISTS (SELECT 1 FROM jobs INDEXED BY waiting_jobs \
     WHERE state = 'queued' AND paused = 0) AS found";
/// How many jobs wait: one walk over the index, so that it is asked seldom.
const WAITING: &str = "SELECT COUNT(*) AS jobs FROM jobs INDEXED BY waiting_jobs \
     WHERE state = 'queued' AND paused = 0";
/// Whether a suspect is at work.
const SUSPECT_AT_WORK: &str = "SELECT EXISTS (SELECT 1 FROM jobs INDEXED BY leased_jobs \
     WHERE lease_end IS NOT NULL AND suspect_step IS NOT NULL AND claim_time > $1) AS found";
/// The suspect to be tried next. The newest claim first: what was going well for long is the less likely cause.
const SUSPECT: &str = "SELECT tenant, id FROM jobs INDEXED BY suspected_jobs \
     WHERE suspect_step IS NOT NULL AND state = 'queued' AND paused = 0 AND not_before <= $1 \
     AND (CAST($2 AS TEXT) IS NULL OR backbone IS NULL OR backbone = $2) \
     ORDER BY claim_time DESC, tenant, id LIMIT 1";
/// The oldest waiting job of the highest priority of the tenant with the fewest jobs under way: one look into the index for each tenant that waits, however
/// many jobs wait.
const FAIR: &str = "WITH RECURSIVE tenants (tenant) AS ( \
     SELECT MIN(tenant) FROM jobs INDEXED BY waiting_jobs WHERE state = 'queued' AND paused = 0 UNION ALL \
     SELECT (SELECT MIN(tenant) FROM jobs INDEXED BY waiting_jobs WHERE state = 'queued' AND paused = 0 \
     AND tenant > tenants.tenant) FROM tenants WHERE tenants.tenant IS NOT NULL), \
     oldest (tenant, id) AS (SELECT tenant, (SELECT id FROM jobs AS waiting INDEXED BY waiting_jobs \
     WHERE waiting.tenant = tenants.tenant AND state = 'queued' AND paused = 0 \
     AND suspect_step IS NULL AND not_before <= $1 \
     AND (CAST($2 AS TEXT) IS NULL OR backbone IS NULL OR backbone = $2) \
     ORDER BY priority DESC, create_time, id LIMIT 1) \
     FROM tenants WHERE tenant IS NOT NULL) \
     SELECT jobs.tenant AS tenant, jobs.id AS id FROM oldest CROSS JOIN jobs \
     WHERE jobs.tenant = oldest.tenant AND jobs.id = oldest.id \
     ORDER BY (SELECT COUNT(*) FROM jobs AS running INDEXED BY leased_jobs \
     WHERE running.tenant = oldest.tenant AND running.lease_end IS NOT NULL), \
     jobs.create_time, jobs.id LIMIT 1";
/// Jobs whose lease has run out.
const LOST: &str =
    "SELECT * FROM jobs INDEXED BY leased_jobs WHERE lease_end IS NOT NULL AND lease_end <= $1";

/// Puts back what a process before this one was working on.
pub(super) async fn recover(store: &Database, pause: Duration) -> Result<Recovered> {
    let (mut tx, now) = store.write().await?;
    let lost = lost_jobs(query(LOST), &mut tx, Timestamp::MAX, &[]).await?;
    if lost.is_empty() {
        // The process before this one ended without any of them, so that whatever ends processes here needs no job for it.
        let sql = "UPDATE jobs SET crashes = 0, crash_step = NULL WHERE crashes > 0 \
                   AND end_time IS NULL";
        query(sql).execute(&mut tx).await?;
    }
    let mut ended = Vec::new();
    for job in &lost {
        let pause = (lost.len() == 1).then_some(pause);
        ended.extend(crashed(&mut tx, job, pause, now).await?);
    }
    tx.commit().await?;
    Ok(Recovered {
        put_back: (lost.len() - ended.len()) as u64,
        ended,
    })
}

/// Puts back jobs whose lease has run out, but for those that are known to be alive. Returns those that ended thereby.
pub(super) async fn release_lost(store: &Database, alive: &[Lease]) -> Result<Vec<JobRecord>> {
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
    let mut ended = Vec::new();
    for job in lost_jobs(skipping(LOST), &mut tx, now, alive).await? {
        let why = ("WORKER_LOST", "the worker ended without a word");
        if put_back(&mut tx, &job, why, now).await? {
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
    // Nearly always none waits, which a reader finds without keeping writers waiting.
    let mut reader = store.look().await?;
    let waits = query(ANY_WAITING).fetch_one(&mut reader).await?;
    drop(reader);
    if !waits.flag("found")? {
        return Ok(None);
    }
    let (mut tx, now) = store.write().await?;
    locks::duty(&mut tx, locks::CLAIMS).await?;
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

/// Jobs that wait for a worker.
pub(super) async fn count_waiting(store: &Database) -> Result<u64> {
    let row = query(WAITING).fetch_one(&mut store.browse().await?).await?;
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
    let suspect = query(SUSPECT)
        .bind(now)
        .bind(backbone.clone())
        .fetch_optional(&mut *conn)
        .await?;
    let found = match suspect {
        Some(suspect) => Some(suspect),
        None => fair(conn, backbone, now).await?,
    };
    let key = |row: Row| Ok((row.text("tenant")?, row.text("id")?));
    found.map(key).transpose()
}

/// The oldest waiting job of the tenant with the fewest jobs under way: one look into the index for each tenant that waits, however many jobs wait.
async fn fair(conn: &mut Conn, backbone: Option<String>, now: Timestamp) -> Result<Option<Row>> {
    let fair = query(FAIR).bind(now).bind(backbone);
    fair.fetch_optional(conn).await
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

/// A job whose process ended with it. One that ran alone is charged, and waits for a pause that grows; returns it when that ended it.
async fn crashed(
    conn: &mut Conn,
    job: &JobRecord,
    charge: Option<Duration>,
    now: Timestamp,
) -> Result<Option<JobRecord>> {
    let is_charged = charge.is_some() && !job.cancel_requested;
    // The columns on the right have their values from before.
    let sql = "UPDATE jobs SET suspect_step = step, losses = losses + $1, \
               crashes = CASE WHEN $1 = 0 THEN crashes WHEN crash_step IS NOT DISTINCT FROM step \
               AND crash_checked IS NOT DISTINCT FROM checked THEN crashes + 1 ELSE 1 END, \
               crash_step = CASE WHEN $1 = 1 THEN step ELSE crash_step END, \
               crash_checked = CASE WHEN $1 = 1 THEN checked ELSE crash_checked END \
               WHERE tenant = $2 AND id = $3 RETURNING crashes, losses";
    let row = query(sql)
        .bind(is_charged)
        .bind(job.tenant.as_str())
        .bind(job.id.to_string())
        .fetch_one(&mut *conn)
        .await?;
    let (crashes, losses) = (row.int("crashes")?, row.number::<u32>("losses")?);
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
