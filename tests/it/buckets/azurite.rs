//! Azurite, an object store with the API of Azure Blob Storage, started for one test on loopback; for releases, since it takes npm.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use frameshift::store::Bucket;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretString;
use sha2::Sha256;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::until;

/// The account that every Azurite has.
const ACCOUNT: &str = "devstoreaccount1";
/// The key of that account, which is no secret.
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const CONTAINER: &str = "videos";

/// A running server.
pub(crate) struct Azurite {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Azurite {
    /// Starts a server with a container. `None` where the program is not installed, which the test says.
    pub(crate) async fn start() -> Option<Self> {
        let Some(program) = program() else {
            eprintln!(
                "skipped: Azurite is not installed (deploy/setup.sh --azure, which needs npm)"
            );
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = crate::ports::free();
        let mut command = Command::new(program);
        command
            .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"])
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .arg("--location")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let azurite = Self {
            child,
            port,
            _folder: folder,
        };
        until(|| async { azurite.make_container().await.is_ok() }).await;
        Some(azurite)
    }

    /// The container, with keys below `prefix`.
    pub(crate) fn bucket(&self, prefix: &str) -> Bucket {
        let variables = [
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY),
        ];
        let variables = variables.map(|(name, own)| (name.to_owned(), SecretString::from(own)));
        let url = format!("az://{CONTAINER}/{prefix}").parse().unwrap();
        let endpoint = format!("http://127.0.0.1:{}/{ACCOUNT}", self.port);
        Bucket::new(url, Some(endpoint), None, &variables).unwrap()
    }

    async fn make_container(&self) -> std::io::Result<()> {
        let mut date = Command::new("date");
        date.args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"])
            .env("LC_ALL", "C");
        let date = String::from_utf8(date.output()?.stdout).unwrap();
        let headers = format!("x-ms-date:{}\nx-ms-version:2021-08-06", date.trim());
        let resource = format!("/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container");
        let signed = format!("PUT\n\n\n\n\n\n\n\n\n\n\n\n{headers}\n{resource}");
        let mut mac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(KEY).unwrap()).unwrap();
        mac.update(signed.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let request = format!(
            "PUT /{ACCOUNT}/{CONTAINER}?restype=container HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\
             Connection: close\r\nContent-Length: 0\r\n{}\r\n\
             Authorization: SharedKey {ACCOUNT}:{signature}\r\n\r\n",
            self.port,
            headers.replace('\n', "\r\n").replace("date:", "date: ")
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let is_made = ["HTTP/1.1 201", "HTTP/1.1 409"]
            .iter()
            .any(|own| answer.starts_with(own));
        assert!(is_made, "{answer}");
        Ok(())
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    let own = std::env::var("FRAMESHIFT_TEST_TOOLS").map(PathBuf::from);
    let home = std::env::var("HOME").map(|home| Path::new(&home).join(".cache/frameshift-tests"));
    let program = own
        .or(home)
        .ok()?
        .join("azurite/node_modules/.bin/azurite-blob");
    program.is_file().then_some(program)
}
