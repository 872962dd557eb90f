//! The client's commands, and the options of their connection; each command owns its arguments.

use clap::{Args, Subcommand};
use futures::future::LocalBoxFuture;

use super::output::Output;
use super::{
    Error, classify, dataset, embed, health, info, jobs, tasks, train, upload, uploads, versions,
    videos,
};

/// The server that is called when none is named.
const SERVER: &str = "127.0.0.1:50051";

/// Options of every client command that are given before the subcommand, as in `frameshift --server HOST:PORT tasks list`.
#[derive(Debug, Clone, Default, Args)]
pub struct Before {
    /// Address of the server, for the commands that speak to one [default: 127.0.0.1:50051]
    #[arg(long, env = "FRAMESHIFT_SERVER", value_name = "HOST:PORT")]
    pub server: Option<String>,
    /// Tenant to call as, for the commands that speak to a server; the server's default tenant when absent
    #[arg(long, env = "FRAMESHIFT_TENANT")]
    pub tenant: Option<String>,
    /// Prints results as JSON lines and no progress, for the commands that speak to a server
    #[arg(long)]
    pub json: bool,
}

/// Address of the server and tenant of the caller.
#[derive(Debug, Clone, Default, Args)]
pub struct Connection {
    /// Address of the server [env: FRAMESHIFT_SERVER] [default: 127.0.0.1:50051]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub server: Option<String>,
    /// Tenant to call as; the server's default tenant when absent [env: FRAMESHIFT_TENANT]
    #[arg(long, global = true)]
    pub tenant: Option<String>,
    /// Prints results as JSON, one object a line, and no progress
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
    /// Creates, fills, shows and deletes labelled data sets
    Dataset(dataset::Args),
    /// Fine-tunes a task on a data set and shows the progress
    Train(Box<train::Args>),
    /// Lists, shows, watches and cancels jobs
    Jobs(jobs::Args),
    /// Creates, shows and changes tasks and what they serve
    Tasks(tasks::Args),
    /// Classifies videos
    Classify(classify::Args),
    /// Writes features of videos as a NumPy array
    Embed(embed::Args),
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
    pub fn run(self) -> LocalBoxFuture<'static, Result<(), Error>> {
        // Boxed, so that it is compiled with this crate alone.
        Box::pin(self.run_one())
    }

    async fn run_one(self) -> Result<(), Error> {
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
            Self::Embed(args) => embed::run(&args).await,
            Self::Import(args) => versions::import(&args).await,
            Self::Export(args) => versions::export(&args).await,
        }
    }

    /// Takes the options that were given before the subcommand, where it has not its own.
    #[must_use]
    pub fn after(mut self, before: Before) -> Self {
        let connection = self.connection();
        connection.server = connection.server.take().or(before.server);
        connection.tenant = connection.tenant.take().or(before.tenant);
        connection.json |= before.json;
        self
    }

    /// Whether results, and so errors, are JSON.
    pub fn is_json(&mut self) -> bool {
        self.connection().json
    }

    fn connection(&mut self) -> &mut Connection {
        match self {
            Self::Health(args) => &mut args.connection,
            Self::Info(args) => &mut args.connection,
            Self::Upload(args) => &mut args.connection,
            Self::Uploads(args) => &mut args.connection,
            Self::Videos(args) => &mut args.connection,
            Self::Dataset(args) => &mut args.connection,
            Self::Train(args) => &mut args.connection,
            Self::Jobs(args) => &mut args.connection,
            Self::Tasks(args) => &mut args.connection,
            Self::Classify(args) => &mut args.connection,
            Self::Embed(args) => &mut args.connection,
            Self::Import(args) => &mut args.connection,
            Self::Export(args) => &mut args.connection,
        }
    }
}

impl Connection {
    /// The form in which this command prints.
    pub fn output(&self) -> Output {
        Output::new(self.json)
    }

    /// Address of the server.
    pub fn address(&self) -> &str {
        self.server.as_deref().unwrap_or(SERVER)
    }

    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn client(&self) -> Result<super::Client, Error> {
        super::Client::connect(self.address(), self.tenant.as_deref()).await
    }
}
