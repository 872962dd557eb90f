//! `frameshift train`: submits a job and shows its progress; Ctrl-C leaves the job running.

use std::time::Duration;

use tonic::{Code, Status};

use super::cli::Connection;
use super::output::{Output, Progress};
use super::{Client, Error, json, resource, tasks};
use crate::proto::v1::{self, job_event::Event};

/// Shortest and longest pause before a stream that was cut is opened again.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(8);

/// Arguments of `train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// Task to fine-tune; created when it does not exist
    #[arg(long)]
    pub task: String,
    /// Data set to train on
    #[arg(long)]
    pub dataset: String,
    /// Submits the job and returns at once
    #[arg(long)]
    pub detach: bool,
    /// The shape of the task when it is created
    #[command(flatten)]
    pub shape: tasks::TaskShape,
    /// How to train
    #[command(flatten)]
    pub hyper: Hyper,
}

/// How to train; what is absent is chosen by the server.
#[derive(Debug, clap::Args)]
pub struct Hyper {
    /// Passes over the training split
    #[arg(long)]
    pub epochs: Option<u32>,
    /// Clips per step
    #[arg(long)]
    pub batch_size: Option<u32>,
    /// Peak learning rate
    #[arg(long)]
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Dropout before the head
    #[arg(long)]
    pub dropout: Option<f64>,
    /// Smallest share of the picture's area that a random crop keeps
    #[arg(long)]
    pub min_crop_area: Option<f64>,
    /// Mirrors half of the training clips
    #[arg(long)]
    pub horizontal_flip: bool,
    /// Seed of every random choice
    #[arg(long)]
    pub seed: Option<u64>,
}

/// `frameshift train`.
///
/// # Errors
/// When the server refuses or the job does not succeed.
pub async fn train(args: &Args) -> Result<(), Error> {
    let client = args.connection.client().await?;
    let output = args.connection.output();
    let task = resource("tasks", &args.task);
    let request = v1::GetTaskRequest { name: task.clone() };
    match client.tasks().get_task(request).await {
        Ok(found) => tasks::check_shape(&found.into_inner(), &args.shape)?,
        Err(status) if status.code() == Code::NotFound => {
            // A task whose job cannot begin would keep its shape for ever.
            let name = resource("datasets", &args.dataset);
            let request = v1::GetDatasetRequest { name };
            client.datasets().get_dataset(request).await?;
            tasks::create(&client, &args.task, &args.shape).await?;
            output.note(&format!("created {task}"));
        }
        Err(status) => return Err(status.into()),
    }
    let request = v1::SubmitJobRequest {
        task,
        dataset: resource("datasets", &args.dataset),
        hyper_parameters: Some(hyper_parameters(&args.hyper)),
        request_id: uuid::Uuid::now_v7().to_string(),
    };
    let job = client.fine_tuning().submit_job(request).await?.into_inner();
    if args.detach {
        output.result(|| job.name.clone(), || json::job(&job));
        return Ok(());
    }
    output.note(&format!("submitted {}", job.name));
    watch(&client, &job.name, 0, output).await
}

fn hyper_parameters(hyper: &Hyper) -> v1::HyperParameters {
    v1::HyperParameters {
        epochs: hyper.epochs,
        batch_size: hyper.batch_size,
        learning_rate: hyper.learning_rate,
        weight_decay: hyper.weight_decay,
        dropout: hyper.dropout,
        min_crop_area: hyper.min_crop_area,
        horizontal_flip: hyper.horizontal_flip.then_some(true),
        seed: hyper.seed,
        ..Default::default()
    }
}

/// Shows a job's events until it ends; Ctrl-C ends the watching, not the job.
///
/// # Errors
/// When the server refuses or stays away, or the job does not succeed.
pub async fn watch(client: &Client, job: &str, after: u64, output: Output) -> Result<(), Error> {
    let progress = output.count(0, "training");
    let stopped = tokio::select! {
        done = follow(client, job, after, output, &progress) => Some(done),
        _ = tokio::signal::ctrl_c() => None,
    };
    progress.finish();
    let Some(done) = stopped else {
        output.note(&format!(
            "the job goes on; watch it with: frameshift jobs watch {job}"
        ));
        return Err(Error::Interrupted);
    };
    done?;
    let request = v1::GetJobRequest {
        name: job.to_owned(),
    };
    let job = client.fine_tuning().get_job(request).await?.into_inner();
    output.result(|| super::jobs::describe(&job), || json::job(&job));
    if job.state() != v1::JobState::Succeeded {
        return Err(Error::Job {
            state: json::state_name(job.state()),
            job: job.name,
            message: job.message,
        });
    }
    match &job.result {
        Some(result) => tasks::until_serving(client, &job.task, &result.version).await,
        None => Ok(()),
    }
}

/// Follows the events to the job's end. Whatever else ends the stream, the server or something on the way cut it: it is opened again after the last
/// event that was seen, until the server itself does not answer any more.
async fn follow(
    client: &Client,
    job: &str,
    after: u64,
    output: Output,
    progress: &Progress,
) -> Result<(), Error> {
    let mut seen = after;
    let mut pause = SHORTEST;
    loop {
        let before = seen;
        let cut = events(client, job, &mut seen, |event| {
            show(event, output, progress)
        })
        .await;
        let has_ended = has_ended(client, job).await?;
        // Events may have come between the cut and the end: only a stream that ended well has told all.
        if has_ended && cut.is_ok() {
            return Ok(());
        }
        if let Err(status) = cut
            && is_refusal(status.code())
        {
            return Err(status.into());
        }
        pause = if seen > before {
            SHORTEST
        } else {
            (pause * 2).min(LONGEST)
        };
        tokio::time::sleep(pause).await;
    }
}

/// Reads events until the stream ends, by itself or not.
async fn events(
    client: &Client,
    job: &str,
    seen: &mut u64,
    show: impl Fn(&v1::JobEvent),
) -> Result<(), Status> {
    let request = v1::WatchJobRequest {
        name: job.to_owned(),
        after_sequence: *seen,
    };
    let mut events = client.fine_tuning().watch_job(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        *seen = event.sequence.max(*seen);
        show(&event);
    }
    Ok(())
}

/// Whether the job has ended; an error when the server does not say so for a while, or will never.
async fn has_ended(client: &Client, job: &str) -> Result<bool, Error> {
    let mut pause = SHORTEST;
    loop {
        let request = v1::GetJobRequest {
            name: job.to_owned(),
        };
        let status = match client.fine_tuning().get_job(request).await {
            Ok(answer) => {
                let state = answer.into_inner().state();
                return Ok(matches!(
                    state,
                    v1::JobState::Succeeded | v1::JobState::Failed | v1::JobState::Cancelled
                ));
            }
            Err(status) => status,
        };
        if is_refusal(status.code()) || pause > LONGEST {
            return Err(status.into());
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// Whether the server has decided, so that asking again would not help.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::NotFound
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            | Code::FailedPrecondition
    )
}

fn show(event: &v1::JobEvent, output: Output, progress: &Progress) {
    if event.event.is_none() {
        // It only says that the stream is alive.
        return;
    }
    if output.is_json() {
        output.result(String::new, || json::event(event));
        return;
    }
    match &event.event {
        Some(Event::State(change)) => {
            let state = json::state_name(change.state());
            progress.line(&match change.message.as_str() {
                "" => state.to_owned(),
                message => format!("{state}: {message}"),
            });
        }
        Some(Event::Step(step)) => {
            progress.set_total(step.total_steps);
            progress.set(step.step);
            let eta = step.eta.map_or(0, |eta| eta.seconds);
            progress.say(&format!(
                "epoch {} step {}/{} loss {:.3} accuracy {:.2} {:.1} clips/s ETA {eta} s",
                step.epoch,
                step.step,
                step.total_steps,
                step.loss,
                step.accuracy,
                step.clips_per_second,
            ));
        }
        Some(Event::Message(message)) => {
            let kind = if message.warning { "warning: " } else { "" };
            progress.line(&format!("{kind}{}", message.text));
        }
        None => {}
    }
}
