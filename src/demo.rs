//! The quickstart: the main job through the public gRPC API alone, on synthetic videos.
//!
//! Invariant: it knows the server as any client does, by its address and `proto::v1`; every figure that it shows was measured in this run.

mod classify;
mod clips;
mod console;
pub(crate) mod machine;
mod outcome;
mod page;
mod passes;
pub mod server;
mod swap;
mod train;
mod upload;

use std::path::{Path, PathBuf};
use std::time::Instant;

use futures::future::LocalBoxFuture;

use crate::blocking::{Unfinished, blocking};
use crate::client::{self, Client};
use crate::proto::v1;
use crate::report::sheet;
use crate::synth::motion::Motion;
use crate::video::encode;

use clips::Material;
use console::Console;
use machine::Machine;
use outcome::Summary;
use server::Server;
use swap::Swap;
use train::Trained;

/// Arguments of `frameshift demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// File to write the report to; a picture of the clips and the server's log go beside it
    #[arg(long, value_name = "FILE", default_value = "demo/report.html")]
    pub report: PathBuf,
    /// Seed of the clips and of the training
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Reasons why the demo failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server could not be started or stopped.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The server refused a request or went away.
    #[error("{step}: {source}")]
    Client {
        /// The step that failed.
        step: &'static str,
        /// The client's error.
        source: Box<client::Error>,
    },
    /// A clip could not be encoded.
    #[error("cannot encode a clip: {0}")]
    Encode(#[from] encode::Error),
    /// A contact sheet could not be drawn.
    #[error("cannot draw a contact sheet: {0}")]
    Sheet(#[from] sheet::Error),
    /// The server's metrics cannot be read.
    #[error("cannot read the server's metrics: {source}")]
    Metrics {
        /// The system's error.
        source: std::io::Error,
    },
    /// A thread of this program failed.
    #[error("a worker thread failed: {0}")]
    Worker(#[from] Unfinished),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The server's answer is incomplete.
    #[error("the server's answer lacks {what}")]
    Incomplete {
        /// The missing part.
        what: &'static str,
    },
    /// The demo ran, but did not reach what it promises.
    #[error("the demo ran, but {}", .0.join("; and "))]
    Broken(Vec<String>),
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Client { source, .. } => source.exit_code(),
            Self::Write { .. } => 73,
            Self::Broken(_) => 1,
            Self::Server(_)
            | Self::Encode(_)
            | Self::Sheet(_)
            | Self::Metrics { .. }
            | Self::Worker(_)
            | Self::Incomplete { .. } => 70,
        }
    }
}

/// Adds the step to a client's error.
fn during<E: Into<client::Error>>(step: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Client {
        step,
        source: Box::new(error.into()),
    }
}

/// A tenant of the demo and what it wants to tell apart.
struct Role {
    tenant: &'static str,
    motion: Motion,
    /// Passes of ST-Adapter over the training clips: enough for a loss near 0.
    epochs: u32,
    /// Share of unseen clips that ST-Adapter must get right.
    promise: f64,
}

const ROLES: [Role; 2] = [
    Role {
        tenant: "tenant-a",
        motion: Motion::Direction,
        epochs: 9,
        promise: 0.90,
    },
    Role {
        tenant: "tenant-b",
        motion: Motion::Growth,
        epochs: 6,
        promise: 0.85,
    },
];

/// A tenant, its connection, its clips and their uploads.
struct Party {
    role: &'static Role,
    client: Client,
    material: Material,
    /// Name of each clip's upload, `videos/…`.
    videos: Vec<String>,
}

/// Starts a server, runs the demo against it and writes the report.
///
/// # Errors
/// When a step fails or an accuracy is not what is promised.
pub fn run(args: Args) -> LocalBoxFuture<'static, Result<(), Error>> {
    // Boxed, so that it is compiled with this crate alone.
    Box::pin(run_all(args))
}

async fn run_all(args: Args) -> Result<(), Error> {
    let begin = Instant::now();
    let machine = Machine::here();
    let console = Console::new(7);
    let folder = args.report.parent().unwrap_or(Path::new("")).to_owned();
    std::fs::create_dir_all(&folder).map_err(wrote(&folder))?;

    console.phase("start a server");
    let server = Server::start(&folder.join("server.log")).await?;
    let outcome = against(&server, &args, &console).await;
    // The server is stopped also when a step failed; the step's error is the one that matters.
    let stopped = server.stop().await;
    let (mut outcome, parties) = outcome?;
    stopped?;
    (outcome.machine, outcome.seed) = (machine, args.seed);

    console.phase("write the report");
    let materials: Vec<&Material> = parties.iter().map(|party| &party.material).collect();
    let files = page::write(&args.report, &outcome, &materials)?;
    console.finish();
    console.line(&format!("\n{}", outcome.table().to_text()));
    console.line(&outcome.notes());
    for file in files {
        console.line(&format!("wrote {}", file.display()));
    }
    console.line(&format!("in all {:.0} s", begin.elapsed().as_secs_f64()));
    let broken = outcome.broken_promises();
    if broken.is_empty() {
        Ok(())
    } else {
        Err(Error::Broken(broken))
    }
}

fn wrote(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Write {
        path: path.to_owned(),
        source,
    }
}

/// Every phase that goes through the API.
async fn against(
    server: &Server,
    args: &Args,
    console: &Console,
) -> Result<(Summary, Vec<Party>), Error> {
    let info = describe(server, console).await?;

    console.phase("make synthetic clips");
    let mut parties = Vec::new();
    for role in &ROLES {
        let client = Client::connect(&server.address, Some(role.tenant))
            .await
            .map_err(during("connect"))?;
        let (motion, seed) = (role.motion, args.seed);
        let material = blocking(move || clips::make(motion, seed)).await??;
        console.line(&material.describe(role));
        parties.push(Party {
            role,
            client,
            material,
            videos: Vec::new(),
        });
    }

    console.phase("upload to both tenants");
    let uploads = parties.iter().map(|party| upload::all(party, console));
    let uploaded = futures::future::try_join_all(uploads).await?;
    for (party, videos) in parties.iter_mut().zip(uploaded) {
        party.videos = videos;
    }

    console.phase("fine-tune both tenants' tasks at once");
    let runs = parties
        .iter()
        .map(|party| train::both_ways(party, args.seed, console));
    let trained: Vec<Trained> = futures::future::try_join_all(runs).await?;

    console.phase("classify unseen clips: each task alone, then both on the one backbone");
    let served = classify::all(&parties, &trained, server.metrics, console).await?;

    console.phase("train a second version and swap it in while clients ask");
    let swap = match (parties.first(), trained.first()) {
        (Some(party), Some(trained)) => swap::run(party, trained, args.seed + 1, console).await?,
        _ => Swap::default(),
    };
    let mut outcome = Summary::new(&parties, info, trained, served)?;
    outcome.swap = swap;
    Ok((outcome, parties))
}

/// Asks the server for its description and prints it.
async fn describe(server: &Server, console: &Console) -> Result<v1::ServerInfo, Error> {
    let client = Client::connect(&server.address, None)
        .await
        .map_err(during("connect"))?;
    let info = client
        .server()
        .get_server_info(v1::GetServerInfoRequest {})
        .await
        .map_err(during("ask for the server's description"))?
        .into_inner();
    let backbone = info.backbone.clone().unwrap_or_default();
    console.line(&format!(
        "{} · backbone {} with {} parameters · {} {} · video worker confined by {}",
        server.address,
        backbone.name,
        outcome::thousands(backbone.parameters),
        info.device,
        info.precision,
        info.video_isolation.join(", "),
    ));
    Ok(info)
}
