//! The client's commands, and where their server is; each command owns its arguments.

use clap::{Args, Subcommand};

use super::output::Output;
use super::{
    Error, classify, dataset, health, info, jobs, tasks, train, upload, uploads, versions, videos,
};

/// Where the server is, and as whom to call it.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// Address of the server
    #[arg(
        long,
        global = true,
        env = "FRAMESHIFT_SERVER",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:50051"
    )]
    pub server: String,
    /// Tenant to call as; the server's default one when absent
    #[arg(long, global = true, env = "FRAMESHIFT_TENANT")]
    pub tenant: Option<String>,
    /// Prints results as JSON, one value a line, and no progress
    #[arg(long, global = true)]
    pub json: bool,
}

/// A command that speaks to a server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Asks whether the server is serving; exit code 0 when it is, 69 when not
    Health(health::Args),
    /// Shows the server's version, backbone, device and limits, and as which tenant it sees the caller
    Info(info::Args),
    /// Uploads videos; an interrupted upload resumes where it stopped
    Upload(upload::Args),
    /// Lists and deletes uploads that are not finished
    Uploads(uploads::Args),
    /// Lists, shows and deletes uploaded videos
    Videos(videos::Args),
    /// Creates, shows and deletes labelled data sets
    Dataset(dataset::Args),
    /// Fine-tunes a task on a data set and shows the progress
    Train(train::Args),
    /// Lists, shows, watches and cancels jobs
    Jobs(jobs::Args),
    /// Creates, shows and changes tasks and what they serve
    Tasks(tasks::Args),
    /// Classifies videos
    Classify(classify::Args),
    /// Imports an ST-Adapter checkpoint (.pth, .safetensors) as a new version
    Import(versions::ImportArgs),
    /// Exports a version as a safetensors file or as one that torch.load reads (.pth)
    Export(versions::ExportArgs),
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// When the server or a file refuses; the error knows its exit code.
    pub async fn run(self) -> Result<(), Error> {
        match self {
            Self::Health(args) => health::run(&args).await,
            Self::Info(args) => info::run(&args).await,
            Self::Upload(args) => upload::upload(&args).await,
            Self::Videos(args) => videos::run(&args).await,
            Self::Uploads(args) => uploads::run(&args).await,
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

impl Command {
    /// Whether results, and so errors, are JSON.
    pub fn is_json(&self) -> bool {
        let connection = match self {
            Self::Health(args) => &args.connection,
            Self::Info(args) => &args.connection,
            Self::Upload(args) => &args.connection,
            Self::Uploads(args) => &args.connection,
            Self::Videos(args) => &args.connection,
            Self::Dataset(args) => &args.connection,
            Self::Train(args) => &args.connection,
            Self::Jobs(args) => &args.connection,
            Self::Tasks(args) => &args.connection,
            Self::Classify(args) => &args.connection,
            Self::Import(args) => &args.connection,
            Self::Export(args) => &args.connection,
        };
        connection.json
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
