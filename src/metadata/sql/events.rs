//! Events of jobs: numbered rows.
//!
//! Invariant: a job's events have the numbers 1, 2, 3 … without a gap, each written in the transaction that made it true.

use super::super::{Event, EventRecord, Result, Timestamp};
use super::database::{Conn, query};
use super::rows::{self, Columns};
use crate::ids::{JobId, TenantId};

/// Appends an event to a job. Returns its number.
pub(super) async fn append(
    conn: &mut Conn,
    tenant: &TenantId,
    job: JobId,
    now: Timestamp,
    event: &Event,
) -> Result<u64> {
    append_all(conn, (tenant, job), now, std::slice::from_ref(event)).await
}

/// Appends events to a job, which get their numbers in one statement. Returns the number of the last one.
pub(super) async fn append_all(
    conn: &mut Conn,
    (tenant, job): (&TenantId, JobId),
    now: Timestamp,
    events: &[Event],
) -> Result<u64> {
    let sql = "UPDATE jobs SET last_event = last_event + $1 WHERE tenant = $2 AND id = $3 \
               RETURNING last_event";
    let row = query(sql)
        .bind(events.len() as i64)
        .bind(tenant.as_str())
        .bind(job.to_string())
        .fetch_one(&mut *conn)
        .await?;
    let last: u64 = row.number("last_event")?;
    let first = last - events.len() as u64 + 1;
    let sql = "INSERT INTO events (tenant, job, sequence, time, event) VALUES ($1, $2, $3, $4, $5)";
    for (sequence, event) in (first..).zip(events) {
        query(sql)
            .bind(tenant.as_str())
            .bind(job.to_string())
            .bind(rows::int("sequence", sequence)?)
            .bind(now)
            .bind(rows::json("event", event)?)
            .execute(&mut *conn)
            .await?;
    }
    Ok(last)
}

pub(super) async fn list(
    conn: &mut Conn,
    tenant: &TenantId,
    job: JobId,
    after: u64,
    limit: u32,
) -> Result<Vec<EventRecord>> {
    let sql = "SELECT * FROM events WHERE tenant = $1 AND job = $2 AND sequence > $3 \
               ORDER BY sequence LIMIT $4";
    let found = query(sql)
        .bind(tenant.as_str())
        .bind(job.to_string())
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(conn)
        .await?;
    found
        .iter()
        .map(|row| {
            Ok(EventRecord {
                sequence: row.number("sequence")?,
                time: row.int("time")?,
                event: row.json("event")?,
            })
        })
        .collect()
}
