//! FineTuningService: jobs and their events, and sweeps.

mod watching;

use std::pin::Pin;

use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::convert::{names, records, spec, sweeps};
use super::{Api, Parts, status};
use crate::ids::{AdapterVersion, DatasetId, TaskId, TenantId, VersionRef};
use crate::jobs::Submission;
use crate::metadata::JobRecord;
use crate::proto::v1;
use crate::proto::v1::fine_tuning_service_server::FineTuningService;
use crate::spec::{HyperParameters, Mirror};
use watching::Watched;

#[tonic::async_trait]
impl FineTuningService for Api {
    async fn submit_job(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let (parts, tenant, submit) = self.enter(request)?;
        let task = names::task(&submit.task, "task")?;
        let (dataset, dataset_version) = names::dataset_at(&submit.dataset, "dataset")?;
        let wanted = Submission {
            hyper_parameters: spec::hyper(submit.hyper_parameters.unwrap_or_default())?,
            allow_label_change: submit.allow_label_change,
            priority: submit.priority,
            dataset_version,
        };
        if submit.validate_only {
            opened(parts, &tenant, (&dataset, dataset_version)).await?;
            let job = previewed(parts, &tenant, (task, submit.new_task), dataset, wanted);
            return Ok(Response::new(job.await?));
        }
        if submit.new_task.is_some() {
            return Err(status::invalid("new_task", "only with validate_only"));
        }
        let request = names::request(&submit.request_id)?;
        let jobs = &parts.jobs;
        // A repeated request has its answer, whatever has become of the version.
        if !jobs.is_submitted(&tenant, request).await? {
            opened(parts, &tenant, (&dataset, dataset_version)).await?;
        }
        let job = jobs
            .submit(&tenant, &task, &dataset, wanted, request)
            .await?;
        Ok(Response::new(of_job(parts, &tenant, job).await?))
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let (parts, tenant, get) = self.enter(request)?;
        let id = names::job(&get.name, "name")?;
        let job = parts.jobs.get(&tenant, id).await?;
        Ok(Response::new(of_job(parts, &tenant, job).await?))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let (parts, tenant, _, listing) = self.list(request)?;
        let jobs = parts.jobs.list(&tenant, listing.page()).await?;
        let (jobs, next_page_token) = listing.show(jobs, |job| records::of_job(job, None));
        Ok(Response::new(v1::ListJobsResponse {
            jobs,
            next_page_token,
        }))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let (parts, tenant, cancel) = self.enter(request)?;
        let id = names::job(&cancel.name, "name")?;
        let job = parts.jobs.cancel(&tenant, id).await?;
        Ok(Response::new(of_job(parts, &tenant, job).await?))
    }

    async fn pause_job(
        &self,
        request: Request<v1::PauseJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let (parts, tenant, pause) = self.enter(request)?;
        let id = names::job(&pause.name, "name")?;
        let job = parts.jobs.pause(&tenant, id).await?;
        Ok(Response::new(of_job(parts, &tenant, job).await?))
    }

    async fn resume_job(
        &self,
        request: Request<v1::ResumeJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let (parts, tenant, resume) = self.enter(request)?;
        let id = names::job(&resume.name, "name")?;
        let job = parts.jobs.resume(&tenant, id).await?;
        Ok(Response::new(of_job(parts, &tenant, job).await?))
    }

    async fn submit_sweep(
        &self,
        request: Request<v1::SubmitSweepRequest>,
    ) -> Result<Response<v1::Sweep>, Status> {
        let (parts, tenant, submit) = self.enter(request)?;
        let request = names::request(&submit.request_id)?;
        let spec = sweeps::spec(submit, &parts.geometry)?;
        let jobs = &parts.jobs;
        if let Ok(dataset) = spec.dataset.parse()
            && !jobs.is_sweep_submitted(&tenant, request).await?
        {
            opened(parts, &tenant, (&dataset, spec.dataset_version)).await?;
        }
        let sweep = jobs.submit_sweep(&tenant, spec, request).await?;
        Ok(Response::new(sweeps::of_sweep(sweep)))
    }

    async fn get_sweep(
        &self,
        request: Request<v1::GetSweepRequest>,
    ) -> Result<Response<v1::Sweep>, Status> {
        let (parts, tenant, get) = self.enter(request)?;
        let id = names::sweep(&get.name, "name")?;
        let sweep = parts.jobs.get_sweep(&tenant, id).await?;
        Ok(Response::new(sweeps::of_sweep(sweep)))
    }

    async fn list_sweeps(
        &self,
        request: Request<v1::ListSweepsRequest>,
    ) -> Result<Response<v1::ListSweepsResponse>, Status> {
        let (parts, tenant, _, listing) = self.list(request)?;
        let found = parts.jobs.list_sweeps(&tenant, listing.page()).await?;
        let (sweeps, next_page_token) = listing.show(found, sweeps::of_listed_sweep);
        Ok(Response::new(v1::ListSweepsResponse {
            sweeps,
            next_page_token,
        }))
    }

    async fn cancel_sweep(
        &self,
        request: Request<v1::CancelSweepRequest>,
    ) -> Result<Response<v1::Sweep>, Status> {
        let (parts, tenant, cancel) = self.enter(request)?;
        let id = names::sweep(&cancel.name, "name")?;
        let sweep = parts.jobs.cancel_sweep(&tenant, id).await?;
        Ok(Response::new(sweeps::of_sweep(sweep)))
    }

    type WatchJobStream = Pin<Box<dyn Stream<Item = Result<v1::JobEvent, Status>> + Send>>;

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let (parts, tenant, watch) = self.enter(request)?;
        let id = names::job(&watch.name, "name")?;
        let events = parts.jobs.watch(&tenant, id, watch.after_sequence).await?;
        let events = events.map(|event| Ok(records::of_event(event?)));
        let watched = Watched {
            jobs: parts.jobs.clone(),
            registry: parts.registry.clone(),
            tenant,
            job: id,
        };
        let events = watching::whole(events, watched, watch.after_sequence);
        Ok(Response::new(Box::pin(events)))
    }
}

/// Makes sure that the examples of a version of a data set can be read, if one is meant.
async fn opened(
    parts: &Parts,
    tenant: &TenantId,
    (dataset, version): (&DatasetId, Option<u32>),
) -> Result<(), Status> {
    if version.is_some() {
        let snapshot = parts.library.snapshot_at(tenant, dataset, version);
        snapshot.await?;
    }
    Ok(())
}

/// Returns the job that a submission would make, for a task that exists or for one of a given shape.
async fn previewed(
    parts: &Parts,
    tenant: &TenantId,
    (task, shape): (TaskId, Option<v1::Task>),
    dataset: DatasetId,
    wanted: Submission,
) -> Result<v1::Job, Status> {
    let (adapter, sampling, new_task) = match shape {
        Some(_) if wanted.hyper_parameters.parent.is_some() => {
            let problem = "a task that is not there has no version to continue";
            return Err(status::invalid("hyper_parameters.parent", problem));
        }
        Some(shape) => {
            let shape = spec::shape(shape, &parts.geometry, "new_task")?;
            let new_task = spec::of_shape(format!("tasks/{task}"), &shape);
            (shape.adapter, shape.sampling, Some(new_task))
        }
        None => {
            let of = &wanted.hyper_parameters;
            let named = (&task, &dataset);
            parts.jobs.check_parent(tenant, named, of).await?;
            let task = parts.registry.get_task(tenant, &task).await?;
            (task.adapter, task.sampling, None)
        }
    };
    let submitted = wanted.hyper_parameters.clone();
    let dataset_name = match wanted.dataset_version {
        None => format!("datasets/{dataset}"),
        Some(number) => format!("datasets/{dataset}/versions/{number}"),
    };
    let shape = (&adapter, &sampling);
    let plan = parts.jobs.preview(tenant, shape, &dataset, wanted).await?;
    let mirror = submitted.wanted_mirror(adapter.has_sites());
    let hyper_parameters = of_plan(plan.hyper_parameters(), &submitted, mirror);
    Ok(v1::Job {
        task: format!("tasks/{task}"),
        dataset: dataset_name,
        hyper_parameters: Some(spec::of_hyper(&hyper_parameters)),
        total_steps: plan.total_steps(),
        new_task,
        ..Default::default()
    })
}

/// Hyper-parameters as a plan of the training completes them, and what it does not know as it was submitted.
fn of_plan(
    completed: HyperParameters,
    submitted: &HyperParameters,
    mirror: Mirror,
) -> HyperParameters {
    HyperParameters {
        seed: submitted.seed,
        parent: submitted.parent,
        unknown_below: submitted.unknown_below,
        keep_checkpoints: submitted.keep_checkpoints,
        mirror: Some(mirror),
        horizontal_flip: match mirror {
            Mirror::Off => Some(false),
            Mirror::On => Some(true),
            // The job decides when it has read the labels.
            Mirror::Auto => None,
        },
        ..completed
    }
}

/// Converts a job, with the metrics of its result by the labels that the version's record names.
async fn of_job(parts: &Parts, tenant: &TenantId, job: JobRecord) -> Result<v1::Job, Status> {
    let result = job.result.as_ref();
    let Some(version) = result.and_then(|result| AdapterVersion::new(result.version)) else {
        return Ok(records::of_job(job, None));
    };
    let version = VersionRef {
        tenant: tenant.clone(),
        task: job.task.clone(),
        version,
    };
    // The version may be gone with its task; the job then shows what its own record has.
    let labels = parts.registry.get_version(&version).await.ok();
    let labels = labels.map(|version| version.manifest.labels);
    Ok(records::of_job(job, labels.as_ref()))
}
