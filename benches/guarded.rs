//! Throughput of features from the built-in backbone with keys and TLS, over that without either: `cargo bench --bench guarded`. The goal is 0.97.
//!
//! Two servers of this process are asked in turns by the same number of callers, whose own part of TLS counts, too.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout
)] // A benchmark that cannot be set up ends.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use frameshift::app::App;
use frameshift::client::{Client, Options, Tls};
use frameshift::config::Config;
use frameshift::config::settings::Flags;
use frameshift::proto::v1;
use frameshift::rng::Stream;
use frameshift::shutdown;
use frameshift::spec::Scopes;
use frameshift::synth::motion::{self, Motion, Variety};
use frameshift::telemetry::metrics::Metrics;
use frameshift::tenancy::admin::{Call, KeyRequest};
use frameshift::tenancy::{self, Admin, Credentials, Meter, Method, Tenants};
use frameshift::video::encode::{Encoder, Format};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use secrecy::SecretString;

/// Callers at a time: two full batches.
const CALLERS: usize = 32;
/// Time of a measurement.
const MEASURED: Duration = Duration::from_secs(8);
const PAIRS: usize = 3;

fn config(data: &Path) -> Config {
    let flags = Flags {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        data_dir: Some(data.to_owned()),
        ..Flags::default()
    };
    let program = PathBuf::from(env!("CARGO_BIN_EXE_frameshift"));
    Config::load(None, &BTreeMap::new(), &flags, program).unwrap()
}

/// A server's certificate and its authority, as files of a folder.
fn certificates(folder: &Path) -> tenancy::tls::Config {
    let own = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(folder.join("ca"), params.self_signed(&own).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, own);
    let key = KeyPair::generate().unwrap();
    let names = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = names.signed_by(&key, &issuer).unwrap().pem();
    std::fs::write(folder.join("certificate"), certificate).unwrap();
    std::fs::write(folder.join("key"), key.serialize_pem()).unwrap();
    tenancy::tls::Config::new(folder.join("certificate"), folder.join("key"))
}

/// A server, and the clients of its callers.
struct Bed {
    clients: Vec<Client>,
    _drain: shutdown::Drain,
    _folder: tempfile::TempDir,
}

impl Bed {
    async fn start(is_guarded: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder.path().join("data"));
        if is_guarded {
            config.tenancy.methods = [Method::Keys].into();
            config.tls = Some(certificates(folder.path()));
        }
        let app = App::start(config).await.unwrap();
        let address = app.address().unwrap();
        let options = match is_guarded {
            false => Options {
                server: format!("http://{address}"),
                ..Options::default()
            },
            true => Options {
                server: format!("https://{address}"),
                api_key: Some(key(&app).await),
                tls: Tls {
                    ca: Some(folder.path().join("ca")),
                    ..Tls::default()
                },
                ..Options::default()
            },
        };
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(Client::open(&options).await.unwrap());
        }
        let (drain, signal) = shutdown::channel();
        tokio::spawn(app.run_until(async move { signal.draining().await }));
        Self {
            clients,
            _drain: drain,
            _folder: folder,
        }
    }

    /// Answers a second.
    async fn measure(&self, clips: &Arc<Vec<Bytes>>) -> f64 {
        let (stop, answers) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let workers: Vec<_> = (0..CALLERS)
            .map(|number| {
                let client = self.clients[number % self.clients.len()].clone();
                let (stop, answers, clips) = (stop.clone(), answers.clone(), clips.clone());
                tokio::spawn(async move {
                    for clip in clips.iter().cycle().skip(number) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let request = v1::EmbedRequest {
                            source: Some(v1::embed_request::Source::Content(clip.clone())),
                            ..Default::default()
                        };
                        client.classification().embed(request).await.unwrap();
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        // Until the first batches are over.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (before, begun) = (answers.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(MEASURED).await;
        let done = answers.load(Ordering::Relaxed) - before;
        let rate = done as f64 / begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.await.unwrap();
        }
        rate
    }
}

/// A key of a tenant of its own.
async fn key(app: &App) -> SecretString {
    let records = Arc::clone(&app.wiring().metadata);
    let config = tenancy::Config {
        attempts: NonZeroU32::MAX,
        ..tenancy::Config::default()
    };
    let tenants = Tenants::new(Arc::clone(&records), Meter::default(), config.feed_poll);
    let credentials = Credentials::new(config, records, Metrics::new()).unwrap();
    let admin = Admin::new(credentials, tenants);
    let (operator, acme) = (Call::operator(), "acme".parse().unwrap());
    admin.create_tenant(&operator, &acme, "").await.unwrap();
    let wanted = KeyRequest {
        tenant: Some(acme),
        display_name: String::new(),
        scopes: Scopes::TENANT,
        tasks: Default::default(),
        lifetime: None,
    };
    let (_, key) = admin.create_key(&operator, wanted).await.unwrap();
    key.reveal()
}

fn clips() -> Vec<Bytes> {
    let stream = Stream::new(1, "bench/guarded");
    let drawn = motion::clips(Motion::Direction, Variety::Training, 32, 96, &stream);
    let encode = |clip: motion::Clip| {
        let side = clip.side as u32;
        let mut encoder = Encoder::new(Format::Mp4, side, side, motion::RATE).unwrap();
        for frame in &clip.frames {
            encoder.push(frame).unwrap();
        }
        Bytes::from(encoder.finish().unwrap())
    };
    drawn.into_iter().map(encode).collect()
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` asks for a list, and for no measurement.
    if !std::env::args().any(|word| word == "--bench") {
        return;
    }
    let clips = Arc::new(clips());
    let (guarded, plain) = (Bed::start(true).await, Bed::start(false).await);
    let mut ratios = Vec::new();
    for pair in 1..=PAIRS {
        let with = guarded.measure(&clips).await;
        let without = plain.measure(&clips).await;
        println!("pair {pair}: keys and TLS {with:.1} clips/s, neither {without:.1} clips/s");
        ratios.push(with / without);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.3}, goal 0.97", ratios[PAIRS / 2]);
}
