//! Fine-tunes a tenant's data set in two ways: with ST-Adapters, and as a linear probe on the frozen features.

use std::time::Instant;

use super::console::{Bar, Console};
use super::upload::DATASET;
use super::{Error, Party, during};
use crate::client::{self, json};
use crate::proto::v1::{self, job_event::Event};

/// Frames of a clip that the model sees.
pub(super) const NUM_FRAMES: u32 = 8;
/// Bottleneck width of the adapters.
const ADAPTER_WIDTH: u32 = 48;
/// Passes over the training clips of the second version, which shows a swap and no record.
const SECOND_EPOCHS: u32 = 4;
/// Evaluations of the unseen clips in a job: enough for a curve.
const EVALUATIONS: u32 = 4;

/// A way to train.
struct Recipe {
    task: &'static str,
    adapter: v1::AdapterConfig,
    epochs: u32,
    learning_rate: f64,
    /// Epochs from one evaluation of the unseen clips to the next.
    eval_every: u32,
}

impl Recipe {
    /// Unit of the clips a second: a probe reads the backbone's features from memory after the first pass.
    fn clips(&self) -> &'static str {
        match self.adapter.adapter_pre_mlp {
            true => "clips/s",
            false => "clips/s (cached features)",
        }
    }
}

/// The two ways. Both tenants use the same task ids and see only their own.
fn recipes(epochs: u32) -> [Recipe; 2] {
    let adapter = |adapter_width, adapter_pre_mlp| v1::AdapterConfig {
        adapter_width,
        adapter_pre_mlp,
        ..Default::default()
    };
    [
        Recipe {
            task: "motion",
            adapter: adapter(ADAPTER_WIDTH, true),
            epochs,
            learning_rate: 2e-3,
            eval_every: epochs.div_ceil(EVALUATIONS),
        },
        Recipe {
            task: "motion-probe",
            adapter: adapter(0, false),
            // Its features are computed once, so more passes cost nothing.
            epochs: 20,
            learning_rate: 5e-3,
            // An evaluation costs twice what all of its training does.
            eval_every: 0,
        },
    ]
}

/// A job that succeeded.
pub(super) struct Run {
    /// The task, `tasks/…`.
    pub(super) task: String,
    pub(super) result: v1::JobResult,
    pub(super) version: v1::AdapterVersion,
    /// Seconds from submission to the job's end, evaluation included.
    pub(super) seconds: f64,
}

/// A tenant's two tasks.
pub(super) struct Trained {
    pub(super) adapters: Run,
    pub(super) probe: Run,
}

/// Trains both ways at once.
pub(super) async fn both_ways(
    party: &Party,
    seed: u64,
    console: &Console,
) -> Result<Trained, Error> {
    let [adapters, probe] = recipes(party.role.epochs);
    let (adapters, probe) = futures::future::try_join(
        Box::pin(one(party, &adapters, seed, console)),
        Box::pin(one(party, &probe, seed, console)),
    )
    .await?;
    Ok(Trained { adapters, probe })
}

/// Trains the adapters' task a second time, with another seed; its version is not served.
pub(super) async fn second(party: &Party, seed: u64, console: &Console) -> Result<Run, Error> {
    let [recipe, _] = recipes(SECOND_EPOCHS);
    let task = format!("tasks/{}", recipe.task);
    let name = format!("{} {}, second version", party.role.tenant, recipe.task);
    let run = job(party, &recipe, (&task, seed), (&name, console)).await?;
    let top1 = run.result.evaluation.as_ref().map_or(0.0, |e| e.top1);
    console.line(&format!(
        "      {name}: {top1:.3} of the unseen clips right after {:.0} s",
        run.seconds
    ));
    Ok(run)
}

async fn one(party: &Party, recipe: &Recipe, seed: u64, console: &Console) -> Result<Run, Error> {
    let task = create_task(party, recipe).await?;
    let name = format!("{} {}", party.role.tenant, recipe.task);
    let run = job(party, recipe, (&task.name, seed), (&name, console)).await?;
    let waited = client::tasks::until_serving(&party.client, &task.name, &run.result.version).await;
    waited.map_err(during("wait until a version serves"))?;
    let top1 = run.result.evaluation.as_ref().map_or(0.0, |e| e.top1);
    console.line(&format!(
        "      {name}: {top1:.3} of the unseen clips right after {:.0} s; {} serves",
        run.seconds, run.result.version
    ));
    Ok(run)
}

/// Submits a job, shows its progress and returns its result.
async fn job(
    party: &Party,
    recipe: &Recipe,
    (task, seed): (&str, u64),
    (name, console): (&str, &Console),
) -> Result<Run, Error> {
    let begin = Instant::now();
    let request = v1::SubmitJobRequest {
        task: task.to_owned(),
        dataset: format!("datasets/{DATASET}"),
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(recipe.epochs),
            batch_size: Some(8),
            learning_rate: Some(recipe.learning_rate),
            seed: Some(seed),
            // For the curve in the report; the unseen clips choose no weights, so that their figures are honest.
            eval_every: Some(recipe.eval_every),
            publish: Some(v1::Publish::Last.into()),
            patience: Some(0),
            // Half of the labels name a side, and the few epochs are for the clips as they were drawn.
            mirror: Some(v1::Mirror::Off.into()),
            ..Default::default()
        }),
        request_id: uuid::Uuid::now_v7().to_string(),
        ..Default::default()
    };
    let mut jobs = party.client.fine_tuning();
    let job = jobs.submit_job(request).await;
    let job = job.map_err(during("submit a job"))?.into_inner();
    let bar = console.bar(name, 0);
    watch(party, &job.name, recipe, &bar).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let request = v1::GetJobRequest { name: job.name };
    let job = jobs.get_job(request).await;
    let job = job.map_err(during("ask for a job's result"))?.into_inner();
    drop(bar);
    let result = succeeded(job)?;
    let request = v1::GetAdapterVersionRequest {
        name: result.version.clone(),
    };
    let version = party.client.tasks().get_adapter_version(request).await;
    Ok(Run {
        task: task.to_owned(),
        version: version.map_err(during("ask for a version"))?.into_inner(),
        result,
        seconds,
    })
}

/// Makes a version serve; returns when the server has taken note, not when the version answers.
pub(super) async fn serve(party: &Party, task: &str, version: &str) -> Result<(), Error> {
    let failed = during("swap the version");
    let mut tasks = party.client.tasks();
    let request = v1::GetTaskRequest {
        name: task.to_owned(),
    };
    let task = tasks.get_task(request).await.map_err(&failed)?.into_inner();
    let request = v1::SetServingRequest {
        name: task.name,
        version: version.to_owned(),
        etag: task.etag,
        ..Default::default()
    };
    tasks.set_serving(request).await.map_err(&failed)?;
    Ok(())
}

async fn create_task(party: &Party, recipe: &Recipe) -> Result<v1::Task, Error> {
    let request = v1::CreateTaskRequest {
        task_id: recipe.task.to_owned(),
        task: Some(v1::Task {
            display_name: party.material.motion.labels().join(" / "),
            adapter: Some(recipe.adapter),
            sampling: Some(v1::ClipSampling {
                num_frames: NUM_FRAMES,
                ..Default::default()
            }),
            ..Default::default()
        }),
        request_id: uuid::Uuid::now_v7().to_string(),
    };
    let mut tasks = party.client.tasks();
    let answer = tasks.create_task(request).await;
    Ok(answer.map_err(during("create a task"))?.into_inner())
}

/// Shows a job's events until it ends.
async fn watch(party: &Party, job: &str, recipe: &Recipe, bar: &Bar<'_>) -> Result<(), Error> {
    let request = v1::WatchJobRequest {
        name: job.to_owned(),
        after_sequence: 0,
    };
    let failed = during("watch a job");
    let mut jobs = party.client.fine_tuning();
    let mut events = jobs.watch_job(request).await.map_err(&failed)?.into_inner();
    while let Some(event) = events.message().await.map_err(&failed)? {
        match event.event {
            Some(Event::Step(step)) => {
                let text = format!(
                    "epoch {} loss {:.3} {:.1} {}",
                    step.epoch,
                    step.loss,
                    step.clips_per_second,
                    recipe.clips()
                );
                bar.set(step.step, step.total_steps, &text);
            }
            Some(
                Event::State(_)
                | Event::Evaluation(_)
                | Event::Comparison(_)
                | Event::Message(_)
                | Event::Serving(_),
            )
            | None => {}
        }
    }
    Ok(())
}

fn succeeded(job: v1::Job) -> Result<v1::JobResult, Error> {
    if job.state() != v1::JobState::Succeeded {
        let ended = client::Error::Job {
            state: json::state_name(job.state()),
            job: job.name,
            message: job.message,
        };
        return Err(during("fine-tune")(ended));
    }
    job.result.ok_or(Error::Incomplete {
        what: "the job's result",
    })
}
