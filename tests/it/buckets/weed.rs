//! SeaweedFS, an object store with the API of S3, started for one test on loopback.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use frameshift::store::Bucket;
use secrecy::SecretString;
use tempfile::TempDir;

use crate::server::until;

const CREDENTIALS: &str = r#"{"identities":[{"name":"test","credentials":[{"accessKey":"test","secretKey":"not-a-secret"}],
    "actions":["Admin","Read","Write","List","Tagging"]}]}"#;

/// Names of the ports that the server takes, in the order in which they are given out.
const PORTS: [&str; 8] = [
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
];

/// A running server.
pub(crate) struct Weed {
    child: Child,
    program: PathBuf,
    ports: Vec<u16>,
    folder: TempDir,
}

impl Weed {
    /// Starts a server. `None` where the program is not installed, which the test says; with `CI=true` that is a failure.
    pub(crate) async fn start() -> Option<Self> {
        let Some(program) = program() else {
            let is_required = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(
                !is_required,
                "SeaweedFS is missing: run deploy/setup.sh --tests"
            );
            eprintln!("skipped: SeaweedFS is not installed (deploy/setup.sh --tests)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("s3.json"), CREDENTIALS).unwrap();
        let ports: Vec<u16> = PORTS.iter().map(|_| crate::ports::free()).collect();
        let child = run(&program, folder.path(), &ports);
        let mut weed = Self {
            child,
            program,
            ports,
            folder,
        };
        weed.answers().await;
        Some(weed)
    }

    /// The bucket that the server has, with keys below `prefix`.
    pub(crate) fn bucket(&self, prefix: &str) -> Bucket {
        bucket(&self.endpoint(), prefix)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    pub(crate) fn port(&self) -> u16 {
        self.ports[6]
    }

    /// Kills the server at once, as a power failure would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server again, on the same ports and files.
    pub(crate) async fn restart(&mut self) {
        self.child = run(&self.program, self.folder.path(), &self.ports);
        self.answers().await;
    }

    /// Waits until an object can be written and read.
    async fn answers(&mut self) {
        let store = frameshift::store::Store::in_bucket(
            &self.bucket("probe"),
            frameshift::telemetry::Metrics::new(),
        );
        let store = store.unwrap();
        let log = self.folder.path().join("log");
        until(|| async {
            let written = store.identify("probe").await.is_ok();
            written && store.identity().await.is_ok_and(|id| id.is_some())
        })
        .await;
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "{}", std::fs::read_to_string(log).unwrap());
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bucket of a server at this address.
pub(crate) fn bucket(endpoint: &str, prefix: &str) -> Bucket {
    let variables = [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "not-a-secret"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), SecretString::from(value)));
    let url = format!("s3://videos/{prefix}").parse().unwrap();
    Bucket::new(url, Some(endpoint.into()), None, &variables).unwrap()
}

fn program() -> Option<PathBuf> {
    let own = std::env::var("FRAMESHIFT_TEST_TOOLS").map(PathBuf::from);
    let home = std::env::var("HOME").map(|home| Path::new(&home).join(".cache/frameshift-tests"));
    let tools = own.or(home).ok()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([tools.join("seaweedfs/bin")]);
    folders
        .map(|folder| folder.join("weed"))
        .find(|program| program.is_file())
}

fn run(program: &Path, folder: &Path, ports: &[u16]) -> Child {
    let log = std::fs::File::options();
    let log = { log }
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    let mut command = Command::new(program);
    command
        .arg("server")
        .args(["-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-filer", "-s3"])
        .args(["-volume.max", "100", "-master.volumeSizeLimitMB", "64"])
        .args([
            "-s3.port.iceberg",
            "0",
            "-s3.port.lance",
            "0",
            "-s3.iam=false",
        ])
        .args(["-master.telemetry=false", "-master.volumePreallocate=false"])
        .arg(format!("-dir={}", folder.display()))
        .arg(format!("-s3.config={}", folder.join("s3.json").display()))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    for (name, port) in PORTS.iter().zip(ports) {
        command.arg(format!("-{name}={port}"));
    }
    command.spawn().unwrap()
}
