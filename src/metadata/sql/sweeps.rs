//! Sweeps: submitted, read, moved on by whoever finds their newest revision, forgotten.
//!
//! Invariant: a change names the revision that it follows, so that of two processes that move a sweep on, one changes it and the other learns that.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{
    Error, Kind, Page, PageRequest, Result, SweepProgress, SweepRecord, SweepSpec, SweepSummary,
    SweepUpdate, Sweeps, Timestamp,
};
use super::database::{Conn, Row, locking, query};
use super::requests::{self, Request};
use super::rows::{self, Columns, corrupt};
use super::{Database, audit, locks};
use crate::ids::{RequestId, SweepId, TenantId};
use crate::spec::{Digest, JobState};

const LISTING: &str = "sweeps";
/// The create that makes a sweep.
const SUBMIT: &str = "SubmitSweep";
/// Sweeps that are forgotten in one transaction.
const BATCH: u32 = 100;

#[async_trait]
impl Sweeps for Database {
    async fn submit_sweep(
        &self,
        tenant: &TenantId,
        spec: SweepSpec,
        limit: u32,
        request: Option<RequestId>,
    ) -> Result<SweepRecord> {
        let fields = [("sweep", rows::value("sweep", &spec)?)];
        let request = Request::new(SUBMIT, request, &spec, &fields)?;
        let (mut tx, now) = self.write().await?;
        if let Some(id) = request.begin(&mut tx, tenant, now).await? {
            let id = id.parse().map_err(|error| corrupt("sweep", error))?;
            return request.made(get(&mut tx, tenant, id).await);
        }
        locks::tenant(&mut tx, tenant).await?;
        let sql = "SELECT COUNT(*) AS sweeps FROM sweeps WHERE tenant = $1 AND end_time IS NULL";
        let row = query(sql).bind(tenant.as_str()).fetch_one(&mut tx).await?;
        if row.number::<u32>("sweeps")? >= limit {
            return Err(Error::TooManySweeps { limit });
        }
        let id = SweepId::generate();
        let progress = SweepProgress {
            points: (0..spec.points.len()).collect(),
            ..SweepProgress::default()
        };
        let sql = "INSERT INTO sweeps (tenant, id, spec, progress, state, backbone, create_time) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7)";
        query(sql)
            .bind(tenant.as_str())
            .bind(id.to_string())
            .bind(rows::json("spec", &spec)?)
            .bind(rows::json("progress", &progress)?)
            .bind(rows::name("state", JobState::Running)?)
            .bind(self.backbone.get().map(Digest::to_string))
            .bind(now)
            .execute(&mut tx)
            .await?;
        request.remember(&mut tx, tenant, id.to_string()).await?;
        let record = get(&mut tx, tenant, id).await?;
        let detail = format!("points={}", spec.points.len());
        audit::acted(&mut tx, tenant, (format!("sweeps/{id}"), detail), now).await?;
        tx.commit().await?;
        Ok(record)
    }

    async fn requested_sweep(
        &self,
        tenant: &TenantId,
        request: RequestId,
    ) -> Result<Option<SweepId>> {
        requests::made_by(&mut self.read().await?, tenant, (SUBMIT, request)).await
    }

    async fn get_sweep(&self, tenant: &TenantId, sweep: SweepId) -> Result<SweepRecord> {
        let mut tx = self.read().await?;
        get(&mut tx, tenant, sweep).await
    }

    async fn list_sweeps(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<SweepSummary>> {
        // Points and jobs are many; they are counted where they are.
        let sql = "SELECT id, state, message, cancel_requested, create_time, end_time, \
                   json_extract(spec, '$.dataset') AS dataset, \
                   CAST(json_extract(spec, '$.dataset_version') AS BIGINT) AS dataset_version, \
                   (SELECT COUNT(*) FROM json_each(json_extract(spec, '$.points'))) AS points, \
                   CAST(json_extract(spec, '$.halving') AS BIGINT) AS halving, \
                   CAST(json_extract(progress, '$.round') AS BIGINT) AS round, \
                   (SELECT COUNT(*) FROM json_each(json_extract(progress, '$.jobs'))) AS jobs, \
                   (SELECT COUNT(*) FROM json_each(json_extract(progress, '$.jobs')) \
                   WHERE (value ->> 'outcome') IS NULL) AS unfinished_jobs \
                   FROM sweeps WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3";
        let found = query(sql)
            .bind(tenant.as_str())
            .bind(page.start(LISTING)?)
            .bind(page.limit())
            .fetch_all(&mut self.browse().await?)
            .await?;
        let sweeps: Vec<_> = found.iter().map(listed).collect::<Result<_>>()?;
        Ok(page.page(LISTING, sweeps, |sweep| sweep.id.to_string()))
    }

    async fn cancel_sweep(&self, tenant: &TenantId, sweep: SweepId) -> Result<SweepRecord> {
        let (mut tx, now) = self.write().await?;
        let sql = "SELECT * FROM sweeps WHERE tenant = $1 AND id = $2";
        let found = locking(sql)
            .bind(tenant.as_str())
            .bind(sweep.to_string())
            .fetch_optional(&mut tx)
            .await?;
        let record = found.map_or_else(|| Err(missing(sweep)), |row| read(&row))?;
        if record.state.is_final() {
            return Err(Error::SweepFinished { sweep });
        }
        if record.cancel_requested {
            return Ok(record);
        }
        let sql = "UPDATE sweeps SET cancel_requested = 1 WHERE tenant = $1 AND id = $2";
        query(sql)
            .bind(tenant.as_str())
            .bind(sweep.to_string())
            .execute(&mut tx)
            .await?;
        let record = get(&mut tx, tenant, sweep).await?;
        let told = (format!("sweeps/{sweep}"), "cancelled".to_owned());
        audit::acted(&mut tx, tenant, told, now).await?;
        tx.commit().await?;
        Ok(record)
    }

    async fn open_sweeps(
        &self,
        after: Option<(Timestamp, SweepId)>,
        limit: u32,
    ) -> Result<Vec<SweepRecord>> {
        let (time, id) = after.map_or((Timestamp::MIN, String::new()), |(time, id)| {
            (time, id.to_string())
        });
        let sql = "SELECT * FROM sweeps WHERE end_time IS NULL \
                   AND (CAST($1 AS TEXT) IS NULL OR backbone IS NULL OR backbone = $1) \
                   AND (create_time, id) > ($2, $3) ORDER BY create_time, id LIMIT $4";
        let found = query(sql)
            .bind(self.backbone.get().map(Digest::to_string))
            .bind(time)
            .bind(id)
            .bind(limit)
            .fetch_all(&mut self.browse().await?)
            .await?;
        found.iter().map(read).collect()
    }

    async fn move_sweep(&self, sweep: &SweepRecord, update: SweepUpdate) -> Result<bool> {
        let (mut tx, now) = self.write().await?;
        let SweepUpdate { progress, end } = update;
        let (state, message) = match end {
            Some((state, message)) => (state, message),
            None => (JobState::Running, None),
        };
        let sql = "UPDATE sweeps SET progress = $1, state = $2, message = $3, end_time = $4, \
                   revision = revision + 1 \
                   WHERE tenant = $5 AND id = $6 AND revision = $7 AND end_time IS NULL";
        let changed = query(sql)
            .bind(rows::json("progress", &progress)?)
            .bind(rows::name("state", state)?)
            .bind(message)
            .bind(state.is_final().then_some(now))
            .bind(sweep.tenant.as_str())
            .bind(sweep.id.to_string())
            .bind(rows::int("revision", sweep.revision)?)
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(changed > 0)
    }

    async fn forget_sweeps(&self, age: Duration) -> Result<u64> {
        let (mut tx, now) = self.write().await?;
        let sql = "DELETE FROM sweeps WHERE (tenant, id) IN \
                   (SELECT tenant, id FROM sweeps WHERE end_time < $1 LIMIT $2)";
        let forgotten = query(sql)
            .bind(now.saturating_sub(super::micros(age)))
            .bind(BATCH)
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(forgotten)
    }
}

fn missing(sweep: SweepId) -> Error {
    Error::NotFound {
        kind: Kind::Sweep,
        name: sweep.to_string(),
    }
}

async fn get(conn: &mut Conn, tenant: &TenantId, sweep: SweepId) -> Result<SweepRecord> {
    let found = query("SELECT * FROM sweeps WHERE tenant = $1 AND id = $2")
        .bind(tenant.as_str())
        .bind(sweep.to_string())
        .fetch_optional(conn)
        .await?;
    found.map_or_else(|| Err(missing(sweep)), |row| read(&row))
}

fn listed(row: &Row) -> Result<SweepSummary> {
    let version = row.optional_int("dataset_version")?;
    let version = version
        .map(|number| u32::try_from(number).map_err(|error| corrupt("dataset_version", error)));
    Ok(SweepSummary {
        id: row.id("id")?,
        dataset: row.text("dataset")?,
        dataset_version: version.transpose()?,
        points: row.number("points")?,
        halving: row.number("halving")?,
        round: row.number("round")?,
        jobs: row.number("jobs")?,
        unfinished_jobs: row.number("unfinished_jobs")?,
        state: row.name("state")?,
        message: row.optional_text("message")?,
        cancel_requested: row.flag("cancel_requested")?,
        create_time: row.int("create_time")?,
        end_time: row.optional_int("end_time")?,
    })
}

fn read(row: &Row) -> Result<SweepRecord> {
    Ok(SweepRecord {
        tenant: row.id("tenant")?,
        id: row.id("id")?,
        spec: row.json("spec")?,
        progress: row.json("progress")?,
        state: row.name("state")?,
        message: row.optional_text("message")?,
        revision: row.number("revision")?,
        cancel_requested: row.flag("cancel_requested")?,
        create_time: row.int("create_time")?,
        end_time: row.optional_int("end_time")?,
    })
}
