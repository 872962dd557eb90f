//! Events of jobs that have ended, each job's in one row instead of one for each event.
//!
//! Invariant: an event is in its own row or in the fold of its job, never in both and never in neither; its text, number and time stay.

use super::super::{Event, EventRecord, Result, Timestamp};
use super::database::{Conn, query};
use super::rows::{Columns, corrupt};
use crate::ids::{JobId, TenantId};

/// Most events of a fold; those of a job with more stay in rows.
const MOST: usize = 10_000;
/// How the text of a change of state begins.
const STATE: &str = "{\"state\"";

/// An event as a fold has it: a line with its number, its time and its text, which has no line's end in it.
type Folded<'a> = (u64, Timestamp, &'a str);

/// Folds the events of a job. Returns how many.
pub(super) async fn fold(conn: &mut Conn, tenant: &str, job: &str) -> Result<u64> {
    let sql = "SELECT sequence, time, event FROM events WHERE tenant = $1 AND job = $2 \
               ORDER BY sequence LIMIT $3";
    let found = query(sql).bind(tenant).bind(job).bind(MOST as i64 + 1);
    let found = found.fetch_all(&mut *conn).await?;
    if found.is_empty() || found.len() > MOST {
        return Ok(0);
    }
    let mut lines = Vec::new();
    for row in &found {
        let event = row.text("event")?;
        lines.push(line((row.number("sequence")?, row.int("time")?, &event)));
    }
    write(conn, (tenant, job), &lines).await?;
    let sql = "DELETE FROM events WHERE tenant = $1 AND job = $2";
    query(sql).bind(tenant).bind(job).execute(conn).await
}

/// Leaves only the changes of state in the fold of a job.
pub(super) async fn keep_states(conn: &mut Conn, tenant: &str, job: &str) -> Result<()> {
    let Some(text) = text(conn, tenant, job).await? else {
        return Ok(());
    };
    let all: Vec<Folded<'_>> = parsed(&text)?;
    let states = all
        .into_iter()
        .filter(|(_, _, event)| event.starts_with(STATE));
    let lines: Vec<String> = states.map(line).collect();
    write(conn, (tenant, job), &lines).await
}

/// Events of a job that are folded, those after a number.
pub(super) async fn list(
    conn: &mut Conn,
    tenant: &TenantId,
    job: JobId,
    after: u64,
    limit: u32,
) -> Result<Vec<EventRecord>> {
    let Some(text) = text(conn, tenant.as_str(), &job.to_string()).await? else {
        return Ok(Vec::new());
    };
    let all: Vec<Folded<'_>> = parsed(&text)?;
    let later = all.into_iter().filter(|(sequence, _, _)| *sequence > after);
    let read = |(sequence, time, event): Folded<'_>| {
        let event: Event = serde_json::from_str(event).map_err(wrong)?;
        Ok(EventRecord {
            sequence,
            time,
            event,
        })
    };
    later.take(limit as usize).map(read).collect()
}

async fn text(conn: &mut Conn, tenant: &str, job: &str) -> Result<Option<String>> {
    let sql = "SELECT events FROM event_folds WHERE tenant = $1 AND job = $2";
    let found = query(sql)
        .bind(tenant)
        .bind(job)
        .fetch_optional(conn)
        .await?;
    found.map(|row| row.text("events")).transpose()
}

fn line((sequence, time, event): Folded<'_>) -> String {
    format!("{sequence} {time} {event}")
}

/// The events of a fold.
fn parsed(text: &str) -> Result<Vec<Folded<'_>>> {
    let read = |line| own(line).ok_or_else(|| wrong("a line is no event"));
    text.lines().map(read).collect()
}

/// The event of a line.
fn own(line: &str) -> Option<Folded<'_>> {
    let (sequence, rest) = line.split_once(' ')?;
    let (time, event) = rest.split_once(' ')?;
    Some((sequence.parse().ok()?, time.parse().ok()?, event))
}

fn wrong(problem: impl std::fmt::Display) -> super::super::Error {
    corrupt("events", problem.to_string())
}

async fn write(conn: &mut Conn, (tenant, job): (&str, &str), lines: &[String]) -> Result<()> {
    let sql = "INSERT INTO event_folds (tenant, job, events) VALUES ($1, $2, $3) \
               ON CONFLICT (tenant, job) DO UPDATE SET events = excluded.events";
    query(sql)
        .bind(tenant)
        .bind(job)
        .bind(lines.join("\n"))
        .execute(conn)
        .await?;
    Ok(())
}
