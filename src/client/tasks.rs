//! `frameshift tasks`: creates, shows and changes tasks and what they serve.

use std::time::Duration;

use super::cli::Connection;
use super::output::Output;
use super::{Client, Error, json, pages, resource};
use crate::proto::v1;

mod order;
mod serve;
mod shape;

pub use order::Order;
pub use shape::{HeadKind, Kernel, Rotation, Sites, TaskShape, check_shape, create, shaped};

/// Arguments of `tasks`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// The subcommand
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands of `tasks`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Creates a task
    Create {
        /// Task id, for example `gestures`
        id: String,
        /// Shape of the task
        #[command(flatten)]
        shape: TaskShape,
    },
    /// Lists tasks
    List,
    /// Shows a task
    Show {
        /// Task id
        id: String,
    },
    /// Lists a task's versions
    Versions {
        /// Task id
        id: String,
    },
    /// Shows one version of a task
    Version {
        /// Task id
        id: String,
        /// Number of the version
        version: u32,
    },
    /// Changes a task
    Update {
        /// Task id
        id: String,
        /// Name for people
        #[arg(long)]
        display_name: Option<String>,
        /// Whether the version of a finished job starts serving by itself
        #[arg(long, value_name = "BOOL")]
        auto_serve: Option<bool>,
    },
    /// Makes a version serve, or several share the requests, or goes back to what served before
    Serve(serve::Args),
    /// Deletes a task and its versions
    Delete {
        /// Task id
        id: String,
    },
    /// Keeps the adapter sets of a task's serving versions on the device, and loads them when the server starts
    Pin {
        /// Task id
        id: String,
        /// Unpins the task
        #[arg(long)]
        off: bool,
    },
    /// Lists the adapter sets that are on the device
    Residency,
}

/// Waits until a task serves a version that was requested; gives up when another one was requested meanwhile.
///
/// # Errors
/// When the server refuses, or cannot serve the version.
pub async fn until_serving(client: &Client, task: &str, version: &str) -> Result<(), Error> {
    loop {
        let request = v1::GetTaskRequest {
            name: task.to_owned(),
        };
        let task = client.tasks().get_task(request).await?.into_inner();
        if task.desired_version != version || task.serving_version == version {
            return Ok(());
        }
        if !task.serving_error.is_empty() {
            return Err(Error::Unserved {
                version: version.to_owned(),
                why: task.serving_error,
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a subcommand.
///
/// # Errors
/// When the server refuses.
pub async fn run(args: &Args) -> Result<(), Error> {
    let client = args.connection.client().await?;
    let output = args.connection.output();
    match &args.command {
        Command::Version { id, version } => version_of(&client, id, *version, output).await?,
        Command::Update {
            id,
            display_name,
            auto_serve,
        } => update(&client, id, display_name.as_deref(), *auto_serve, output).await?,
        Command::Create { id, shape } => show(&create(&client, id, shape).await?, output),
        Command::List => list(&client, output).await?,
        Command::Show { id } => {
            let task = get(&client, id).await?;
            output.result(|| described(&task), || json::task(&task));
        }
        Command::Versions { id } => versions(&client, id, output).await?,
        Command::Serve(args) => show(&serve::serve(&client, args).await?, output),
        Command::Delete { id } => {
            let name = resource("tasks", id);
            let request = v1::DeleteTaskRequest {
                name: name.clone(),
                ..Default::default()
            };
            client.tasks().delete_task(request).await?;
            output.result(
                || format!("{name} and its versions deleted"),
                || json::deleted(&name),
            );
        }
        Command::Pin { id, off } => {
            let request = v1::PinTaskRequest {
                name: resource("tasks", id),
                unpin: *off,
            };
            let task = client.tasks().pin_task(request).await?.into_inner();
            show(&task, output);
        }
        Command::Residency => residency(&client, output).await?,
    }
    Ok(())
}

async fn get(client: &Client, id: &str) -> Result<v1::Task, Error> {
    let name = resource("tasks", id);
    let request = v1::GetTaskRequest { name };
    Ok(client.tasks().get_task(request).await?.into_inner())
}

async fn list(client: &Client, output: Output) -> Result<(), Error> {
    pages::all(async |page_token| {
        let request = v1::ListTasksRequest {
            page_size: 0,
            page_token,
        };
        let page = client.tasks().list_tasks(request).await?.into_inner();
        for task in &page.tasks {
            show(task, output);
        }
        Ok(page.next_page_token)
    })
    .await
}

async fn versions(client: &Client, id: &str, output: Output) -> Result<(), Error> {
    pages::all(async |page_token| {
        let request = v1::ListAdapterVersionsRequest {
            parent: resource("tasks", id),
            page_size: 0,
            page_token,
        };
        let page = client.tasks().list_adapter_versions(request).await?;
        let page = page.into_inner();
        for version in &page.versions {
            output.result(|| version_line(version), || json::version(version));
        }
        Ok(page.next_page_token)
    })
    .await
}

/// A version in a line; what was never measured has no number.
fn version_line(version: &v1::AdapterVersion) -> String {
    let measured = version.evaluation.as_ref().filter(|e| e.examples > 0);
    let top1 = measured.map_or_else(|| "–".to_owned(), |e| format!("{:.3}", e.top1));
    format!(
        "{}  top-1 {top1}  {} parameters  {} bytes  {}",
        version.name, version.parameters, version.size_bytes, version.job
    )
}

async fn version_of(client: &Client, id: &str, version: u32, output: Output) -> Result<(), Error> {
    let name = format!("{}/versions/{version}", resource("tasks", id));
    let request = v1::GetAdapterVersionRequest { name };
    let answer = client.tasks().get_adapter_version(request).await?;
    let version = answer.into_inner();
    let text = || {
        format!(
            "{}\nlabels  {}",
            version_line(&version),
            version.labels.join(", ")
        )
    };
    output.result(text, || json::version(&version));
    Ok(())
}

async fn update(
    client: &Client,
    id: &str,
    display_name: Option<&str>,
    auto_serve: Option<bool>,
    output: Output,
) -> Result<(), Error> {
    let mut paths = Vec::new();
    paths.extend(display_name.map(|_| "display_name".to_owned()));
    paths.extend(auto_serve.map(|_| "auto_serve".to_owned()));
    if paths.is_empty() {
        let options = "nothing to change: give --display-name or --auto-serve";
        return Err(Error::Usage(options.to_owned()));
    }
    let task = v1::Task {
        name: resource("tasks", id),
        display_name: display_name.unwrap_or_default().to_owned(),
        auto_serve,
        ..Default::default()
    };
    let request = v1::UpdateTaskRequest {
        task: Some(task),
        update_mask: Some(prost_types::FieldMask { paths }),
    };
    let task = client.tasks().update_task(request).await?.into_inner();
    show(&task, output);
    Ok(())
}

async fn residency(client: &Client, output: Output) -> Result<(), Error> {
    let request = v1::ListResidencyRequest {};
    let answer = client.tasks().list_residency(request).await?.into_inner();
    let replica = &answer.replica;
    for set in &answer.sets {
        output.result(
            || {
                let trouble = match set.quarantine_reason.as_str() {
                    "" => String::new(),
                    reason => format!("  quarantined: {reason}"),
                };
                let pinned = if set.pinned { "  pinned" } else { "" };
                let size = set.size_bytes;
                format!(
                    "{}  {size} bytes on {replica}{pinned}{trouble}",
                    set.version
                )
            },
            || json::residency(set, replica),
        );
    }
    Ok(())
}

fn show(task: &v1::Task, output: Output) {
    output.result(|| line(task), || json::task(task));
}

/// A task in a line: what serves, and what is to replace it.
fn line(task: &v1::Task) -> String {
    let serving = match task.serving_version.as_str() {
        "" => "serves nothing yet".to_owned(),
        version => format!("serves {version}"),
    };
    let desired = if task.desired_version == task.serving_version {
        String::new()
    } else {
        format!("; {} is being loaded to replace it", task.desired_version)
    };
    let trouble = match task.serving_error.as_str() {
        "" => String::new(),
        error => format!(" ({error})"),
    };
    let pinned = if task.pinned { "; pinned" } else { "" };
    format!("{}  {serving}{desired}{pinned}{trouble}", task.name)
}

/// A task with its shape, in several lines.
fn described(task: &v1::Task) -> String {
    let adapter = task.adapter.unwrap_or_default();
    let sampling = task.sampling.unwrap_or_default();
    let layers = match adapter.adapter_layers {
        0 => "all blocks".to_owned(),
        layers => format!("the last {layers} blocks"),
    };
    let sites = shape::Sites::of(&adapter);
    let adapters = match sites {
        Sites::None if matches!(task.head(), v1::Head::Unspecified | v1::Head::Mean) => {
            "none: a linear probe".to_owned()
        }
        Sites::None => "none".to_owned(),
        Sites::PreMlp | Sites::PreAttn | Sites::Both => format!(
            "{sites}, width {}, kernel {},{},{}, {layers}",
            adapter.adapter_width,
            adapter.adapter_kernel_t,
            adapter.adapter_kernel_h,
            adapter.adapter_kernel_w
        ),
    };
    format!(
        "{}{}
name        {}
adapters    {adapters}
head        {}
sampling    {} frames, sampling rate {}, {} temporal and {} spatial views, rotation {}
auto-serve  {}",
        line(task),
        serve::described(task),
        task.display_name,
        json::head_name(task.head()),
        sampling.num_frames,
        sampling.sampling_rate,
        sampling.num_temporal_views,
        sampling.num_spatial_views,
        json::rotation_name(sampling.rotation()),
        task.auto_serve.unwrap_or(true),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_has_no_number() {
        let version = v1::AdapterVersion::default();
        assert!(version_line(&version).contains("top-1 –"));
        assert!(json::version(&version)["evaluation"].is_null());
    }

    #[test]
    fn a_task_says_what_serves_and_what_replaces_it() {
        let mut task = v1::Task {
            name: "tasks/a".to_owned(),
            serving_version: "tasks/a/versions/1".to_owned(),
            desired_version: "tasks/a/versions/2".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            line(&task),
            "tasks/a  serves tasks/a/versions/1; tasks/a/versions/2 is being loaded to replace it"
        );
        task.desired_version = task.serving_version.clone();
        assert_eq!(line(&task), "tasks/a  serves tasks/a/versions/1");
        assert!(described(&task).contains("linear probe"));
    }
}
