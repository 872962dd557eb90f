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
pub struct Server {
    /// Address of the API, `http://…`.
    pub address: String,
    /// Address of the metrics; its port is 0 until it is known.
    pub(super) metrics: SocketAddr,
    child: Child,
    log: PathBuf,
    /// Folder of the address file, and of the data when the caller gave no folder; removed when this is dropped.
    folder: TempDir,
}

impl Server {
    /// Starts a server and waits until it serves; its log goes to `log`.
    pub(super) async fn start(log: &Path) -> Result<Self, Error> {
        let arguments = ["--metrics-listen", "127.0.0.1:0"].map(str::to_owned);
        let server = Self::spawn(log, None, &arguments)?.ready().await?;
        server.with_metrics().await
    }

    /// Starts the process of a server; its log goes to `log`, its data to `data` or else to a temporary folder, and `arguments` are added to those of
    /// `serve`, whose backbone is the built-in one unless they name another. The process runs on the CPUs of the calling thread.
    ///
    /// # Errors
    /// When a folder, the log or the process cannot be made.
    pub fn spawn(log: &Path, data: Option<&Path>, arguments: &[String]) -> Result<Self, Error> {
        let folder = TempDir::with_prefix("frameshift-demo-").map_err(io("make a folder"))?;
        let own_data = folder.path().join("data");
        let output = File::create(log).map_err(io("write the server's log"))?;
        let errors = output.try_clone().map_err(io("write the server's log"))?;
        let program = std::env::current_exe().map_err(io("find this program"))?;
        let names_backbone = arguments
            .iter()
            .any(|word| word == "--backbone" || word.starts_with("--backbone="));
        let backbone: &[&str] = match names_backbone {
            true => &[],
            false => &["--backbone", "builtin"],
        };
        let child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(backbone)
            .arg("--data-dir")
            .arg(data.unwrap_or(&own_data))
            .arg("--address-file")
            .arg(folder.path().join("address"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(io("start the server"))?;
        Ok(Self {
            address: String::new(),
            metrics: (Ipv4Addr::LOCALHOST, 0).into(),
            child,
            log: log.to_owned(),
            folder,
        })
    }

    /// Waits until the server serves.
    ///
    /// # Errors
    /// When the server ends or does not serve in time.
    pub async fn ready(self) -> Result<Self, Error> {
        let mut server = self;
        let address_file = server.folder.path().join("address");
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

    /// Waits until the log tells the address of the metrics.
    async fn with_metrics(self) -> Result<Self, Error> {
        let mut server = self;
        let deadline = Instant::now() + START;
        while server.metrics.port() == 0 {
            server.alive(deadline).await?;
            let log = tokio::fs::read_to_string(&server.log).await;
            if let Some(address) = log.ok().as_deref().and_then(metrics_address) {
                server.metrics = address;
            }
        }
        Ok(server)
    }

    /// The process's id; none once the process has ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
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
    ///
    /// # Errors
    /// When the server does not end in time, or not with success.
    pub async fn stop(mut self) -> Result<(), Error> {
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
