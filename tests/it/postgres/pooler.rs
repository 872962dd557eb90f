//! PgBouncer before the tests' PostgreSQL server, for one test: it pools by transaction and gives each the connection that was idle for longest, so that
//! nothing that a session keeps is there in the next one.

use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use frameshift::metadata::ServerConfig;
use tempfile::TempDir;

use super::TestDatabase;

/// Connections of the pooler to the server for one database.
const CONNECTIONS: u32 = 3;
/// Longest time that its start may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running pooler, ended with it.
pub(crate) struct Pooler {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Pooler {
    /// Starts a pooler before the server of a database; `None` where PgBouncer is not installed, which fails when `CI` is `true`.
    pub(crate) fn start(database: &TestDatabase) -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("skipped: PgBouncer is not installed, deploy/setup.sh --tests does that");
            let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
            assert!(!is_ci, "PgBouncer is not installed");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let port = crate::ports::free();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("users"), "\"postgres\" \"\"\n").expect("written");
        let text = format!(
            "[databases]\n* = host={} port=5432 user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = {CONNECTIONS}\n\
             max_client_conn = 500\nserver_round_robin = 1\nserver_login_retry = 1\nquery_wait_timeout = 20\nlogfile = {}\n",
            database.place.folder.display(),
            path("users").display(),
            path("log").display(),
        );
        std::fs::write(path("pgbouncer.ini"), text).expect("written");
        let mut pgbouncer = Command::new(program);
        // It refuses root, as the server does.
        if let Some((user, group)) = database.place.user {
            for path in [folder.path(), &path("users"), &path("pgbouncer.ini")] {
                chown(path, Some(user), Some(group)).expect("its files");
            }
            pgbouncer.uid(user).gid(group);
        }
        pgbouncer.arg("--quiet").arg(path("pgbouncer.ini"));
        pgbouncer.stdin(Stdio::null()).stdout(Stdio::null());
        let child = pgbouncer.spawn().expect("PgBouncer");
        let mut pooler = Self {
            child,
            port,
            _folder: folder,
        };
        pooler.wait();
        Some(pooler)
    }

    /// Waits until it takes connections.
    fn wait(&mut self) {
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = self.child.try_wait().expect("its state");
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "{ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How a server of ours connects to a database through it; `direct` is how it connects past it.
    pub(crate) fn config(&self, direct: &ServerConfig) -> ServerConfig {
        let mut config = self.without_saying_so(direct);
        config.through_pooler(direct.url()).expect("a URL");
        config
    }

    /// As [`Self::config`] of somebody who does not know that there is a pooler.
    pub(crate) fn without_saying_so(&self, direct: &ServerConfig) -> ServerConfig {
        let name = direct.url().trim_start_matches("postgres:///");
        let name = name.split('?').next().expect("a database");
        let port = self.port;
        let url = format!("postgres://postgres@127.0.0.1:{port}/{name}?sslmode=disable");
        let mut config = ServerConfig::at(&url).expect("a URL");
        config.connections = direct.connections;
        config.connect_timeout = direct.connect_timeout;
        config
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([Path::new("/usr/sbin").to_owned()]);
    folders
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
}
