//! The server's certificate and the authorities of its clients' certificates, reloaded when their files change.
//!
//! Invariant: a handshake uses files that fit one another; what cannot be used leaves what was there before in use. Connections that stand are not touched.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};

use crate::shutdown::Signal;
use crate::telemetry;
use crate::telemetry::metrics::Metrics;

/// Time between two looks at the files. Orchestrators swap links, which no notification of the file system tells of reliably.
const POLL: Duration = Duration::from_secs(10);

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Every client has to show a certificate.
    Required,
    /// A client may come without a certificate, but not with a bad one.
    Optional,
}

/// Files of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// PEM file with the server's certificate, then its chain.
    pub certificate: PathBuf,
    /// PEM file with the certificate's key.
    pub key: PathBuf,
    /// PEM file with the authorities that clients' certificates come from, and whether clients have to show one.
    pub clients: Option<(PathBuf, Clients)>,
    /// Time between two looks at the files.
    pub poll: Duration,
}

impl Config {
    /// A server's own certificate, without clients'.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            certificate,
            key,
            clients: None,
            poll: POLL,
        }
    }
}

/// Why files cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A file is not PEM, or has not in it what it should.
    #[error("{}: expected {expected} in PEM", path.display())]
    Pem {
        /// Path of the file.
        path: PathBuf,
        /// What the file should hold.
        expected: &'static str,
    },
    /// The files do not fit one another, or cannot be used.
    #[error("{} and its key cannot be used: {source}", path.display())]
    Unfit {
        /// Path of the certificate.
        path: PathBuf,
        /// Reason.
        source: rustls::Error,
    },
    /// The authorities cannot be used.
    #[error("{}: {problem}", path.display())]
    Authorities {
        /// Path of the file.
        path: PathBuf,
        /// Reason.
        problem: String,
    },
}

/// What handshakes use now. Clones share it.
#[derive(Debug, Clone)]
pub struct Certificates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    /// A plain mutex, because it is held to clone a pointer and never across an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: Arc<ServerConfig>,
    /// End of the certificate, in seconds since the Unix epoch.
    expires: i64,
    /// Digest of the files that were looked at last, whether they could be used or not.
    seen: [u8; 32],
}

/// The files' bytes.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Option<Vec<u8>>,
}

impl Certificates {
    /// Loads the files.
    ///
    /// # Errors
    /// When they cannot be read or used.
    pub fn load(config: Config) -> Result<Self, Error> {
        let files = Files::read(&config)?;
        let (current, expires) = files.build(&config)?;
        let state = State {
            current,
            expires,
            seen: files.digest(),
        };
        Ok(Self(Arc::new(Inner {
            config,
            state: Mutex::new(state),
        })))
    }

    /// What a handshake that begins now uses.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.state().current)
    }

    /// Looks at the files now. Returns whether they had changed and are in use.
    ///
    /// # Errors
    /// When they had changed and cannot be used; what was in use stays so.
    pub fn reload(&self) -> Result<bool, Error> {
        let config = &self.0.config;
        let files = Files::read(config)?;
        let digest = files.digest();
        if self.state().seen == digest {
            return Ok(false);
        }
        // The change is noted before the files are tried, so that files that cannot be used are logged once.
        self.state().seen = digest;
        let (current, expires) = files.build(config)?;
        let mut state = self.state();
        state.current = current;
        state.expires = expires;
        Ok(true)
    }

    /// Looks at the files from time to time until the drain.
    ///
    /// # Errors
    /// Never: files that cannot be used are logged, and the ones before stay in use.
    pub async fn watch(self, metrics: Metrics, drain: Signal) -> Result<(), Infallible> {
        let mut is_readable = true;
        loop {
            let left = self.state().expires - telemetry::now_micros() / 1_000_000;
            metrics.certificate_expiry(left);
            tokio::select! {
                () = drain.draining() => return Ok(()),
                () = tokio::time::sleep(self.0.config.poll) => {}
            }
            let this = self.clone();
            let looked = tokio::task::spawn_blocking(move || this.reload()).await;
            let Ok(looked) = looked else { continue };
            match looked {
                Ok(true) => {
                    metrics.certificates_reloaded(true);
                    tracing::info!("new certificates are in use");
                }
                Ok(false) => {}
                // A missing file is looked for each time, and logged once.
                Err(Error::Read { .. }) if !is_readable => continue,
                Err(error) => {
                    is_readable = !matches!(error, Error::Read { .. });
                    metrics.certificates_reloaded(false);
                    tracing::warn!(%error, "certificates cannot be used; those before stay in use");
                    continue;
                }
            }
            is_readable = true;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Fields are set one after another without a way to fail between them.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn read(config: &Config) -> Result<Self, Error> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| Error::Read {
                path: path.into(),
                source,
            })
        };
        let authorities = config.clients.as_ref().map(|(path, _)| read(path));
        Ok(Self {
            certificate: read(&config.certificate)?,
            key: read(&config.key)?,
            authorities: authorities.transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut whole = Sha256::new();
        let authorities = self.authorities.as_deref().unwrap_or_default();
        for part in [&self.certificate, &self.key, authorities] {
            whole.update((part.len() as u64).to_le_bytes());
            whole.update(part);
        }
        whole.finalize().into()
    }

    /// What handshakes use, and when the certificate ends.
    fn build(&self, config: &Config) -> Result<(Arc<ServerConfig>, i64), Error> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(&config.certificate, &self.certificate)?;
        let expires = expiry(&config.certificate, &chain)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| Error::Pem {
            path: config.key.clone(),
            expected: "a private key",
        })?;
        let unfit = |source| Error::Unfit {
            path: config.certificate.clone(),
            source,
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unfit)?;
        let builder = match (&config.clients, &self.authorities) {
            (Some((path, clients)), Some(bytes)) => {
                let verifier = verifier(path, bytes, *clients, provider)?;
                builder.with_client_cert_verifier(verifier)
            }
            (Some(_) | None, _) => builder.with_no_client_auth(),
        };
        // This compares the key with the certificate.
        let mut tls = builder.with_single_cert(chain, key).map_err(unfit)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        // A session that was begun under other files is not resumed under these: its tickets' keys are gone with it.
        tls.ticketer = ring::Ticketer::new().map_err(unfit)?;
        Ok((Arc::new(tls), expires))
    }
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(bytes).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| Error::Pem {
            path: path.into(),
            expected: "certificates",
        })
}

/// The end of the first certificate of a chain, in seconds since the Unix epoch.
fn expiry(path: &Path, chain: &[CertificateDer<'_>]) -> Result<i64, Error> {
    let wrong = || Error::Pem {
        path: path.into(),
        expected: "certificates",
    };
    let first = chain.first().ok_or_else(wrong)?;
    let (_, read) = x509_parser::parse_x509_certificate(first).map_err(|_| wrong())?;
    Ok(read.validity().not_after.timestamp())
}

/// Verifier of clients' certificates.
fn verifier(
    path: &Path,
    bytes: &[u8],
    clients: Clients,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, Error> {
    let refused = |problem: String| Error::Authorities {
        path: path.into(),
        problem,
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(path, bytes)? {
        roots
            .add(authority)
            .map_err(|error| refused(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match clients {
        Clients::Required => builder,
        Clients::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    struct Made {
        folder: tempfile::TempDir,
    }

    impl Made {
        fn new() -> Self {
            let made = Self {
                folder: tempfile::tempdir().unwrap(),
            };
            made.renew();
            made
        }

        fn config(&self) -> Config {
            let at = |name: &str| self.folder.path().join(name);
            Config::new(at("certificate"), at("key"))
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.folder.path().join(name), text).unwrap();
        }

        fn renew(&self) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
            self.write("certificate", &params.self_signed(&key).unwrap().pem());
            self.write("key", &key.serialize_pem());
        }
    }

    #[test]
    fn files_that_have_not_changed_are_not_loaded_again() {
        let made = Made::new();
        let certificates = Certificates::load(made.config()).unwrap();
        let first = certificates.current();
        assert!(!certificates.reload().unwrap());
        assert!(Arc::ptr_eq(&first, &certificates.current()));
        made.renew();
        assert!(certificates.reload().unwrap());
        assert!(!Arc::ptr_eq(&first, &certificates.current()));
    }

    #[test]
    fn what_cannot_be_used_leaves_what_was_before_and_is_told_of_once() {
        let made = Made::new();
        let certificates = Certificates::load(made.config()).unwrap();
        let first = certificates.current();
        let other = KeyPair::generate().unwrap().serialize_pem();
        for (name, text, expected) in [
            ("key", other.as_str(), "cannot be used"),
            ("key", "nonsense", "expected a private key"),
            ("certificate", "nonsense", "expected certificates"),
        ] {
            made.write(name, text);
            let error = certificates.reload().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!certificates.reload().unwrap(), "the same files again");
            assert!(Arc::ptr_eq(&first, &certificates.current()));
        }
        std::fs::remove_file(made.folder.path().join("key")).unwrap();
        let error = certificates.reload().unwrap_err();
        assert!(matches!(error, Error::Read { .. }), "{error}");
        made.renew();
        assert!(certificates.reload().unwrap());
    }

    #[test]
    fn authorities_that_are_none_are_refused_with_their_file() {
        let made = Made::new();
        made.write("ca", "");
        let config = Config {
            clients: Some((made.folder.path().join("ca"), Clients::Required)),
            ..made.config()
        };
        let error = Certificates::load(config).unwrap_err().to_string();
        assert!(error.contains("ca: expected certificates"), "{error}");
    }

    #[tokio::test]
    async fn the_time_that_is_left_is_a_metric() {
        let made = Made::new();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        made.write("certificate", &params.self_signed(&key).unwrap().pem());
        made.write("key", &key.serialize_pem());
        let certificates = Certificates::load(made.config()).unwrap();
        let metrics = Metrics::new();
        let (drain, signal) = crate::shutdown::channel();
        drain.start();
        certificates.watch(metrics.clone(), signal).await.unwrap();
        let text = metrics.text();
        assert!(
            text.contains("frameshift_tls_certificate_expiry_seconds -"),
            "{text}"
        );
    }
}
