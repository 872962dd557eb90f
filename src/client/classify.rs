//! `frameshift classify`: scores of files or of uploaded videos.

use std::path::Path;

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::cli::Connection;
use super::failures::Failures;
use super::{CHUNK, Client, Error, MAX_MESSAGE, json, resource};
use crate::proto::v1::{self, classify_request::Source, classify_upload_request::Payload};

/// Arguments of `classify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// Task whose serving version answers
    #[arg(long)]
    pub task: String,
    /// Uses this version in place of the serving one
    #[arg(long)]
    pub version: Option<u32>,
    /// Labels to show, best first
    #[arg(long, default_value_t = 5)]
    pub top_k: u32,
    /// Also shows each view's scores (with --json)
    #[arg(long)]
    pub per_view: bool,
    /// How urgent the answers are
    #[arg(long, value_enum, default_value_t = Priority::Interactive)]
    pub priority: Priority,
    /// Video files, or names of uploaded videos (videos/…)
    #[arg(required = true)]
    pub videos: Vec<String>,
}

/// How urgent the answers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Priority {
    /// Somebody waits for them
    Interactive,
    /// Interactive requests of every tenant go first
    Batch,
}

/// Files up to this size go inside the request; it leaves room for the other fields.
const INLINE: usize = MAX_MESSAGE - (64 << 10);

/// `frameshift classify`.
///
/// # Errors
/// When a video cannot be read or the server refuses it; the others are answered.
pub async fn run(args: &Args) -> Result<(), Error> {
    let client = args.connection.client().await?;
    let output = args.connection.output();
    let task = resource("tasks", &args.task);
    let options = v1::ClassifyOptions {
        top_k: args.top_k,
        per_view: args.per_view,
        version: args
            .version
            .map(|version| format!("{task}/versions/{version}"))
            .unwrap_or_default(),
        priority: match args.priority {
            Priority::Interactive => v1::Priority::Interactive.into(),
            Priority::Batch => v1::Priority::Batch.into(),
        },
    };
    let mut failures = Failures::new(args.videos.len(), output);
    for video in &args.videos {
        let answer = match one(&client, &task, &options, video).await {
            Ok(answer) => answer,
            Err(error) => {
                failures.add(video, error)?;
                continue;
            }
        };
        output.result(
            || {
                let scores: Vec<String> = answer
                    .predictions
                    .iter()
                    .map(|prediction| format!("{} {:.3}", prediction.label, prediction.score))
                    .collect();
                format!("{video}  {}  [{}]", scores.join("  "), answer.version)
            },
            || json::classification(video, &answer),
        );
    }
    failures.end()
}

async fn one(
    client: &Client,
    task: &str,
    options: &v1::ClassifyOptions,
    video: &str,
) -> Result<v1::ClassifyResponse, Error> {
    let path = Path::new(video);
    let source = if video.starts_with("videos/") && !path.exists() {
        Source::Video(video.to_owned())
    } else {
        let content = tokio::fs::read(path).await.map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        if content.len() > INLINE {
            return upload(client, task, options, content.into()).await;
        }
        Source::Content(content.into())
    };
    let request = v1::ClassifyRequest {
        task: task.to_owned(),
        source: Some(source),
        options: Some(options.clone()),
    };
    Ok(client
        .classification()
        .classify(request)
        .await?
        .into_inner())
}

async fn upload(
    client: &Client,
    task: &str,
    options: &v1::ClassifyOptions,
    content: Bytes,
) -> Result<v1::ClassifyResponse, Error> {
    let header = Payload::Header(v1::ClassifyUploadHeader {
        task: task.to_owned(),
        options: Some(options.clone()),
    });
    let chunks = (0..content.len())
        .step_by(CHUNK)
        .map(|at| content.slice(at..content.len().min(at + CHUNK)))
        .collect::<Vec<_>>();
    let messages = stream::once(async { header })
        .chain(stream::iter(chunks).map(Payload::Chunk))
        .map(|payload| v1::ClassifyUploadRequest {
            payload: Some(payload),
        });
    let answer = client.classification().classify_upload(messages).await?;
    Ok(answer.into_inner())
}
