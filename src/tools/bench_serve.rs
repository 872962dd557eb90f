//! `frameshift bench serve` and `bench gates`: a load generator that speaks to a server as any client does.
//!
//! Invariant: a figure is measured in this run, through the public API; latencies begin at the intended time of sending, and every request that was sent
//! is counted as answered or as an error.

mod affinity;
mod args;
mod arrivals;
mod beside;
mod calls;
mod figures;
mod gates;
mod host;
mod live;
mod load;
mod material;
mod popularity;
mod serve;
mod windows;

use std::io;
use std::path::PathBuf;

use crate::blocking::{self, Unfinished};
use crate::client;
use crate::demo::server;
use crate::model;
use crate::video::encode;

pub use args::{Args, Payload};
pub use arrivals::Arrivals;
pub use gates::{Args as GatesArgs, Gate};
pub use popularity::Popularity;

pub(in crate::tools) use affinity::resident_bytes;
pub(in crate::tools) use calls::{import, upload};
pub(in crate::tools) use host::describe;
pub(in crate::tools) use material::{Sets, drawn};

use affinity::Split;

/// Commands that put load on a server.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Puts load on a server, or on one that it starts, and prints throughput, latencies and errors
    Serve(Box<Args>),
    /// Measures the ratios that serving is held to, in turns on a server that it starts, and prints each beside its goal
    Gates(GatesArgs),
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server could not be started or stopped.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The server refused something that the load needs, or went away.
    #[error("cannot {step}: {source}")]
    Client {
        /// What was being done.
        step: &'static str,
        /// What the client says.
        source: Box<client::Error>,
    },
    /// The model refused a set or a clip.
    #[error("the model cannot run this: {0}")]
    Model(#[from] model::Error),
    /// The built-in backbone does not load.
    #[error("the built-in backbone does not load: {0}")]
    Backbone(#[from] model::load::Error),
    /// A clip could not be encoded.
    #[error("cannot encode a clip: {0}")]
    Encode(#[from] encode::Error),
    /// A clip's file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A loop of the generator failed.
    #[error("a loop of the load generator failed: {0}")]
    Loop(#[from] tokio::task::JoinError),
    /// Work on a thread of its own failed.
    #[error("a thread of the load generator failed: {0}")]
    Worker(#[from] Unfinished),
    /// A histogram cannot be made.
    #[error("cannot make a histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// Something is missing that a measurement needs.
    #[error("{what} is missing")]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
    /// Arguments do not fit one another.
    #[error("{0}")]
    Usage(String),
    /// Goals were required and missed.
    #[error("missed: {}", .0.join(", "))]
    Missed(Vec<String>),
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Client { source, .. } => source.exit_code(),
            Self::Usage(_) => 64,
            Self::Read { .. } => 66,
            Self::Server(_) => 69,
            Self::Missed(_) => 1,
            Self::Model(_)
            | Self::Backbone(_)
            | Self::Encode(_)
            | Self::System { .. }
            | Self::Loop(_)
            | Self::Worker(_)
            | Self::Histogram(_)
            | Self::Incomplete { .. } => 70,
        }
    }
}

/// Adds the step to a client's error.
pub(in crate::tools) fn during<E: Into<client::Error>>(step: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Client {
        step,
        source: Box::new(error.into()),
    }
}

fn system(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { action, source }
}

/// Runs a command.
///
/// # Errors
/// When arguments do not fit, a server does not run or refuses what the load needs; with `--require` when a goal is missed.
pub fn run(command: &Command) -> Result<(), Error> {
    match command {
        Command::Serve(args) => {
            args.check()?;
            let split = args.cpus.split(args.server.is_none())?;
            within(split.as_ref(), serve::run(args, split.clone()))
        }
        Command::Gates(args) => {
            let split = args.cpus.split(true)?;
            within(split.as_ref(), gates::run(args, split.clone()))
        }
    }
}

/// Runs the generator on its own CPUs: threads start where the one that starts them is.
fn within(
    split: Option<&Split>,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    if let Some(split) = split {
        affinity::place(None, &split.generator).map_err(system("choose CPUs"))?;
    }
    blocking::run(work).map_err(system("start the runtime"))?
}
