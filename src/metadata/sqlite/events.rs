//! Events of jobs: numbered rows.
//!
//! Invariant: a job's events have the numbers 1, 2, 3 … without a gap, each written in the transaction that made it true.

use sqlx::SqliteConnection;

use super::super::{Event, EventRecord, Result, Timestamp};
use super::rows::{self, Columns};
use crate::ids::{JobId, TenantId};

pub(super) async fn append(
    conn: &mut SqliteConnection,
    tenant: &TenantId,
    job: JobId,
    now: Timestamp,
    event: &Event,
) -> Result<()> {
    let sql = "UPDATE jobs SET last_event = last_event + 1 WHERE tenant = ? AND id = ? \
               RETURNING last_event";
    let sequence: i64 = sqlx::query_scalar(sql)
        .bind(tenant.as_str())
        .bind(job.to_string())
        .fetch_one(&mut *conn)
        .await?;
    let sql = "INSERT INTO events (tenant, job, sequence, time, event) VALUES (?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(tenant.as_str())
        .bind(job.to_string())
        .bind(sequence)
        .bind(now)
        .bind(rows::json("event", event)?)
        .execute(conn)
        .await?;
    Ok(())
}

pub(super) async fn list(
    conn: &mut SqliteConnection,
    tenant: &TenantId,
    job: JobId,
    after: u64,
    limit: u32,
) -> Result<Vec<EventRecord>> {
    let sql = "SELECT * FROM events WHERE tenant = ? AND job = ? AND sequence > ? \
               ORDER BY sequence LIMIT ?";
    let found = sqlx::query(sql)
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
