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
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};

use super::reload;
use crate::shutdown::Signal;
use crate::telemetry;
use crate::telemetry::metrics::Metrics;

mod peer;

pub use peer::Certificate;

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
    /// PEM file with the authorities' lists of certificates that were revoked.
    pub revoked: Option<PathBuf>,
    /// Whether clients may speak HTTP/1.1 beside HTTP/2.
    pub speaks_http1: bool,
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
            revoked: None,
            speaks_http1: false,
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
    ends: Ends,
    /// Digest of the files that were looked at last, whether they could be used or not.
    seen: [u8; 32],
}

/// When files have to be replaced at the latest, in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    /// End of the server's certificate.
    certificate: i64,
    /// Time at which the first of the lists of revoked certificates should have been followed by a new one.
    revoked: Option<i64>,
}

/// The files' bytes.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Option<Vec<u8>>,
    revoked: Option<Vec<u8>>,
}

impl Certificates {
    /// Loads the files.
    ///
    /// # Errors
    /// When they cannot be read or used.
    pub fn load(config: Config) -> Result<Self, Error> {
        let files = Files::read(&config)?;
        let (current, ends) = files.build(&config)?;
        let state = State {
            current,
            ends,
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
        let (current, ends) = files.build(config)?;
        let mut state = self.state();
        state.current = current;
        state.ends = ends;
        Ok(true)
    }

    /// Looks at the files from time to time until the drain.
    ///
    /// # Errors
    /// Never: files that cannot be used are logged, and the ones before stay in use.
    pub async fn watch(self, metrics: Metrics, drain: Signal) -> Result<(), Infallible> {
        let this = self.clone();
        let look = move || this.reload();
        let told = |change: Result<(), Error>| {
            metrics.certificates_reloaded(change.is_ok());
            match change {
                Ok(()) => tracing::info!("new certificates are in use"),
                Err(error) => {
                    tracing::warn!(%error, "certificates cannot be used; those before stay in use");
                }
            }
        };
        let is_unreadable = |error: &Error| matches!(error, Error::Read { .. });
        let ages = || {
            let (ends, now) = (self.state().ends, telemetry::now_micros() / 1_000_000);
            metrics.certificate_expiry(ends.certificate - now);
            metrics.revocations_expiry(ends.revoked.map_or(0, |end| end - now));
        };
        reload::watch((self.0.config.poll, drain), ages, look, is_unreadable, told).await;
        Ok(())
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
        let revoked = config.revoked.as_deref().map(read);
        Ok(Self {
            certificate: read(&config.certificate)?,
            key: read(&config.key)?,
            authorities: authorities.transpose()?,
            revoked: revoked.transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut whole = Sha256::new();
        let authorities = self.authorities.as_deref().unwrap_or_default();
        let revoked = self.revoked.as_deref().unwrap_or_default();
        for part in [&self.certificate, &self.key, authorities, revoked] {
            whole.update((part.len() as u64).to_le_bytes());
            whole.update(part);
        }
        whole.finalize().into()
    }

    /// What handshakes use, and when the files end.
    fn build(&self, config: &Config) -> Result<(Arc<ServerConfig>, Ends), Error> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(&config.certificate, &self.certificate)?;
        let mut ends = Ends {
            certificate: expiry(&config.certificate, &chain)?,
            revoked: None,
        };
        let mut lists = Vec::new();
        if let (Some(path), Some(bytes)) = (&config.revoked, &self.revoked) {
            (lists, ends.revoked) = revocations(path, bytes)?;
        }
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
                let verifier = verifier((path, bytes), *clients, lists, provider)?;
                builder.with_client_cert_verifier(verifier)
            }
            (Some(_) | None, _) => builder.with_no_client_auth(),
        };
        // This compares the key with the certificate.
        let mut tls = builder.with_single_cert(chain, key).map_err(unfit)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        if config.speaks_http1 {
            tls.alpn_protocols.push(b"http/1.1".to_vec());
        }
        // A session that was begun under other files is not resumed under these: its tickets' keys are gone with it.
        tls.ticketer = ring::Ticketer::new().map_err(unfit)?;
        Ok((Arc::new(tls), ends))
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

/// Lists of revoked certificates, and when the first of them should have been followed by a new one.
type Revocations = (Vec<CertificateRevocationListDer<'static>>, Option<i64>);

fn revocations(path: &Path, bytes: &[u8]) -> Result<Revocations, Error> {
    let wrong = || Error::Pem {
        path: path.into(),
        expected: "lists of revoked certificates (X509 CRL)",
    };
    let read: Result<Vec<_>, pem::Error> =
        CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    let lists = read.map_err(|_| wrong())?;
    if lists.is_empty() {
        return Err(wrong());
    }
    let mut ends = Vec::new();
    for list in &lists {
        let (_, read) = x509_parser::parse_x509_crl(list).map_err(|_| wrong())?;
        ends.extend(read.next_update().map(|end| end.timestamp()));
    }
    Ok((lists, ends.into_iter().min()))
}

/// Verifier of clients' certificates. With lists of revoked certificates, an authority without one of its own vouches for nobody.
fn verifier(
    (path, bytes): (&Path, &[u8]),
    clients: Clients,
    revoked: Vec<CertificateRevocationListDer<'static>>,
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
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(revoked);
    let builder = match clients {
        Clients::Required => builder,
        Clients::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests;
