//! Three real servers as child processes on one PostgreSQL server and one bucket, each behind a proxy, for tests of what fails.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use frameshift::client::Client;
use frameshift::client::health::is_serving;
use frameshift::proto::v1;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::buckets::proxy::{self, Mood};
use crate::buckets::weed::Weed;
use crate::faults::clock;
use crate::faults::wire::Wire;
use crate::postgres::own::OwnServer;
use crate::server::until;
use crate::server_process::{Process, command_of};

/// The tenant of these tests.
pub(crate) const TENANT: &str = "acme";

/// Whether tests of faults run in their long form.
pub(crate) fn is_full() -> bool {
    std::env::var_os("FRAMESHIFT_FAULTS").is_some_and(|form| form == "full")
}

/// Everything that the servers share, and the servers.
pub(crate) struct Stand {
    pub(crate) database: OwnServer,
    pub(crate) wire: Wire,
    pub(crate) bucket: tokio::sync::Mutex<Weed>,
    pub(crate) mood: Mood,
    endpoint: String,
    pub(crate) folder: TempDir,
    /// What was mounted, to be taken away with the stand.
    mounts: Mutex<Vec<PathBuf>>,
    /// Servers whose clocks are ahead, and what makes them so.
    ahead: Mutex<HashMap<String, PathBuf>>,
    /// Clients of the servers that callers may use.
    clients: Mutex<Vec<Option<Client>>>,
}

impl Stand {
    /// Starts what the servers share; `None` where PostgreSQL or SeaweedFS is not installed.
    pub(crate) async fn start(places: usize) -> Option<Self> {
        let weed = Weed::start().await?;
        let database = tokio::task::spawn_blocking(OwnServer::start);
        let database = database.await.expect("a server")?;
        database.run("CREATE DATABASE fleet");
        let wire = Wire::start(database.port()).await;
        let mood = Mood::default();
        let endpoint = proxy::start(weed.port(), &mood).await;
        Some(Self {
            database,
            wire,
            bucket: tokio::sync::Mutex::new(weed),
            mood,
            endpoint,
            folder: tempfile::tempdir().unwrap(),
            mounts: Mutex::default(),
            ahead: Mutex::default(),
            clients: Mutex::new(vec![None; places]),
        })
    }

    /// Starts a server with a folder of its own.
    pub(crate) fn launch(&self, name: &str, extra: &[&str]) -> Process {
        let program = Path::new(env!("CARGO_BIN_EXE_frameshift"));
        self.launch_of(program, name, extra)
    }

    /// As [`Self::launch`], of a program of another release.
    pub(crate) fn launch_of(&self, program: &Path, name: &str, extra: &[&str]) -> Process {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut server = command_of(program, &folder);
        server.envs(
            self.ahead
                .lock()
                .unwrap()
                .get(name)
                .map(|path| ("LD_PRELOAD", path)),
        );
        let database = format!(
            "postgres://postgres@127.0.0.1:{}/fleet?sslmode=disable",
            self.wire.port
        );
        server
            .args(["--database-url", &database, "--database-timeout", "2s"])
            .args(["--objects-url", "s3://videos/fleet"])
            .args(["--objects-endpoint", &self.endpoint])
            .args(["--cache-bytes", "64MiB", "--job-lease", "6s"])
            .args(["--job-runners", "1", "--video-workers", "1"])
            .args(["--precision", "f32", "--threads", "1"])
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "not-a-secret")
            .stderr(Stdio::from(log(&folder)));
        Process::start_by(server, &folder, extra)
    }

    /// Gives a server that is not started yet a disk for copies of objects that is full after a few. Returns whether this process may do that.
    pub(crate) fn fill_cache(&self, name: &str) -> bool {
        let cache = self.folder.path().join(name).join("data/cache");
        std::fs::create_dir_all(&cache).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(&cache);
        mount.stderr(Stdio::null());
        let is_mounted = mount.status().is_ok_and(|status| status.success());
        if is_mounted {
            self.mounts.lock().unwrap().push(cache);
        }
        is_mounted
    }

    /// Makes the clock of a server that is not started yet ten minutes fast.
    pub(crate) fn put_ahead(&self, name: &str) {
        let library = clock::library(self.folder.path());
        self.ahead.lock().unwrap().insert(name.to_owned(), library);
    }

    /// Waits until a server serves, then lets callers use it.
    pub(crate) async fn open(&self, place: usize, process: &Process) -> Client {
        let address = format!("http://{}", process.address().await);
        let client = Client::connect(&address, Some(TENANT)).await.unwrap();
        until(|| async { is_serving(&client).await.unwrap_or(false) }).await;
        self.clients()[place] = Some(client.clone());
        client
    }

    /// Keeps callers from a server.
    pub(crate) fn close(&self, place: usize) {
        self.clients()[place] = None;
    }

    /// The servers that callers may use.
    pub(crate) fn open_clients(&self) -> Vec<Client> {
        self.clients().iter().flatten().cloned().collect()
    }

    /// The client of a caller's nth try.
    pub(crate) fn client(&self, number: usize) -> Option<Client> {
        let open = self.open_clients();
        (!open.is_empty()).then(|| open[number % open.len()].clone())
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Vec<Option<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the servers have logged.
    pub(crate) fn logs(&self, name: &str) -> String {
        let path = self.folder.path().join(name).join("log");
        std::fs::read_to_string(path).unwrap_or_default()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        for cache in self.mounts.lock().unwrap().iter() {
            // Servers that a failed test left may still use it.
            let mut umount = std::process::Command::new("umount");
            let _ = umount.arg("-l").arg(cache).status();
        }
    }
}

fn log(folder: &Path) -> std::fs::File {
    let mut options = std::fs::File::options();
    let file = options.create(true).append(true).open(folder.join("log"));
    file.unwrap()
}

/// Sends a signal to a server.
pub(crate) fn signal(process: &Process, signal: Signal) {
    kill_process(process.pid(), signal).unwrap();
}

/// Submits a job of the task `long` that takes some seconds and writes a checkpoint after so many steps. Returns its name.
pub(crate) async fn submit_long(client: &Client, epochs: u32, checkpoint_steps: u32) -> String {
    let request = v1::SubmitJobRequest {
        task: "tasks/long".into(),
        dataset: "datasets/long".into(),
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(epochs),
            batch_size: Some(2),
            seed: Some(5),
            checkpoint_steps: Some(checkpoint_steps),
            ..Default::default()
        }),
        ..Default::default()
    };
    let job = client.fine_tuning().submit_job(request).await;
    job.expect("submitted").into_inner().name
}

/// Asks for the end of a job.
pub(crate) async fn cancel(client: &Client, name: &str) -> Result<v1::Job, tonic::Status> {
    let request = v1::CancelJobRequest { name: name.into() };
    let cancelled = client.fine_tuning().cancel_job(request).await?;
    Ok(cancelled.into_inner())
}

/// A job as a server shows it.
pub(crate) async fn job(client: &Client, name: &str) -> v1::Job {
    let request = v1::GetJobRequest { name: name.into() };
    let found = client.fine_tuning().get_job(request).await;
    found.expect("found").into_inner()
}
