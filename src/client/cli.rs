//! The arguments of the client's commands.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::output::Output;
use super::{Error, classify, dataset, health, jobs, tasks, train, upload, versions};

/// Where the server is, and as whom to call it.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// Address of the server
    #[arg(
        long,
        global = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:50051"
    )]
    pub server: String,
    /// Tenant to call as; the server's default one when absent
    #[arg(long, global = true)]
    pub tenant: Option<String>,
    /// Prints results as JSON, one value a line, and no progress
    #[arg(long, global = true)]
    pub json: bool,
}

/// A command that speaks to a server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Asks whether the server is serving; exit code 0 when it is, 69 when not
    Health(HealthArgs),
    /// Uploads videos; an upload that was cut goes on where it stopped
    Upload(UploadArgs),
    /// Creates, shows and deletes labelled data sets
    Dataset(DatasetArgs),
    /// Fine-tunes a task on a data set and shows the progress
    Train(TrainArgs),
    /// Lists, shows, watches and cancels jobs
    Jobs(JobsArgs),
    /// Creates, shows and changes tasks and what they serve
    Tasks(TasksArgs),
    /// Classifies videos
    Classify(ClassifyArgs),
    /// Makes a version of a checkpoint of the reference's code (.pth) or of an adapter file (safetensors)
    Import(ImportArgs),
    /// Writes a version as a safetensors file or as one that torch.load reads (.pth)
    Export(ExportArgs),
}

/// Arguments of `health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
}

/// Arguments of `upload`.
#[derive(Debug, Args)]
pub struct UploadArgs {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// Video files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

/// Arguments of `dataset`.
#[derive(Debug, Args)]
pub struct DatasetArgs {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// What to do
    #[command(subcommand)]
    pub command: DatasetCommand,
}

/// What to do with data sets.
#[derive(Debug, Subcommand)]
pub enum DatasetCommand {
    /// Uploads a folder's labelled videos as a new data set
    Create {
        /// Its id
        id: String,
        /// Folder: <split>/<label>/<video>, or with the annotation lists of Kinetics (csv) or Something-Something v2 (json)
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Uploads at once
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
        concurrency: u8,
    },
    /// Shows a data set and its counts
    Show {
        /// Its id
        id: String,
    },
    /// Lists data sets
    List,
    /// Deletes a data set; its videos stay
    Delete {
        /// Its id
        id: String,
    },
}

/// Where adapters sit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
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

/// The shape of a new task.
#[derive(Debug, Args)]
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

/// Arguments of `train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// Task to fine-tune; created when it does not exist
    #[arg(long)]
    pub task: String,
    /// Data set to train on
    #[arg(long)]
    pub dataset: String,
    /// Submits the job and returns at once
    #[arg(long)]
    pub detach: bool,
    /// The shape of the task when it is created
    #[command(flatten)]
    pub shape: TaskShape,
    /// How to train
    #[command(flatten)]
    pub hyper: Hyper,
}

/// How to train; what is absent is chosen by the server.
#[derive(Debug, Args)]
pub struct Hyper {
    /// Passes over the training split
    #[arg(long)]
    pub epochs: Option<u32>,
    /// Clips per step
    #[arg(long)]
    pub batch_size: Option<u32>,
    /// Peak learning rate
    #[arg(long)]
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Dropout before the head
    #[arg(long)]
    pub dropout: Option<f64>,
    /// Smallest share of the picture's area that a random crop keeps
    #[arg(long)]
    pub min_crop_area: Option<f64>,
    /// Mirrors half of the training clips
    #[arg(long)]
    pub horizontal_flip: bool,
    /// Seed of every random choice
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Arguments of `jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// What to do
    #[command(subcommand)]
    pub command: JobsCommand,
}

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// Lists jobs, oldest first
    List,
    /// Shows a job and its result
    Show {
        /// Its id
        id: String,
    },
    /// Shows a job's progress until it ends
    Watch {
        /// Its id
        id: String,
        /// Skips events up to this sequence number
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
    /// Asks a job to stop
    Cancel {
        /// Its id
        id: String,
    },
}

/// Arguments of `tasks`.
#[derive(Debug, Args)]
pub struct TasksArgs {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// What to do
    #[command(subcommand)]
    pub command: TasksCommand,
}

/// What to do with tasks.
#[derive(Debug, Subcommand)]
pub enum TasksCommand {
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

/// Arguments of `classify`.
#[derive(Debug, Args)]
pub struct ClassifyArgs {
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
    /// Video files, or names of uploaded videos (videos/…)
    #[arg(required = true)]
    pub videos: Vec<String>,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// The file
    pub file: PathBuf,
    /// Task that gets the version; created when it does not exist
    #[arg(long)]
    pub task: String,
    /// Text file with one label a line: line i is row i of the head
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Frames per clip, when the task is created and the file does not say
    #[arg(long, default_value_t = 8)]
    pub num_frames: u32,
    /// Every so many frames, when the task is created; 0 spreads them over the whole video
    #[arg(long, default_value_t = 0)]
    pub sampling_rate: u32,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The server
    #[command(flatten)]
    pub connection: Connection,
    /// The task
    #[arg(long)]
    pub task: String,
    /// The version's number; the serving one when absent
    #[arg(long)]
    pub version: Option<u32>,
    /// File to write: .safetensors, or .pth or .pt for PyTorch
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replaces the file when it is there
    #[arg(long)]
    pub force: bool,
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// When the server or a file refuses; the error knows its exit code.
    pub async fn run(self) -> Result<(), Error> {
        match self {
            Self::Health(args) => health::health(&args.connection, args.connection.output()).await,
            Self::Upload(args) => upload::upload(&args).await,
            Self::Dataset(args) => dataset::run(&args).await,
            Self::Train(args) => train::train(&args).await,
            Self::Jobs(args) => jobs::run(&args).await,
            Self::Tasks(args) => tasks::run(&args).await,
            Self::Classify(args) => classify::run(&args).await,
            Self::Import(args) => versions::import(&args).await,
            Self::Export(args) => versions::export(&args).await,
        }
    }
}

impl Connection {
    /// How this command prints.
    pub fn output(&self) -> Output {
        Output::new(self.json)
    }

    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn client(&self) -> Result<super::Client, Error> {
        super::Client::connect(&self.server, self.tenant.as_deref()).await
    }
}
