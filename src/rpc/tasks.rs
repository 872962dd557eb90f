//! TaskService: tasks, their versions, and which of them serves.

use tonic::{Request, Response, Status, Streaming};

use super::convert::{names, records, spec, splits};
use super::{Api, Parts, auth, evaluate, status, versions};
use crate::ids::{TaskId, VersionRef};
use crate::metadata::{NewTask, TaskRecord, TaskUpdate};
use crate::proto::v1;
use crate::proto::v1::task_service_server::TaskService;
use crate::spec::Scope;

#[tonic::async_trait]
impl TaskService for Api {
    async fn create_task(
        &self,
        request: Request<v1::CreateTaskRequest>,
    ) -> Result<Response<v1::Task>, Status> {
        let (parts, tenant, create) = self.enter(request)?;
        let id: TaskId = names::chosen(&create.task_id, "task_id")?;
        let request = names::request(&create.request_id)?;
        let task = create
            .task
            .ok_or_else(|| status::invalid("task", "required"))?;
        names::display(&task.display_name, "task.display_name")?;
        let (display_name, auto_serve) = (task.display_name.clone(), task.auto_serve);
        let shape = spec::shape(task, &parts.geometry, "task")?;
        let task = NewTask {
            id,
            display_name,
            adapter: shape.adapter,
            sampling: shape.sampling,
            auto_serve: auto_serve.unwrap_or(true),
            auto_head: shape.auto_head,
        };
        let task = parts.registry.create_task(&tenant, task, request).await?;
        Ok(Response::new(records::of_task(task)))
    }

    async fn get_task(
        &self,
        request: Request<v1::GetTaskRequest>,
    ) -> Result<Response<v1::Task>, Status> {
        let (parts, tenant, get) = self.enter(request)?;
        let id = names::task(&get.name, "name")?;
        let task = parts.registry.get_task(&tenant, &id).await?;
        Ok(Response::new(told(parts, task)))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let (parts, tenant, _, listing) = self.list(request)?;
        let tasks = parts.registry.list_tasks(&tenant, listing.page()).await?;
        let (tasks, next_page_token) = listing.show(tasks, |task| told(parts, task));
        Ok(Response::new(v1::ListTasksResponse {
            tasks,
            next_page_token,
        }))
    }

    async fn update_task(
        &self,
        request: Request<v1::UpdateTaskRequest>,
    ) -> Result<Response<v1::Task>, Status> {
        let (parts, tenant, update) = self.enter(request)?;
        let task = update
            .task
            .ok_or_else(|| status::invalid("task", "required"))?;
        let id = names::task(&task.name, "task.name")?;
        names::display(&task.display_name, "task.display_name")?;
        let etag = given(&task.etag).map(str::to_owned);
        let changes = changes(task, update.update_mask)?;
        let registry = &parts.registry;
        let task = registry
            .update_task(&tenant, &id, changes, etag.as_deref())
            .await?;
        Ok(Response::new(told(parts, task)))
    }

    async fn delete_task(
        &self,
        request: Request<v1::DeleteTaskRequest>,
    ) -> Result<Response<v1::DeleteTaskResponse>, Status> {
        let (parts, tenant, delete) = self.enter(request)?;
        let id = names::task(&delete.name, "name")?;
        let registry = &parts.registry;
        registry
            .delete_task(&tenant, &id, given(&delete.etag))
            .await?;
        Ok(Response::new(v1::DeleteTaskResponse {}))
    }

    async fn list_adapter_versions(
        &self,
        request: Request<v1::ListAdapterVersionsRequest>,
    ) -> Result<Response<v1::ListAdapterVersionsResponse>, Status> {
        let (parts, tenant, list, listing) = self.list(request)?;
        let id = names::task(&list.parent, "parent")?;
        let registry = &parts.registry;
        let versions = registry.list_versions(&tenant, &id, listing.page()).await?;
        let (versions, next_page_token) = listing.show(versions, records::of_listed_version);
        Ok(Response::new(v1::ListAdapterVersionsResponse {
            versions,
            next_page_token,
        }))
    }

    async fn get_adapter_version(
        &self,
        request: Request<v1::GetAdapterVersionRequest>,
    ) -> Result<Response<v1::AdapterVersion>, Status> {
        let (parts, tenant, get) = self.enter(request)?;
        let version = names::version(&tenant, &get.name, "name")?;
        let version = parts.registry.get_version(&version).await?;
        Ok(Response::new(records::of_version(version)))
    }

    async fn set_serving(
        &self,
        request: Request<v1::SetServingRequest>,
    ) -> Result<Response<v1::Task>, Status> {
        let (parts, tenant, set) = self.enter(request)?;
        let id = names::task(&set.name, "name")?;
        let etag =
            given(&set.etag).ok_or_else(|| status::invalid("etag", "required: read the task"))?;
        let registry = &parts.registry;
        let task = match splits::asked(&tenant, &id, &set)? {
            Some(plan) => registry.set_serving(&tenant, &id, &plan, etag).await?,
            None => registry.roll_back(&tenant, &id, etag).await?,
        };
        for desired in registry.desired(&tenant, &id).await? {
            // The version was requested again, so an earlier verdict of the engine does not count, even when the version served already.
            parts.engine.retry(&desired.version);
        }
        parts.serving.forget_comparisons(&tenant, &id);
        Ok(Response::new(records::of_task(task)))
    }

    async fn import_adapter_version(
        &self,
        request: Request<Streaming<v1::ImportAdapterVersionRequest>>,
    ) -> Result<Response<v1::AdapterVersion>, Status> {
        let may_create = auth::caller(&request)?.scopes.contains(Scope::Write);
        let (parts, tenant, stream) = self.enter(request)?;
        let version = Box::pin(versions::import(parts, &tenant, may_create, stream)).await?;
        Ok(Response::new(version))
    }

    type ExportAdapterVersionStream = versions::Exported;

    async fn export_adapter_version(
        &self,
        request: Request<v1::ExportAdapterVersionRequest>,
    ) -> Result<Response<Self::ExportAdapterVersionStream>, Status> {
        let (parts, tenant, export) = self.enter(request)?;
        let version = names::version(&tenant, &export.name, "name")?;
        let exported = versions::export(parts, &version, export.format).await?;
        Ok(Response::new(exported))
    }

    async fn pin_task(
        &self,
        request: Request<v1::PinTaskRequest>,
    ) -> Result<Response<v1::Task>, Status> {
        let (parts, tenant, pin) = self.enter(request)?;
        let id = names::task(&pin.name, "name")?;
        let (registry, limit) = (&parts.registry, parts.engine.pin_limit());
        let task = registry.pin_task(&tenant, &id, !pin.unpin, limit).await?;
        Ok(Response::new(told(parts, task)))
    }

    type EvaluateVersionStream = evaluate::Evaluation;

    async fn evaluate_version(
        &self,
        request: Request<v1::EvaluateVersionRequest>,
    ) -> Result<Response<Self::EvaluateVersionStream>, Status> {
        let evaluation = Box::pin(evaluate::evaluate(self, request)).await?;
        Ok(Response::new(evaluation))
    }

    async fn list_residency(
        &self,
        request: Request<v1::ListResidencyRequest>,
    ) -> Result<Response<v1::ListResidencyResponse>, Status> {
        let (parts, tenant, _) = self.enter(request)?;
        let sets = parts.engine.residency(&tenant);
        Ok(Response::new(v1::ListResidencyResponse {
            sets: sets.iter().map(records::of_residency).collect(),
            replica: parts.replica.clone(),
        }))
    }
}

/// A task as its caller is told of it: of the version that serves, the engine knows best whether it can; what is on record against it counts while the
/// engine does not have it.
fn told(parts: &Parts, record: TaskRecord) -> v1::Task {
    let (tenant, id) = (record.tenant.clone(), record.id.clone());
    let mut task = alone(parts, record);
    if let Some(split) = &mut task.split {
        splits::tell(parts, (&tenant, &id), split);
    }
    task
}

fn alone(parts: &Parts, mut record: TaskRecord) -> v1::Task {
    let Some(version) = record.serving else {
        return records::of_task(record);
    };
    let serving = VersionRef {
        tenant: record.tenant.clone(),
        task: record.id.clone(),
        version,
    };
    let engine = &parts.engine;
    let is_told = record.serving_error.is_some();
    if is_told && record.desired == record.serving {
        let resident = engine.residency(&record.tenant);
        let serves = resident
            .iter()
            .any(|set| set.version == serving && set.quarantine.is_none());
        if serves {
            record.serving_error = None;
        }
    }
    if record.serving_error.is_none() {
        let refusal = engine.refusal(&serving);
        record.serving_error = refusal.map(|why| why.to_string());
    }
    records::of_task(record)
}

/// Empty means absent.
fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// What a mask says to change; without one, the fields that are there.
fn changes(task: v1::Task, mask: Option<prost_types::FieldMask>) -> Result<TaskUpdate, Status> {
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    for path in &paths {
        if !matches!(path.as_str(), "display_name" | "auto_serve") {
            let problem = format!("{path:?} cannot change; display_name and auto_serve can");
            return Err(status::invalid("update_mask", problem));
        }
    }
    let named = |field: &str| paths.iter().any(|path| path == field);
    let has_name = named("display_name") || (paths.is_empty() && !task.display_name.is_empty());
    let auto_serve = match (named("auto_serve"), task.auto_serve) {
        (true, None) => {
            let problem = "required, since the mask names it";
            return Err(status::invalid("task.auto_serve", problem));
        }
        (false, Some(_)) if !paths.is_empty() => None,
        (_, auto_serve) => auto_serve,
    };
    Ok(TaskUpdate {
        display_name: has_name.then_some(task.display_name),
        auto_serve,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(paths: &[&str], auto_serve: Option<bool>) -> Result<TaskUpdate, Status> {
        let task = v1::Task {
            display_name: "new".into(),
            auto_serve,
            ..Default::default()
        };
        let paths = paths.iter().map(ToString::to_string).collect();
        changes(task, Some(prost_types::FieldMask { paths }))
    }

    #[test]
    fn only_what_the_mask_names_changes() {
        let update = masked(&["display_name"], Some(false)).unwrap();
        assert_eq!(update.display_name.as_deref(), Some("new"));
        assert_eq!(update.auto_serve, None);
        let update = masked(&["auto_serve"], Some(false)).unwrap();
        assert_eq!(
            (update.display_name, update.auto_serve),
            (None, Some(false))
        );
        let update = masked(&[], None).unwrap();
        assert_eq!(update.display_name.as_deref(), Some("new"));
    }

    #[test]
    fn a_mask_of_what_cannot_change_is_refused() {
        assert!(masked(&["adapter"], None).is_err());
        assert!(masked(&["auto_serve"], None).is_err());
    }
}
