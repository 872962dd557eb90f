//! `frameshift bench fleet`: what a fleet of servers is held to, on a database with as much in it as a large one has.
//!
//! Invariant: only an empty database is filled; every figure is measured in this run, of the product's own code, and told beside its goal.

mod check;
mod events;
mod figures;
mod fill;
mod objects;
mod records;
mod replicas;

use std::path::PathBuf;
use std::time::Instant;

use futures::future::LocalBoxFuture;

use super::{bench_serve, fsck};
use crate::demo::server;
use crate::metadata::{self, Config, Database, ServerConfig};
use crate::store;
use crate::video;
use figures::{Figures, Goal};
use fill::Fleet;
use replicas::Replicas;

/// Connections of this program to a server: one for each writer of events, and some more.
const CONNECTIONS: u32 = 36;

/// Arguments of `frameshift bench fleet`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Empty PostgreSQL database to fill, without a password in the URL; a file in a temporary folder when absent, which no servers share
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Bucket for the figures of objects, which keeps what is put there; those are not measured when absent
    #[arg(long, value_name = "URL")]
    pub objects_url: Option<store::bucket::Url>,
    /// Endpoint of a self-hosted bucket
    #[arg(long, value_name = "URL")]
    pub objects_endpoint: Option<String>,
    /// File with the bucket's credentials, `NAME = VALUE` a line
    #[arg(long, value_name = "FILE")]
    pub objects_credentials_file: Option<PathBuf>,
    /// Tenants that share the tasks, videos and jobs
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub tenants: u32,
    /// Tasks, all together
    #[arg(long, default_value_t = 100_000)]
    pub tasks: u32,
    /// Videos, all together
    #[arg(long, default_value_t = 1_000_000)]
    pub videos: u32,
    /// Jobs that wait, all together
    #[arg(long, default_value_t = 100_000)]
    pub jobs: u32,
    /// Number of times that each use case is measured
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rounds: u32,
    /// Number of times that three servers are given another version to serve; by polling alone a third of that
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub moves: u32,
    /// Seconds of each turn of load
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Videos that are decoded from the bucket
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub clips: u32,
    /// Objects that are checked
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub blobs: u32,
    /// Prints JSON lines
    #[arg(long)]
    pub json: bool,
    /// Ends with exit code 1 when a goal is missed
    #[arg(long)]
    pub require: bool,
}

/// Why something was not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database has records.
    #[error("the database is not empty: only an empty one is filled")]
    NotEmpty,
    /// The URL cannot be used.
    #[error("--database-url: {0}")]
    Url(#[from] metadata::UrlError),
    /// The bucket cannot be used.
    #[error("--objects-url: {0}")]
    Bucket(#[from] store::bucket::Invalid),
    /// The temporary folder, or something in it, cannot be made.
    #[error("cannot use a temporary folder")]
    Folder(#[source] std::io::Error),
    /// The file cannot be opened.
    #[error("cannot open the database")]
    Open(#[from] metadata::OpenError),
    /// The database failed.
    #[error("the database failed")]
    Metadata(#[from] metadata::Error),
    /// The objects failed.
    #[error("the objects cannot be used")]
    Store(#[from] store::Error),
    /// The check of a data directory failed.
    #[error("the check failed")]
    Check(#[from] fsck::Error),
    /// A server does not run.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// A server refused something.
    #[error(transparent)]
    Load(#[from] bench_serve::Error),
    /// A video cannot be decoded.
    #[error("cannot decode a clip")]
    Video(#[from] video::Error),
    /// A loop of the load failed.
    #[error("a loop of the load failed")]
    Loop(#[from] tokio::task::JoinError),
    /// A value of the command's own is refused, or an answer is not what was asked for.
    #[error("cannot measure: {0}")]
    Record(String),
    /// Goals were required and missed.
    #[error("missed: {}", .0.join(", "))]
    Missed(Vec<String>),
}

impl Error {
    /// Returns the exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Missed(_) => 1,
            Self::NotEmpty | Self::Url(_) | Self::Bucket(_) => 64,
            Self::Folder(_)
            | Self::Open(_)
            | Self::Metadata(_)
            | Self::Store(_)
            | Self::Check(_)
            | Self::Server(_) => 69,
            Self::Load(error) => error.exit_code(),
            Self::Video(_) | Self::Loop(_) | Self::Record(_) => 70,
        }
    }
}

/// Fills a database and measures.
pub fn run(arguments: &Args) -> LocalBoxFuture<'_, Result<(), Error>> {
    Box::pin(measure(arguments))
}

/// Where the records are.
enum Place {
    File(PathBuf),
    Server(ServerConfig),
}

impl Place {
    async fn open(&self) -> Result<Database, Error> {
        Ok(match self {
            Self::File(path) => Database::open(Config::at(path.clone())).await?,
            Self::Server(server) => Database::connect(server.clone()).await?,
        })
    }
}

async fn measure(arguments: &Args) -> Result<(), Error> {
    let folder = tempfile::tempdir().map_err(Error::Folder)?;
    let place = match &arguments.database_url {
        None => Place::File(folder.path().join("metadata.sqlite")),
        Some(url) => {
            let mut server = ServerConfig::at(url)?;
            server.connections = CONNECTIONS;
            Place::Server(server)
        }
    };
    let database = place.open().await?;
    if !database.is_empty().await? {
        return Err(Error::NotEmpty);
    }
    let mut figures = Figures::new(arguments.json);
    let replicas = arguments.database_url.as_deref();
    let replicas = replicas.map(Replicas::new).transpose()?;
    let empty = match &replicas {
        Some(replicas) => Some(replicas.start_time(arguments).await?),
        None => None,
    };
    let begun = Instant::now();
    let fleet = Fleet::fill(&database, arguments).await?;
    database.gather_statistics().await?;
    figures.once("fill", begun.elapsed(), Goal::None);
    fleet.measure(arguments, &mut figures).await?;
    events::measure(&database, arguments, &mut figures).await?;
    drop(fleet);
    database.close().await?;

    let begun = Instant::now();
    let database = place.open().await?;
    figures.once("open", begun.elapsed(), Goal::None);
    let begun = Instant::now();
    records::start(&database).await?;
    figures.once("read at the start", begun.elapsed(), Goal::AtMost(1.0));
    database.close().await?;
    match (replicas, empty) {
        (Some(replicas), Some(empty)) => replicas.measure(arguments, empty, &mut figures).await?,
        _ => replicas::skip(&figures),
    }
    objects::measure(arguments, &mut figures).await?;
    check::measure(arguments, &mut figures).await?;
    let missed = figures.missed();
    match arguments.require && !missed.is_empty() {
        true => Err(Error::Missed(missed)),
        false => Ok(()),
    }
}
