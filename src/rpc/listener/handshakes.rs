//! TLS handshakes, side by side: slow ones keep nobody waiting.
//!
//! Invariant: at most [`PENDING`] handshakes are under way; with one more the oldest ends, since an honest one takes milliseconds.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::telemetry::metrics::{Metrics, TlsFailure};
use crate::tenancy::tls::{Certificate, Certificates};

/// Most handshakes at a time: some 20 kB each.
pub(super) const PENDING: usize = 1024;

/// A connection whose handshake is over.
pub(super) struct Encrypted {
    pub(super) stream: Box<TlsStream<TcpStream>>,
    pub(super) address: IpAddr,
    /// What the client has shown of itself.
    pub(super) certificate: Option<Certificate>,
}

/// Handshakes under way.
pub(super) struct Handshakes {
    certificates: Certificates,
    limit: Duration,
    metrics: Metrics,
    running: JoinSet<Option<Encrypted>>,
    /// Handles of the handshakes under way, oldest first.
    order: VecDeque<AbortHandle>,
}

impl Handshakes {
    /// Creates a set of handshakes, each of which may take at most `limit`.
    pub(super) fn new(certificates: Certificates, limit: Duration, metrics: Metrics) -> Self {
        Self {
            certificates,
            limit,
            metrics,
            running: JoinSet::new(),
            order: VecDeque::new(),
        }
    }

    /// Begins a handshake with the certificates that are in use now.
    pub(super) fn begin(&mut self, stream: TcpStream, address: IpAddr) {
        self.order.retain(|handle| !handle.is_finished());
        if self.order.len() >= PENDING
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
            self.metrics.tls_failed(TlsFailure::Crowded);
        }
        let acceptor = TlsAcceptor::from(self.certificates.current());
        let (limit, metrics) = (self.limit, self.metrics.clone());
        let handle = self.running.spawn(async move {
            let handshake = tokio::time::timeout(limit, acceptor.accept(stream)).await;
            match handshake {
                Ok(Ok(stream)) => Some(Encrypted {
                    certificate: shown(&stream),
                    stream: Box::new(stream),
                    address,
                }),
                Ok(Err(error)) => {
                    tracing::debug!(%error, %address, "a TLS handshake failed");
                    metrics.tls_failed(failure(&error));
                    None
                }
                Err(_) => {
                    metrics.tls_failed(TlsFailure::Slow);
                    None
                }
            }
        });
        self.order.push_back(handle);
    }

    /// Returns the next connection whose handshake is over; waits for ever while none is under way.
    pub(super) async fn next(&mut self) -> Encrypted {
        loop {
            match self.running.join_next().await {
                Some(Ok(Some(encrypted))) => return encrypted,
                // It failed, or had to make room.
                Some(Ok(None) | Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// The certificate of the client, which the handshake has verified.
fn shown(stream: &TlsStream<TcpStream>) -> Option<Certificate> {
    let (_, tls) = stream.get_ref();
    let first = tls.peer_certificates()?.first()?;
    Certificate::of(first)
}

/// Returns why a handshake failed: because of the client's certificate, or for any other reason.
fn failure(error: &io::Error) -> TlsFailure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            TlsFailure::Certificate
        }
        Some(_) | None => TlsFailure::Broken,
    }
}
