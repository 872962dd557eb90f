//! `frameshift embed`: features of videos as one NumPy array or as Parquet.

mod array;
mod table;

use std::path::PathBuf;

use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::Value;

use super::classify::{INLINE, Priority, Source, chunks, source};
use super::cli::Connection;
use super::failures::Failures;
use super::{Client, Error, format, json, resource};
use crate::proto::v1::{self, embed_request, embed_upload_request::Payload};
use array::Array;
use table::Table;

/// Videos on their way at once: one is decoded while the other is computed.
const AT_ONCE: usize = 4;

/// Arguments of `embed`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// File to write: Parquet when it ends in .parquet, else one NumPy array (.npy), with a .json beside it that says which row is which video
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Form of the file, whatever its name
    #[arg(long, value_enum)]
    pub format: Option<format::Features>,
    /// Replaces the files when they are there
    #[arg(long)]
    pub force: bool,
    /// Task whose serving version's adapters are used; without it, the bare backbone
    #[arg(long)]
    pub task: Option<String>,
    /// Uses this version in place of the serving one
    #[arg(long, requires = "task")]
    pub version: Option<u32>,
    /// Frames of a clip; as the task takes them, or 8, unless given
    #[arg(long)]
    pub num_frames: Option<u32>,
    /// Takes every so-many-th frame from the middle in place of frames spread over the video
    #[arg(long)]
    pub sampling_rate: Option<u32>,
    /// Writes 16-bit floats
    #[arg(long)]
    pub f16: bool,
    /// Divides each row by its Euclidean length
    #[arg(long)]
    pub normalize: bool,
    /// Writes the features of every frame, as an array [videos, views, frames, width] or one row per frame, in place of one row per video
    #[arg(long)]
    pub per_frame: bool,
    /// Features before the backbone's final norm
    #[arg(long)]
    pub before_final_norm: bool,
    /// How urgent the answers are
    #[arg(long, value_enum, default_value_t = Priority::Interactive)]
    pub priority: Priority,
    /// Video files, or names of uploaded videos (videos/…)
    #[arg(required = true)]
    pub videos: Vec<String>,
}

/// Everything of a request but its video.
struct Template {
    task: String,
    version: String,
    options: v1::EmbedOptions,
}

impl Template {
    fn of(args: &Args) -> Self {
        let task = args.task.as_ref().map(|task| resource("tasks", task));
        let task = task.unwrap_or_default();
        let version = args
            .version
            .map(|version| format!("{task}/versions/{version}"));
        let is_sampled = args.num_frames.is_some() || args.sampling_rate.is_some();
        let element = match args.f16 {
            true => v1::ElementType::F16,
            false => v1::ElementType::F32,
        };
        let options = v1::EmbedOptions {
            sampling: is_sampled.then(|| v1::ClipSampling {
                num_frames: args.num_frames.unwrap_or_default(),
                sampling_rate: args.sampling_rate.unwrap_or_default(),
                ..Default::default()
            }),
            r#type: element.into(),
            normalize: args.normalize,
            per_frame: args.per_frame,
            before_final_norm: args.before_final_norm,
            priority: args.priority.number(),
        };
        Self {
            task,
            version: version.unwrap_or_default(),
            options,
        }
    }
}

/// `frameshift embed`.
///
/// # Errors
/// When a file cannot be read or written, or the server refuses a video; the others are in the file.
pub async fn run(args: &Args) -> Result<(), Error> {
    let mut sink = Sink::open(args)?;
    let client = args.connection.client_toward(args.task.as_deref()).await?;
    let output = args.connection.output();
    let mut wanted = Template::of(args);
    let mut failures = Failures::new(args.videos.len(), output);
    let mut keep = |video: &str, answer: Result<_, Error>| -> Result<(), Error> {
        let answer: v1::EmbedResponse = match answer {
            Ok(answer) => answer,
            Err(error) => return failures.add(video, error),
        };
        let row = sink.add(video, &answer)?;
        output.result(
            || format!("{video}  row {}", row["row"]),
            || json::typed("embedding", row.clone()),
        );
        Ok(())
    };
    let mut videos = args.videos.iter();
    // The version that answers first answers for all, also when another begins to serve meanwhile.
    while !wanted.task.is_empty()
        && wanted.version.is_empty()
        && let Some(video) = videos.next()
    {
        let answer = one(&client, &wanted, video).await;
        if let Ok(answer) = &answer {
            wanted.version.clone_from(&answer.version);
        }
        keep(video, answer)?;
    }
    let (client, wanted) = (&client, &wanted);
    let embedding = videos.map(|video| async move { (video, one(client, wanted, video).await) });
    let mut embedding = stream::iter(embedding).buffered(AT_ONCE);
    while let Some((video, answer)) = embedding.next().await {
        keep(video, answer)?;
    }
    sink.finish()?;
    failures.end()
}

/// The file that the features go to.
enum Sink {
    Array(Box<Array>),
    Table(Box<Table>),
}

impl Sink {
    fn open(args: &Args) -> Result<Self, Error> {
        let form = format::of(&args.out, args.format, format::Features::Npy)?;
        Ok(match form {
            format::Features::Npy => Self::Array(Box::new(Array::open(args)?)),
            format::Features::Parquet => Self::Table(Box::new(Table::open(args)?)),
        })
    }

    /// Adds the features of a video. Returns what is known of them.
    fn add(&mut self, video: &str, answer: &v1::EmbedResponse) -> Result<Value, Error> {
        match self {
            Self::Array(array) => array.add(video, answer),
            Self::Table(table) => table.add(video, answer),
        }
    }

    /// Gives the file its name, when it has a row.
    fn finish(self) -> Result<(), Error> {
        match self {
            Self::Array(array) => array.finish(),
            Self::Table(table) => table.finish(),
        }
    }
}

/// The features that were asked for.
fn wanted(answer: &v1::EmbedResponse, per_frame: bool) -> Result<&v1::Array, Error> {
    let array = match per_frame {
        true => &answer.frames,
        false => &answer.features,
    };
    array.as_ref().ok_or(Error::Truncated)
}

/// The error of a video whose features cannot be beside those of the videos before.
fn unlike(video: &str, what: &str) -> Error {
    Error::Usage(format!(
        "{video} has features of another {what} than the videos before; name a version with --version"
    ))
}

async fn one(client: &Client, wanted: &Template, video: &str) -> Result<v1::EmbedResponse, Error> {
    let source = match source(video).await? {
        Source::Content(content) if content.len() > INLINE => {
            return upload(client, wanted, content).await;
        }
        Source::Content(content) => embed_request::Source::Content(content),
        Source::Video(name) => embed_request::Source::Video(name),
    };
    let request = v1::EmbedRequest {
        task: wanted.task.clone(),
        version: wanted.version.clone(),
        source: Some(source),
        options: Some(wanted.options),
    };
    let answer = client.classification().embed(request).await?;
    Ok(answer.into_inner())
}

async fn upload(
    client: &Client,
    wanted: &Template,
    content: Bytes,
) -> Result<v1::EmbedResponse, Error> {
    let header = Payload::Header(v1::EmbedUploadHeader {
        task: wanted.task.clone(),
        version: wanted.version.clone(),
        options: Some(wanted.options),
    });
    let messages = stream::once(async { header })
        .chain(stream::iter(chunks(&content)).map(Payload::Chunk))
        .map(|payload| v1::EmbedUploadRequest {
            payload: Some(payload),
        });
    let answer = client.classification().embed_upload(messages).await?;
    Ok(answer.into_inner())
}
