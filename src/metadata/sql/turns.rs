//! Whose job is next: tenants take turns by the clip-frames of their jobs and by their weights, as start-time fair queueing does it.
//!
//! Invariant: a job's tags are given at its submission, by one statement: two looks into an index and the tenant's weight; a claim reads one entry of an index, however many
//! jobs wait. Turns never go back: the database keeps in `turns` how far they were when jobs are deleted.

use super::super::{Result, Timestamp};
use super::database::{Conn, Row, query, skipping};
use super::rows::Columns;
use crate::ids::TenantId;

/// Where the turns are now, as the highest start of a job that is deleted and of one that was claimed; where the tenant's last job ends, of those that wait
/// or were claimed, since what was cancelled before is no turn; and the tenant's weight, which one without a record does not have.
const NOW: &str = "SELECT tag, (SELECT start_tag FROM jobs INDEXED BY claimed_starts \
     WHERE claim_time > 0 ORDER BY start_tag DESC LIMIT 1) AS newest, \
     (SELECT finish_tag FROM jobs INDEXED BY jobs_by_finish \
     WHERE tenant = $1 AND (end_time IS NULL OR claim_time > 0) ORDER BY finish_tag DESC LIMIT 1) AS last, \
     (SELECT weight FROM tenants WHERE tenant = $1) AS weight FROM turns";
/// Tag units of a clip-frame at weight 1, so that a share of a large weight is no less than one unit.
const UNITS: i64 = 1000;
/// The largest share of a job: 1.1 billion clip-frames at weight 1, which are weeks of training. Eight million of them would have to be claimed before the
/// tags come to their end.
const LARGEST: i64 = 1 << 40;
/// The waiting job with the lowest start of those that any process may take.
const ANY: &str = "SELECT tenant, id, start_tag FROM jobs INDEXED BY jobs_by_start \
     WHERE state = 'queued' AND paused = 0 AND suspect_step IS NULL AND backbone IS NULL \
     AND not_before <= $1 ORDER BY backbone, start_tag, id LIMIT 1";
/// The waiting job with the lowest start of those for one backbone.
const OWN: &str = "SELECT tenant, id, start_tag FROM jobs INDEXED BY jobs_by_start \
     WHERE state = 'queued' AND paused = 0 AND suspect_step IS NULL AND backbone = $2 \
     AND not_before <= $1 ORDER BY backbone, start_tag, id LIMIT 1";
/// As [`OWN`], for a process that is bound to no backbone: it takes one backbone's jobs after the other's.
const BOUND: &str = "SELECT tenant, id, start_tag FROM jobs INDEXED BY jobs_by_start \
     WHERE state = 'queued' AND paused = 0 AND suspect_step IS NULL AND backbone IS NOT NULL \
     AND not_before <= $1 ORDER BY backbone, start_tag, id LIMIT 1";
/// The job of a tenant that goes first when it is the tenant's turn.
const FIRST: &str = "SELECT tenant, id, start_tag FROM jobs INDEXED BY waiting_jobs \
     WHERE tenant = $2 AND state = 'queued' AND paused = 0 \
     AND suspect_step IS NULL AND not_before <= $1 \
     AND (CAST($3 AS TEXT) IS NULL OR backbone IS NULL OR backbone = $3) \
     ORDER BY priority DESC, create_time, id LIMIT 1";

/// A waiting job and where it begins.
struct Waiting {
    tenant: String,
    id: String,
    start: i64,
}

impl Waiting {
    fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            tenant: row.text("tenant")?,
            id: row.text("id")?,
            start: row.int("start_tag")?,
        })
    }
}

/// Where a job of so many clip-frames begins and ends that a tenant submits now, while it has the tenant's lock.
pub(super) async fn of(conn: &mut Conn, tenant: &TenantId, clip_frames: u64) -> Result<(i64, i64)> {
    let now = query(NOW).bind(tenant.as_str()).fetch_one(conn).await?;
    let start = now
        .int("tag")?
        .max(now.optional_int("newest")?.unwrap_or(0))
        .max(now.optional_int("last")?.unwrap_or(0));
    let weight = now.optional_int("weight")?.unwrap_or(1).max(1);
    let cost = i64::try_from(clip_frames.max(1)).unwrap_or(i64::MAX);
    let share = (cost.saturating_mul(UNITS) / weight).clamp(1, LARGEST);
    Ok((start, start.saturating_add(share)))
}

/// The job whose turn it is, locked, with the key of its row; jobs that another claim just takes are passed over.
pub(super) async fn next(
    conn: &mut Conn,
    backbone: Option<&str>,
    now: Timestamp,
) -> Result<Option<(String, String)>> {
    let mut found = Vec::new();
    found.extend(skipping(ANY).bind(now).fetch_optional(&mut *conn).await?);
    let own = match backbone {
        Some(backbone) => skipping(OWN).bind(now).bind(backbone),
        None => skipping(BOUND).bind(now),
    };
    found.extend(own.fetch_optional(&mut *conn).await?);
    let turns = found
        .iter()
        .map(Waiting::read)
        .collect::<Result<Vec<_>>>()?;
    let turn = turns
        .into_iter()
        .min_by(|a, b| (a.start, &a.id).cmp(&(b.start, &b.id)));
    let Some(turn) = turn else {
        return Ok(None);
    };
    let first = skipping(FIRST).bind(now).bind(&turn.tenant).bind(backbone);
    let Some(row) = first.fetch_optional(&mut *conn).await? else {
        return Ok(Some((turn.tenant, turn.id)));
    };
    let first = Waiting::read(&row)?;
    if first.id != turn.id {
        // The tenant's turn is used by another of its jobs, which leaves its own turn to this one.
        for (job, start) in [(&turn, first.start), (&first, turn.start)] {
            let sql = "UPDATE jobs SET start_tag = $1 WHERE tenant = $2 AND id = $3";
            query(sql)
                .bind(start)
                .bind(&job.tenant)
                .bind(&job.id)
                .execute(&mut *conn)
                .await?;
        }
    }
    Ok(Some((first.tenant, first.id)))
}
