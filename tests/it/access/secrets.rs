//! What a whole run leaves behind: logs, the configuration's dump, metrics, errors and files, searched for every secret that was used.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use frameshift::client::{Client, Options};
use frameshift::ids::KeyId;
use frameshift::proto::v1;
use frameshift::tenancy::key::Key;
use jsonwebtoken::Algorithm;
use secrecy::ExposeSecret;
use tokio::process::Command;

use crate::issuer::{Issuer, Signer};
use crate::processes;
use crate::reports::command::{program, word};
use crate::server::{backbone, until};

/// Every file below a folder.
fn contents(folder: &Path, into: &mut Vec<u8>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            contents(&path, into);
        } else if let Ok(bytes) = fs::read(&path) {
            into.extend(bytes);
        }
    }
}

/// An address that a server says on its standard output.
fn said(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1).map(str::to_owned)
}

async fn open(address: &str, key: &str) -> Client {
    let options = Options {
        server: address.to_owned(),
        api_key: Some(key.into()),
        ..Options::default()
    };
    Client::open(&options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines)]
async fn no_secret_of_a_run_is_in_its_logs_dumps_metrics_errors_or_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let data = at("data");
    let first = Key::generate().unwrap().reveal().expose_secret().to_owned();
    let pepper = Key::generate().unwrap().reveal().expose_secret().to_owned();
    let secrets_folder = tempfile::tempdir().unwrap();
    let (first_file, pepper_file) = (
        secrets_folder.path().join("first"),
        secrets_folder.path().join("pepper"),
    );
    fs::write(&first_file, &first).unwrap();
    fs::write(&pepper_file, &pepper).unwrap();
    let signer = Signer::new("own", Algorithm::ES256);
    let issuer = Issuer::start(&[&signer]).await;
    let own_token = Key::generate().unwrap().reveal().expose_secret().to_owned();
    let (identities, token_file) = (
        secrets_folder.path().join("identities.toml"),
        secrets_folder.path().join("token"),
    );
    fs::write(&token_file, &own_token).unwrap();
    let rules = format!(
        "[[issuers]]\nurl = \"{}\"\naudiences = [\"frameshift\"]\ntoken_file = \"{}\"\n\
         [[issuers.rules]]\nsubject = \"bob\"\ntenant = \"acme\"\nrole = \"viewer\"\n",
        issuer.url,
        word(&token_file)
    );
    fs::write(&identities, rules).unwrap();
    let words = |command: &mut Command| {
        command.args([
            "serve",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
            "--metrics-listen=127.0.0.1:0",
            "--authentication=keys,oidc",
            "--identities-file",
            word(&identities),
            "--log=trace",
            "--data-dir",
            word(&data),
            "--bootstrap-key-file",
            word(&first_file),
            "--key-pepper-file",
            word(&pepper_file),
        ]);
        command.arg("--backbone").arg(backbone());
    };
    let mut serve = program();
    words(&mut serve);
    let mut child = serve
        .env("FRAMESHIFT_API_KEY", "not for a server")
        .stdout(Stdio::from(fs::File::create(at("out")).unwrap()))
        .stderr(Stdio::from(fs::File::create(at("err")).unwrap()))
        .spawn()
        .unwrap();
    let out = || fs::read_to_string(at("out")).unwrap();
    until(|| async { out().contains("\nserving") }).await;
    let own = said(&out(), "address").unwrap();
    let admin = open(&said(&out(), "administration").unwrap(), &first).await;

    let mut used = Used {
        secrets: vec![first.clone(), pepper, own_token],
        errors: String::new(),
    };
    let id = used.make(&admin).await;
    used.sign(&issuer, &signer);
    used.show(&own).await;
    let metrics = said(&out(), "metrics").unwrap();
    let metrics = fetch(&metrics).await;
    assert!(
        metrics.contains("frameshift_credentials_refused_total"),
        "{metrics}"
    );

    let mut dump = program();
    words(&mut dump);
    let dump = processes::output(dump.arg("--dump-config")).await;
    assert!(dump.status.success());

    let pid = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(processes::ended(&mut child).await.success());

    let mut left = Vec::new();
    contents(folder.path(), &mut left);
    left.extend(dump.stdout);
    left.extend(used.errors.into_bytes());
    left.extend(metrics.into_bytes());
    let has = |text: &str| {
        left.windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    assert!(has(id.as_str()), "the search finds what is there");
    assert!(has("a credential was refused"), "the log tells of refusals");
    assert!(
        has(&format!("{}#bob", issuer.url)),
        "the audit log names subjects"
    );
    for secret in &used.secrets {
        // The part after a key's id, and a token's signature, are secret.
        let start = secret.rfind('.').or(secret.rfind('_')).unwrap() + 1;
        assert!(!has(&secret[start..start + 20]), "a secret was left behind");
    }
}

/// Secrets that a run used, and what callers were told.
struct Used {
    secrets: Vec<String>,
    errors: String,
}

impl Used {
    /// Makes a key and rotates it, and thinks up others. Returns the key's id.
    async fn make(&mut self, admin: &Client) -> KeyId {
        let tenant = v1::CreateTenantRequest {
            tenant_id: "acme".into(),
            tenant: None,
        };
        admin.admin().create_tenant(tenant).await.unwrap();
        let create = v1::CreateKeyRequest {
            key: Some(v1::ApiKey {
                tenant: "tenants/acme".into(),
                scopes: vec!["read".into()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let made = admin.admin().create_key(create).await.unwrap().into_inner();
        let name = made.key.unwrap().name;
        let rotate = v1::RotateKeyRequest {
            name: name.clone(),
            overlap: None,
        };
        let rotated = admin.admin().rotate_key(rotate).await.unwrap().into_inner();
        let id: KeyId = name.strip_prefix("keys/").unwrap().parse().unwrap();
        let unknown = Key::generate().unwrap().reveal();
        let forged = Key::with_id(id.clone()).unwrap().reveal();
        self.secrets.extend([made.secret, rotated.secret]);
        let others = [unknown, forged].map(|key| key.expose_secret().to_owned());
        self.secrets.extend(others);
        id
    }

    /// Tokens that are good, and that are bad in some ways.
    fn sign(&mut self, issuer: &Issuer, signer: &Signer) {
        let claims = issuer.claims("bob");
        let mut expired = claims.clone();
        expired["exp"] = 1.into();
        let stranger = Signer::new("own", Algorithm::ES256);
        self.secrets.extend([
            signer.sign(&claims, |_| {}),
            signer.sign(&expired, |_| {}),
            signer.sign(&issuer.claims("eve"), |_| {}),
            signer.sign(&claims, |header| header.kid = Some("unknown".into())),
            stranger.sign(&claims, |_| {}),
        ]);
    }

    /// Shows every secret to a server.
    async fn show(&mut self, server: &str) {
        for key in &self.secrets {
            let client = open(server, key).await;
            let listed = client
                .videos()
                .list_videos(v1::ListVideosRequest::default())
                .await;
            if let Err(status) = listed {
                let details = String::from_utf8_lossy(status.details());
                self.errors += &format!("{status:?} {details}");
            }
            let changed = client
                .tasks()
                .delete_task(v1::DeleteTaskRequest::default())
                .await;
            if let Err(status) = changed {
                self.errors += &format!("{status:?}");
            }
        }
    }
}

/// The text of the metrics endpoint.
async fn fetch(url: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = url.strip_prefix("http://").unwrap();
    let address = address.strip_suffix("/metrics").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}
