//! The quickstart: the main job through the public gRPC API alone, on videos that are drawn on the spot.
//!
//! Invariant: it knows the server as any client does, by its address and `proto::v1`; every figure that it shows was measured in this run.

mod classify;
mod clips;
mod console;
mod outcome;
mod page;
mod server;
mod train;
mod upload;

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::client::{self, Client};
use crate::proto::v1;
use crate::report::sheet;
use crate::synth::motion::Motion;
use crate::video::encode;

use clips::Material;
use console::Console;
use outcome::Summary;
use server::Server;
use train::Trained;

/// Arguments of `frameshift demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where to write the report; a picture of the clips and the server's log go beside it
    #[arg(long, value_name = "FILE", default_value = "demo/report.html")]
    pub report: PathBuf,
    /// Seed of the clips and of the training
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server could not be started or stopped.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The server refused a request or went away.
    #[error("{step}: {source}")]
    Client {
        /// What was being done.
        step: &'static str,
        /// Why.
        source: Box<client::Error>,
    },
    /// A clip could not be encoded.
    #[error("cannot encode a clip: {0}")]
    Encode(#[from] encode::Error),
    /// A contact sheet could not be drawn.
    #[error("cannot draw a contact sheet: {0}")]
    Sheet(#[from] sheet::Error),
    /// A thread of ours failed.
    #[error("a worker thread failed: {0}")]
    Worker(#[from] tokio::task::JoinError),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The server's answer lacks something.
    #[error("the server's answer lacks {what}")]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
    /// It ran, but did not reach what it promises.
    #[error("the demo ran, but {}", .0.join("; and "))]
    Broken(Vec<String>),
}

/// Adds to a client's error what was being done.
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

/// A tenant with all that it has so far.
struct Party {
    role: &'static Role,
    client: Client,
    material: Material,
    /// `videos/…` of each clip.
    videos: Vec<String>,
}

/// Starts a server, runs the demo against it and writes the report.
///
/// # Errors
/// When a step fails or an accuracy is not what is promised.
pub async fn run(args: Args) -> Result<(), Error> {
    let begin = Instant::now();
    let console = Console::new(6);
    let folder = args.report.parent().unwrap_or(Path::new("")).to_owned();
    std::fs::create_dir_all(&folder).map_err(wrote(&folder))?;

    console.phase("start a server");
    let server = Server::start(&folder.join("server.log")).await?;
    let outcome = against(&server, &args, &console).await;
    // The server is stopped also when a step failed; the step's error is the one that matters.
    let stopped = server.stop().await;
    let (outcome, parties) = outcome?;
    stopped?;

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

/// All that goes through the API.
async fn against(
    server: &Server,
    args: &Args,
    console: &Console,
) -> Result<(Summary, Vec<Party>), Error> {
    let info = describe(server, console).await?;

    console.phase("draw and encode clips");
    let mut parties = Vec::new();
    for role in &ROLES {
        let client = Client::connect(&server.address, Some(role.tenant))
            .await
            .map_err(during("connect"))?;
        let (motion, seed) = (role.motion, args.seed);
        let material = tokio::task::spawn_blocking(move || clips::make(motion, seed)).await??;
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

    console.phase("classify unseen clips on the one backbone");
    let served = classify::all(&parties, &trained, console).await?;
    Ok((Summary::new(&parties, info, trained, served)?, parties))
}

/// Asks the server what it is, and says it.
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
