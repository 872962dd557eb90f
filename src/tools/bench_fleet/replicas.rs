//! Servers of this program on the filled database: how long they take to start, how soon all of them answer with a new version, and how many connections they
//! have.
//!
//! Invariant: the servers share nothing but the database and a folder of objects.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use super::figures::{Figures, Goal, quantile};
use super::{Args, Error};
use crate::client::Client;
use crate::demo::server::Server;
use crate::metadata::{Database, ServerConfig};
use crate::proto::v1;
use crate::tools::bench_serve::{Sets, describe, drawn, during, import, upload};

/// Servers that share the database.
const SERVERS: usize = 3;
/// Most starts of which the median counts.
const STARTS: u32 = 5;
/// The tenant of what the servers are asked.
const TENANT: &str = "bench-fleet";
/// The task of what the servers are asked.
const TASK: &str = "tasks/moved";
/// Time between two questions to a server.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest time until every server has a version.
const PATIENCE: Duration = Duration::from_secs(60);
/// Callers that keep a server busy.
const CALLERS: usize = 16;

const START: &str = "start of a server, more than on an empty database";
const HINTS: &str = "new version on three servers, p99, with hints";
const POLLING: &str = "new version on three servers, p99, by polling alone";
const IDLE: &str = "connections of an idle server";
const BUSY: &str = "connections of a busy server";

/// Says what is not measured without a database that servers share.
pub(super) fn skip(figures: &Figures) {
    for name in [START, HINTS, POLLING, IDLE, BUSY] {
        figures.skip(name, "servers share a PostgreSQL database: --database-url");
    }
}

/// What the servers share.
pub(super) struct Replicas {
    folder: TempDir,
    url: String,
}

/// A running server with a client.
struct Replica {
    server: Server,
    client: Client,
}

impl Replicas {
    /// Prepares a folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn new(url: &str) -> Result<Self, Error> {
        let folder = TempDir::with_prefix("frameshift-fleet-").map_err(Error::Folder)?;
        std::fs::create_dir(folder.path().join("objects")).map_err(Error::Folder)?;
        Ok(Self {
            folder,
            url: url.to_owned(),
        })
    }

    /// Starts a server with a folder of its own, and waits until it serves.
    async fn start(&self, name: &str, has_hints: bool) -> Result<Server, Error> {
        let data = self.folder.path().join(name);
        if !data.exists() {
            std::fs::create_dir(&data).map_err(Error::Folder)?;
            let objects = self.folder.path().join("objects");
            symlink(objects, data.join("objects")).map_err(Error::Folder)?;
        }
        // Jobs of the filled database have no videos: nobody works on them.
        let arguments = [
            ["--database-url", &self.url],
            ["--role", "serve"],
            ["--precision", "f32"],
        ];
        let mut arguments: Vec<String> =
            arguments.concat().into_iter().map(str::to_owned).collect();
        arguments.push(format!("--database-hints={has_hints}"));
        let log = self.folder.path().join(format!("{name}.log"));
        Ok(Server::spawn(&log, Some(&data), &arguments)?
            .ready()
            .await?)
    }

    /// The time that a server takes to start.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) async fn start_time(&self, arguments: &Args) -> Result<Duration, Error> {
        let mut times = Vec::new();
        for _ in 0..STARTS.min(arguments.moves) {
            let begun = Instant::now();
            let server = self.start("start", true).await?;
            times.push(begun.elapsed());
            server.stop().await?;
        }
        Ok(quantile(&times, 0.5))
    }

    async fn all(&self, has_hints: bool) -> Result<Vec<Replica>, Error> {
        let mut all = Vec::new();
        for place in 0..SERVERS {
            let server = self.start(&format!("server-{place}"), has_hints).await?;
            let client = Client::connect(&server.address, Some(TENANT)).await;
            let client = client.map_err(during("connect"))?;
            all.push(Replica { server, client });
        }
        Ok(all)
    }

    /// Measures; `empty` is the time that a server took to start when nothing was in the database.
    ///
    /// # Errors
    /// When a server does not run or refuses something.
    pub(super) async fn measure(
        &self,
        arguments: &Args,
        empty: Duration,
        figures: &mut Figures,
    ) -> Result<(), Error> {
        let filled = self.start_time(arguments).await?;
        let more = filled.as_secs_f64() - empty.as_secs_f64();
        let details = json!({ "empty_s": empty.as_secs_f64(), "filled_s": filled.as_secs_f64() });
        figures.tell(START, (more, "s"), Goal::AtMost(1.0), details);

        let clip = drawn(7, 1, 96)?;
        let clip = clip.into_iter().next().unwrap_or_default();
        let mut all = self.all(true).await?;
        let versions = versions(&all, &clip).await?;
        let times = moves(&all, &versions, &clip, arguments.moves).await?;
        propagated(figures, HINTS, &times, 2.0);
        stop(all).await?;
        all = self.all(false).await?;
        for replica in &all {
            answered(replica, &clip).await?;
        }
        let times = moves(&all, &versions, &clip, arguments.moves.div_ceil(3)).await?;
        propagated(figures, POLLING, &times, 6.0);
        stop(all).await?;
        self.connections(arguments, &clip, figures).await
    }

    /// Counts the connections of one server that is alone on the database.
    async fn connections(
        &self,
        arguments: &Args,
        clip: &Bytes,
        figures: &mut Figures,
    ) -> Result<(), Error> {
        let mut own = ServerConfig::at(&self.url)?;
        own.connections = 1;
        let database = Database::connect(own).await?;
        let server = self.start("connections", true).await?;
        let client = Client::connect(&server.address, Some(TENANT)).await;
        let client = client.map_err(during("connect"))?;
        let span = Duration::from_secs_f64(arguments.seconds);
        let begun = Instant::now();
        let callers = (0..CALLERS).map(|_| busy(client.clone(), clip.clone(), begun + span));
        let callers = callers.map(tokio::spawn).collect::<Vec<_>>();
        let (mut most, mut samples) = (0, 0u64);
        while begun.elapsed() < span {
            most = most.max(database.other_connections().await?);
            samples += 1;
            sleep(PAUSE * 5).await;
        }
        let mut calls = 0u64;
        for caller in callers {
            calls += caller.await??;
        }
        let details = json!({ "callers": CALLERS, "calls": calls, "samples": samples });
        figures.tell(BUSY, (most as f64, ""), Goal::AtMost(10.0), details);
        // Connections that nobody uses are closed after a while.
        let quiet = span * 15;
        sleep(quiet).await;
        let mut counts = Vec::new();
        for _ in 0..20 {
            counts.push(database.other_connections().await?);
            sleep(Duration::from_millis(150)).await;
        }
        counts.sort_unstable();
        let most = counts.last().copied().unwrap_or(0);
        let details = json!({ "least": counts.first(), "after_s": quiet.as_secs_f64() });
        figures.tell(IDLE, (most as f64, ""), Goal::AtMost(2.0), details);
        drop(client);
        server.stop().await?;
        database.close().await?;
        Ok(())
    }
}

fn propagated(figures: &mut Figures, name: &str, times: &[Duration], most: f64) {
    let details = json!({
        "moves": times.len(), "p50_s": quantile(times, 0.5).as_secs_f64(),
        "max_s": quantile(times, 1.0).as_secs_f64(),
    });
    let value = quantile(times, 0.99).as_secs_f64();
    figures.tell(name, (value, "s"), Goal::AtMost(most), details);
}

async fn stop(all: Vec<Replica>) -> Result<(), Error> {
    let stops = all.into_iter().map(|replica| {
        drop(replica.client);
        replica.server.stop()
    });
    try_join_all(stops).await?;
    Ok(())
}

/// Calls a server, with reads and writes, until a moment. Returns how many calls it made.
async fn busy(client: Client, clip: Bytes, until: Instant) -> Result<u64, Error> {
    let mut calls = 0;
    while Instant::now() < until {
        upload(&client, &clip).await?;
        let listed = client
            .tasks()
            .list_tasks(v1::ListTasksRequest::default())
            .await;
        listed.map_err(during("list tasks"))?;
        calls += 2;
    }
    Ok(calls)
}

/// Makes a task with two versions and asks every server for it. Returns the versions' names.
async fn versions(all: &[Replica], clip: &Bytes) -> Result<[String; 2], Error> {
    let first = all
        .first()
        .ok_or_else(|| Error::Record("no server".into()))?;
    let (_, backbone) = describe(&first.server.address).await?;
    let sets = Sets::new(&backbone, 64);
    let one = import(&first.client, TASK, sets.file(1)?).await?;
    let other = import(&first.client, TASK, sets.file(2)?).await?;
    for replica in all {
        let begun = Instant::now();
        // A task that has just been made serves nothing yet.
        while answered(replica, clip).await.is_err() {
            if begun.elapsed() > PATIENCE {
                return Err(Error::Record("a new task does not serve".into()));
            }
            sleep(PAUSE).await;
        }
    }
    Ok([one.name, other.name])
}

/// The version by which a server answers now.
async fn answered(replica: &Replica, clip: &Bytes) -> Result<String, Error> {
    let request = v1::ClassifyRequest {
        task: TASK.into(),
        source: Some(v1::classify_request::Source::Content(clip.clone())),
        ..Default::default()
    };
    let answer = replica.client.classification().classify(request).await;
    Ok(answer
        .map_err(during("classify a clip"))?
        .into_inner()
        .version)
}

/// Has a task served by one version after the other. Returns how long each took to answer on every server.
async fn moves(
    all: &[Replica],
    versions: &[String; 2],
    clip: &Bytes,
    count: u32,
) -> Result<Vec<Duration>, Error> {
    let mut times = Vec::new();
    let first = all
        .first()
        .ok_or_else(|| Error::Record("no server".into()))?;
    for number in 0..count as usize {
        let wanted = &versions[number % 2];
        let asked = &all[number % all.len()];
        let request = v1::GetTaskRequest { name: TASK.into() };
        let task = first.client.tasks().get_task(request).await;
        let task = task.map_err(during("read a task"))?.into_inner();
        let request = v1::SetServingRequest {
            name: TASK.into(),
            version: wanted.clone(),
            etag: task.etag,
            ..Default::default()
        };
        let set = asked.client.tasks().set_serving(request).await;
        set.map_err(during("have another version served"))?;
        let begun = Instant::now();
        let arrivals = all.iter().map(|replica| async move {
            while answered(replica, clip).await? != *wanted {
                if begun.elapsed() > PATIENCE {
                    return Err(Error::Record(format!("{wanted} is not served everywhere")));
                }
                sleep(PAUSE).await;
            }
            Ok(begun.elapsed())
        });
        let arrived = try_join_all(arrivals).await?;
        times.extend(arrived.into_iter().max());
    }
    Ok(times)
}
