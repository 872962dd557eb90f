//! `frameshift tasks`: creates, shows and changes tasks and what they serve.

use std::time::Duration;

use super::cli::Connection;
use super::output::Output;
use super::{Client, Error, json, resource};
use crate::proto::v1;

/// Arguments of `tasks`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with tasks.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Creates a task
    Create {
        /// Its id
        id: String,
        /// Its shape
        #[command(flatten)]
        shape: TaskShape,
    },
    /// Lists tasks
    List,
    /// Shows a task
    Show {
        /// Its id
        id: String,
    },
    /// Lists a task's versions
    Versions {
        /// The task's id
        id: String,
    },
    /// Makes a version serve
    Serve {
        /// The task's id
        id: String,
        /// The version's number
        version: u32,
    },
    /// Deletes a task and its versions
    Delete {
        /// Its id
        id: String,
    },
    /// Lists the adapter sets that are on the device
    Residency,
}

/// The shape of a new task.
#[derive(Debug, clap::Args)]
pub struct TaskShape {
    /// Where adapters sit
    #[arg(long, value_enum, default_value = "pre-mlp")]
    pub sites: Sites,
    /// Bottleneck width of the adapters
    #[arg(long, default_value_t = 384)]
    pub adapter_width: u32,
    /// Adapters in the last so many blocks; 0 means all
    #[arg(long, default_value_t = 0)]
    pub adapter_layers: u32,
    /// Kernel over time, height and width, each odd
    #[arg(long, value_name = "T,H,W", value_delimiter = ',', default_values_t = [3, 1, 1])]
    pub adapter_kernel: Vec<u32>,
    /// Frames per clip
    #[arg(long, default_value_t = 8)]
    pub num_frames: u32,
    /// Every so many frames; 0 spreads them over the whole video
    #[arg(long, default_value_t = 0)]
    pub sampling_rate: u32,
    /// Temporal views at classification, with a sampling rate
    #[arg(long, default_value_t = 1)]
    pub temporal_views: u32,
    /// Spatial views at classification: 1 or 3
    #[arg(long, default_value_t = 1)]
    pub spatial_views: u32,
}

/// Where adapters sit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sites {
    /// Before the MLP of each block
    PreMlp,
    /// Before attention
    PreAttn,
    /// Before both
    Both,
    /// Nowhere: a linear probe
    None,
}

/// Waits until a task serves a version that it was told to serve; not when it was told another meanwhile.
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
        Command::Create { id, shape } => show(&create(&client, id, shape).await?, output),
        Command::List => list(&client, output).await?,
        Command::Show { id } => show(&get(&client, id).await?, output),
        Command::Versions { id } => versions(&client, id, output).await?,
        Command::Serve { id, version } => serve(&client, id, *version, output).await?,
        Command::Delete { id } => {
            let request = v1::DeleteTaskRequest {
                name: resource("tasks", id),
                ..Default::default()
            };
            client.tasks().delete_task(request).await?;
        }
        Command::Residency => residency(&client, output).await?,
    }
    Ok(())
}

/// Creates a task of a shape.
///
/// # Errors
/// When the server refuses.
pub async fn create(client: &Client, id: &str, shape: &TaskShape) -> Result<v1::Task, Error> {
    let kernel = |axis: usize| shape.adapter_kernel.get(axis).copied().unwrap_or(1);
    let task = v1::Task {
        adapter: Some(v1::AdapterConfig {
            adapter_width: shape.adapter_width,
            adapter_layers: shape.adapter_layers,
            adapter_kernel_t: kernel(0),
            adapter_kernel_h: kernel(1),
            adapter_kernel_w: kernel(2),
            adapter_pre_attn: matches!(shape.sites, Sites::PreAttn | Sites::Both),
            adapter_pre_mlp: matches!(shape.sites, Sites::PreMlp | Sites::Both),
        }),
        sampling: Some(v1::ClipSampling {
            num_frames: shape.num_frames,
            sampling_rate: shape.sampling_rate,
            num_temporal_views: shape.temporal_views,
            num_spatial_views: shape.spatial_views,
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = v1::CreateTaskRequest {
        task_id: id.strip_prefix("tasks/").unwrap_or(id).to_owned(),
        task: Some(task),
        request_id: uuid::Uuid::now_v7().to_string(),
    };
    Ok(client.tasks().create_task(request).await?.into_inner())
}

async fn get(client: &Client, id: &str) -> Result<v1::Task, Error> {
    let name = resource("tasks", id);
    let request = v1::GetTaskRequest { name };
    Ok(client.tasks().get_task(request).await?.into_inner())
}

async fn list(client: &Client, output: Output) -> Result<(), Error> {
    let mut page_token = String::new();
    loop {
        let request = v1::ListTasksRequest {
            page_size: 0,
            page_token,
        };
        let page = client.tasks().list_tasks(request).await?.into_inner();
        for task in &page.tasks {
            show(task, output);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

async fn versions(client: &Client, id: &str, output: Output) -> Result<(), Error> {
    let mut page_token = String::new();
    loop {
        let request = v1::ListAdapterVersionsRequest {
            parent: resource("tasks", id),
            page_size: 0,
            page_token,
        };
        let page = client.tasks().list_adapter_versions(request).await?;
        let page = page.into_inner();
        for version in &page.versions {
            output.result(
                || {
                    let top1 = version.evaluation.as_ref().map_or(0.0, |e| e.top1);
                    format!(
                        "{}  top-1 {top1:.3}  {} parameters  {} bytes  {}",
                        version.name, version.parameters, version.size_bytes, version.job
                    )
                },
                || json::version(version),
            );
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

async fn serve(client: &Client, id: &str, version: u32, output: Output) -> Result<(), Error> {
    let task = get(client, id).await?;
    let request = v1::SetServingRequest {
        version: format!("{}/versions/{version}", task.name),
        name: task.name,
        etag: task.etag,
    };
    show(
        &client.tasks().set_serving(request).await?.into_inner(),
        output,
    );
    Ok(())
}

async fn residency(client: &Client, output: Output) -> Result<(), Error> {
    let request = v1::ListResidencyRequest {};
    for set in &client
        .tasks()
        .list_residency(request)
        .await?
        .into_inner()
        .sets
    {
        output.result(
            || {
                let trouble = match set.quarantine_reason.as_str() {
                    "" => String::new(),
                    reason => format!("  quarantined: {reason}"),
                };
                format!("{}  {} bytes{trouble}", set.version, set.size_bytes)
            },
            || json::residency(set),
        );
    }
    Ok(())
}

fn show(task: &v1::Task, output: Output) {
    output.result(
        || {
            let serving = match task.serving_version.as_str() {
                "" => "serves nothing yet".to_owned(),
                version => format!("serves {version}"),
            };
            let desired = if task.desired_version == task.serving_version {
                String::new()
            } else {
                format!(", to be replaced by {}", task.desired_version)
            };
            let trouble = match task.serving_error.as_str() {
                "" => String::new(),
                error => format!(" ({error})"),
            };
            format!("{}  {serving}{desired}{trouble}", task.name)
        },
        || json::task(task),
    );
}
