//! What a connection that never worked means, and what to do about it: TLS on one side alone, or a certificate that the other side does not accept.
//!
//! Invariant: only errors before a server's first answer are explained; after it, the connection was right and something else went wrong.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic::Status;

/// What precedes the name of an alert with which the other side ended a TLS connection.
const ALERT: &str = "received fatal alert: ";
/// Alerts about the certificate that this client showed.
const OF_CERTIFICATES: [&str; 8] = [
    "BadCertificate",
    "UnsupportedCertificate",
    "CertificateRevoked",
    "CertificateExpired",
    "CertificateUnknown",
    "UnknownCA",
    "AccessDenied",
    "DecryptError",
];
/// What an HTTP/2 client says of bytes that are no HTTP/2, or of a connection that ends before any came.
const NO_HTTP2: [&str; 7] = [
    "frame with invalid size",
    "protocol error",
    "unexpected end of file",
    "unexpected eof",
    "connection closed",
    "broken pipe",
    "connection reset",
];

/// A server as this client was told to reach it. Clones share whether it has answered.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    server: Arc<str>,
    is_encrypted: bool,
    /// Whether this client has a certificate to show.
    has_certificate: bool,
    has_answered: Arc<AtomicBool>,
}

impl Peer {
    /// Returns a server that has not answered yet.
    pub(super) fn new(server: &str, is_encrypted: bool, has_certificate: bool) -> Self {
        Self {
            server: server.into(),
            is_encrypted,
            has_certificate,
            has_answered: Arc::default(),
        }
    }

    /// Takes note of an answer.
    pub(super) fn answered(&self) {
        self.has_answered.store(true, Ordering::Relaxed);
    }

    /// Returns the status that stands for a failed call when the connection never worked; `None` when that is not the reason.
    pub(super) fn explained(&self, error: &(dyn Error + 'static)) -> Option<Status> {
        if self.has_answered.load(Ordering::Relaxed) {
            return None;
        }
        let (server, cause) = (&self.server, innermost(error));
        if let Some(why) = certificate(&cause) {
            return Some(Status::unauthenticated(format!("{server} {why}")));
        }
        let lower = cause.to_lowercase();
        if !NO_HTTP2.iter().any(|text| lower.contains(text)) {
            return None;
        }
        let advice = match (self.is_encrypted, self.has_certificate) {
            (false, _) => "if it has TLS, use https://",
            (true, false) => "if it wants a client certificate, give --tls-cert and --tls-cert-key",
            (true, true) => "it may not accept this client's certificate",
        };
        Some(Status::unavailable(format!(
            "{server} ended the connection without an answer ({cause}): {advice}"
        )))
    }
}

/// Returns the innermost cause of an error, which is the one that helps; the outer ones say "transport error".
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// Returns what a server did that ended the connection because of this client's certificate; `None` when it did not.
pub(super) fn certificate(cause: &str) -> Option<String> {
    let (_, alert) = cause.split_once(ALERT)?;
    if alert == "CertificateRequired" {
        return Some("wants a client certificate: give --tls-cert and --tls-cert-key".into());
    }
    let is_known = OF_CERTIFICATES.contains(&alert);
    is_known.then(|| format!("does not accept this client's certificate ({alert})"))
}

/// Returns whether a server ended the connection because of this client's certificate.
pub(super) fn is_of_certificate(error: &(dyn Error + 'static)) -> bool {
    certificate(&innermost(error)).is_some()
}

/// Returns what to do about a connection that cannot be opened, to be shown after its cause; empty when nothing is known.
pub(super) fn advice(cause: &str) -> &'static str {
    // An authority of the same name as the right one gives a signature that does not fit.
    if cause.contains("UnknownIssuer") || cause.contains("BadSignature") {
        return "; --tls-ca FILE names the authority that issued the server's certificate";
    }
    if cause.contains("InvalidContentType") || cause.contains("handshake eof") {
        return "; it does not seem to speak TLS: for plain text, use http://";
    }
    ""
}

#[cfg(test)]
mod tests {
    use std::io;

    use tonic::Code;

    use super::*;

    fn told(peer: &Peer, cause: &str) -> Option<(Code, String)> {
        let status = peer.explained(&io::Error::other(cause))?;
        Some((status.code(), status.message().to_owned()))
    }

    #[test]
    fn what_a_server_says_of_a_certificate_is_told_with_the_option_that_helps() {
        let peer = Peer::new("https://host:1", true, false);
        let (code, text) = told(&peer, "received fatal alert: CertificateRequired").unwrap();
        assert_eq!(code, Code::Unauthenticated);
        assert!(text.contains("host:1 wants a client certificate"), "{text}");
        let (code, text) = told(&peer, "received fatal alert: UnknownCA").unwrap();
        assert_eq!(code, Code::Unauthenticated);
        assert!(text.ends_with("certificate (UnknownCA)"), "{text}");
        assert_eq!(told(&peer, "received fatal alert: InternalError"), None);
    }

    #[test]
    fn a_connection_that_ends_without_an_answer_is_told_with_what_may_be_wrong() {
        for (is_encrypted, has_certificate, expected) in [
            (false, false, "use https://"),
            (true, false, "--tls-cert and --tls-cert-key"),
            (true, true, "may not accept this client's certificate"),
        ] {
            let peer = Peer::new("host:1", is_encrypted, has_certificate);
            let (code, text) = told(&peer, "frame with invalid size").unwrap();
            assert_eq!(code, Code::Unavailable);
            assert!(text.ends_with(expected), "{text}");
        }
    }

    #[test]
    fn after_an_answer_nothing_is_guessed() {
        let peer = Peer::new("host:1", false, false);
        peer.clone().answered();
        assert_eq!(told(&peer, "broken pipe"), None);
    }
}
