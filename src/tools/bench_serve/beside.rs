//! What goes on beside a load: a fine-tuning job, and versions of another task that are published, loaded and swapped in all the time.
//!
//! Invariant: a job or a swap that fails fails the measurement, since its figures would be those of a quiet server.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::calls::import;
use super::material::{MOTION, NUM_FRAMES, Sets, Tenant};
use super::{Error, during};
use crate::client::{self, Client, json};
use crate::proto::v1::{self, job_event::Event};

/// Clips of a training step.
const BATCH: u32 = 8;
/// Id of the data set and the task of the job.
const TRAINING: &str = "bench-training";
/// Name of the task whose versions change.
const SWAPPED: &str = "tasks/bench-swapped";

/// Events that come within this time were written by one transaction, of which there is one a second.
const BURST: Duration = Duration::from_millis(300);

/// Last step of each burst of events, and when the burst came.
type Steps = Arc<Mutex<Vec<(Instant, u64)>>>;

/// A job that trains until it is stopped.
pub(super) struct Training {
    client: Client,
    job: String,
    steps: Steps,
    watching: JoinHandle<Result<(), Error>>,
}

impl Training {
    /// Makes the task and the data set that jobs use, of the tenant's stored synthetic clips; once for all jobs.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn prepare(tenant: &mut Tenant, sets: &Sets) -> Result<(), Error> {
        let client = tenant.client()?.clone();
        let config = sets.config();
        let task = v1::Task {
            adapter: Some(v1::AdapterConfig {
                adapter_width: config.adapter_width,
                adapter_pre_mlp: config.adapter_pre_mlp,
                ..Default::default()
            }),
            sampling: Some(v1::ClipSampling {
                num_frames: NUM_FRAMES,
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = v1::CreateTaskRequest {
            task_id: TRAINING.to_owned(),
            task: Some(task),
            ..Default::default()
        };
        let created = client.tasks().create_task(request).await;
        tenant
            .tasks
            .push(created.map_err(during("create a task"))?.into_inner().name);
        let request = v1::CreateDatasetRequest {
            dataset_id: TRAINING.to_owned(),
            ..Default::default()
        };
        let created = client.datasets().create_dataset(request).await;
        let name = created
            .map_err(during("create a data set"))?
            .into_inner()
            .name;
        tenant.datasets.push(name.clone());
        let labels = MOTION.labels().iter().cycle();
        let examples = tenant
            .videos
            .iter()
            .zip(labels)
            .map(|(video, label)| v1::Example {
                video: video.clone(),
                label: (*label).to_owned(),
                split: v1::Split::Train.into(),
                ..Default::default()
            });
        let request = v1::AddExamplesRequest {
            name,
            examples: examples.collect(),
        };
        let added = client.datasets().add_examples(request).await;
        added.map_err(during("label clips")).map(drop)
    }

    /// Submits a job and waits for its first step.
    ///
    /// # Errors
    /// When the server refuses, or the job ends before.
    pub(super) async fn start(tenant: &Tenant) -> Result<Self, Error> {
        let client = tenant.client()?.clone();
        let request = v1::SubmitJobRequest {
            task: format!("tasks/{TRAINING}"),
            dataset: format!("datasets/{TRAINING}"),
            hyper_parameters: Some(v1::HyperParameters {
                epochs: Some(10_000),
                batch_size: Some(BATCH),
                seed: Some(1),
                // It trains for as long as the bench lasts, and does nothing else.
                eval_every: Some(0),
                validation_share: Some(0.0),
                ..Default::default()
            }),
            ..Default::default()
        };
        let submitted = client.fine_tuning().submit_job(request).await;
        let job = submitted.map_err(during("submit a job"))?.into_inner().name;
        let steps = Steps::default();
        let (first, mut seen) = watch::channel(false);
        let watching = follow(client.clone(), job.clone(), Arc::clone(&steps), first);
        let training = Self {
            watching: tokio::spawn(watching),
            client,
            job,
            steps,
        };
        match seen.wait_for(|seen| *seen).await {
            Ok(_) => Ok(training),
            // The follower has ended: the job did, or the stream failed.
            Err(_) => {
                training.watching.await??;
                Err(during("fine-tune")(client::Error::Truncated))
            }
        }
    }

    /// Clips that were trained on a second while the clock ran: between the first and the last burst of events of that time. None with fewer than two.
    pub(super) fn clips_per_s(&self, clock: &Range<Instant>) -> Option<f64> {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        clips_per_s(&steps, clock)
    }

    /// Cancels the job and waits for its end.
    ///
    /// # Errors
    /// When the server refuses, or the job had ended by itself.
    pub(super) async fn stop(self) -> Result<(), Error> {
        let request = v1::CancelJobRequest { name: self.job };
        let cancelled = self.client.fine_tuning().cancel_job(request).await;
        cancelled.map_err(during("cancel a job"))?;
        self.watching.await?
    }
}

fn clips_per_s(steps: &[(Instant, u64)], clock: &Range<Instant>) -> Option<f64> {
    let mut seen = steps.iter().filter(|(time, _)| clock.contains(time));
    let (from, first) = seen.next()?;
    let (to, last) = seen.next_back()?;
    let seconds = to.duration_since(*from).as_secs_f64();
    (seconds > 0.0).then(|| (last - first) as f64 * f64::from(BATCH) / seconds)
}

fn note(steps: &mut Vec<(Instant, u64)>, now: Instant, step: u64) {
    match steps.last_mut() {
        Some((begin, last)) if now.duration_since(*begin) < BURST => *last = step,
        _ => steps.push((now, step)),
    }
}

/// Notes a job's steps until its end; a job that was not cancelled is an error.
async fn follow(
    client: Client,
    job: String,
    steps: Steps,
    first: watch::Sender<bool>,
) -> Result<(), Error> {
    let request = v1::WatchJobRequest {
        name: job.clone(),
        after_sequence: 0,
    };
    let failed = during("watch a job");
    let events = client.fine_tuning().watch_job(request).await;
    let mut events = events.map_err(&failed)?.into_inner();
    while let Some(event) = events.message().await.map_err(&failed)? {
        if let Some(Event::Step(step)) = event.event {
            let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
            note(&mut steps, Instant::now(), step.step);
            first.send_replace(true);
        }
    }
    let request = v1::GetJobRequest { name: job };
    let job = client.fine_tuning().get_job(request).await;
    let job = job.map_err(during("ask for a job"))?.into_inner();
    let state = job.state();
    if state == v1::JobState::Cancelled {
        return Ok(());
    }
    Err(during("fine-tune")(client::Error::Job {
        state: json::state_name(state),
        job: job.name,
        message: job.message,
    }))
}

/// Versions of one task that are published, loaded and swapped in, at a steady rate.
pub(super) struct Swaps {
    stop: Arc<AtomicBool>,
    loops: JoinHandle<Result<u64, Error>>,
}

impl Swaps {
    /// Makes the task whose versions change; once for all swaps.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn prepare(tenant: &mut Tenant, sets: &Sets) -> Result<(), Error> {
        import(tenant.client()?, SWAPPED, sets.file(1_000_000)?).await?;
        tenant.tasks.push(SWAPPED.to_owned());
        Ok(())
    }

    /// Begins to swap `rate` times a second, or as often as the server can; each version is one of a few sets.
    ///
    /// # Errors
    /// When the sets cannot be made or the tenant has no connection.
    pub(super) fn start(tenant: &Tenant, sets: &Sets, rate: f64) -> Result<Self, Error> {
        /// Sets that take turns: no two versions in a row are the same.
        const SETS: u64 = 4;
        let files: Vec<Bytes> = (0..SETS)
            .map(|set| sets.file(1_000_000 + set))
            .collect::<Result<_, _>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let client = tenant.client()?.clone();
        let loops = tokio::spawn(swap(client, files, rate, Arc::clone(&stop)));
        Ok(Self { stop, loops })
    }

    /// Ends the swaps; returns how many there were.
    ///
    /// # Errors
    /// When one failed.
    pub(super) async fn stop(self) -> Result<u64, Error> {
        self.stop.store(true, Ordering::Relaxed);
        self.loops.await?
    }
}

async fn swap(
    client: Client,
    files: Vec<Bytes>,
    rate: f64,
    stop: Arc<AtomicBool>,
) -> Result<u64, Error> {
    let gap = Duration::try_from_secs_f64(rate.recip()).unwrap_or(Duration::from_secs(1));
    let mut swaps = 0;
    let mut next = Instant::now();
    for file in files.iter().cycle() {
        // A server that is too slow for the rate is not sent the missed swaps in a row.
        next = next.max(Instant::now());
        sleep_until(next).await;
        next += gap;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let version = import(&client, SWAPPED, file.clone()).await?;
        let serving = client::tasks::until_serving(&client, SWAPPED, &version.name);
        serving
            .await
            .map_err(during("wait until a version serves"))?;
        swaps += 1;
    }
    Ok(swaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_speed_is_that_between_the_steps_of_the_clock() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let steps = [
            (at(0), 1),
            (at(1000), 2),
            (at(1500), 3),
            (at(3000), 6),
            (at(9000), 7),
        ];
        let speed = clips_per_s(&steps, &(at(500)..at(4000))).unwrap();
        assert!((speed - 4.0 * f64::from(BATCH) / 2.0).abs() < 1e-9);
        assert_eq!(clips_per_s(&steps, &(at(500)..at(1200))), None);
        assert_eq!(clips_per_s(&[], &(at(0)..at(9000))), None);

        // Two transactions, of three steps and of two.
        let mut bursts = Vec::new();
        for (ms, step) in [(0, 1), (1, 2), (2, 3), (1002, 4), (1003, 5)] {
            note(&mut bursts, at(ms), step);
        }
        assert_eq!(bursts, [(at(0), 3), (at(1002), 5)]);
    }
}
