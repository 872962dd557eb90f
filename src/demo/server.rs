//! A server as a child process: started on a fresh data directory and a free port, stopped by SIGTERM.
//!
//! Invariant: neither the process nor its data outlives this value.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, health};

/// Time that the server may take until it serves.
const START: Duration = Duration::from_secs(60);
/// Time that the server may take to drain.
const STOP: Duration = Duration::from_secs(40);

/// Reasons why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step of starting or stopping failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// The step.
        action: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The server ended by itself.
    #[error("the server ended ({status}); the end of its log, {}:\n{tail}", log.display())]
    Ended {
        /// Status of the process.
        status: ExitStatus,
        /// The server's log.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// The server does not become ready, or does not end.
    #[error("the server did not {what} within {} s; its log is {}", limit.as_secs(), log.display())]
    Late {
        /// The step that took too long.
        what: &'static str,
        /// Time that the server had.
        limit: Duration,
        /// The server's log.
        log: PathBuf,
    },
}

/// The address of the metrics, as the start of the server's log shows it.
fn metrics_address(log: &str) -> Option<SocketAddr> {
    log.lines().find_map(|line| {
        let (_, address) = line
            .trim_end()
            .strip_suffix("/metrics")?
            .split_once("http://")?;
        address.parse().ok()
    })
}

fn io(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { action, source }
}

/// A running server.
pub(super) struct Server {
    /// Address of the API, `http://…`.
    pub(super) address: String,
    /// Address of the metrics.
    pub(super) metrics: SocketAddr,
    child: Child,
    log: PathBuf,
    /// Removed when this is dropped.
    _data: TempDir,
}

impl Server {
    /// Starts a server and waits until it serves; its log goes to `log`.
    pub(super) async fn start(log: &Path) -> Result<Self, Error> {
        let data = TempDir::with_prefix("frameshift-demo-").map_err(io("make a folder"))?;
        let address_file = data.path().join("address");
        let output = File::create(log).map_err(io("write the server's log"))?;
        let errors = output.try_clone().map_err(io("write the server's log"))?;
        let program = std::env::current_exe().map_err(io("find this program"))?;
        let child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--backbone", "builtin"])
            .args(["--metrics-listen", "127.0.0.1:0"])
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
            metrics: (Ipv4Addr::LOCALHOST, 0).into(),
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
        while server.metrics.port() == 0 {
            server.alive(deadline).await?;
            let log = tokio::fs::read_to_string(&server.log).await;
            if let Some(address) = log.ok().as_deref().and_then(metrics_address) {
                server.metrics = address;
            }
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

    /// Asks the server to drain and waits for its end.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_where_the_metrics_are() {
        let log = "address         127.0.0.1:1 (this machine only)\nmetrics         http://127.0.0.1:45/metrics\n";
        assert_eq!(metrics_address(log), Some("127.0.0.1:45".parse().unwrap()));
        assert_eq!(metrics_address("metrics         off\n"), None);
    }
}
