//! Tasks: what was asked for, what serves, and the etag that guards the former.
//!
//! Invariant: every change that a caller or a job makes raises the revision; the engine's own moves do not.

use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;

use super::super::{
    Error, ImportStart, ImportTarget, ImportedVersion, Kind, NewTask, NewVersion, Page,
    PageRequest, PinnedRecord, Plan, Result, ServingRecord, TaskRecord, TaskUpdate, Tasks,
    Timestamp, VersionRecord,
};
use super::database::{Conn, Row, query};
use super::requests::Request;
use super::rows::{self, Columns, corrupt};
use super::usage::Delta;
use super::{Database, audit, changes, imports, locks, pins, proofs, serving, usage, versions};
use crate::ids::{AdapterVersion, RequestId, TaskId, TenantId, VersionRef};

const LISTING: &str = "tasks";

#[async_trait]
impl Tasks for Database {
    async fn create_task(
        &self,
        tenant: &TenantId,
        task: NewTask,
        request: Option<RequestId>,
    ) -> Result<TaskRecord> {
        let (mut tx, now) = self.write().await?;
        // Without a choice of heads, a request is what it was in releases that had none.
        let choice = task.auto_head.then_some("auto");
        let shape = (&task.adapter, &task.sampling, task.auto_serve);
        let name = (task.id.as_str(), &task.display_name);
        let fields = [
            ("task_id", task.id.as_str().into()),
            ("task.display_name", task.display_name.as_str().into()),
            ("task.adapter", rows::value("adapter", &task.adapter)?),
            ("task.sampling", rows::value("sampling", &task.sampling)?),
            ("task.auto_serve", task.auto_serve.into()),
            ("task.head", choice.unwrap_or_default().into()),
        ];
        let request = match choice {
            None => Request::new("CreateTask", request, &(name.0, name.1, shape), &fields),
            Some(choice) => {
                let content = (name.0, name.1, shape, choice);
                Request::new("CreateTask", request, &content, &fields)
            }
        }?;
        if let Some(id) = request.begin(&mut tx, tenant, now).await? {
            let id = id.parse().map_err(|error| corrupt("task", error))?;
            return request.made(get(&mut tx, tenant, &id).await);
        }
        locks::tenant(&mut tx, tenant).await?;
        insert(&mut tx, tenant, &task, now).await?;
        let id = task.id.to_string();
        request.remember(&mut tx, tenant, id).await?;
        let record = get(&mut tx, tenant, &task.id).await?;
        audit::acted(&mut tx, tenant, named(&task.id, ""), now).await?;
        tx.commit().await?;
        Ok(record)
    }

    async fn get_task(&self, tenant: &TenantId, task: &TaskId) -> Result<TaskRecord> {
        get(&mut self.look().await?, tenant, task).await
    }

    async fn list_tasks(&self, tenant: &TenantId, page: &PageRequest) -> Result<Page<TaskRecord>> {
        let found = query("SELECT * FROM tasks WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3")
            .bind(tenant.as_str())
            .bind(page.start(LISTING)?)
            .bind(page.limit())
            .fetch_all(&mut self.browse().await?)
            .await?;
        let tasks: Vec<_> = found.iter().map(read).collect::<Result<_>>()?;
        Ok(page.page(LISTING, tasks, |task| task.id.to_string()))
    }

    async fn update_task(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        update: TaskUpdate,
        etag: Option<&str>,
    ) -> Result<TaskRecord> {
        let (mut tx, now) = self.write().await?;
        current(&mut tx, tenant, task, etag).await?;
        changes::task_changed(&mut tx, tenant, task, now).await?;
        let sql = "UPDATE tasks SET display_name = COALESCE($1, display_name), \
                   auto_serve = COALESCE($2, auto_serve), revision = revision + 1 \
                   WHERE tenant = $3 AND id = $4 RETURNING *";
        let row = query(sql)
            .bind(update.display_name)
            .bind(update.auto_serve)
            .bind(tenant.as_str())
            .bind(task.as_str())
            .fetch_one(&mut tx)
            .await?;
        let detail = match update.auto_serve {
            Some(auto_serve) => format!("auto_serve={auto_serve}"),
            None => String::new(),
        };
        audit::acted(&mut tx, tenant, named(task, detail), now).await?;
        tx.commit().await?;
        read(&row)
    }

    async fn delete_task(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        etag: Option<&str>,
    ) -> Result<Vec<VersionRecord>> {
        self.deleting(|| delete(self, tenant, task, etag)).await
    }

    async fn get_version(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        version: AdapterVersion,
    ) -> Result<VersionRecord> {
        versions::get(&mut self.look().await?, tenant, task, version).await
    }

    async fn version_range(
        &self,
        tenant: &TenantId,
        task: &TaskId,
    ) -> Result<Option<RangeInclusive<AdapterVersion>>> {
        versions::range(&mut self.look().await?, tenant, task).await
    }

    async fn list_versions(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        page: &PageRequest,
    ) -> Result<Page<VersionRecord>> {
        let mut tx = self.list().await?;
        get(&mut tx, tenant, task).await?;
        versions::list(&mut tx, tenant, task, page).await
    }

    async fn reserve_import(
        &self,
        tenant: &TenantId,
        target: &ImportTarget,
    ) -> Result<ImportStart> {
        imports::reserve(self, tenant, target).await
    }

    async fn import_version(
        &self,
        tenant: &TenantId,
        target: &ImportTarget,
        version: NewVersion,
    ) -> Result<ImportedVersion> {
        imports::import(self, tenant, target, version).await
    }

    async fn set_desired(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        plan: &Plan,
        etag: &str,
    ) -> Result<TaskRecord> {
        serving::set(self, (tenant, task), plan, etag).await
    }

    async fn roll_back(&self, tenant: &TenantId, task: &TaskId, etag: &str) -> Result<TaskRecord> {
        serving::roll_back(self, (tenant, task), etag).await
    }

    async fn note_member(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        version: AdapterVersion,
        why: Option<&str>,
    ) -> Result<bool> {
        serving::note_member(self, (tenant, task), version, why).await
    }

    async fn move_serving(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        version: AdapterVersion,
    ) -> Result<bool> {
        serving::moved(self, (tenant, task), version).await
    }

    async fn serving_failed(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        version: AdapterVersion,
        why: &str,
    ) -> Result<bool> {
        serving::failed(self, (tenant, task), version, why).await
    }

    async fn pin_task(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        pinned: bool,
        limit: u64,
    ) -> Result<TaskRecord> {
        pins::pin(self, (tenant, task), pinned, limit).await
    }

    async fn pinned_versions(&self) -> Result<Vec<PinnedRecord>> {
        let mut tx = self.read().await?;
        pins::versions(&mut tx, None).await
    }

    async fn claim_proof(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        holder: &str,
        is_near: bool,
        span: Duration,
    ) -> Result<bool> {
        proofs::claim(self, (tenant, task), holder, is_near, span).await
    }

    async fn release_proof(&self, tenant: &TenantId, task: &TaskId, holder: &str) -> Result<()> {
        proofs::release(self, (tenant, task), holder).await
    }

    async fn pending_tasks(&self) -> Result<Vec<TaskRecord>> {
        proofs::pending(self).await
    }

    async fn serving_versions(
        &self,
        after: Option<(&TenantId, &TaskId)>,
        limit: u32,
    ) -> Result<Vec<ServingRecord>> {
        // One field of the manifest is read by the database: a confusion matrix can make the whole of it a megabyte.
        let sql = "SELECT t.tenant, t.id, t.serving, t.desired, t.serving_error, \
                   json_extract(v.manifest, '$.backbone_digest') AS backbone FROM tasks t JOIN versions v \
                   ON v.tenant = t.tenant AND v.task = t.id AND v.version = t.serving \
                   WHERE (t.tenant, t.id) > ($1, $2) ORDER BY t.tenant, t.id LIMIT $3";
        let (tenant, task) =
            after.map_or(("", ""), |(tenant, task)| (tenant.as_str(), task.as_str()));
        let found = query(sql)
            .bind(tenant)
            .bind(task)
            .bind(limit)
            .fetch_all(&mut self.look().await?)
            .await?;
        found.iter().map(serving_record).collect()
    }

    async fn note_serving(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        version: AdapterVersion,
        why: Option<&str>,
    ) -> Result<bool> {
        serving::note(self, (tenant, task), version, why).await
    }
}

pub(super) async fn get(conn: &mut Conn, tenant: &TenantId, task: &TaskId) -> Result<TaskRecord> {
    let found = query("SELECT * FROM tasks WHERE tenant = $1 AND id = $2")
        .bind(tenant.as_str())
        .bind(task.as_str())
        .fetch_optional(conn)
        .await?;
    match found {
        Some(row) => read(&row),
        None => Err(missing(task)),
    }
}

/// A task and what becomes of it, as the audit log has them.
pub(super) fn named(task: &TaskId, detail: impl Into<String>) -> (String, String) {
    (format!("tasks/{task}"), detail.into())
}

pub(super) fn missing(task: &TaskId) -> Error {
    Error::NotFound {
        kind: Kind::Task,
        name: task.to_string(),
    }
}

pub(super) async fn insert(
    conn: &mut Conn,
    tenant: &TenantId,
    task: &NewTask,
    now: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO tasks (tenant, id, display_name, adapter, sampling, auto_serve, \
               auto_head, incarnation, create_time) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
               ON CONFLICT DO NOTHING";
    let inserted = query(sql)
        .bind(tenant.as_str())
        .bind(task.id.as_str())
        .bind(&task.display_name)
        .bind(rows::json("adapter", &task.adapter)?)
        .bind(rows::json("sampling", &task.sampling)?)
        .bind(task.auto_serve)
        .bind(task.auto_head)
        .bind(uuid::Uuid::now_v7().simple().to_string())
        .bind(now)
        .execute(&mut *conn)
        .await?;
    if inserted == 0 {
        return Err(taken(&task.id));
    }
    let one = Delta {
        tasks: 1,
        ..Delta::default()
    };
    usage::add(conn, tenant, one).await?;
    changes::task_changed(conn, tenant, &task.id, now).await
}

pub(super) fn taken(task: &TaskId) -> Error {
    Error::AlreadyExists {
        kind: Kind::Task,
        name: task.to_string(),
    }
}

async fn delete(
    store: &Database,
    tenant: &TenantId,
    task: &TaskId,
    etag: Option<&str>,
) -> Result<Vec<VersionRecord>> {
    let (mut tx, now) = store.write().await?;
    locks::tenant(&mut tx, tenant).await?;
    current(&mut tx, tenant, task, etag).await?;
    let sql = "SELECT id FROM jobs INDEXED BY unfinished_jobs_by_tenant WHERE tenant = $1 AND task = $2 AND end_time IS NULL LIMIT 1";
    let job = query(sql)
        .bind(tenant.as_str())
        .bind(task.as_str())
        .fetch_optional(&mut tx)
        .await?;
    if let Some(job) = job {
        let user = job.text("id")?;
        return Err(Error::InUse {
            kind: Kind::Task,
            name: task.to_string(),
            user_kind: Kind::Job,
            user,
        });
    }
    let versions = versions::all(&mut tx, tenant, task).await?;
    query("DELETE FROM tasks WHERE tenant = $1 AND id = $2")
        .bind(tenant.as_str())
        .bind(task.as_str())
        .execute(&mut tx)
        .await?;
    let bytes = versions.iter().map(|version| version.size_bytes).sum();
    let gone = Delta {
        videos: 0,
        bytes: rows::int("size_bytes", bytes)?,
        tasks: 1,
        versions: rows::int("versions", versions.len() as u64)?,
    };
    usage::count(&mut tx, tenant, gone.removed()).await?;
    changes::task_deleted(&mut tx, tenant, task, now).await?;
    let detail = format!("deleted versions={}", versions.len());
    audit::acted(&mut tx, tenant, named(task, detail), now).await?;
    tx.commit().await?;
    Ok(versions)
}

/// The task, if `etag` is absent or its own, locked.
pub(super) async fn current(
    conn: &mut Conn,
    tenant: &TenantId,
    task: &TaskId,
    etag: Option<&str>,
) -> Result<TaskRecord> {
    if !locks::task(conn, tenant, task).await? {
        return Err(missing(task));
    }
    let record = get(conn, tenant, task).await?;
    match etag {
        Some(etag) if etag != record.etag => Err(stale(task, etag)),
        Some(_) | None => Ok(record),
    }
}

pub(super) fn stale(task: &TaskId, etag: &str) -> Error {
    Error::EtagMismatch {
        task: task.clone(),
        etag: etag.chars().take(80).collect(),
    }
}

fn serving_record(row: &Row) -> Result<ServingRecord> {
    let serving = row.version("serving")?;
    Ok(ServingRecord {
        version: VersionRef {
            tenant: row.id("tenant")?,
            task: row.id("id")?,
            version: serving.ok_or_else(|| corrupt("serving", "no number"))?,
        },
        backbone_digest: row.id("backbone")?,
        serving_error: row.optional_text("serving_error")?,
        is_desired: row.version("desired")? == serving,
    })
}

pub(super) fn read(row: &Row) -> Result<TaskRecord> {
    Ok(TaskRecord {
        tenant: row.id("tenant")?,
        id: row.id("id")?,
        display_name: row.text("display_name")?,
        adapter: row.json("adapter")?,
        sampling: row.json("sampling")?,
        auto_serve: row.flag("auto_serve")?,
        auto_head: row.flag("auto_head")?,
        serving: row.version("serving")?,
        desired: row.version("desired")?,
        serving_error: row.optional_text("serving_error")?,
        split: row.optional_json("split")?,
        previous: row.optional_json("previous")?,
        pinned: row.flag("pinned")?,
        etag: format!("{}-{}", row.text("incarnation")?, row.int("revision")?),
        create_time: row.int("create_time")?,
    })
}
