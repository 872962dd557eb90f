//! Resource names: `tasks/motion/versions/3` to ids and back.

use std::str::FromStr;

use tonic::Status;

use crate::ids::{
    AdapterVersion, DatasetId, JobId, KeyId, RequestId, SweepId, TaskId, TenantId, UploadId,
    VersionRef, VideoId,
};
use crate::metadata::check_display_name;
use crate::rpc::status;

/// Longest name of a process in bytes: a machine's and a suffix are shorter.
const MAX_REPLICA: usize = 100;

/// An id out of `collection/{id}`; the field is named in the error.
fn id<T>(name: &str, collection: &str, field: &str) -> Result<T, Status>
where
    T: FromStr<Err = crate::ids::Error>,
{
    let id = name
        .strip_prefix(collection)
        .and_then(|rest| rest.strip_prefix('/'))
        .ok_or_else(|| status::invalid(field, format!("expected `{collection}/{{id}}`")))?;
    id.parse()
        .map_err(|error: crate::ids::Error| status::invalid(field, error.to_string()))
}

/// `tasks/{task_id}`.
pub(in crate::rpc) fn task(name: &str, field: &str) -> Result<TaskId, Status> {
    id(name, "tasks", field)
}

/// `datasets/{dataset_id}`.
pub(in crate::rpc) fn dataset(name: &str, field: &str) -> Result<DatasetId, Status> {
    id(name, "datasets", field)
}

/// `videos/{video_id}`.
pub(in crate::rpc) fn video(name: &str, field: &str) -> Result<VideoId, Status> {
    id(name, "videos", field)
}

/// `uploads/{upload_id}`.
pub(in crate::rpc) fn upload(name: &str, field: &str) -> Result<UploadId, Status> {
    id(name, "uploads", field)
}

/// `datasets/{dataset_id}`, or `datasets/{dataset_id}/versions/{n}`.
pub(in crate::rpc) fn dataset_at(
    name: &str,
    field: &str,
) -> Result<(DatasetId, Option<u32>), Status> {
    let Some((owner, number)) = name.split_once("/versions/") else {
        return Ok((dataset(name, field)?, None));
    };
    let version: AdapterVersion = number
        .parse()
        .map_err(|error: crate::ids::Error| status::invalid(field, error.to_string()))?;
    Ok((dataset(owner, field)?, Some(version.get())))
}

/// `datasets/{dataset_id}/versions/{n}`.
pub(in crate::rpc) fn dataset_version(name: &str, field: &str) -> Result<(DatasetId, u32), Status> {
    match dataset_at(name, field)? {
        (dataset, Some(number)) => Ok((dataset, number)),
        (_, None) => {
            let problem = "expected `datasets/{id}/versions/{n}`";
            Err(status::invalid(field, problem))
        }
    }
}

/// `jobs/{job_id}`.
pub(in crate::rpc) fn job(name: &str, field: &str) -> Result<JobId, Status> {
    id(name, "jobs", field)
}

/// `sweeps/{sweep_id}`.
pub(in crate::rpc) fn sweep(name: &str, field: &str) -> Result<SweepId, Status> {
    id(name, "sweeps", field)
}

/// `tenants/{tenant_id}`.
pub(in crate::rpc) fn tenant(name: &str, field: &str) -> Result<TenantId, Status> {
    id(name, "tenants", field)
}

/// `keys/{key_id}`.
pub(in crate::rpc) fn key(name: &str, field: &str) -> Result<KeyId, Status> {
    id(name, "keys", field)
}

/// `replicas/{name}`, with the name that a process reports.
pub(in crate::rpc) fn replica<'a>(name: &'a str, field: &str) -> Result<&'a str, Status> {
    let found = name.strip_prefix("replicas/");
    let is_name = |own: &&str| {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        (1..=MAX_REPLICA).contains(&own.len()) && own.bytes().all(letters)
    };
    let found = found.filter(is_name);
    found.ok_or_else(|| status::invalid(field, "expected `replicas/{name}`"))
}

/// `tasks/{task_id}/versions/{n}`.
pub(in crate::rpc) fn version(
    tenant: &TenantId,
    name: &str,
    field: &str,
) -> Result<VersionRef, Status> {
    let (owner, number) = name
        .split_once("/versions/")
        .ok_or_else(|| status::invalid(field, "expected `tasks/{id}/versions/{n}`"))?;
    let version: AdapterVersion = number
        .parse()
        .map_err(|error: crate::ids::Error| status::invalid(field, error.to_string()))?;
    Ok(VersionRef {
        tenant: tenant.clone(),
        task: task(owner, field)?,
        version,
    })
}

/// `tasks/{task_id}/versions/{n}` that has to be of a task.
pub(in crate::rpc) fn version_of(
    tenant: &TenantId,
    task: &TaskId,
    name: &str,
    field: &str,
) -> Result<VersionRef, Status> {
    let found = version(tenant, name, field)?;
    if found.task != *task {
        return Err(status::invalid(
            field,
            format!("expected a version of tasks/{task}"),
        ));
    }
    Ok(found)
}

/// An id that the caller chose.
pub(in crate::rpc) fn chosen<T>(text: &str, field: &str) -> Result<T, Status>
where
    T: FromStr<Err = crate::ids::Error>,
{
    text.parse()
        .map_err(|error: crate::ids::Error| status::invalid(field, error.to_string()))
}

/// `request_id`: a UUID, or empty for none.
pub(in crate::rpc) fn request(text: &str) -> Result<Option<RequestId>, Status> {
    request_of(text, "request_id")
}

/// A request id in a field of another message.
pub(in crate::rpc) fn request_of(text: &str, field: &str) -> Result<Option<RequestId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |_: crate::ids::Error| {
        let shown: String = text.chars().take(80).collect();
        status::invalid(field, format!("{shown:?} is not a UUID"))
    };
    text.parse().map(Some).map_err(wrong)
}

/// A display name: at most 255 bytes, no control characters.
pub(in crate::rpc) fn display(text: &str, field: &str) -> Result<(), Status> {
    check_display_name(text).map_err(|bad| status::invalid(field, bad.problem))
}

/// `tasks/{task_id}/versions/{n}` of a task, empty for none.
pub(in crate::rpc) fn of_version(task: &TaskId, version: Option<AdapterVersion>) -> String {
    version.map_or_else(String::new, |n| format!("tasks/{task}/versions/{n}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_strictly() {
        let tenant = TenantId::anonymous();
        let read = version(&tenant, "tasks/motion/versions/3", "version").unwrap();
        assert_eq!(read.to_string(), "tasks/motion/versions/3");
        for bad in [
            "",
            "motion",
            "tasks/",
            "tasks/a/b",
            "task/a",
            "tasks/A",
            "/tasks/a",
        ] {
            assert!(task(bad, "name").is_err(), "{bad}");
        }
        for bad in [
            "tasks/a",
            "tasks/a/versions/",
            "tasks/a/versions/0",
            "tasks/a/versions/1/x",
        ] {
            assert!(version(&tenant, bad, "version").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_replica_is_named_as_processes_name_themselves() {
        let read = replica("replicas/node-1.local-0a1b", "name").unwrap();
        assert_eq!(read, "node-1.local-0a1b");
        let long = format!("replicas/{}", "a".repeat(MAX_REPLICA + 1));
        for bad in [
            "",
            "a",
            "replicas/",
            "replicas/a\0",
            "replicas/a/b",
            "replicas/ä",
            &long,
        ] {
            assert!(replica(bad, "name").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_id_is_a_uuid_or_absent() {
        assert_eq!(request("").unwrap(), None);
        assert!(request("7").is_err());
        let id = RequestId::generate();
        assert_eq!(request(&id.to_string()).unwrap(), Some(id));
    }
}
