//! FineTuningService: jobs and their events.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status};

use super::convert::{names, page, records, spec};
use super::{Api, Parts};
use crate::ids::{AdapterVersion, TenantId, VersionRef};
use crate::metadata::JobRecord;
use crate::proto::v1;
use crate::proto::v1::fine_tuning_service_server::FineTuningService;

/// Longest silence of a watched job: proxies cut a stream that is silent for longer, 60 s by most defaults.
const QUIET: Duration = Duration::from_secs(20);

#[tonic::async_trait]
impl FineTuningService for Api {
    async fn submit_job(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let (parts, tenant, submit) = self.enter(request)?;
        let task = names::task(&submit.task, "task")?;
        let dataset = names::dataset(&submit.dataset, "dataset")?;
        let hyper = spec::hyper(submit.hyper_parameters.unwrap_or_default());
        let request = names::request(&submit.request_id)?;
        let jobs = &parts.jobs;
        let job = jobs
            .submit(&tenant, &task, &dataset, hyper, request)
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
        let (parts, tenant, list) = self.enter(request)?;
        let page = page(list.page_size, &list.page_token)?;
        let jobs = parts.jobs.list(&tenant, &page).await?;
        let listed = |job| records::of_job(job, None);
        Ok(Response::new(v1::ListJobsResponse {
            jobs: jobs.items.into_iter().map(listed).collect(),
            next_page_token: jobs.next,
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

    type WatchJobStream = Pin<Box<dyn Stream<Item = Result<v1::JobEvent, Status>> + Send>>;

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let (parts, tenant, watch) = self.enter(request)?;
        let id = names::job(&watch.name, "name")?;
        let events = parts.jobs.watch(&tenant, id, watch.after_sequence).await?;
        let events = events.map(|event| Ok(records::of_event(event?)));
        let events = keep_alive(events, watch.after_sequence);
        Ok(Response::new(Box::pin(events)))
    }
}

/// A job with its result's metrics by label, which the version's record names.
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

/// The same events, with one without content after every 20 s of silence; its sequence number is the last event's, so that a client may go on after it.
fn keep_alive(
    events: impl Stream<Item = Result<v1::JobEvent, Status>> + Send + 'static,
    after: u64,
) -> impl Stream<Item = Result<v1::JobEvent, Status>> + Send {
    stream::unfold(
        (Box::pin(events), after),
        |(mut events, after)| async move {
            let Ok(next) = tokio::time::timeout(QUIET, events.next()).await else {
                return Some((Ok(records::no_event(after)), (events, after)));
            };
            let next = next?;
            let after = next.as_ref().map_or(after, |event| event.sequence);
            Some((next, (events, after)))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_says_every_20_seconds_that_it_lives_and_loses_nothing() {
        let slow =
            stream::iter([(7, 10), (8, 50), (9, 5)]).then(|(sequence, seconds)| async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                let message = v1::job_event::Message::default();
                Ok(v1::JobEvent {
                    sequence,
                    time: None,
                    event: Some(v1::job_event::Event::Message(message)),
                })
            });
        let began = tokio::time::Instant::now();
        let told: Vec<_> = keep_alive(slow, 6)
            .map(|event| {
                let event = event.expect("an event");
                let seconds = began.elapsed().as_secs();
                (seconds, event.sequence, event.event.is_some())
            })
            .collect()
            .await;
        let expected = [
            (10, 7, true),
            (30, 7, false),
            (50, 7, false),
            (60, 8, true),
            (65, 9, true),
        ];
        assert_eq!(told, expected);
    }
}
