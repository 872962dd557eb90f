//! Messages of a watched job beside its events: signs of life, and at the end whether the version serves.
//!
//! Invariant: neither is on record; both have the number of the event before them, so that a client may go on after it.

use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tokio::time::Instant;
use tonic::Status;

use crate::ids::{AdapterVersion, JobId, TenantId};
use crate::jobs::Handle;
use crate::metadata::{JobRecord, JobResult, LABELS_CHANGED, TaskRecord};
use crate::proto::v1;
use crate::proto::v1::job_event::Serving;
use crate::registry::Registry;
use crate::rpc::convert::{names, records};
use crate::spec::JobState;

/// Longest silence of a watched job: proxies cut a stream that is silent for longer, 60 s by most defaults.
const QUIET: Duration = Duration::from_secs(20);
/// Time until the end of a stream for a version that is still being loaded; the largest sets of a busy machine take some seconds.
const PATIENCE: Duration = Duration::from_secs(300);
/// Shortest pause between two looks at a task whose version is being loaded.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// What the stream of a watched job asks at its end.
pub(super) struct Watched {
    pub(super) jobs: Handle,
    pub(super) registry: Registry,
    pub(super) tenant: TenantId,
    pub(super) job: JobId,
}

/// Returns the events of a job; one without content comes after every 20 s of silence, and a last one tells whether the version of a job that succeeded serves.
pub(super) fn whole(
    events: impl Stream<Item = Result<v1::JobEvent, Status>> + Send + 'static,
    watched: Watched,
    after: u64,
) -> impl Stream<Item = Result<v1::JobEvent, Status>> + Send {
    let end = stream::once(watched.serving()).filter_map(|end| async { end.transpose() });
    keep_alive(events.chain(end), after)
}

impl Watched {
    /// Waits until the version of a job that succeeded serves or is known not to; `None` for a job without a version.
    async fn serving(self) -> Result<Option<v1::JobEvent>, Status> {
        let end = Instant::now() + PATIENCE;
        let mut pause = SHORTEST;
        loop {
            let job = self.jobs.get(&self.tenant, self.job).await?;
            let (JobState::Succeeded, Some(result)) = (job.state, &job.result) else {
                return Ok(None);
            };
            let task = match self.registry.get_task(&self.tenant, &job.task).await {
                Ok(task) => task,
                Err(error) if error.is_missing() => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let is_late = Instant::now() >= end;
            if let Some(serving) = judged(&job, result, &task, is_late) {
                return Ok(Some(records::of_serving(job.last_event, serving)));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }
}

/// Whether a job's version serves; `None` while it is being loaded.
fn judged(
    job: &JobRecord,
    result: &JobResult,
    task: &TaskRecord,
    is_late: bool,
) -> Option<Serving> {
    let version = AdapterVersion::new(result.version);
    let name = names::of_version(&job.task, version);
    let not = |reason: &str, message: String| Serving {
        version: name.clone(),
        serves: false,
        reason: reason.to_owned(),
        message,
    };
    if task.serving == version {
        return Some(Serving {
            version: name,
            serves: true,
            ..Serving::default()
        });
    }
    if job.reason.as_deref() == Some(LABELS_CHANGED) {
        return Some(not(LABELS_CHANGED, job.message.clone().unwrap_or_default()));
    }
    if task.desired != version {
        let message = "another version serves or was asked for, or the task does not serve new versions by itself (auto_serve)";
        return Some(not("NOT_ASKED_FOR", message.to_owned()));
    }
    match &task.serving_error {
        Some(why) => Some(not("CANNOT_SERVE", why.clone())),
        None if is_late => {
            let message = "it is still being loaded; GetTask tells when it serves";
            Some(not("STILL_LOADING", message.to_owned()))
        }
        None => None,
    }
}

/// Returns the same events, with one without content after every 20 s of silence; its sequence number is the last event's, so that a client may go on after it.
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
