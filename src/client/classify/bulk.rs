//! `frameshift classify --dataset` and `--folder`: the answers of one version on many videos, into a file, and on where an interruption left it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt, stream};
use serde_json::{Value, json as object};
use tonic::Code;

use super::{Template, columns, one};
use crate::client::evaluate::{self, Split};
use crate::client::format;
use crate::client::lines::{Lines, Place};
use crate::client::output::Output;
use crate::client::{Client, Error, annotations, json, resource};
use crate::proto::v1::{self, evaluate_version_response as response};

/// Files that are sent at a time.
const PARALLEL: usize = 4;
/// Files after which it is written down how far the file of answers is.
const NOTED: usize = 16;
/// First and longest pause before a file that found no room is sent again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));

/// Many videos, and where their answers go.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Classifies the videos of a data set, whatever their labels, with one version
    #[arg(long, value_name = "DATASET", requires = "out", conflicts_with_all = ["folder", "videos", "windows", "live", "per_view", "unknown_below", "threshold", "key"])]
    pub dataset: Option<String>,
    /// Only this split of the data set
    #[arg(long, value_enum, requires = "dataset")]
    pub split: Option<Split>,
    /// Classifies the video files of a folder and of the folders in it, with one version
    #[arg(long, value_name = "DIR", requires = "out", conflicts_with_all = ["videos", "windows", "live", "per_view", "key"])]
    pub folder: Option<PathBuf>,
    /// File for the answers, as Parquet when it ends in .parquet, else one JSON object a line; run the command again to resume it after an interruption
    #[arg(long, value_name = "FILE", conflicts_with_all = ["videos", "windows", "live"])]
    pub out: Option<PathBuf>,
    /// Form of the file, whatever its name
    #[arg(long, value_enum, requires = "out")]
    pub format: Option<format::Answers>,
    /// Replaces the file when it exists
    #[arg(long, requires = "out")]
    pub force: bool,
}

/// What became of the videos.
#[derive(Debug, Default)]
struct Counts {
    answered: u64,
    failed: u64,
}

impl Args {
    /// The file for the answers, when there is to be one.
    ///
    /// # Errors
    /// When its ending is that of another form than the one asked for.
    pub(super) fn place(&self) -> Result<Option<Place<'_>>, Error> {
        let place = |path| Place::of(path, self.format, self.force);
        self.out.as_deref().map(place).transpose()
    }
}

/// Classifies a data set or a folder into a file.
pub(super) async fn run(
    client: &Client,
    (args, out): (&Args, Place<'_>),
    wanted: &Template,
    output: Output,
) -> Result<(), Error> {
    match (&args.dataset, &args.folder) {
        (Some(dataset), _) => {
            Box::pin(of_dataset(
                client,
                (dataset, args.split, out),
                wanted,
                output,
            ))
            .await
        }
        (None, Some(folder)) => Box::pin(of_folder(client, (folder, out), wanted, output)).await,
        (None, None) => Err(Error::Usage("--out: with --dataset or --folder".into())),
    }
}

/// The version that answers for all videos: the one that was asked for, or the serving one of now.
async fn version(client: &Client, wanted: &Template) -> Result<String, Error> {
    let [task] = wanted.tasks.as_slice() else {
        return Err(Error::Usage("--out: with one task".into()));
    };
    match wanted.options.version.is_empty() {
        true => evaluate::serving(client, task).await,
        false => Ok(wanted.options.version.clone()),
    }
}

async fn of_dataset(
    client: &Client,
    (dataset, split, out): (&str, Option<Split>, Place<'_>),
    wanted: &Template,
    output: Output,
) -> Result<(), Error> {
    let split = split.map_or(v1::Split::Unspecified, Split::of_api);
    let request = v1::EvaluateVersionRequest {
        version: version(client, wanted).await?,
        dataset: resource("datasets", dataset),
        split: split.into(),
        top_k: wanted.options.top_k,
        classify: true,
        ..Default::default()
    };
    let subject = object!({ "classify": evaluate::named(&request) });
    let within = match split {
        v1::Split::Unspecified => "all",
        v1::Split::Train | v1::Split::Validation | v1::Split::Test => json::split_name(split),
    };
    let shape = columns::of_dataset(&request.version, &request.dataset, within);
    let mut lines = Lines::open(&out, subject, shape)?;
    let mut counts = Counts::default();
    let token = lines.token();
    let write = |clips: &response::Clips| {
        for clip in &clips.clips {
            match clip.error {
                None => counts.answered += 1,
                Some(_) => counts.failed += 1,
            }
        }
        let answers = clips.clips.iter().map(json::clip_evaluation);
        lines.add(answers, &clips.resume_token)
    };
    let ended = Box::pin(evaluate::evaluation(client, request, token, output, write));
    let ended = ended.await?;
    lines.finish()?;
    told(output, (out.path, &ended.version), &counts);
    Ok(())
}

async fn of_folder(
    client: &Client,
    (folder, out): (&Path, Place<'_>),
    wanted: &Template,
    output: Output,
) -> Result<(), Error> {
    let version = version(client, wanted).await?;
    let mut options = wanted.options.clone();
    options.version.clone_from(&version);
    options.priority = v1::Priority::Batch.into();
    let wanted = Template {
        tasks: wanted.tasks.clone(),
        options,
        key: None,
    };
    let subject = object!({
        "folder": folder.to_string_lossy(),
        "version": version,
        "top_k": wanted.options.top_k,
        "unknown_below": wanted.options.unknown_below,
        "threshold": wanted.options.threshold,
    });
    let shape = columns::of_folder(&version, &folder.to_string_lossy());
    let mut lines = Lines::open(&out, subject, shape)?;
    let last = lines.token();
    let last = Path::new(OsStr::from_bytes(&last));
    let mut paths = annotations::videos(folder)?;
    paths.sort();
    paths.retain(|path| last.as_os_str().is_empty() || path.as_path() > last);
    let progress = output.count(paths.len() as u64, "classifying");
    let wanted = &wanted;
    let answers = paths.iter().map(|path| async move {
        let answer = patiently(client, wanted, &folder.join(path)).await;
        (path, answer)
    });
    let mut answers = stream::iter(answers).buffered(PARALLEL).enumerate();
    let mut counts = Counts::default();
    let (mut waiting, mut done) = (Vec::new(), None);
    while let Some((place, (path, answer))) = answers.next().await {
        let line = match answer {
            Ok(answer) => {
                counts.answered += 1;
                answered(path, &answer)
            }
            Err(error) if is_of_the_file(&error) => {
                counts.failed += 1;
                refused(path, &error)
            }
            Err(error) => {
                note(&mut lines, &mut waiting, done)?;
                progress.finish();
                return Err(error);
            }
        };
        waiting.push(line);
        done = Some(path);
        progress.set(place as u64 + 1);
        if waiting.len() >= NOTED {
            note(&mut lines, &mut waiting, done)?;
        }
    }
    note(&mut lines, &mut waiting, done)?;
    progress.finish();
    lines.finish()?;
    told(output, (out.path, &version), &counts);
    Ok(())
}

/// Writes answers, and that those up to a file are there.
fn note(lines: &mut Lines, waiting: &mut Vec<Value>, done: Option<&PathBuf>) -> Result<(), Error> {
    let token = done.map_or(&[][..], |path| path.as_os_str().as_bytes());
    lines.add(waiting.drain(..), token)
}

/// Classifies a file; waits while the server has no room, or is away for a moment.
async fn patiently(
    client: &Client,
    wanted: &Template,
    path: &Path,
) -> Result<v1::ClassifyResponse, Error> {
    let mut pause = PAUSES.0;
    loop {
        // A path is what it is, also one like `videos/…`.
        let content = tokio::fs::read(path).await.map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let error = match one(client, wanted, super::Source::Content(content.into())).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let is_temporary = matches!(&error, Error::Rpc(status) if matches!(
            status.code(),
            Code::Unavailable | Code::ResourceExhausted | Code::Unknown
        ));
        if !is_temporary || pause > PAUSES.1 {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// Whether an error is of the one file and not of the command.
fn is_of_the_file(error: &Error) -> bool {
    matches!(error, Error::Read { .. })
        || matches!(error, Error::Rpc(status) if status.code() == Code::InvalidArgument)
}

fn answered(path: &Path, answer: &v1::ClassifyResponse) -> Value {
    let own = json::classification(&path.to_string_lossy(), answer);
    json::typed(
        "clip",
        object!({
            "video": own["video"],
            "version": own["version"],
            "predictions": own["predictions"],
            "confidence": own["confidence"],
            "unknown": own["unknown"],
            "error": null,
        }),
    )
}

fn refused(path: &Path, error: &Error) -> Value {
    let own = object!({
        "video": path.to_string_lossy(),
        "predictions": [],
        "error": error.json(),
    });
    json::typed("clip", own)
}

fn told(output: Output, (out, version): (&Path, &str), counts: &Counts) {
    let Counts { answered, failed } = counts;
    let shown = out.display();
    output.result(
        || format!("{shown}: {answered} videos classified by {version}, {failed} cannot be read"),
        || {
            let own = object!({
                "file": out.to_string_lossy(),
                "version": version,
                "answered": answered,
                "failed": failed,
            });
            json::typed("classified", own)
        },
    );
}
