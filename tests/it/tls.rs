//! TLS through the whole server: certificates that change under load, clients' certificates, and callers that only half open a connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use frameshift::client::{Client, Error, Options, Tls};
use frameshift::proto::v1;
use frameshift::tenancy::tls::{Clients, Config};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::server::{TestServer, soon, until};

/// An authority and what it signed, as files.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { folder, issuer }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let key = key.serialize_pem();
        Pair { certificate, key }
    }

    /// Puts a pair into files of a name; each appears whole.
    pub(crate) fn put(&self, name: &str, pair: &Pair) {
        for (end, text) in [("pem", &pair.certificate), ("key", &pair.key)] {
            let new = self.at("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, self.at(&format!("{name}.{end}"))).unwrap();
        }
    }

    /// A server with a certificate of this authority, which looks at its files all the time.
    async fn serve(&self, clients: Option<(&Path, Clients)>) -> TestServer {
        let tls = self.server(clients);
        TestServer::start_with(|config| config.tls = Some(tls)).await
    }

    /// TLS with a certificate of this authority, whose files are looked at all the time.
    pub(crate) fn server(&self, clients: Option<(&Path, Clients)>) -> Config {
        self.put("server", &self.sign(|_| {}));
        Config {
            clients: clients.map(|(path, clients)| (path.to_owned(), clients)),
            poll: Duration::from_millis(5),
            ..Config::new(self.at("server.pem"), self.at("server.key"))
        }
    }

    /// Writes the list of what this authority has revoked, by serial numbers; the next list is due in a year.
    pub(crate) fn revoke(&self, serials: &[u64], due: i32) {
        let begun = rcgen::date_time_ymd(2020, 1, 1);
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: begun,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: begun,
            next_update: rcgen::date_time_ymd(due, 1, 1),
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap().pem().unwrap();
        let new = self.at("new-crl");
        std::fs::write(&new, list).unwrap();
        std::fs::rename(new, self.at("crl")).unwrap();
    }

    /// What a client that trusts this authority shows; with a pair's files, its certificate.
    fn options(&self, server: &TestServer, own: Option<&str>) -> Options {
        let file = |end: &str| own.map(|name| self.at(&format!("{name}.{end}")));
        Options {
            server: format!("https://{}", server.address),
            tls: Tls {
                ca: Some(self.at("ca")),
                certificate: file("pem"),
                key: file("key"),
            },
            ..Options::default()
        }
    }
}

/// Connects and calls once.
async fn call(options: &Options) -> Result<v1::ServerInfo, Error> {
    let client = Client::open(options).await?;
    let info = client
        .server()
        .get_server_info(v1::GetServerInfoRequest {})
        .await;
    Ok(info?.into_inner())
}

/// The value of a counter or gauge, 0 when it was never set.
fn metric(server: &TestServer, name: &str) -> i64 {
    let text = server.wiring.metrics.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_under_load_fail_no_call() {
    let authority = Authority::new();
    let server = authority.serve(None).await;
    let options = authority.options(&server, None);
    let (stop, calls) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (stop, calls, options) = (stop.clone(), calls.clone(), options.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    // A connection for each call, so that each has its handshake.
                    call(&options).await.expect("no call fails");
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for reload in 1..=100 {
        authority.put("server", &authority.sign(|_| {}));
        let used = "frameshift_tls_reloads_total{outcome=\"used\"}";
        until(|| async { metric(&server, used) >= reload }).await;
    }
    stop.store(true, Ordering::SeqCst);
    for worker in workers {
        worker.await.unwrap();
    }
    let calls = calls.load(Ordering::SeqCst);
    println!("100 reloads under {calls} calls: 0 failed (goal 0)");
    assert!(calls > 100);
    assert!(metric(&server, "frameshift_tls_certificate_expiry_seconds") > 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_fit_leaves_the_certificate_before_in_use() {
    let authority = Authority::new();
    let server = authority.serve(None).await;
    let options = authority.options(&server, None);
    let other = authority.sign(|_| {});
    std::fs::write(authority.at("server.key"), other.key).unwrap();
    let refused = "frameshift_tls_reloads_total{outcome=\"refused\"}";
    until(|| async { metric(&server, refused) > 0 }).await;
    call(&options).await.unwrap();
    authority.put("server", &authority.sign(|_| {}));
    let used = "frameshift_tls_reloads_total{outcome=\"used\"}";
    until(|| async { metric(&server, used) > 0 }).await;
    call(&options).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_need_a_certificate_of_the_right_authority_that_has_not_expired() {
    let (own, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let server = own
        .serve(Some((&clients.at("ca"), Clients::Required)))
        .await;
    own.put("good", &clients.sign(|_| {}));
    own.put("stranger", &strangers.sign(|_| {}));
    own.put(
        "expired",
        &clients.sign(|params| params.not_after = rcgen::date_time_ymd(2001, 1, 1)),
    );
    call(&own.options(&server, Some("good"))).await.unwrap();
    for bad in [None, Some("stranger"), Some("expired")] {
        let refused = soon(call(&own.options(&server, bad))).await;
        let refused = refused.expect_err("no good certificate");
        let (code, text) = (refused.exit_code(), refused.to_string());
        // A connection that the server closes may break before its reason is read.
        let words = match bad {
            None => ["wants a client certificate", "wants a client certificate"],
            Some(_) => [
                "does not accept this client's certificate",
                "may not accept this client's certificate",
            ],
        };
        assert!(words.iter().any(|words| text.contains(words)), "{text}");
        assert!([69, 77].contains(&code), "{code}: {text}");
    }
    let failed = "frameshift_tls_handshakes_failed_total{reason=\"certificate\"}";
    until(|| async { metric(&server, failed) >= 3 }).await;
    call(&own.options(&server, Some("good"))).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_optional_has_to_be_good_when_it_is_shown() {
    let (own, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let server = own
        .serve(Some((&clients.at("ca"), Clients::Optional)))
        .await;
    own.put("good", &clients.sign(|_| {}));
    own.put("stranger", &strangers.sign(|_| {}));
    call(&own.options(&server, None)).await.unwrap();
    call(&own.options(&server, Some("good"))).await.unwrap();
    assert!(call(&own.options(&server, Some("stranger"))).await.is_err());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_authorities_of_clients_are_in_use_for_new_connections() {
    let (own, first, second) = (Authority::new(), Authority::new(), Authority::new());
    let trusted = first.at("ca");
    let server = own.serve(Some((&trusted, Clients::Required))).await;
    own.put("first", &first.sign(|_| {}));
    own.put("second", &second.sign(|_| {}));
    let (old, new) = (
        own.options(&server, Some("first")),
        own.options(&server, Some("second")),
    );
    call(&old).await.unwrap();
    assert!(call(&new).await.is_err());
    std::fs::copy(second.at("ca"), &trusted).unwrap();
    until(|| async { call(&new).await.is_ok() }).await;
    assert!(call(&old).await.is_err());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_refused_once_the_list_has_it() {
    let (own, clients) = (Authority::new(), Authority::new());
    clients.revoke(&[7], 2090);
    let mut tls = own.server(Some((&clients.at("ca"), Clients::Required)));
    tls.revoked = Some(clients.at("crl"));
    let server = TestServer::start_with(|config| config.tls = Some(tls)).await;
    let signed = |serial: u64| clients.sign(|params| params.serial_number = Some(serial.into()));
    own.put("revoked", &signed(7));
    own.put("good", &signed(8));
    let (revoked, good) = (
        own.options(&server, Some("revoked")),
        own.options(&server, Some("good")),
    );
    call(&good).await.unwrap();
    let refused = soon(call(&revoked)).await;
    let text = refused.expect_err("it is revoked").to_string();
    assert!(text.contains("accept this client's certificate"), "{text}");
    assert!(metric(&server, "frameshift_tls_revocations_expiry_seconds") > 0);
    // A new list is in use for new connections; one that nobody can read leaves the list before.
    clients.revoke(&[7, 8], 2021);
    until(|| async { call(&good).await.is_err() }).await;
    let due = "frameshift_tls_revocations_expiry_seconds";
    until(|| async { metric(&server, due) < 0 }).await;
    std::fs::write(clients.at("crl"), "nonsense").unwrap();
    let unused = "frameshift_tls_reloads_total{outcome=\"refused\"}";
    until(|| async { metric(&server, unused) > 0 }).await;
    assert!(call(&good).await.is_err());
    clients.revoke(&[], 2090);
    until(|| async { call(&good).await.is_ok() }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_without_a_list_of_its_own_vouches_for_nobody() {
    let (own, with, without) = (Authority::new(), Authority::new(), Authority::new());
    with.revoke(&[], 2090);
    let both = [with.at("ca"), without.at("ca")].map(|path| std::fs::read_to_string(path).unwrap());
    std::fs::write(own.at("both"), both.concat()).unwrap();
    let mut tls = own.server(Some((&own.at("both"), Clients::Required)));
    tls.revoked = Some(with.at("crl"));
    let server = TestServer::start_with(|config| config.tls = Some(tls)).await;
    own.put("listed", &with.sign(|_| {}));
    own.put("unlisted", &without.sign(|_| {}));
    call(&own.options(&server, Some("listed"))).await.unwrap();
    let refused = soon(call(&own.options(&server, Some("unlisted")))).await;
    assert!(refused.is_err());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_and_strangers_certificates_are_refused_and_harm_nobody() {
    let authority = Authority::new();
    let server = authority.serve(None).await;
    let plain = Options {
        server: format!("http://{}", server.address),
        ..Options::default()
    };
    let refused = soon(call(&plain)).await.expect_err("no plain text");
    let text = refused.to_string();
    assert!(text.contains("if it has TLS, use https://"), "{text}");
    assert_eq!(refused.exit_code(), 69, "{text}");
    // A client that trusts another authority does not believe the server.
    let other = Authority::new();
    let refused = call(&other.options(&server, None)).await;
    let refused = refused.expect_err("a stranger's certificate");
    let text = refused.to_string();
    assert!(text.contains("--tls-ca FILE names the authority"), "{text}");
    assert_eq!(refused.exit_code(), 69, "{text}");
    call(&authority.options(&server, None)).await.unwrap();
    let failed = "frameshift_tls_handshakes_failed_total{reason=\"broken\"}";
    until(|| async { metric(&server, failed) >= 2 }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_tls_of_a_plain_text_server_is_told() {
    let authority = Authority::new();
    let server = TestServer::start().await;
    let refused = soon(call(&authority.options(&server, None))).await;
    let refused = refused.expect_err("no TLS");
    let text = refused.to_string();
    assert!(text.contains("for plain text, use http://"), "{text}");
    assert_eq!(refused.exit_code(), 69, "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_half_open_handshakes_keep_no_good_connection_waiting() {
    let authority = Authority::new();
    let tls = authority.server(None);
    let server = TestServer::start_with(|config| {
        config.tls = Some(tls);
        // Whoever waited for one of them would wait for ever.
        config.rpc.handshake = Duration::from_secs(3600);
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let begun = Instant::now();
    soon(call(&authority.options(&server, None))).await.unwrap();
    let took = begun.elapsed();
    println!("the first answer beside 500 half-open handshakes: {took:.1?} (goal 1 s)");
    // They are no connections yet, so they take nobody's place.
    assert!(metric(&server, "frameshift_connections") <= 2);
    drop(silent);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_too_many_half_open_handshakes_the_oldest_end() {
    let authority = Authority::new();
    let server = authority.serve(None).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..1100 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    // The end of the first, long before its time is over.
    let mut byte = [0];
    let ended = soon(first.read(&mut byte)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    call(&authority.options(&server, None)).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_too_slow_ends() {
    let authority = Authority::new();
    authority.put("server", &authority.sign(|_| {}));
    let tls = Config::new(authority.at("server.pem"), authority.at("server.key"));
    let server = TestServer::start_with(|config| {
        config.tls = Some(tls);
        config.rpc.handshake = Duration::from_millis(50);
    })
    .await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut byte = [0];
    let ended = soon(silent.read(&mut byte)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let failed = "frameshift_tls_handshakes_failed_total{reason=\"slow\"}";
    until(|| async { metric(&server, failed) == 1 }).await;
    server.stop().await;
}
