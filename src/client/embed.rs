//! `frameshift embed`: features of videos as one NumPy array.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::classify::{INLINE, Priority, Source, chunks, source};
use super::cli::Connection;
use super::failures::Failures;
use super::{Client, Error, json, npy, resource};
use crate::proto::v1::{self, embed_request, embed_upload_request::Payload};

/// Videos on their way at once: one is decoded while the other is computed.
const AT_ONCE: usize = 4;

/// Arguments of `embed`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// File to write the array to (.npy); a .json beside it says which row is which video
    #[arg(long, value_name = "FILE.npy")]
    pub out: PathBuf,
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
    /// Writes the features of every frame, [videos, views, frames, width], in place of one row per video
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
/// When a file cannot be read or written, or the server refuses a video; the others are in the array.
pub async fn run(args: &Args) -> Result<(), Error> {
    let index = args.out.with_extension("json");
    if index == args.out {
        let problem = "--out: expected a file name that ends in .npy, since the .json beside it says which row is which video";
        return Err(Error::Usage(problem.into()));
    }
    for path in [&args.out, &index] {
        if path.exists() && !args.force {
            return Err(Error::Exists { path: path.clone() });
        }
    }
    let client = args.connection.client().await?;
    let output = args.connection.output();
    let wanted = Template::of(args);
    let mut failures = Failures::new(args.videos.len(), output);
    let embedding = args.videos.iter().map(|video| one(&client, &wanted, video));
    let mut embedding = stream::iter(embedding).buffered(AT_ONCE);
    let mut rows = Rows::default();
    for video in &args.videos {
        match embedding.next().await {
            Some(Ok(answer)) => {
                let row = rows.add(video, answer, args.per_frame)?;
                output.result(
                    || format!("{video}  row {}", row["row"]),
                    || json::typed("embedding", row.clone()),
                );
            }
            Some(Err(error)) => failures.add(video, error)?,
            None => break,
        }
    }
    if !rows.data.is_empty() {
        rows.save(&args.out, &index)?;
    }
    failures.end()
}

/// The array so far.
#[derive(Default)]
struct Rows {
    element: v1::ElementType,
    /// Shape of each row.
    shape: Vec<u32>,
    data: Vec<Bytes>,
    index: Vec<Value>,
}

impl Rows {
    /// Appends a video's features. Returns what the index says of them.
    fn add(
        &mut self,
        video: &str,
        answer: v1::EmbedResponse,
        per_frame: bool,
    ) -> Result<&Value, Error> {
        let row = json!({
            "row": self.data.len(),
            "video": video,
            "version": answer.version,
            "backbone_digest": json::hex(&answer.backbone_digest),
            "frames": json::frames(&answer.sampled),
        });
        let array = match per_frame {
            true => answer.frames,
            false => answer.features,
        };
        let array = array.ok_or(Error::Truncated)?;
        let element = array.r#type();
        if self.data.is_empty() {
            (self.element, self.shape) = (element, array.shape);
        } else if (self.element, &self.shape) != (element, &array.shape) {
            // A version with another sampling began to serve in between.
            let problem = format!(
                "{video} has features of another shape than the videos before; name a version with --version"
            );
            return Err(Error::Usage(problem));
        }
        self.data.push(array.data);
        self.index.push(row);
        self.index.last().ok_or(Error::Truncated)
    }

    fn save(&self, out: &Path, index: &Path) -> Result<(), Error> {
        let descr = match self.element {
            v1::ElementType::F16 => "<f2",
            v1::ElementType::F32 | v1::ElementType::Unspecified => "<f4",
        };
        let sizes = self.shape.iter().map(|&size| size as usize);
        let shape: Vec<usize> = std::iter::once(self.data.len()).chain(sizes).collect();
        let array = |file: &mut dyn Write| npy::write(file, descr, &shape, &self.data);
        saved(out, &array)?;
        let lines = |file: &mut dyn Write| {
            let index = json!({ "shape": shape, "rows": self.index });
            writeln!(file, "{index:#}")
        };
        saved(index, &lines)
    }
}

/// Writes a file.
fn saved(path: &Path, write: &dyn Fn(&mut dyn Write) -> std::io::Result<()>) -> Result<(), Error> {
    let written = File::create(path).and_then(|file| {
        let mut file = BufWriter::new(file);
        write(&mut file)?;
        file.flush()
    });
    written.map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
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
