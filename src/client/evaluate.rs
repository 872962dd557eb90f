//! `frameshift evaluate`: a version on a split of a data set, its scores clip by clip, and two versions on the same clips.

mod compare;
mod mcnemar;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json as object};
use tonic::Code;

use super::cli::Connection;
use super::lines::{Lines, Place};
use super::output::Output;
use super::{Client, Error, classify::columns, format, jobs, json, resource};
use crate::proto::v1::{self, evaluate_version_response as response};
pub use compare::Compared;

/// Shortest and longest pause before an interrupted stream is opened again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));

/// Arguments of `evaluate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// Task of the version, and of those of --compare that name none
    #[arg(long, required_unless_present = "compare")]
    pub task: Option<String>,
    /// Data set
    #[arg(long)]
    pub dataset: String,
    /// Split of the data set
    #[arg(long, value_enum, default_value_t = Split::Test)]
    pub split: Split,
    /// Version; the serving one when absent
    #[arg(long, conflicts_with = "compare")]
    pub version: Option<u32>,
    /// File for the scores of every clip, as Parquet when it ends in .parquet, else one JSON object a line; run the command again to resume an
    /// interrupted evaluation
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    pub out: Option<PathBuf>,
    /// Form of the file, whatever its name
    #[arg(long, value_enum, requires = "out")]
    pub format: Option<format::Answers>,
    /// Number of labels shown for each clip, best first; 0 means all
    #[arg(long, default_value_t = 5)]
    pub top_k: u16,
    /// Replaces the file when it exists
    #[arg(long)]
    pub force: bool,
    /// Compares two versions on the same clips by McNemar's test, and lists the clips that only one of them gets right: N of the task, TASK@N, or
    /// tasks/TASK/versions/N
    #[arg(long, num_args = 2, action = clap::ArgAction::Set, value_names = ["VERSION", "VERSION"])]
    pub compare: Vec<Compared>,
}

/// Split of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Split {
    /// The clips that weights are trained on
    Train,
    /// The clips by which a job chooses its weights
    #[value(alias = "validation")]
    Val,
    /// The clips that no job trains on or chooses by
    Test,
}

impl Split {
    /// The split in the API.
    pub(super) fn of_api(self) -> v1::Split {
        match self {
            Self::Train => v1::Split::Train,
            Self::Val => v1::Split::Validation,
            Self::Test => v1::Split::Test,
        }
    }
}

/// `frameshift evaluate`.
///
/// # Errors
/// When the server refuses, or the file cannot be written.
pub async fn run(args: &Args) -> Result<(), Error> {
    let out = (args.out.as_deref()).map(|path| Place::of(path, args.format, args.force));
    let out = out.transpose()?;
    if let [first, second] = &args.compare[..] {
        return Box::pin(compare::run(args, [first, second])).await;
    }
    let Some(task) = &args.task else {
        return Err(Error::Usage("--task is required".into()));
    };
    let task = resource("tasks", task);
    let client = args.connection.client_toward(Some(&task)).await?;
    let output = args.connection.output();
    let version = match args.version {
        Some(version) => format!("{task}/versions/{version}"),
        None => serving(&client, &task).await?,
    };
    let request = request(args, version);
    let split = json::split_name(args.split.of_api());
    let shape = columns::of_dataset(&request.version, &request.dataset, split);
    let lines = out.map(|out| Lines::open(&out, named(&request), shape));
    let mut lines = lines.transpose()?;
    let token = lines
        .as_ref()
        .map_or_else(Bytes::new, |lines| lines.token());
    let write = |clips: &response::Clips| match &mut lines {
        Some(lines) => lines.add(
            clips.clips.iter().map(json::clip_evaluation),
            &clips.resume_token,
        ),
        None => Ok(()),
    };
    let ended = Box::pin(evaluation(&client, request, token, output, write)).await?;
    let Evaluated {
        version, result, ..
    } = ended;
    if let Some(lines) = lines {
        lines.finish()?;
    }
    output.result(
        || describe(&version, args, &result),
        || json::typed("evaluation", json::evaluated(&version, &result)),
    );
    Ok(())
}

fn request(args: &Args, version: String) -> v1::EvaluateVersionRequest {
    v1::EvaluateVersionRequest {
        version,
        dataset: resource("datasets", &args.dataset),
        split: args.split.of_api().into(),
        top_k: match args.top_k {
            0 => u32::MAX,
            count => count.into(),
        },
        ..Default::default()
    }
}

/// What an evaluation has to have in common with the one that it goes on with.
pub(super) fn named(request: &v1::EvaluateVersionRequest) -> Value {
    object!([
        request.version,
        request.dataset,
        request.split,
        request.top_k
    ])
}

/// The version that serves a task.
pub(super) async fn serving(client: &Client, task: &str) -> Result<String, Error> {
    let request = v1::GetTaskRequest {
        name: task.to_owned(),
    };
    let found = client.tasks().get_task(request).await?.into_inner();
    match found.serving_version.is_empty() {
        true => Err(Error::NoVersion { task: found.name }),
        false => Ok(found.serving_version),
    }
}

/// An evaluation that has ended.
#[derive(Debug)]
pub(super) struct Evaluated {
    /// Resource name of the version.
    pub(super) version: String,
    /// Digest of the examples of the data set as they were read; empty of a server that does not say.
    pub(super) dataset_digest: Bytes,
    pub(super) result: response::Result,
}

/// Evaluates to the end; a stream that breaks off is opened again with the last token.
pub(super) async fn evaluation(
    client: &Client,
    mut request: v1::EvaluateVersionRequest,
    token: Bytes,
    output: Output,
    mut write: impl FnMut(&response::Clips) -> Result<(), Error>,
) -> Result<Evaluated, Error> {
    request.resume_token = token;
    let mut dataset_digest = Bytes::new();
    let progress = output.count(0, "evaluating");
    let mut done = 0;
    let mut pause = PAUSES.0;
    loop {
        let before = done;
        // Clips after the last token come again when the stream breaks off.
        let mut waiting = Vec::new();
        let cut = 'stream: {
            let mut events = match client.tasks().evaluate_version(request.clone()).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => break 'stream status,
            };
            loop {
                match events.message().await {
                    Ok(Some(message)) => match message.event {
                        Some(response::Event::Clips(clips)) => {
                            done += clips.clips.len();
                            progress.say(&format!("{done} clips"));
                            let token = clips.resume_token.clone();
                            waiting.push(clips);
                            if !token.is_empty() {
                                waiting.drain(..).try_for_each(|clips| write(&clips))?;
                                request.resume_token = token;
                            }
                        }
                        Some(response::Event::Result(result)) => {
                            waiting.drain(..).try_for_each(|clips| write(&clips))?;
                            progress.finish();
                            return Ok(Evaluated {
                                version: request.version,
                                dataset_digest,
                                result,
                            });
                        }
                        Some(response::Event::Started(started)) => {
                            dataset_digest = started.dataset_digest;
                        }
                        None => {}
                    },
                    Ok(None) => return Err(Error::Truncated),
                    Err(status) => break 'stream status,
                }
            }
        };
        let is_temporary = matches!(
            cut.code(),
            Code::Unavailable | Code::Unknown | Code::ResourceExhausted | Code::Internal
        );
        pause = if done > before { PAUSES.0 } else { pause * 2 };
        if !is_temporary || pause > PAUSES.1 {
            progress.finish();
            return Err(cut.into());
        }
        tokio::time::sleep(pause).await;
    }
}

fn describe(version: &str, args: &Args, result: &response::Result) -> String {
    let evaluation = result.evaluation.clone().unwrap_or_default();
    let map = evaluation.mean_average_precision;
    let map = map.map_or_else(String::new, |map| format!("mAP {map:.3}, "));
    let mut text = format!(
        "{version} on {} {}: {map}top-1 {:.3} ({:.3} to {:.3}), top-5 {:.3}, loss {:.3} on {} videos\nmean of classes {:.3}, macro F1 {:.3}",
        resource("datasets", &args.dataset),
        json::split_name(args.split.of_api()),
        evaluation.top1,
        evaluation.top1_low,
        evaluation.top1_high,
        evaluation.top5,
        evaluation.loss,
        evaluation.examples,
        evaluation.mean_class_accuracy,
        evaluation.macro_f1,
    );
    for (count, why) in [
        (result.unreadable, "cannot be read"),
        (
            result.unknown_labels,
            "have a label that the version does not have",
        ),
    ] {
        if count > 0 {
            text += &format!("\n{count} videos {why} and are not counted");
        }
    }
    for label in &evaluation.labels {
        text += &jobs::of_label(label);
    }
    text
}
