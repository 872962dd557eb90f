//! Brings a folder's labelled videos into a data set.
//!
//! Invariant: examples are written as their videos are uploaded, and what the data set or the tenant has already is not uploaded again, so an
//! interrupted run is resumed by running it again.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tonic::Code;

use super::super::annotations::{self, Labelled, Listing, Note};
use super::super::output::{Output, Progress};
use super::super::{Client, Error, json as as_json, pages, resource, upload};
use super::{Folder, copies, table};
use crate::ids::DatasetId;
use crate::proto::v1;
use crate::spec::{ExampleLabels, LabelKind, Split};

/// Examples of one AddExamples call: what an interruption leaves uploaded, but in no data set.
const EXAMPLES: usize = 100;

type Digest = Vec<u8>;

/// `dataset create`: creates the data set unless it is there, and fills it.
pub(super) async fn create(
    client: impl AsyncFnOnce() -> Result<Client, Error>,
    folder: &Folder,
    output: Output,
) -> Result<(), Error> {
    let found = read(folder, output)?;
    let client = client().await?;
    let id = folder.id.strip_prefix("datasets/").unwrap_or(&folder.id);
    let request = v1::CreateDatasetRequest {
        dataset_id: id.to_owned(),
        label_kind: match folder.multi_label {
            true => v1::LabelKind::Multi,
            false => v1::LabelKind::Single,
        }
        .into(),
        request_id: uuid::Uuid::now_v7().to_string(),
        ..Default::default()
    };
    match client.datasets().create_dataset(request).await {
        Ok(_) => {}
        Err(status) if status.code() == Code::AlreadyExists => {
            output.note(&format!(
                "datasets/{id} exists: only what is missing is added"
            ));
        }
        Err(status) => return Err(status.into()),
    }
    interruptible(&client, folder, found, output).await
}

/// `dataset add`: fills a data set that exists.
pub(super) async fn add(
    client: impl AsyncFnOnce() -> Result<Client, Error>,
    folder: &Folder,
    output: Output,
) -> Result<(), Error> {
    let found = read(folder, output)?;
    interruptible(&client().await?, folder, found, output).await
}

/// Fills the data set until it is done or Ctrl-C ends the command, which then says what is done and how to resume.
async fn interruptible(
    client: &Client,
    folder: &Folder,
    mut found: Listing,
    output: Output,
) -> Result<(), Error> {
    if folder.multi_label {
        copies::merge(&mut found, usize::from(folder.concurrency)).await?;
    }
    let total = found.examples.len();
    let written = AtomicUsize::new(0);
    tokio::select! {
        done = fill(client, folder, found, (output, &written)) => done,
        _ = tokio::signal::ctrl_c() => {
            let written = written.load(Ordering::Relaxed);
            let next = format!(
                "{written} of {total} videos are in {}; run the same command again to go on: what is uploaded is not sent again",
                resource("datasets", &folder.id)
            );
            Err(Error::Interrupted { next })
        }
    }
}

/// Reads the folder before anything is asked of the server.
fn read(folder: &Folder, output: Output) -> Result<Listing, Error> {
    let id = folder.id.strip_prefix("datasets/").unwrap_or(&folder.id);
    if let Err(error) = id.parse::<DatasetId>() {
        return Err(Error::Usage(error.to_string()));
    }
    let kind = match folder.multi_label {
        true => LabelKind::Multi,
        false => LabelKind::Single,
    };
    let found = annotations::find_of(&folder.from, kind)?;
    for note in &found.notes {
        output.note(&format!("note: {note}"));
    }
    for list in &found.broken {
        output.note(&format!("note: left out as a whole: {list}"));
    }
    Ok(found)
}

/// Videos and examples that the tenant and the data set have already.
#[derive(Debug, Default)]
struct Known {
    /// Videos of the tenant that are not in the data set, by digest.
    videos: HashMap<Digest, Vec<String>>,
    /// How many examples the data set has of a digest, labels and split: a folder may have copies of a file.
    examples: HashMap<(Digest, ExampleLabels, v1::Split), usize>,
}

impl Known {
    async fn ask(client: &Client, dataset: &str) -> Result<Self, Error> {
        let mut placed = HashMap::new();
        pages::all(async |page_token| {
            let request = v1::ListExamplesRequest {
                name: dataset.to_owned(),
                page_size: 1000,
                page_token,
            };
            let page = client.datasets().list_examples(request).await?.into_inner();
            for example in page.examples {
                let split = example.split();
                let labels = ExampleLabels::of(example.labels.iter().map(String::as_str));
                let labels = labels.map_err(|invalid| Error::Usage(invalid.to_string()))?;
                placed.insert(example.video, (labels, split));
            }
            Ok(page.next_page_token)
        })
        .await?;
        let mut known = Self::default();
        pages::all(async |page_token| {
            let request = v1::ListVideosRequest {
                page_size: 1000,
                page_token,
            };
            let page = client.videos().list_videos(request).await?.into_inner();
            for video in page.videos {
                let digest = video.sha256.to_vec();
                if let Some((labels, split)) = placed.remove(&video.name) {
                    *known.examples.entry((digest, labels, split)).or_default() += 1;
                } else {
                    known.videos.entry(digest).or_default().push(video.name);
                }
            }
            Ok(page.next_page_token)
        })
        .await?;
        Ok(known)
    }
}

/// The outcome of a file.
enum Done {
    Example(v1::Example, Digest),
    Present(Digest),
}

async fn fill(
    client: &Client,
    folder: &Folder,
    found: Listing,
    (output, written): (Output, &AtomicUsize),
) -> Result<(), Error> {
    let name = resource("datasets", &folder.id);
    let known = Mutex::new(Known::ask(client, &name).await?);
    let progress = output.count(found.examples.len() as u64, "uploading");
    let silent = Output::new(true).bytes(0, "");
    let mut files = stream::iter(&found.examples)
        .map(|file| one(client, file, &known, &silent))
        .buffered(usize::from(folder.concurrency));
    let mut report = Report::default();
    let mut batch = Vec::new();
    for file in &found.examples {
        let Some(done) = files.next().await else {
            break;
        };
        progress.add(1);
        match done {
            Ok(Done::Present(digest)) => {
                report.present += 1;
                written.fetch_add(1, Ordering::Relaxed);
                report.bytes.entry(digest).or_default().push(file);
            }
            Ok(Done::Example(example, digest)) => {
                report.bytes.entry(digest).or_default().push(file);
                batch.push(example);
            }
            Err(error) => {
                // A server that has gone or has no room refuses all the others, too.
                if matches!(error.exit_code(), 69 | 70 | 75 | 77) {
                    write(client, &name, batch, (&progress, written)).await?;
                    return Err(error);
                }
                let name = file.path.display().to_string();
                let error = Error::File {
                    name,
                    source: Box::new(error),
                };
                progress.line(&error.to_string());
                report.refused.push((file, error));
            }
        }
        if batch.len() == EXAMPLES {
            write(
                client,
                &name,
                std::mem::take(&mut batch),
                (&progress, written),
            )
            .await?;
        }
    }
    write(client, &name, batch, (&progress, written)).await?;
    progress.finish();
    let request = v1::GetDatasetRequest { name };
    let dataset = client.datasets().get_dataset(request).await?.into_inner();
    report.print(&dataset, &found, output);
    let refused = report.refused.len();
    let total = found.examples.len();
    if refused > 0 {
        return Err(Error::SomeRefused { refused, total });
    }
    found.broken.into_iter().next().map_or(Ok(()), Err)
}

/// Uploads a file unless that was done before.
async fn one(
    client: &Client,
    file: &Labelled,
    known: &Mutex<Known>,
    progress: &Progress,
) -> Result<Done, Error> {
    let source = upload::Source::open(&file.path).await?;
    let split = match file.split {
        Split::Train => v1::Split::Train,
        Split::Validation => v1::Split::Validation,
        Split::Test => v1::Split::Test,
    };
    let digest = source.sha256.clone();
    let uploaded = {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let example = (digest.clone(), file.labels.clone(), split);
        if let Some(count) = known.examples.get_mut(&example).filter(|count| **count > 0) {
            *count -= 1;
            return Ok(Done::Present(digest));
        }
        known.videos.get_mut(&digest).and_then(Vec::pop)
    };
    let video = match uploaded {
        Some(name) => name,
        None => upload::send(client, &source, progress).await?.name,
    };
    let example = v1::Example {
        video,
        labels: file.labels.iter().map(str::to_owned).collect(),
        split: split.into(),
        ..Default::default()
    };
    Ok(Done::Example(example, digest))
}

async fn write(
    client: &Client,
    dataset: &str,
    examples: Vec<v1::Example>,
    (progress, written): (&Progress, &AtomicUsize),
) -> Result<(), Error> {
    if examples.is_empty() {
        return Ok(());
    }
    let count = examples.len();
    let request = v1::AddExamplesRequest {
        name: dataset.to_owned(),
        examples,
    };
    let dataset = client.datasets().add_examples(request).await?.into_inner();
    written.fetch_add(count, Ordering::Relaxed);
    progress.say(&format!("{} examples", dataset.examples));
    Ok(())
}

/// The outcome of a run, for people and for programs.
#[derive(Default)]
struct Report<'a> {
    /// Number of examples that the data set had already.
    present: usize,
    refused: Vec<(&'a Labelled, Error)>,
    /// Files by the digest of their bytes.
    bytes: BTreeMap<Digest, Vec<&'a Labelled>>,
}

impl Report<'_> {
    /// Files of equal bytes with different labels or splits: a leak between splits, or a contradiction.
    fn equal(&self) -> Option<Note> {
        let differ = |files: &&Vec<&Labelled>| {
            let first = files.first().map(|file| (&file.labels, file.split));
            files
                .iter()
                .any(|file| Some((&file.labels, file.split)) != first)
        };
        let items: Vec<String> = self
            .bytes
            .values()
            .filter(differ)
            .map(|files| {
                let names = files.iter().map(|file| file.path.display().to_string());
                names.collect::<Vec<_>>().join(" = ")
            })
            .collect();
        (!items.is_empty()).then(|| Note {
            kind: "equal_bytes",
            what: "videos with equal bytes and different labels or splits".to_owned(),
            items,
        })
    }

    fn print(&self, dataset: &v1::Dataset, found: &Listing, output: Output) {
        let equal = self.equal();
        if let Some(note) = &equal {
            output.note(&format!("warning: {note}"));
        }
        if self.present > 0 {
            output.note(&format!("{} examples were there already", self.present));
        }
        let notes = found.notes.iter().chain(&equal);
        output.result(
            || table(dataset),
            || {
                let mut value = as_json::dataset(dataset);
                value["already_there"] = json!(self.present);
                value["notes"] = notes.map(Note::json).collect();
                value["broken_lists"] = found.broken.iter().map(|list| json!(list.to_string())).collect();
                let refused = self.refused.iter().map(
                    |(file, error)| json!({"path": file.path.display().to_string(), "error": error.to_string()}),
                );
                value["refused"] = Value::Array(refused.collect());
                value
            },
        );
    }
}
