//! `frameshift classify`: scores of files, of uploaded videos, of a data set or of a folder.

mod bulk;
pub(super) mod columns;

use std::path::Path;
use std::str::FromStr;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};

use super::cli::Connection;
use super::failures::Failures;
use super::output::Output;
use super::{CHUNK, Client, Error, MAX_MESSAGE, json, live, resource, windows};
use crate::proto::v1::{self, classify_upload_request::Payload};

pub(super) use crate::proto::v1::classify_request::Source;

/// Arguments of `classify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// Task whose serving version answers; several share one decoding of each video
    #[arg(long, required = true)]
    pub task: Vec<String>,
    /// Uses this version in place of the serving one; with one task only
    #[arg(long)]
    pub version: Option<u32>,
    /// Labels to show, best first
    #[arg(long, default_value_t = 5)]
    pub top_k: u32,
    /// Also shows each view's scores (with --json)
    #[arg(long)]
    pub per_view: bool,
    /// Confidence below which an answer is marked as unknown, 0 to 1, in place of the version's own
    #[arg(long, allow_negative_numbers = true)]
    pub unknown_below: Option<f64>,
    /// Score from which on a label is selected (marked with *), 0 to 1, in place of the thresholds of a version whose labels do not exclude one another
    #[arg(long, allow_negative_numbers = true)]
    pub threshold: Option<f64>,
    /// How urgent the answers are
    #[arg(long, value_enum, default_value_t = Priority::Interactive)]
    pub priority: Priority,
    /// Key that selects the version when several share a task's requests, for example the id of a user; the video when absent
    #[arg(long)]
    pub key: Option<Key>,
    /// Windows
    #[command(flatten)]
    pub windows: windows::Args,
    /// Live streams
    #[command(flatten)]
    pub live: live::Options,
    /// Many videos at once
    #[command(flatten)]
    pub bulk: bulk::Args,
    /// Video files, or names of uploaded videos (videos/…); with --live, one source
    #[arg(required_unless_present_any = ["dataset", "folder"])]
    pub videos: Vec<String>,
}

/// What decides which of several versions answers.
#[derive(Debug, Clone)]
pub struct Key(MetadataValue<Ascii>);

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = text.parse().ok().map(Self);
        let key = key.filter(|_| (1..=256).contains(&text.len()));
        key.ok_or_else(|| "expected 1 to 256 printable ASCII characters".to_owned())
    }
}

/// How urgent the answers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Priority {
    /// Somebody waits for them
    Interactive,
    /// Interactive requests of every tenant go first
    Batch,
}

impl Priority {
    /// Returns the priority's number in the API.
    pub(super) fn number(self) -> i32 {
        match self {
            Self::Interactive => v1::Priority::Interactive.into(),
            Self::Batch => v1::Priority::Batch.into(),
        }
    }
}

/// Metadata of a request whose value decides which of several versions answers.
const KEY: &str = "x-frameshift-key";

/// Files up to this size go inside the request; it leaves room for the other fields.
pub(super) const INLINE: usize = MAX_MESSAGE - (64 << 10);

/// Everything of a request but its video.
pub(super) struct Template {
    /// Names of the tasks.
    pub(super) tasks: Vec<String>,
    pub(super) options: v1::ClassifyOptions,
    key: Option<Key>,
}

impl Template {
    fn of(args: &Args) -> Result<Self, Error> {
        let tasks: Vec<String> = (args.task.iter())
            .map(|task| resource("tasks", task))
            .collect();
        let version = match (args.version, tasks.as_slice()) {
            (None, _) => String::new(),
            (Some(version), [task]) => format!("{task}/versions/{version}"),
            (Some(_), _) => {
                let problem = "--version: several tasks answer with their serving versions";
                return Err(Error::Usage(problem.into()));
            }
        };
        let options = v1::ClassifyOptions {
            top_k: args.top_k,
            per_view: args.per_view,
            version,
            priority: args.priority.number(),
            unknown_below: args.unknown_below,
            threshold: args.threshold,
        };
        Ok(Self {
            tasks,
            options,
            key: args.key.clone(),
        })
    }

    /// A request with the key.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(Key(key)) = &self.key {
            request.metadata_mut().insert(KEY, key.clone());
        }
        request
    }

    /// The task of a request for one, and the tasks of a request for several.
    pub(super) fn task_or_tasks(&self) -> (String, Vec<String>) {
        match self.tasks.as_slice() {
            [task] => (task.clone(), Vec::new()),
            tasks => (String::new(), tasks.to_vec()),
        }
    }
}

/// `frameshift classify`.
///
/// # Errors
/// When a video cannot be read, or the server refuses it or a task; the others are answered.
pub async fn run(args: &Args) -> Result<(), Error> {
    let wanted = Template::of(args)?;
    if args.live.live {
        return Box::pin(live::run(args, &wanted)).await;
    }
    let out = args.bulk.place()?;
    let task = wanted.tasks.first().map(String::as_str);
    let client = args.connection.client_toward(task).await?;
    let output = args.connection.output();
    if let Some(out) = out {
        return bulk::run(&client, (&args.bulk, out), &wanted, output).await;
    }
    if args.windows.windows {
        return windows::run(&client, (&args.windows, &wanted), &args.videos, output).await;
    }
    let total = args.videos.len() * wanted.tasks.len();
    let mut failures = Failures::new(total, output);
    for video in &args.videos {
        let answer = async { one(&client, &wanted, source(video).await?).await };
        match answer.await {
            Ok(answer) if wanted.tasks.len() > 1 => show(output, video, answer, &mut failures)?,
            Ok(answer) => output.result(
                || {
                    marked(
                        line(video, &answer.predictions, &answer.version),
                        answer.unknown,
                    )
                },
                || json::classification(video, &answer),
            ),
            Err(error) => failures.add(video, error)?,
        }
    }
    failures.end()
}

/// Shows what each of several tasks answered.
fn show(
    output: Output,
    video: &str,
    answer: v1::ClassifyResponse,
    failures: &mut Failures,
) -> Result<(), Error> {
    let (failed, answered): (Vec<_>, Vec<_>) =
        (answer.results.into_iter()).partition(|result| result.error.is_some());
    if !answered.is_empty() {
        let lines = || {
            let each = answered.iter();
            let lines = each.map(|result| {
                marked(
                    line(video, &result.predictions, &result.version),
                    result.unknown,
                )
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        output.result(lines, || json::classifications(video, &answered));
    }
    for result in failed {
        let error = result.error.unwrap_or_default();
        failures.add(&format!("{video}, {}", result.task), Error::of_task(error))?;
    }
    Ok(())
}

/// A line of an answer, which says when the answer is probably none of the labels.
fn marked(line: String, is_unknown: bool) -> String {
    match is_unknown {
        true => line + "  unknown",
        false => line,
    }
}

/// A line that begins with what was classified.
pub(super) fn line(what: &str, predictions: &[v1::Prediction], version: &str) -> String {
    let scores: Vec<String> = predictions
        .iter()
        .map(|prediction| {
            let mark = if prediction.selected { "*" } else { "" };
            format!("{}{mark} {:.3}", prediction.label, prediction.score)
        })
        .collect();
    format!("{what}  {}  [{version}]", scores.join("  "))
}

async fn one(
    client: &Client,
    wanted: &Template,
    mut source: Source,
) -> Result<v1::ClassifyResponse, Error> {
    if let Source::Content(content) = &mut source
        && content.len() > INLINE
    {
        return upload(client, wanted, std::mem::take(content)).await;
    }
    let (task, tasks) = wanted.task_or_tasks();
    let request = v1::ClassifyRequest {
        task,
        tasks,
        source: Some(source),
        options: Some(wanted.options.clone()),
    };
    let request = wanted.request(request);
    let answer = client.classification().classify(request).await?;
    Ok(answer.into_inner())
}

/// The name of an uploaded video, or a file's content.
pub(super) async fn source(video: &str) -> Result<Source, Error> {
    let path = Path::new(video);
    if video.starts_with("videos/") && !path.exists() {
        return Ok(Source::Video(video.to_owned()));
    }
    let content = tokio::fs::read(path).await.map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(Source::Content(content.into()))
}

async fn upload(
    client: &Client,
    wanted: &Template,
    content: Bytes,
) -> Result<v1::ClassifyResponse, Error> {
    let (task, tasks) = wanted.task_or_tasks();
    let header = Payload::Header(v1::ClassifyUploadHeader {
        task,
        tasks,
        options: Some(wanted.options.clone()),
    });
    let messages = stream::once(async { header })
        .chain(stream::iter(chunks(&content)).map(Payload::Chunk))
        .map(|payload| v1::ClassifyUploadRequest {
            payload: Some(payload),
        });
    let messages = wanted.request(messages);
    let answer = client.classification().classify_upload(messages).await?;
    Ok(answer.into_inner())
}

/// A file in chunks that the server takes.
pub(super) fn chunks(content: &Bytes) -> Vec<Bytes> {
    let begins = (0..content.len()).step_by(CHUNK);
    begins
        .map(|at| content.slice(at..content.len().min(at + CHUNK)))
        .collect()
}
