//! Imports: versions that become visible without a job.
//!
//! Invariant: the task is made, if it has to be, in the transaction that makes its version visible; a refused import changes no record.

use sha2::{Digest as _, Sha256};

use super::super::{
    Error, ImportStart, ImportTarget, ImportedVersion, NewVersion, Result, TaskRecord,
    VersionRecord,
};
use super::database::Conn;
use super::requests::Request;
use super::rows::{self, corrupt};
use super::usage::Delta;
use super::{Database, audit, locks, serving, tasks, usage, versions};
use crate::ids::TenantId;
use crate::spec::Digest;

const METHOD: &str = "ImportAdapterVersion";

/// Gives out the number of a new version, unless the request was answered before.
pub(super) async fn reserve(
    store: &Database,
    tenant: &TenantId,
    target: &ImportTarget,
) -> Result<ImportStart> {
    let (mut tx, _) = store.write().await?;
    let before = request(target)?.answer(&mut tx, tenant).await?;
    if let Some(version) = made(&mut tx, tenant, target, before).await? {
        return Ok(ImportStart::Done(Box::new(version)));
    }
    // A task that is still to be made has its numbers already: they outlive tasks.
    fits(&mut tx, tenant, target).await?;
    let number = versions::next_number(&mut tx, tenant, &target.task).await?;
    tx.commit().await?;
    Ok(ImportStart::Number(number))
}

/// Makes a version visible, with its task when that is to be made.
pub(super) async fn import(
    store: &Database,
    tenant: &TenantId,
    target: &ImportTarget,
    version: NewVersion,
) -> Result<ImportedVersion> {
    let (mut tx, now) = store.write().await?;
    let request = request(target)?;
    let begun = request.begin(&mut tx, tenant, now).await?;
    if let Some(version) = made(&mut tx, tenant, target, begun).await? {
        let is_desired = false;
        return Ok(ImportedVersion {
            version,
            is_desired,
        });
    }
    locks::tenant(&mut tx, tenant).await?;
    let task = &target.task;
    let record = match (fits(&mut tx, tenant, target).await?, &target.create) {
        (Some(record), _) => record,
        (None, Some(new)) => {
            tasks::insert(&mut tx, tenant, new, now).await?;
            tasks::get(&mut tx, tenant, task).await?
        }
        (None, None) => return Err(tasks::missing(task)),
    };
    // Whoever shares requests out among versions decides what becomes of a new one.
    let auto_serve = record.auto_serve && record.split.is_none();
    let number = version.version;
    let version = versions::insert(&mut tx, tenant, task, &version, now).await?;
    usage::check(&mut tx, tenant, Delta::version(version.size_bytes)?).await?;
    if auto_serve {
        serving::desire(&mut tx, &record, &number.into(), now).await?;
    }
    let resource = format!("{task}/{number}");
    request.remember(&mut tx, tenant, resource).await?;
    let detail = match target.create.is_some() {
        true => format!("version={number}, with the task when there was none"),
        false => format!("version={number}"),
    };
    audit::acted(&mut tx, tenant, tasks::named(task, detail), now).await?;
    tx.commit().await?;
    Ok(ImportedVersion {
        version,
        is_desired: auto_serve,
    })
}

/// The task that an import goes to; `None` when it is to be made. One that somebody made meanwhile has to be as the import would have made it.
async fn fits(
    conn: &mut Conn,
    tenant: &TenantId,
    target: &ImportTarget,
) -> Result<Option<TaskRecord>> {
    let found = tasks::current(conn, tenant, &target.task, target.etag.as_deref()).await;
    match (found, &target.create) {
        (Ok(task), Some(new)) if (task.adapter, task.sampling) != (new.adapter, new.sampling) => {
            Err(tasks::taken(&new.id))
        }
        (Ok(task), _) => Ok(Some(task)),
        (Err(Error::NotFound { .. }), Some(new)) => match &target.etag {
            Some(etag) => Err(tasks::stale(&new.id, etag)),
            None => Ok(None),
        },
        (Err(error), _) => Err(error),
    }
}

/// An import: a repetition brings the same file and labels to the same task.
fn request(target: &ImportTarget) -> Result<Request> {
    // There may be 20,000 labels, so their digest stands for them.
    let labels = rows::json("labels", &target.labels)?;
    let labels = Digest(Sha256::digest(labels.as_bytes()).into()).to_string();
    let file = target.sha256.to_string();
    let content = (target.task.as_str(), &file, &labels);
    let fields = [
        ("header.parent", target.task.as_str().into()),
        ("sha256", file.as_str().into()),
        ("header.labels", labels.as_str().into()),
    ];
    Request::new(METHOD, target.request, &content, &fields)
}

/// The version that a request imported before, by what it was answered.
async fn made(
    conn: &mut Conn,
    tenant: &TenantId,
    target: &ImportTarget,
    resource: Option<String>,
) -> Result<Option<VersionRecord>> {
    let task = &target.task;
    let Some(resource) = resource else {
        return Ok(None);
    };
    let wrong = |problem: &str| corrupt("resource", problem.to_owned());
    let (owner, number) = resource
        .rsplit_once('/')
        .ok_or_else(|| wrong("no version"))?;
    if let (true, Some(request)) = (owner != task.as_str(), target.request) {
        return Err(Error::RequestReused {
            request,
            method: METHOD,
            differs: vec!["header.parent".to_owned()],
        });
    }
    let number = number.parse().map_err(|_| wrong("no number"))?;
    let found = versions::get(conn, tenant, task, number).await;
    request(target)?.made(found).map(Some)
}
