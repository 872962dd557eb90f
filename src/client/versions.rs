//! `frameshift import` and `frameshift export`: versions from files and as files.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use futures::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tonic_types::StatusExt;

use super::cli::Connection;
use super::tasks::{Order, TaskShape};
use super::upload::Source;
use super::{Client, Error, json, resource, tasks, text, whole};
use crate::proto::v1::{self, export_adapter_version_response, import_adapter_version_request};
use crate::spec::normal_label;

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// Checkpoint file
    pub file: PathBuf,
    /// Task that gets the version; created when it does not exist
    #[arg(long)]
    pub task: String,
    /// Text file with one label a line: line i is row i of the head
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// The labels do not exclude one another, when the file does not say
    #[arg(long)]
    pub multi_label: bool,
    /// Frames per clip of a task that is created, when the file does not say [default: 8]
    #[arg(long)]
    pub num_frames: Option<u32>,
    /// Distance of sampled frames of a task that is created; 0 spreads them over the whole video [default: 0]
    #[arg(long)]
    pub sampling_rate: Option<u32>,
    /// The order in which frames are counted, when the task is created [default: display]
    #[arg(long, value_enum)]
    pub order: Option<Order>,
}

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// Task id
    #[arg(long)]
    pub task: String,
    /// Number of the version; the serving one when absent
    #[arg(long)]
    pub version: Option<u32>,
    /// File to write: .safetensors, or .pth or .pt for PyTorch
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replaces the file when it exists
    #[arg(long)]
    pub force: bool,
}

/// `frameshift import`.
///
/// # Errors
/// When a file cannot be read or the server refuses it.
pub(super) async fn import(args: &ImportArgs) -> Result<(), Error> {
    use import_adapter_version_request::Payload;
    let labels = match &args.labels {
        Some(path) => labels(path)?,
        None => Vec::new(),
    };
    let source = Source::open(&args.file).await?;
    let client = args.connection.client().await?;
    let output = args.connection.output();
    let sampling = sampling(&client, args).await?;
    let header = v1::ImportAdapterVersionHeader {
        parent: resource("tasks", &args.task),
        labels,
        sha256: source.sha256.clone().into(),
        request_id: uuid::Uuid::now_v7().to_string(),
        create_task: true,
        sampling,
        label_kind: match args.multi_label {
            true => v1::LabelKind::Multi,
            false => v1::LabelKind::Unspecified,
        }
        .into(),
        ..Default::default()
    };
    let progress = output.bytes(source.size, &args.file.to_string_lossy());
    let messages = stream::once(async { Payload::Header(header) })
        .chain(source.chunks(0).map(Payload::Chunk))
        .map(|payload| v1::ImportAdapterVersionRequest {
            payload: Some(payload),
        });
    let answer = client.tasks().import_adapter_version(messages).await;
    let answer = answer.map_err(|status| of_labels(status, args.labels.as_ref()))?;
    progress.finish();
    let version = answer.into_inner();
    output.result(
        || {
            let count = version.labels.len();
            let passed_over = version.passed_over.iter();
            let passed_over: String = passed_over
                .map(|object| format!("\n  passed over {object}"))
                .collect();
            format!(
                "{}  {count} labels, {} parameters{passed_over}",
                version.name, version.parameters
            )
        },
        || json::version(&version),
    );
    Ok(())
}

/// Returns the sampling that the options ask for; without options it is the task's, the file's or the server's own. Refuses options that contradict
/// the task when it exists.
async fn sampling(client: &Client, args: &ImportArgs) -> Result<Option<v1::ClipSampling>, Error> {
    let shape = TaskShape {
        num_frames: args.num_frames,
        sampling_rate: args.sampling_rate,
        order: args.order,
        ..TaskShape::default()
    };
    let request = v1::GetTaskRequest {
        name: resource("tasks", &args.task),
    };
    let task = match client.tasks().get_task(request).await {
        Ok(task) => Some(task.into_inner()),
        Err(status) if status.code() == tonic::Code::NotFound => None,
        Err(status) => return Err(status.into()),
    };
    if let Some(task) = &task {
        tasks::check_shape(task, &shape)?;
    }
    if args.num_frames.is_none() && args.sampling_rate.is_none() && args.order.is_none() {
        return Ok(None);
    }
    // Options that were given are the task's already when it exists.
    Ok(Some(task.and_then(|task| task.sampling).unwrap_or(
        v1::ClipSampling {
            num_frames: args.num_frames.unwrap_or(8),
            sampling_rate: args.sampling_rate.unwrap_or(0),
            order: Order::number(args.order),
            ..Default::default()
        },
    )))
}

/// The labels of a file, one a line, in their normal form.
fn labels(path: &Path) -> Result<Vec<String>, Error> {
    let text = text::read(path)?;
    label_lines(&text).map_err(|(line, problem)| Error::List {
        path: path.to_owned(),
        line,
        problem,
    })
}

/// The labels of a text: empty lines at its end are none; an empty one between others is a fault, since it would move the rows below. A fault comes with
/// its line.
fn label_lines(text: &str) -> Result<Vec<String>, (u64, String)> {
    let mut rows: BTreeMap<String, u64> = BTreeMap::new();
    let mut labels = Vec::new();
    for (line, text) in (1..).zip(text.trim_end().lines()) {
        let label = match text.trim() {
            "" => return Err((line, "empty; line i is the label of row i".to_owned())),
            text => normal_label(text).map_err(|invalid| (line, invalid.problem))?,
        };
        if let Some(first) = rows.insert(label.clone(), line) {
            return Err((
                line,
                format!("label {label:?} is that of line {first}, too"),
            ));
        }
        labels.push(label);
    }
    match labels.is_empty() {
        true => Err((1, "no label".to_owned())),
        false => Ok(labels),
    }
}

/// A refusal of the labels is one of their file.
fn of_labels(status: tonic::Status, labels: Option<&PathBuf>) -> Error {
    let details = status.get_error_details();
    let bad = details.bad_request();
    let mut fields = bad.iter().flat_map(|bad| &bad.field_violations);
    let is_theirs = fields.any(|violation| violation.field.starts_with("header.labels"));
    match labels {
        Some(path) if is_theirs => Error::File {
            name: path.display().to_string(),
            source: Box::new(status.into()),
        },
        Some(_) | None => status.into(),
    }
}

/// `frameshift export`.
///
/// # Errors
/// When the server refuses or the file cannot be written.
pub(super) async fn export(args: &ExportArgs) -> Result<(), Error> {
    let format = match args.out.extension().and_then(std::ffi::OsStr::to_str) {
        Some("safetensors") => v1::ExportFormat::Safetensors,
        Some("pth" | "pt") => v1::ExportFormat::Pytorch,
        _ => {
            return Err(Error::Format {
                path: args.out.clone(),
            });
        }
    };
    if args.out.exists() && !args.force {
        return Err(Error::Exists {
            path: args.out.clone(),
        });
    }
    let client = args.connection.client().await?;
    let name = version_name(&client, args).await?;
    let version = receive(&client, name, format, &args.out).await?;
    args.connection.output().result(
        || format!("{}  {}", version.name, args.out.display()),
        || json::version(&version),
    );
    Ok(())
}

async fn version_name(client: &Client, args: &ExportArgs) -> Result<String, Error> {
    let task = resource("tasks", &args.task);
    if let Some(version) = args.version {
        return Ok(format!("{task}/versions/{version}"));
    }
    let request = v1::GetTaskRequest { name: task.clone() };
    let found = client.tasks().get_task(request).await?.into_inner();
    match found.serving_version.as_str() {
        "" => Err(Error::NoVersion { task }),
        version => Ok(version.to_owned()),
    }
}

/// Writes beside the place, checks, and renames: the file is whole or absent.
async fn receive(
    client: &Client,
    name: String,
    format: v1::ExportFormat,
    out: &Path,
) -> Result<v1::AdapterVersion, Error> {
    use export_adapter_version_response::Payload;
    let failed = |source| whole::failed(out, source);
    let request = v1::ExportAdapterVersionRequest {
        name,
        format: format.into(),
    };
    let mut answers = client
        .tasks()
        .export_adapter_version(request)
        .await?
        .into_inner();
    let first = answers.message().await?.and_then(|first| first.payload);
    let Some(Payload::Header(header)) = first else {
        return Err(Error::Truncated);
    };
    let mut beside = whole::beside(out).map_err(failed)?;
    let mut sha = Sha256::new();
    while let Some(message) = answers.message().await? {
        let Some(Payload::Chunk(chunk)) = message.payload else {
            return Err(Error::Truncated);
        };
        sha.update(&chunk);
        // A chunk is small and goes to the page cache; nothing else runs in this program meanwhile.
        beside.write_all(&chunk).map_err(failed)?;
    }
    if sha.finalize().as_slice() != header.sha256 {
        return Err(Error::Damaged);
    }
    whole::named(beside, out).map_err(failed)?;
    header.version.ok_or(Error::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_files_end_with_empty_lines_and_have_labels_in_their_normal_form() {
        assert_eq!(
            label_lines("left\r\n right \r\n\r\n\n"),
            Ok(vec!["left".to_owned(), "right".to_owned()])
        );
        assert_eq!(label_lines("cafe\u{301}"), Ok(vec!["caf\u{e9}".to_owned()]));
        for (text, line, says) in [
            ("left\n\nright", 2, "empty"),
            ("left\nright\nleft ", 3, "that of line 1"),
            ("caf\u{e9}\ncafe\u{301}", 2, "that of line 1"),
            ("left\na\tb", 2, "control characters"),
            ("left\n\u{200b}", 2, "not 1 to 255 bytes"),
            ("\n \n", 1, "no label"),
        ] {
            let (at, problem) = label_lines(text).unwrap_err();
            assert_eq!(at, line, "{text:?}");
            assert!(problem.contains(says), "{text:?}: {problem}");
        }
    }
}
