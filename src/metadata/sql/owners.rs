//! Jobs as their owners see them: submitted, read, cancelled, watched.
//!
//! Invariant: a job that was submitted has its snapshot, its first event and its place in the queue, all or none.

use async_trait::async_trait;

use super::super::{
    Error, Event, EventRecord, JobRecord, Jobs, Kind, NewJob, Page, PageRequest, Result, Timestamp,
};
use super::database::{Conn, Row, query};
use super::requests::{self, Request};
use super::rows::{self, Columns, corrupt};
use super::snapshots::{self, Taken};
use super::{Database, audit, dataset_versions, events, folds, jobs, locks, tasks, turns, usage};
use crate::ids::{JobId, RequestId, TenantId};
use crate::spec::{Digest, JobState, Selection};

const LISTING: &str = "jobs";
/// The method of submissions, as their requests are kept under it.
const SUBMIT: &str = "SubmitJob";

#[async_trait]
impl Jobs for Database {
    async fn submit_job(
        &self,
        tenant: &TenantId,
        job: NewJob,
        request: Option<RequestId>,
    ) -> Result<JobRecord> {
        for is_last in [false, false, true] {
            if let Some(record) = answered(self, tenant, &job, request).await? {
                return Ok(record);
            }
            let taken = match job.dataset_version {
                None => snapshots::take(self, tenant, &job.dataset).await?,
                Some(number) => dataset_versions::taken(self, tenant, &job.dataset, number).await?,
            };
            if let Some(record) = submit(self, tenant, &job, request, &taken, is_last).await? {
                return Ok(record);
            }
        }
        Err(Error::Unavailable(
            "the data set's snapshot was forgotten while the job was submitted".into(),
        ))
    }

    async fn get_job(&self, tenant: &TenantId, job: JobId) -> Result<JobRecord> {
        get(&mut self.look().await?, tenant, job).await
    }

    async fn requested_job(&self, tenant: &TenantId, request: RequestId) -> Result<Option<JobId>> {
        requests::made_by(&mut self.look().await?, tenant, (SUBMIT, request)).await
    }

    async fn list_jobs(&self, tenant: &TenantId, page: &PageRequest) -> Result<Page<JobRecord>> {
        // A confusion matrix is not read: a page of jobs would have many.
        let sql = "SELECT *, json_remove(result, '$.evaluation.confusion', '$.test.confusion') AS listed_result \
                   FROM jobs WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3";
        let found = query(sql)
            .bind(tenant.as_str())
            .bind(page.start(LISTING)?)
            .bind(page.limit())
            .fetch_all(&mut self.browse().await?)
            .await?;
        let listed = |row| read_with(row, "listed_result");
        let jobs: Vec<_> = found.iter().map(listed).collect::<Result<_>>()?;
        Ok(page.page(LISTING, jobs, |job| job.id.to_string()))
    }

    async fn cancel_job(&self, tenant: &TenantId, job: JobId) -> Result<JobRecord> {
        let (mut tx, now) = self.write().await?;
        locks::job(&mut tx, tenant, job).await?;
        let record = get(&mut tx, tenant, job).await?;
        if record.state.is_final() {
            return Err(Error::JobFinished { job });
        }
        let is_new = record.state == JobState::Queued || !record.cancel_requested;
        if record.state == JobState::Queued {
            jobs::end(&mut tx, &record, JobState::Cancelled, None, now).await?;
        } else {
            query("UPDATE jobs SET cancel_requested = 1 WHERE tenant = $1 AND id = $2")
                .bind(tenant.as_str())
                .bind(job.to_string())
                .execute(&mut tx)
                .await?;
        }
        let record = get(&mut tx, tenant, job).await?;
        if is_new {
            audit::acted(&mut tx, tenant, named(job, "cancelled"), now).await?;
        }
        tx.commit().await?;
        Ok(record)
    }

    async fn pause_job(&self, tenant: &TenantId, job: JobId, is_paused: bool) -> Result<JobRecord> {
        let (mut tx, now) = self.write().await?;
        locks::job(&mut tx, tenant, job).await?;
        let record = get(&mut tx, tenant, job).await?;
        // A version that is published is past waiting.
        if record.state.is_final() || record.result.is_some() {
            return Err(Error::JobFinished { job });
        }
        if record.is_paused != is_paused {
            query("UPDATE jobs SET paused = $1 WHERE tenant = $2 AND id = $3")
                .bind(is_paused)
                .bind(tenant.as_str())
                .bind(job.to_string())
                .execute(&mut tx)
                .await?;
            let text = match is_paused {
                true => "its owner paused the job",
                false => "its owner resumed the job",
            };
            let event = Event::Message {
                warning: false,
                text: text.into(),
            };
            events::append(&mut tx, tenant, job, now, &event).await?;
            let detail = format!("paused={is_paused}");
            audit::acted(&mut tx, tenant, named(job, detail), now).await?;
        }
        let record = get(&mut tx, tenant, job).await?;
        tx.commit().await?;
        Ok(record)
    }

    async fn list_events(
        &self,
        tenant: &TenantId,
        job: JobId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>> {
        let mut tx = self.list().await?;
        let record = get(&mut tx, tenant, job).await?;
        let mut found = events::list(&mut tx, tenant, job, after, limit).await?;
        if found.is_empty() && record.end_time.is_some() {
            found = folds::list(&mut tx, tenant, job, after, limit).await?;
        }
        Ok(found)
    }

    async fn newest_events(&self, jobs: &[(TenantId, JobId)]) -> Result<Vec<(JobId, u64)>> {
        let asked = jobs
            .iter()
            .map(|(tenant, job)| (tenant.as_str(), job.to_string()));
        let asked = rows::json("jobs", &asked.collect::<Vec<_>>())?;
        let sql = "SELECT jobs.id AS id, jobs.last_event AS last_event FROM json_each($1) CROSS JOIN jobs \
                   WHERE jobs.tenant = value ->> 0 AND jobs.id = value ->> 1";
        let mut conn = self.look().await?;
        let newest = query(sql).bind(asked).fetch_all(&mut conn).await?;
        let newest = newest
            .iter()
            .map(|row| Ok((row.id("id")?, row.number("last_event")?)));
        newest.collect()
    }
}

fn request_of(job: &NewJob, request: Option<RequestId>) -> Result<Request> {
    let mut asked = job.hyper_parameters.clone();
    // Earlier releases, under which the request may have been answered, had no selection.
    if let Some(selection) = &mut asked.selection {
        // What is done unless it was turned off.
        selection.near_duplicates = selection.near_duplicates.filter(|own| !own);
        // What follows from the rest.
        selection.by_size = None;
    }
    asked.selection = asked.selection.filter(|own| *own != Selection::default());
    let hyper = rows::value("hyper_parameters", &asked)?;
    let dataset = match job.dataset_version {
        None => job.dataset.to_string(),
        Some(number) => format!("{}/versions/{number}", job.dataset),
    };
    let fields = [
        ("task", format!("tasks/{}", job.task).into()),
        ("dataset", format!("datasets/{dataset}").into()),
        ("hyper_parameters", hyper),
    ];
    // Without a priority, a request is what it was in releases that had none.
    match job.priority {
        0 => {
            let content = (job.task.as_str(), dataset.as_str(), &asked);
            Request::new(SUBMIT, request, &content, &fields)
        }
        priority => {
            let content = (job.task.as_str(), dataset.as_str(), &asked, priority);
            Request::new(SUBMIT, request, &content, &fields)
        }
    }
}

/// The job that the request made before. Refuses what can be refused before a snapshot is taken.
async fn answered(
    store: &Database,
    tenant: &TenantId,
    job: &NewJob,
    request: Option<RequestId>,
) -> Result<Option<JobRecord>> {
    let mut tx = store.read().await?;
    let request = request_of(job, request)?;
    if let Some(id) = request.answer(&mut tx, tenant).await? {
        let id = id.parse().map_err(|error| corrupt("job", error))?;
        return request.made(get(&mut tx, tenant, id).await).map(Some);
    }
    tasks::get(&mut tx, tenant, &job.task).await?;
    let waiting = unfinished(&mut tx, tenant).await?;
    usage::admit_job(&mut tx, tenant, waiting, job.limit).await?;
    Ok(None)
}

/// Queues a job that reads a snapshot which was just taken. `None` when that was forgotten, or when its data set has changed since: its videos might be
/// gone then, so that it is better taken again, unless the data set changes all the time.
async fn submit(
    store: &Database,
    tenant: &TenantId,
    job: &NewJob,
    request: Option<RequestId>,
    taken: &Taken,
    is_last: bool,
) -> Result<Option<JobRecord>> {
    let (mut tx, now) = store.write().await?;
    let request = request_of(job, request)?;
    if let Some(id) = request.begin(&mut tx, tenant, now).await? {
        let id = id.parse().map_err(|error| corrupt("job", error))?;
        return request.made(get(&mut tx, tenant, id).await).map(Some);
    }
    locks::tenant(&mut tx, tenant).await?;
    locks::dataset(&mut tx, tenant, &job.dataset).await?;
    if !locks::task(&mut tx, tenant, &job.task).await? {
        return Err(tasks::missing(&job.task));
    }
    locks::snapshot(&mut tx, tenant, &taken.record.digest.0).await?;
    let task = tasks::get(&mut tx, tenant, &job.task).await?;
    let is_current = taken.is_current(&mut tx, tenant, &job.dataset).await?;
    if !taken.is_there(&mut tx, tenant).await? || !(is_current || is_last) {
        return Ok(None);
    }
    let waiting = unfinished(&mut tx, tenant).await?;
    usage::admit_job(&mut tx, tenant, waiting, job.limit).await?;
    let id = JobId::generate();
    let sql = "INSERT INTO jobs (tenant, id, task, dataset, dataset_digest, \
               hyper_parameters, state, task_etag, allow_label_change, priority, create_time, backbone, \
               start_tag, finish_tag) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
    let (start, finish) = turns::of(&mut tx, tenant, job.clip_frames).await?;
    query(sql)
        .bind(tenant.as_str())
        .bind(id.to_string())
        .bind(job.task.as_str())
        .bind(job.dataset.as_str())
        .bind(taken.record.digest.0.to_vec())
        .bind(rows::json("hyper_parameters", &job.hyper_parameters)?)
        .bind(rows::name("state", JobState::Queued)?)
        .bind(task.etag)
        .bind(job.allow_label_change)
        .bind(i64::from(job.priority))
        .bind(now)
        .bind(store.backbone.get().map(Digest::to_string))
        .bind(start)
        .bind(finish)
        .execute(&mut tx)
        .await?;
    tell(&mut tx, (tenant, id), job.warning.clone(), now).await?;
    request.remember(&mut tx, tenant, id.to_string()).await?;
    let record = get(&mut tx, tenant, id).await?;
    let detail = format!("tasks/{} datasets/{}", job.task, job.dataset);
    audit::acted(&mut tx, tenant, named(id, detail), now).await?;
    tx.commit().await?;
    Ok(Some(record))
}

/// A job and what becomes of it, as the audit log has them.
fn named(job: JobId, detail: impl Into<String>) -> (String, String) {
    (format!("jobs/{job}"), detail.into())
}

/// Writes the first events of a job.
async fn tell(
    conn: &mut Conn,
    (tenant, id): (&TenantId, JobId),
    warning: Option<String>,
    now: Timestamp,
) -> Result<()> {
    let queued = Event::State {
        state: JobState::Queued,
        reason: None,
        message: None,
    };
    events::append(conn, tenant, id, now, &queued).await?;
    if let Some(text) = warning {
        let warning = true;
        let told = Event::Message { warning, text };
        events::append(conn, tenant, id, now, &told).await?;
    }
    Ok(())
}

pub(super) async fn unfinished(conn: &mut Conn, tenant: &TenantId) -> Result<u32> {
    let sql = "SELECT COUNT(*) AS jobs FROM jobs INDEXED BY unfinished_jobs_by_tenant \
               WHERE tenant = $1 AND end_time IS NULL";
    let row = query(sql).bind(tenant.as_str()).fetch_one(conn).await?;
    row.number("jobs")
}

pub(super) async fn get(conn: &mut Conn, tenant: &TenantId, job: JobId) -> Result<JobRecord> {
    let found = query("SELECT * FROM jobs WHERE tenant = $1 AND id = $2")
        .bind(tenant.as_str())
        .bind(job.to_string())
        .fetch_optional(conn)
        .await?;
    rows::found(found, read, (Kind::Job, job))
}

pub(super) fn read(row: &Row) -> Result<JobRecord> {
    read_with(row, "result")
}

/// A job whose result is in this column.
fn read_with(row: &Row, result: &'static str) -> Result<JobRecord> {
    Ok(JobRecord {
        tenant: row.id("tenant")?,
        id: row.id("id")?,
        task: row.id("task")?,
        dataset: row.id("dataset")?,
        dataset_digest: row.digest("dataset_digest")?,
        hyper_parameters: row.hyper_parameters("hyper_parameters")?,
        state: row.name("state")?,
        reason: row.optional_text("reason")?,
        message: row.optional_text("message")?,
        step: row.number("step")?,
        total_steps: row.number("total_steps")?,
        attempts: row.number("attempts")?,
        errors: row.number("errors")?,
        is_suspect: row.optional_int("suspect_step")?.is_some(),
        last_event: row.number("last_event")?,
        epoch: row.number("epoch")?,
        cancel_requested: row.flag("cancel_requested")?,
        is_paused: row.flag("paused")?,
        priority: row.number("priority")?,
        task_etag: row.text("task_etag")?,
        checkpoint: row.optional_json("checkpoint")?,
        earlier: row
            .optional_json("earlier_checkpoints")?
            .unwrap_or_default(),
        result: row.optional_json(result)?,
        create_time: row.int("create_time")?,
        end_time: row.optional_int("end_time")?,
    })
}
