//! A server as a child process: started on a fresh data directory and a free port, stopped by SIGTERM.
//!
//! Invariant: neither the process nor its data outlives this value.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, health};

/// Time that a server may take until it serves.
const START: Duration = Duration::from_secs(60);
/// Time that it may take to drain.
const STOP: Duration = Duration::from_secs(40);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step of starting or stopping failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// It ended by itself.
    #[error("the server ended ({status}); its last words, from {}:\n{tail}", log.display())]
    Ended {
        /// How.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// It does not become ready, or does not end.
    #[error("the server did not {what} within {} s; its log is {}", limit.as_secs(), log.display())]
    Late {
        /// What it should have done.
        what: &'static str,
        /// How long it had.
        limit: Duration,
        /// Its log.
        log: PathBuf,
    },
}

fn io(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { action, source }
}

/// A running server.
pub(super) struct Server {
    /// `http://…`.
    pub(super) address: String,
    child: Child,
    log: PathBuf,
    /// Removed when this is dropped.
    _data: TempDir,
}

impl Server {
    /// Starts one and waits until it serves; its log goes to `log`.
    pub(super) async fn start(log: &Path) -> Result<Self, Error> {
        let data = TempDir::with_prefix("frameshift-demo-").map_err(io("make a folder"))?;
        let address_file = data.path().join("address");
        let output = File::create(log).map_err(io("write the server's log"))?;
        let errors = output.try_clone().map_err(io("write the server's log"))?;
        let program = std::env::current_exe().map_err(io("find this program"))?;
        let child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--backbone", "builtin"])
            .arg("--data-dir")
            .arg(data.path().join("data"))
            .arg("--address-file")
            .arg(&address_file)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(io("start the server"))?;
        let mut server = Self {
            address: String::new(),
            child,
            log: log.to_owned(),
            _data: data,
        };
        let deadline = Instant::now() + START;
        while server.address.is_empty() {
            server.alive(deadline).await?;
            if let Ok(text) = tokio::fs::read_to_string(&address_file).await
                && let Some(line) = text.lines().next().map(str::trim)
            {
                // Scheme or not, the file holds one address.
                let bare = line.strip_prefix("http://").unwrap_or(line);
                server.address = format!("http://{bare}");
            }
        }
        while !server.is_serving().await {
            server.alive(deadline).await?;
        }
        Ok(server)
    }

    async fn is_serving(&self) -> bool {
        match Client::connect(&self.address, None).await {
            Ok(client) => health::is_serving(&client).await.unwrap_or(false),
            Err(_) => false,
        }
    }

    /// Waits a moment; an error when the process has ended or the time is up.
    async fn alive(&mut self, deadline: Instant) -> Result<(), Error> {
        sleep(Duration::from_millis(30)).await;
        if let Some(status) = self.child.try_wait().map_err(io("watch the server"))? {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            return Err(Error::Ended {
                status,
                log: self.log.clone(),
                tail: lines[lines.len().saturating_sub(12)..].join("\n"),
            });
        }
        if Instant::now() > deadline {
            return Err(self.late("begin to serve", START));
        }
        Ok(())
    }

    fn late(&self, what: &'static str, limit: Duration) -> Error {
        Error::Late {
            what,
            limit,
            log: self.log.clone(),
        }
    }

    /// Asks it to drain and waits for its end.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).map_err(|error| io("stop the server")(error.into()))?;
        }
        match timeout(STOP, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Error::Ended {
                status,
                log: self.log.clone(),
                tail: String::new(),
            }),
            Ok(Err(source)) => Err(io("wait for the server")(source)),
            Err(_) => Err(self.late("end", STOP)),
        }
    }
}
