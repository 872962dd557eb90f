//! `frameshift train`: submits a job and shows its progress; Ctrl-C leaves the job running.

mod balance;
mod dry;
mod preset;

use std::time::Duration;

use tonic::{Code, Status};

use super::cli::Connection;
use super::output::{Output, Progress};
use super::proxied::is_refused;
use super::selection::{self, Selection};
use super::{Client, Error, json, resource, tasks};
use crate::proto::v1::{self, job_event::Event};

pub use balance::{Balance, Budget, ClassWeights};
pub use preset::Preset;

/// Shortest and longest pause before an interrupted stream is opened again.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(8);

/// How often the stream of a job that has ended is opened again after a cut.
const CUTS_AFTER_END: u32 = 3;

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
    /// Place among the tenant's waiting jobs, -100 to 100: higher ones go first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub priority: i32,
    /// Lets the new version serve although its labels are not those of the version that serves
    #[arg(long)]
    pub allow_label_change: bool,
    /// Recipe for the task's shape and the hyper-parameters; options that are also given replace its values
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// Shows the task's shape and all hyper-parameters, completed from the data set, and creates nothing
    #[arg(long, conflicts_with = "detach")]
    pub dry_run: bool,
    /// The shape of the task when it is created
    #[command(flatten)]
    pub shape: tasks::TaskShape,
    /// Hyper-parameters of the job
    #[command(flatten)]
    pub hyper: Hyper,
}

/// Whether half of the training clips are mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mirror {
    /// No clip is
    Off,
    /// Half of them are
    On,
    /// Half of them are, unless a label names a side
    Auto,
}

impl Mirror {
    fn number(self) -> i32 {
        match self {
            Self::Off => v1::Mirror::Off,
            Self::On => v1::Mirror::On,
            Self::Auto => v1::Mirror::Auto,
        }
        .into()
    }
}

/// Hyper-parameters; the server chooses those that are absent.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Hyper {
    /// Passes over the training split
    #[arg(long)]
    pub epochs: Option<u32>,
    /// Clips per step
    #[arg(long)]
    pub batch_size: Option<u32>,
    /// Peak learning rate, above 0, at most 1
    #[arg(long, allow_negative_numbers = true)]
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay, 0 to 1
    #[arg(long, allow_negative_numbers = true)]
    pub weight_decay: Option<f64>,
    /// Share of the steps over which the learning rate rises, 0 to 1
    #[arg(long, allow_negative_numbers = true)]
    pub warmup_share: Option<f64>,
    /// Dropout before the head, 0 up to but not 1
    #[arg(long, allow_negative_numbers = true)]
    pub dropout: Option<f64>,
    /// Norm of all gradients above which they are scaled down; 0 means no clipping
    #[arg(long, allow_negative_numbers = true)]
    pub clip_norm: Option<f64>,
    /// Smallest share of the picture's area that a random crop keeps, above 0, at most 1
    #[arg(long, allow_negative_numbers = true)]
    pub min_crop_area: Option<f64>,
    /// Whether half of the training clips are mirrored; auto mirrors unless a label names a side
    #[arg(long, value_enum, conflicts_with = "horizontal_flip")]
    pub mirror: Option<Mirror>,
    /// Same as --mirror on
    #[arg(long)]
    pub horizontal_flip: bool,
    /// Seed of every random choice
    #[arg(long)]
    pub seed: Option<u64>,
    /// Steps between checkpoints
    #[arg(long)]
    pub checkpoint_steps: Option<u32>,
    /// Newest checkpoints to keep until the job ends, 1 to 20, and beside them that of the best evaluation; by default the newest one alone
    #[arg(long, value_name = "N")]
    pub keep_checkpoints: Option<u32>,
    /// Epochs over which the learning rate rises, in place of --warmup-share
    #[arg(long, allow_negative_numbers = true, conflicts_with = "warmup_share")]
    pub warmup_epochs: Option<f64>,
    /// Peak learning rate for a batch of 256 clips, scaled to --batch-size, in place of --learning-rate
    #[arg(long, allow_negative_numbers = true, conflicts_with = "learning_rate")]
    pub base_learning_rate: Option<f64>,
    /// Share of a label's weight that is spread over all labels, 0 up to but not 1
    #[arg(long, allow_negative_numbers = true)]
    pub label_smoothing: Option<f64>,
    /// Largest scale of the short side before a random crop, 1 to 4, in place of --min-crop-area
    #[arg(long, allow_negative_numbers = true, conflicts_with = "min_crop_area")]
    pub short_side_scale: Option<f64>,
    /// Probability that a rectangle of a training clip is replaced by the mean colour, 0 to 1
    #[arg(long, allow_negative_numbers = true)]
    pub random_erasing: Option<f64>,
    /// RandAugment in timm's syntax, for example rand-m7-n4-mstd0.5-inc1
    #[arg(long)]
    pub rand_augment: Option<String>,
    /// How rare labels are made to count as much as frequent ones
    #[command(flatten)]
    pub balance: Balance,
    /// Confidence below which the version marks its answers as unknown, 0 to 1
    #[arg(long, allow_negative_numbers = true)]
    pub unknown_below: Option<f64>,
    /// Version of the task whose weights training starts from; new labels of the data set get new rows of the head
    #[arg(long, value_name = "VERSION")]
    pub parent: Option<u32>,
    /// When training ends at the latest
    #[command(flatten)]
    pub budget: Budget,
    /// What is measured beside training
    #[command(flatten)]
    pub selection: Selection,
}

/// `frameshift train`.
///
/// # Errors
/// When the server refuses or the job does not succeed.
pub async fn train(args: &Args) -> Result<(), Error> {
    let client = args.connection.client().await?;
    let output = args.connection.output();
    let task = resource("tasks", &args.task);
    let preset = args.preset.unwrap_or(Preset::Auto);
    let (shape, hyper) = (
        &preset.shape(args.shape.clone()),
        &preset.hyper(args.hyper.clone()),
    );
    if args.dry_run {
        return dry::show(
            &client,
            (task.as_str(), args.dataset.as_str()),
            (shape, hyper),
            output,
        )
        .await;
    }
    let request = v1::GetTaskRequest { name: task.clone() };
    match client.tasks().get_task(request).await {
        Ok(found) => tasks::check_shape(&found.into_inner(), shape)?,
        Err(status) if status.code() == Code::NotFound => {
            // A task whose job cannot begin would keep its shape.
            let of = (task.as_str(), args.dataset.as_str());
            dry::ask(&client, of, (Some(shape), hyper)).await?;
            tasks::create(&client, &args.task, shape).await?;
            output.note(&format!("created {task}"));
        }
        Err(status) => return Err(status.into()),
    }
    let request = v1::SubmitJobRequest {
        task,
        dataset: resource("datasets", &args.dataset),
        hyper_parameters: Some(hyper_parameters(hyper)),
        request_id: uuid::Uuid::now_v7().to_string(),
        allow_label_change: args.allow_label_change,
        priority: args.priority,
        ..Default::default()
    };
    let job = client.fine_tuning().submit_job(request).await?.into_inner();
    if args.detach {
        output.result(|| job.name.clone(), || json::typed("job", json::job(&job)));
        return Ok(());
    }
    output.note(&format!("submitted {}", job.name));
    watch(&client, &job.name, 0, output).await
}

/// Hyper-parameters of the API.
pub(super) fn hyper_parameters(hyper: &Hyper) -> v1::HyperParameters {
    v1::HyperParameters {
        epochs: hyper.epochs,
        batch_size: hyper.batch_size,
        learning_rate: hyper.learning_rate,
        weight_decay: hyper.weight_decay,
        warmup_share: hyper.warmup_share,
        dropout: hyper.dropout,
        clip_norm: hyper.clip_norm,
        min_crop_area: hyper.min_crop_area,
        horizontal_flip: hyper.horizontal_flip.then_some(true),
        seed: hyper.seed,
        checkpoint_steps: hyper.checkpoint_steps,
        mirror: hyper.mirror.map(Mirror::number),
        warmup_epochs: hyper.warmup_epochs,
        base_learning_rate: hyper.base_learning_rate,
        label_smoothing: hyper.label_smoothing,
        short_side_scale: hyper.short_side_scale,
        random_erasing: hyper.random_erasing,
        rand_augment: hyper.rand_augment.clone(),
        class_weights: hyper.balance.class_weights.map(ClassWeights::number),
        balanced_sampling: hyper.balance.balanced_sampling.then_some(true),
        mixup: hyper.balance.mixup,
        cutmix: hyper.balance.cutmix,
        max_steps: hyper.budget.max_steps,
        max_seconds: hyper.budget.max_seconds,
        max_clip_frames: hyper.budget.max_clip_frames,
        unknown_below: hyper.unknown_below,
        parent: hyper.parent,
        keep_checkpoints: hyper.keep_checkpoints,
        ..hyper.selection.fields()
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
        let next = format!("the job goes on; watch it with: frameshift jobs watch {job}");
        return Err(Error::Interrupted { next });
    };
    done?;
    let request = v1::GetJobRequest {
        name: job.to_owned(),
    };
    let job = client.fine_tuning().get_job(request).await?.into_inner();
    let has_succeeded = job.state() == v1::JobState::Succeeded;
    // A failed job's reason is the error's message.
    if has_succeeded || output.is_json() {
        let typed = || json::typed("job", json::job(&job));
        output.result(|| super::jobs::describe(&job), typed);
    }
    if !has_succeeded {
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
    let mut cuts_after_end = 0;
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
        cuts_after_end += u32::from(has_ended);
        match cut {
            Err(status) if is_refusal(status.code()) => return Err(status.into()),
            // Whatever is between here and the server lets no stream end; what is left of the events is not worth waiting for.
            Err(_) if cuts_after_end > CUTS_AFTER_END => return Ok(()),
            Err(_) | Ok(()) => {}
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
        if is_refusal(status.code()) || is_refused(&status) || pause > LONGEST {
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
        output.result(String::new, || json::typed("event", json::event(event)));
        return;
    }
    match &event.event {
        Some(Event::State(change)) => {
            let state = json::state_name(change.state());
            // A failure's message is the command's error; it is said once.
            let is_over = matches!(
                change.state(),
                v1::JobState::Failed | v1::JobState::Cancelled
            );
            progress.line(&match change.message.as_str() {
                "" => state.to_owned(),
                _ if is_over => state.to_owned(),
                message => format!("{state}: {message}"),
            });
        }
        Some(Event::Step(step)) => {
            progress.set_total(step.total_steps);
            progress.set(step.step);
            let eta = step.eta.map_or(0, |eta| eta.seconds);
            progress.say(&format!(
                "epoch {} loss {:.3} {:.1} clips/s ETA {eta} s accuracy {:.2}",
                step.epoch, step.loss, step.clips_per_second, step.accuracy,
            ));
        }
        Some(Event::Evaluation(evaluation)) => progress.line(&selection::line(evaluation)),
        Some(Event::Comparison(comparison)) => {
            for own in &comparison.heads {
                progress.line(&selection::compared(own));
            }
        }
        Some(Event::Message(message)) => {
            let kind = if message.warning { "warning: " } else { "" };
            progress.line(&format!("{kind}{}", message.text));
        }
        Some(Event::Serving(serving)) => progress.line(&match serving.serves {
            true => format!("{} serves", serving.version),
            false => format!("{} does not serve: {}", serving.version, serving.message),
        }),
        None => {}
    }
}
