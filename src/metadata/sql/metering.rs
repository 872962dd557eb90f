//! What tenants used, by hours, and what they ask of each process now.
//!
//! Invariant: a batch of counts is added once, however often it comes; what a tenant that is being erased used is not added any more.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use super::super::{
    Amounts, Error, FleetDemand, Metering, Page, PageRequest, Result, TenantDemand, Timestamp,
    UsageBatch, UsageKey, UsageQuery, UsageRecord,
};
use super::database::{Conn, Row, query, skipping};
use super::rows::{self, Columns};
use super::{Database, micros};
use crate::ids::{TaskId, TenantId};

const LISTING: &str = "usage";
/// Rows that one transaction takes: a few milliseconds of the only writer's time.
const BATCH: u32 = 500;
/// Rows that a listing sums up at once, if they are not all of one span.
const STRETCH: u32 = 10_000;
/// Microseconds of an hour.
const HOUR: i64 = 60 * 60 * 1_000_000;
/// Microseconds for which it is remembered which batches a process brought: much longer than any waits to be brought again.
const BATCHES: Timestamp = 7 * 24 * HOUR;
/// Windows after which a process that said nothing counts as gone.
const WINDOWS: u32 = 3;

#[async_trait]
impl Metering for Database {
    async fn record_usage(&self, batch: &UsageBatch) -> Result<bool> {
        let (mut tx, now) = self.write().await?;
        if !begin(&mut tx, batch, now).await? {
            return Ok(false);
        }
        let counts = batch.counts.iter().map(|(key, own)| (key, (*own, 0)));
        add(&mut tx, &counts.collect()).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn exchange_demands(
        &self,
        process: &str,
        own: &[TenantDemand],
        window: Duration,
    ) -> Result<Vec<FleetDemand>> {
        let (mut tx, now) = self.write().await?;
        let old = now.saturating_sub(micros(window.saturating_mul(WINDOWS)));
        // What is not asked for any more takes nothing from the others' shares.
        let sql = "UPDATE demands SET clip_frames = 0, requests = 0 \
                   WHERE process = $1 AND (clip_frames > 0 OR requests > 0)";
        query(sql).bind(process).execute(&mut tx).await?;
        let own: BTreeMap<&TenantId, Amounts> =
            own.iter().map(|own| (&own.tenant, own.asked)).collect();
        for (tenant, asked) in own {
            say(&mut tx, (tenant, process), asked, now).await?;
        }
        forget_silent(&mut tx, old).await?;
        let found = query("SELECT tenant, process, clip_frames, requests FROM demands")
            .fetch_all(&mut tx)
            .await?;
        tx.commit().await?;
        found.iter().map(heard).collect()
    }

    async fn note_stored_bytes(&self) -> Result<u64> {
        let (mut tx, now) = self.write().await?;
        let hour = now.div_euclid(HOUR);
        let sql = "INSERT INTO usage_hours \
                   (tenant, hour, task, requests, clip_frames, trained_clip_frames, stored_bytes) \
                   SELECT tenant, $1, '', 0, 0, 0, bytes FROM tenant_usage \
                   WHERE bytes > 0 AND NOT EXISTS (SELECT 1 FROM usage_hours AS own \
                   WHERE own.tenant = tenant_usage.tenant AND own.hour = $1 AND own.task = '' \
                   AND own.stored_bytes > 0) \
                   AND NOT EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = tenant_usage.tenant) \
                   ORDER BY tenant LIMIT $2 \
                   ON CONFLICT (tenant, hour, task) DO UPDATE SET stored_bytes = excluded.stored_bytes";
        let noted = query(sql).bind(hour).bind(BATCH).execute(&mut tx).await?;
        tx.commit().await?;
        Ok(noted)
    }

    async fn list_usage(&self, ask: &UsageQuery, page: &PageRequest) -> Result<Page<UsageRecord>> {
        list(self, ask, page).await
    }

    async fn forget_usage(&self, age: Duration) -> Result<u64> {
        let (mut tx, now) = self.write().await?;
        let before = now.saturating_sub(micros(age)).div_euclid(HOUR);
        let sql = "DELETE FROM usage_hours WHERE (tenant, hour, task) IN \
                   (SELECT tenant, hour, task FROM usage_hours WHERE hour < $1 LIMIT $2)";
        let gone = query(sql).bind(before).bind(BATCH).execute(&mut tx).await?;
        query("DELETE FROM usage_batches WHERE time < $1")
            .bind(now.saturating_sub(BATCHES))
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(gone)
    }
}

/// Begins a batch. Returns whether it is new.
async fn begin(conn: &mut Conn, batch: &UsageBatch, now: Timestamp) -> Result<bool> {
    let sql = "INSERT INTO usage_batches (process, sequence, time) VALUES ($1, $2, $3) \
               ON CONFLICT (process) DO UPDATE SET sequence = excluded.sequence, \
               time = excluded.time WHERE usage_batches.sequence < excluded.sequence";
    let begun = query(sql)
        .bind(&batch.process)
        .bind(rows::int("sequence", batch.sequence)?)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(begun > 0)
}

/// Adds counts, and clip-frames of training steps, to their hours; in one order, so that no two processes wait for each other.
async fn add(conn: &mut Conn, counts: &BTreeMap<&UsageKey, (Amounts, u64)>) -> Result<()> {
    let row = |(key, (amounts, trained)): (&&UsageKey, &(Amounts, u64))| {
        Ok(json!([
            key.tenant.as_ref().map_or("", TenantId::as_str),
            key.hour,
            key.task.as_ref().map_or("", TaskId::as_str),
            rows::int("requests", amounts.requests)?,
            rows::int("clip_frames", amounts.clip_frames)?,
            rows::int("trained_clip_frames", *trained)?,
            rows::int("device_micros", amounts.device_micros)?,
            rows::int("decode_micros", amounts.decode_micros)?,
            rows::int("received_bytes", amounts.received_bytes)?,
            rows::int("sent_bytes", amounts.sent_bytes)?,
        ]))
    };
    let added: Vec<_> = counts.iter().map(row).collect::<Result<_>>()?;
    let sql = "INSERT INTO usage_hours \
               (tenant, hour, task, requests, clip_frames, trained_clip_frames, device_micros, \
               decode_micros, received_bytes, sent_bytes, stored_bytes) \
               SELECT value ->> 0, CAST(value ->> 1 AS BIGINT), value ->> 2, \
               CAST(value ->> 3 AS BIGINT), CAST(value ->> 4 AS BIGINT), \
               CAST(value ->> 5 AS BIGINT), CAST(value ->> 6 AS BIGINT), \
               CAST(value ->> 7 AS BIGINT), CAST(value ->> 8 AS BIGINT), \
               CAST(value ->> 9 AS BIGINT), 0 FROM json_each($1) \
               WHERE NOT EXISTS (SELECT 1 FROM erasures WHERE tenant = value ->> 0) \
               ON CONFLICT (tenant, hour, task) DO UPDATE SET \
               requests = usage_hours.requests + excluded.requests, \
               clip_frames = usage_hours.clip_frames + excluded.clip_frames, \
               trained_clip_frames = usage_hours.trained_clip_frames + excluded.trained_clip_frames, \
               device_micros = usage_hours.device_micros + excluded.device_micros, \
               decode_micros = usage_hours.decode_micros + excluded.decode_micros, \
               received_bytes = usage_hours.received_bytes + excluded.received_bytes, \
               sent_bytes = usage_hours.sent_bytes + excluded.sent_bytes";
    let added = json!(added).to_string();
    query(sql).bind(added).execute(conn).await?;
    Ok(())
}

/// Counts clip-frames of training steps, in the transaction that records them.
pub(super) async fn trained(
    conn: &mut Conn,
    (tenant, task): (&TenantId, &TaskId),
    clip_frames: u64,
    now: Timestamp,
) -> Result<()> {
    if clip_frames == 0 {
        return Ok(());
    }
    let key = UsageKey {
        tenant: Some(tenant.clone()),
        hour: now.div_euclid(HOUR),
        task: Some(task.clone()),
    };
    let counts = BTreeMap::from([(&key, (Amounts::default(), clip_frames))]);
    add(conn, &counts).await
}

async fn say(
    conn: &mut Conn,
    (tenant, process): (&TenantId, &str),
    asked: Amounts,
    now: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO demands (tenant, process, clip_frames, requests, time) \
               SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), $3, $4, $5 \
               WHERE NOT EXISTS (SELECT 1 FROM erasures WHERE tenant = $1) \
               ON CONFLICT (tenant, process) DO UPDATE SET clip_frames = excluded.clip_frames, \
               requests = excluded.requests, time = excluded.time";
    query(sql)
        .bind(tenant.as_str())
        .bind(process)
        .bind(rows::int("clip_frames", asked.clip_frames)?)
        .bind(rows::int("requests", asked.requests)?)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes what processes asked for that said nothing since then. Rows that another process has at the moment are left to it: two that were silent
/// together would wait for each other.
async fn forget_silent(conn: &mut Conn, since: Timestamp) -> Result<()> {
    let sql = "SELECT tenant, process FROM demands WHERE time <= $1 LIMIT $2";
    let silent = skipping(sql).bind(since).bind(BATCH);
    let silent = silent.fetch_all(&mut *conn).await?;
    if silent.is_empty() {
        return Ok(());
    }
    let key = |row: &Row| Ok((row.text("tenant")?, row.text("process")?));
    let keys: Vec<(String, String)> = silent.iter().map(key).collect::<Result<_>>()?;
    let sql = "DELETE FROM demands WHERE (tenant, process) IN \
               (SELECT value ->> 0, value ->> 1 FROM json_each($1))";
    let keys = rows::json("keys", &keys)?;
    query(sql).bind(keys).execute(conn).await?;
    Ok(())
}

fn heard(row: &Row) -> Result<FleetDemand> {
    Ok(FleetDemand {
        process: row.text("process")?,
        demand: TenantDemand {
            tenant: row.id("tenant")?,
            asked: Amounts {
                requests: row.number("requests")?,
                clip_frames: row.number("clip_frames")?,
                ..Amounts::default()
            },
        },
    })
}

/// Sums of a stretch of hours, of all tenants or with a condition.
macro_rules! sums {
    ($only:literal) => {
        concat!(
            "SELECT hour / $1 AS span, tenant, task, \
             CAST(SUM(requests) AS BIGINT) AS requests, \
             CAST(SUM(clip_frames) AS BIGINT) AS clip_frames, \
             CAST(SUM(trained_clip_frames) AS BIGINT) AS trained_clip_frames, \
             CAST(SUM(device_micros) AS BIGINT) AS device_micros, \
             CAST(SUM(decode_micros) AS BIGINT) AS decode_micros, \
             CAST(SUM(received_bytes) AS BIGINT) AS received_bytes, \
             CAST(SUM(sent_bytes) AS BIGINT) AS sent_bytes, \
             CAST(SUM(stored_bytes) AS BIGINT) AS stored_bytes FROM usage_hours \
             WHERE hour >= $2 AND hour < $3 AND (hour / $1, tenant, task) > ($4, $5, $6)",
            $only,
            " GROUP BY hour / $1, tenant, task ORDER BY hour / $1, tenant, task LIMIT $7"
        )
    };
}

/// A page of sums. It is made stretch by stretch, so that its cost does not grow with the range that was asked for.
async fn list(store: &Database, ask: &UsageQuery, page: &PageRequest) -> Result<Page<UsageRecord>> {
    let last = place(&page.start(LISTING)?)?;
    let hours = ask.span.hours();
    let mut tx = store.list().await?;
    // Spans before the page's are not looked at.
    let mut begin = ask.begin.max(last.0.saturating_mul(hours));
    let mut used: Vec<UsageRecord> = Vec::new();
    let mut left = page.limit();
    while begin < ask.end && left > 0 {
        let end = stretch(&mut tx, ask, begin).await?;
        let sql = match ask.tenant {
            None => sums!(""),
            Some(_) => sums!(" AND tenant = $8"),
        };
        let (span, tenant, task) = &last;
        let asked = query(sql)
            .bind(hours)
            .bind(begin)
            .bind(end)
            .bind(span)
            .bind(tenant)
            .bind(task)
            .bind(left);
        let asked = match &ask.tenant {
            None => asked,
            Some(tenant) => asked.bind(tenant.as_str()),
        };
        let found = asked.fetch_all(&mut tx).await?;
        left -= found.len() as i64;
        for row in &found {
            used.push(read(row, hours)?);
        }
        begin = end;
    }
    Ok(page.page(LISTING, used, |used| {
        let span = used.begin / (hours * HOUR);
        let tenant = used.tenant.as_ref().map_or("", TenantId::as_str);
        let task = used.task.as_ref().map_or("", TaskId::as_str);
        format!("{span}/{tenant}/{task}")
    }))
}

/// The hour up to which there are not many rows from another hour on, and whole spans of them.
async fn stretch(conn: &mut Conn, ask: &UsageQuery, begin: i64) -> Result<i64> {
    let asked = match &ask.tenant {
        None => query(
            "SELECT hour FROM usage_hours INDEXED BY usage_by_hour \
             WHERE hour >= $1 AND hour < $2 ORDER BY hour LIMIT 1 OFFSET $3",
        ),
        Some(_) => query(
            "SELECT hour FROM usage_hours WHERE hour >= $1 AND hour < $2 AND tenant = $4 \
             ORDER BY hour LIMIT 1 OFFSET $3",
        ),
    };
    let asked = asked.bind(begin).bind(ask.end).bind(STRETCH);
    let asked = match &ask.tenant {
        None => asked,
        Some(tenant) => asked.bind(tenant.as_str()),
    };
    let Some(row) = asked.fetch_optional(conn).await? else {
        return Ok(ask.end);
    };
    let hours = ask.span.hours();
    let span = row.int("hour")?.div_euclid(hours);
    let whole = span.saturating_mul(hours);
    // A span with more rows is a stretch of its own.
    let end = match whole > begin {
        true => whole,
        false => whole.saturating_add(hours),
    };
    Ok(end.min(ask.end))
}

/// The last row of the page before: its span, tenant and task.
fn place(start: &str) -> Result<(i64, String, String)> {
    if start.is_empty() {
        return Ok((-1, String::new(), String::new()));
    }
    let mut parts = start.splitn(3, '/');
    let span = parts.next().and_then(|span| span.parse().ok());
    match (span, parts.next(), parts.next()) {
        (Some(span), Some(tenant), Some(task)) => Ok((span, tenant.into(), task.into())),
        _ => Err(Error::PageToken),
    }
}

fn read(row: &Row, hours: i64) -> Result<UsageRecord> {
    let span = row.int("span")?;
    let begin = span.saturating_mul(hours).saturating_mul(HOUR);
    let tenant = match row.text("tenant")?.as_str() {
        "" => None,
        _ => Some(row.id("tenant")?),
    };
    let task = match row.text("task")?.as_str() {
        "" => None,
        _ => Some(row.id("task")?),
    };
    Ok(UsageRecord {
        tenant,
        task,
        begin,
        end: begin.saturating_add(hours.saturating_mul(HOUR)),
        amounts: Amounts {
            requests: row.number("requests")?,
            clip_frames: row.number("clip_frames")?,
            device_micros: row.number("device_micros")?,
            decode_micros: row.number("decode_micros")?,
            received_bytes: row.number("received_bytes")?,
            sent_bytes: row.number("sent_bytes")?,
        },
        trained_clip_frames: row.number("trained_clip_frames")?,
        byte_hours: row.number("stored_bytes")?,
    })
}
