//! Holds every request to its caller's deadline, and unary ones without to the server's: a handler that is late is dropped, and with it all that it waits
//! for.

use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tonic::body::Body;

use super::body::Watched;
use super::{Arrived, Concern, Inner, answer};
use crate::rpc::methods::{self, Kind};
use crate::rpc::status;

const HEADER: &str = "grpc-timeout";

/// Time at which the caller stops waiting: in the extensions of a request whose caller set a deadline, and of every unary call.
#[derive(Debug, Clone, Copy)]
pub(in crate::rpc) struct Deadline(pub(in crate::rpc) Instant);

/// Enforces deadlines.
#[derive(Debug, Clone)]
pub(super) struct Timed {
    unary: Duration,
}

impl Timed {
    /// Gives unary calls without a deadline the time `unary`.
    pub(super) fn new(unary: Duration) -> Self {
        Self { unary }
    }
}

impl Concern for Timed {
    async fn around<S: Inner>(&self, mut request: Request<Body>, next: S) -> Response<Body> {
        let arrived = request.extensions().get::<Arrived>().copied();
        let own = match methods::kind(request.uri().path()) {
            Kind::Unary => Some(self.unary),
            Kind::ServerStream | Kind::ClientStream => None,
        };
        let Some(patience) = patience(request.headers()).or(own) else {
            return answer(next, request).await;
        };
        let began = arrived.map_or_else(Instant::now, |Arrived(at)| at);
        let Some(deadline) = began.checked_add(patience) else {
            return answer(next, request).await;
        };
        request.extensions_mut().insert(Deadline(deadline));
        match tokio::time::timeout_at(deadline, answer(next, request)).await {
            // A stream's answer begins at once and may last beyond the deadline, so its body is held to it, too.
            Ok(response) => response.map(|body| {
                let stop = async move {
                    tokio::time::sleep_until(deadline).await;
                    status::deadline_exceeded()
                };
                Body::new(Watched::until(body, stop))
            }),
            Err(_) => status::deadline_exceeded().into_http(),
        }
    }
}

/// The value of `grpc-timeout`: at most eight digits and a unit. A malformed one is ignored, as tonic does.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("50m", Some(Duration::from_millis(50))),
            ("2S", Some(Duration::from_secs(2))),
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("100000000n", None),
            ("m", None),
            ("", None),
            ("-1S", None),
            ("5s", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_str(text).unwrap());
            assert_eq!(patience(&headers), expected, "{text}");
        }
        assert_eq!(patience(&HeaderMap::new()), None);
    }
}
