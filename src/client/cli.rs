//! The client's commands, and the options of their connection; each command owns its arguments.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use futures::future::LocalBoxFuture;
use secrecy::SecretString;
use uuid::Uuid;

use super::output::Output;
use super::{
    Error, Options, Tls, audit, classify, dataset, embed, evaluate, health, info, jobs, keys,
    replicas, sweep, tasks, tenants, train, upload, uploads, usage, versions, videos,
};
use crate::telemetry::trace::Outgoing;

/// The server that is called when none is named.
const SERVER: &str = "127.0.0.1:50051";
/// The administrators' address that is called when none is named.
const ADMIN_SERVER: &str = "127.0.0.1:50052";

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
    /// W3C trace context that the command's requests join; without it, each command starts a trace of its own
    #[arg(long, env = "TRACEPARENT", value_name = "VERSION-TRACE-PARENT-FLAGS")]
    pub traceparent: Option<String>,
    /// State of the tracing system that goes with --traceparent
    #[arg(long, env = "TRACESTATE", value_name = "KEY=VALUE,…")]
    pub tracestate: Option<String>,
    /// File with the API key, or with a token of an issuer, read again as it changes; the environment variable FRAMESHIFT_API_KEY may hold either itself
    #[arg(long, env = "FRAMESHIFT_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// The API key itself: from the environment alone, since every process of the machine can read arguments.
    #[arg(skip)]
    pub api_key: Option<SecretString>,
    /// PEM file with the authorities that may have issued the server's certificate; the system's when absent
    #[arg(long, env = "FRAMESHIFT_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// PEM file with this client's certificate and its chain
    #[arg(long, env = "FRAMESHIFT_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the key of this client's certificate
    #[arg(long, env = "FRAMESHIFT_TLS_CERT_KEY", value_name = "FILE")]
    pub tls_cert_key: Option<PathBuf>,
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
    /// Trace that the requests are a part of: a traceparent and a tracestate.
    #[arg(skip)]
    pub trace: (Option<String>, Option<String>),
    /// File with the API key, or with a token of an issuer, read again as it changes; FRAMESHIFT_API_KEY may hold either itself [env:
    /// FRAMESHIFT_API_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// The API key itself.
    #[arg(skip)]
    pub api_key: Option<SecretString>,
    /// PEM file with the authorities that may have issued the server's certificate, for https:// [env: FRAMESHIFT_TLS_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// PEM file with this client's certificate and its chain [env: FRAMESHIFT_TLS_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the key of this client's certificate [env: FRAMESHIFT_TLS_CERT_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_cert_key: Option<PathBuf>,
}

/// Address of the administrators' API.
#[derive(Debug, Clone, Default, Args)]
pub struct Admin {
    /// Address of the administrators' API, the server's `admin_listen` [default: 127.0.0.1:50052]
    #[arg(
        long,
        env = "FRAMESHIFT_ADMIN_SERVER",
        global = true,
        value_name = "HOST:PORT"
    )]
    pub admin_server: Option<String>,
}

impl Admin {
    /// Connects to the administrators' API. A tenant is not named: operators have none.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn client(&self, connection: &Connection) -> Result<super::Client, Error> {
        let server = self.admin_server.as_deref().unwrap_or(ADMIN_SERVER);
        super::Client::open(&Options {
            server: server.to_owned(),
            tenant: None,
            is_admin: true,
            ..connection.options()
        })
        .await
    }
}

/// A command that speaks to a server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Asks whether the server is serving; exit code 0 when it is, 69 when not
    Health(health::Args),
    /// Shows the server's version, backbone, device, limits and use, and the tenant that the caller acts as
    Info(info::Args),
    /// Uploads videos; an interrupted upload resumes where it stopped
    Upload(upload::Args),
    /// Lists and deletes uploads that are not finished
    Uploads(uploads::Args),
    /// Lists, shows and deletes uploaded videos
    Videos(videos::Args),
    /// Creates, fills, shows, checks and deletes labelled data sets and their versions
    Dataset(dataset::Args),
    /// Fine-tunes a task on a data set and shows the progress
    Train(Box<train::Args>),
    /// Lists, shows, watches, pauses, resumes and cancels jobs
    Jobs(jobs::Args),
    /// Trains tasks of several shapes and learning rates, and shows a table of which is best
    Sweep(Box<sweep::Args>),
    /// Creates, shows, changes, pins and deletes tasks, and chooses the versions that they serve
    Tasks(tasks::Args),
    /// Classifies videos, a data set, a folder, sliding windows of long videos, or a live stream
    Classify(Box<classify::Args>),
    /// Writes features of videos as a NumPy array
    Embed(embed::Args),
    /// Evaluates a version on a split of a data set, or compares two versions on it
    Evaluate(Box<evaluate::Args>),
    /// Creates, lists, rotates, revokes and checks API keys
    Keys(Box<keys::Args>),
    /// Creates, lists, shows, weighs, limits, suspends, resumes and erases tenants
    Tenants(tenants::Args),
    /// Lists the servers that share a database, with their state, load and adapter sets in memory
    Replicas(replicas::Args),
    /// Prints what tenants used, for billing
    Usage(usage::Args),
    /// Lists changes of tenants and keys, newest first
    Audit(audit::Args),
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
            Self::Sweep(args) => Box::pin(sweep::run(&args)).await,
            Self::Tasks(args) => tasks::run(&args).await,
            Self::Classify(args) => classify::run(&args).await,
            Self::Embed(args) => embed::run(&args).await,
            Self::Evaluate(args) => Box::pin(evaluate::run(&args)).await,
            Self::Keys(args) => keys::run(&args).await,
            Self::Tenants(args) => tenants::run(&args).await,
            Self::Replicas(args) => replicas::run(&args).await,
            Self::Usage(args) => usage::run(&args).await,
            Self::Audit(args) => audit::run(&args).await,
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
        connection.trace = (before.traceparent, before.tracestate);
        // A file that is named nearer to the command wins over the environment's key.
        if connection.api_key_file.is_none() {
            connection.api_key_file = before.api_key_file;
            connection.api_key = before.api_key;
        }
        connection.tls_ca = connection.tls_ca.take().or(before.tls_ca);
        connection.tls_cert = connection.tls_cert.take().or(before.tls_cert);
        connection.tls_cert_key = connection.tls_cert_key.take().or(before.tls_cert_key);
        self
    }

    /// The arguments of `keys bootstrap`, which speaks to no server.
    pub fn bootstrap(&self) -> Option<&keys::Bootstrap> {
        match self {
            Self::Keys(args) => match &args.command {
                keys::Command::Bootstrap(bootstrap) => Some(bootstrap),
                keys::Command::Create(_)
                | keys::Command::List { .. }
                | keys::Command::Rotate(_)
                | keys::Command::Revoke { .. }
                | keys::Command::Check => None,
            },
            Self::Health(_)
            | Self::Info(_)
            | Self::Upload(_)
            | Self::Uploads(_)
            | Self::Videos(_)
            | Self::Dataset(_)
            | Self::Train(_)
            | Self::Evaluate(_)
            | Self::Jobs(_)
            | Self::Sweep(_)
            | Self::Tasks(_)
            | Self::Classify(_)
            | Self::Embed(_)
            | Self::Tenants(_)
            | Self::Replicas(_)
            | Self::Usage(_)
            | Self::Audit(_)
            | Self::Import(_)
            | Self::Export(_) => None,
        }
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
            Self::Sweep(args) => &mut args.connection,
            Self::Tasks(args) => &mut args.connection,
            Self::Classify(args) => &mut args.connection,
            Self::Embed(args) => &mut args.connection,
            Self::Evaluate(args) => &mut args.connection,
            Self::Keys(args) => &mut args.connection,
            Self::Tenants(args) => &mut args.connection,
            Self::Replicas(args) => &mut args.connection,
            Self::Usage(args) => &mut args.connection,
            Self::Audit(args) => &mut args.connection,
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
        let client = super::Client::open(&self.options()).await?;
        Ok(client.traced(self.trace()))
    }

    /// Connects as [`Self::client`] does, for calls about a task, if there is one.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub(super) async fn client_toward(&self, task: Option<&str>) -> Result<super::Client, Error> {
        let client = self.client().await?;
        Ok(match task {
            Some(task) => client.toward(task),
            None => client,
        })
    }

    /// The trace of the command: the one that it was started in, else a new one. A malformed one counts as none, as the specification asks.
    fn trace(&self) -> Outgoing {
        let (parent, state) = &self.trace;
        let given = parent
            .as_deref()
            .and_then(|parent| Outgoing::of(parent, state.as_deref()));
        given.unwrap_or_else(|| Outgoing::new(Uuid::now_v7().into_bytes()))
    }

    /// What the client shows to the server.
    pub fn options(&self) -> Options {
        Options {
            server: self.address().to_owned(),
            tenant: self.tenant.clone(),
            api_key: self.api_key.clone(),
            api_key_file: self.api_key_file.clone(),
            tls: Tls {
                ca: self.tls_ca.clone(),
                certificate: self.tls_cert.clone(),
                key: self.tls_cert_key.clone(),
            },
            is_admin: false,
        }
    }
}
