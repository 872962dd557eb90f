//! Answers that no gRPC server gave: a proxy between the client and the server refused, lost or replaced the call, or the connection never worked.
//!
//! Invariant: an answer without a gRPC status of its own becomes a status that says what it was and what to do, before anybody takes its body for
//! messages.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response, StatusCode, header};
use tonic::body::Body;
use tonic::metadata::{MetadataKey, MetadataValue};
use tonic::transport::{self, Channel};
use tonic::{Code, Status};
use tower::Service;

use super::unreachable::Peer;

/// Key of a status's metadata with the number of the HTTP answer that it stands for.
const HTTP_STATUS: &str = "frameshift-http-status";
/// Key of a status's metadata that says that the call cannot succeed over this connection.
const REFUSED: &str = "frameshift-refused";
/// Longest content type that is shown.
const MAX_SHOWN: usize = 60;

/// A channel that tells a proxy's answers from the server's.
#[derive(Debug, Clone)]
pub struct Proxied {
    channel: Channel,
    peer: Peer,
}

impl Proxied {
    /// Returns a channel over a connection to a server.
    pub(super) fn new(channel: Channel, peer: Peer) -> Self {
        Self { channel, peer }
    }
}

impl Service<Request<Body>> for Proxied {
    type Response = Response<Body>;
    type Error = transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.channel.call(request);
        let peer = self.peer.clone();
        Box::pin(async move {
            let answer = match answer.await {
                Ok(answer) => answer,
                Err(error) => {
                    let explained = peer.explained(&error).ok_or(error)?;
                    return Ok(refused(explained).into_http());
                }
            };
            peer.answered();
            Ok(match foreign(answer.status(), answer.headers()) {
                Some(status) => status.into_http(),
                None => answer,
            })
        })
    }
}

/// Marks a status that would be the same if the call was sent again.
fn refused(mut status: Status) -> Status {
    let key = MetadataKey::from_static(REFUSED);
    let metadata = status.metadata_mut();
    metadata.insert(key, MetadataValue::from_static("yes"));
    status
}

/// The status that an answer stands for when no gRPC server gave it.
fn foreign(answer: StatusCode, headers: &HeaderMap) -> Option<Status> {
    if headers.contains_key("grpc-status") {
        return None;
    }
    let content = headers
        .get(header::CONTENT_TYPE)
        .and_then(|content| content.to_str().ok())
        .unwrap_or_default();
    let is_grpc = content.starts_with("application/grpc");
    if answer == StatusCode::OK && is_grpc {
        return None;
    }
    let number = answer.as_u16();
    let text = format!(
        "a proxy between here and the server answered {number} ({})",
        advice(answer, content)
    );
    let mut status = Status::new(Code::Unavailable, text);
    status.metadata_mut().insert(HTTP_STATUS, number.into());
    Some(status)
}

/// What an HTTP status means, and what to do about it.
fn advice(answer: StatusCode, content: &str) -> String {
    let known = match answer.as_u16() {
        200 => {
            let content: String = content.chars().take(MAX_SHOWN).collect();
            return format!(
                "content type {content:?}, not gRPC): is this the server's port, and does the proxy speak HTTP/2 to it (nginx: grpc_pass"
            );
        }
        401 | 403 | 407 => {
            "access denied): it wants credentials that this client does not send, or allows other paths only (ask who runs it"
        }
        404 | 405 => {
            "no such path): let it pass every path below /frameshift.v1. and /grpc. to the server (nginx: grpc_pass"
        }
        408 => {
            "request timeout): raise its time limits (nginx: client_body_timeout, grpc_send_timeout"
        }
        411 | 413 => "body too large): raise its limit (nginx: client_max_body_size 0",
        426 | 464 | 505 => {
            "HTTP/2 refused): let it speak HTTP/2 to the client and to the server (nginx: http2 on, grpc_pass"
        }
        429 => "too many requests): raise its rate limit, or try again later (nginx: limit_req",
        431 => "headers too large): raise its limit (nginx: large_client_header_buffers",
        502 => {
            "bad gateway): it cannot reach the server, or does not speak HTTP/2 to it (nginx: grpc_pass"
        }
        503 => "service unavailable): it has no server to pass calls to now (try again",
        504 => {
            "gateway timeout): raise its time limits (nginx: grpc_read_timeout, grpc_send_timeout"
        }
        _ => "not a gRPC answer): see its log (or connect without it",
    };
    known.to_owned()
}

/// Whether a proxy or the connection refuses the call for good, so that sending it again would not help.
pub(super) fn is_refused(status: &Status) -> bool {
    if status.metadata().contains_key(REFUSED) {
        return true;
    }
    let number = status.metadata().get(HTTP_STATUS);
    let number = number.and_then(|number| number.to_str().ok()?.parse::<u16>().ok());
    number.is_some_and(|number| matches!(number, 200 | 400..=407 | 409..=428 | 431 | 464 | 505))
}

#[cfg(test)]
mod tests;
