//! The operators' endpoint: `GET /metrics`, `GET /livez` and `/readyz`, and `GET` and `PUT /log-level`.
//!
//! Invariant: only the log's filter can be changed here, and only from this machine, since callers are not authenticated.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::header::{CONTENT_TYPE, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use super::{Error, LogFilter, Metrics, Probes};
use crate::shutdown::Signal;

/// Content type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Longest filter, in bytes.
const LONGEST_FILTER: usize = 4096;

/// Serves `/metrics`, `/livez` and `/readyz` on a bound listener until the drain, and `/log-level` when the process has a log.
///
/// # Errors
/// [`Error::Endpoint`] when the listener fails.
pub async fn serve(
    listener: TcpListener,
    (metrics, probes): (Metrics, Probes),
    log: Option<LogFilter>,
    drain: Signal,
) -> Result<(), Error> {
    let probes = Router::new()
        .route("/livez", get(lives))
        .route("/readyz", get(is_ready))
        .with_state(probes);
    let mut routes = Router::new()
        .route("/metrics", get(show))
        .with_state(metrics)
        .merge(probes);
    if let Some(log) = log {
        let level = Router::new()
            .route("/log-level", get(filter).put(replace))
            .layer(DefaultBodyLimit::max(LONGEST_FILTER))
            .with_state(log);
        routes = routes.merge(level);
    }
    let service = routes.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(async move { drain.draining().await })
        .await
        .map_err(Error::Endpoint)
}

async fn show(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(CONTENT_TYPE, OPEN_METRICS)], metrics.text())
}

async fn lives(State(probes): State<Probes>) -> impl IntoResponse {
    probe(probes.liveness())
}

async fn is_ready(State(probes): State<Probes>) -> impl IntoResponse {
    probe(probes.readiness())
}

fn probe(state: Result<(), &'static str>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn filter(State(log): State<LogFilter>) -> impl IntoResponse {
    format!("{log}\n")
}

/// Replaces the log's filter. A web page that the operator's browser shows is refused, too: it sends an origin.
async fn replace(
    State(log): State<LogFilter>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    text: String,
) -> (StatusCode, String) {
    if !peer.ip().to_canonical().is_loopback() || headers.contains_key(ORIGIN) {
        let why = "the log's filter can be changed from this machine only\n";
        return (StatusCode::FORBIDDEN, why.into());
    }
    match log.replace(text.trim()) {
        Ok(()) => {
            // Nearly every filter passes the level of errors, and readers of the log have to see why it changed.
            tracing::error!(filter = %log, "the log's filter was changed");
            (StatusCode::OK, format!("{log}\n"))
        }
        Err(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            let why = format!("{error}{}\n", source.unwrap_or_default());
            (StatusCode::BAD_REQUEST, why)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::logs::unshown;
    use super::*;
    use crate::shutdown;

    async fn ask(address: SocketAddr, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1"), "").await
    }

    #[tokio::test]
    async fn the_endpoint_shows_metrics_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, signal) = shutdown::channel();
        let metrics = Metrics::new();
        metrics.queue_clips(3);
        let probes = Probes::default();
        let server = tokio::spawn(serve(listener, (metrics, probes), None, signal));
        let found = get(address, "/metrics").await;
        assert!(found.starts_with("HTTP/1.1 200 OK\r\n"), "{found}");
        assert!(found.contains("application/openmetrics-text"), "{found}");
        assert!(found.contains("frameshift_queue_clips 3\n"), "{found}");
        for path in ["/", "/log-level"] {
            assert!(get(address, path).await.starts_with("HTTP/1.1 404 "));
        }
        drain.start();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_orchestrator_learns_whether_the_process_lives_and_is_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, signal) = shutdown::channel();
        let probes = Probes::default();
        let shown = (Metrics::new(), probes.clone());
        let server = tokio::spawn(serve(listener, shown, None, signal));
        let says = async |path: &str, status: &str, why: &str| {
            let answer = get(address, path).await;
            let head = format!("HTTP/1.1 {status} ");
            assert!(
                answer.starts_with(&head) && answer.ends_with(why),
                "{answer}"
            );
        };
        says("/livez", "200", "\r\n\r\nok\n").await;
        says(
            "/readyz",
            "503",
            "\r\n\r\nwaiting for the database or the objects\n",
        )
        .await;
        probes.opened();
        says("/readyz", "503", "\r\n\r\nloading\n").await;
        probes.ready();
        says("/readyz", "200", "\r\n\r\nok\n").await;
        let seconds = Arc::new(AtomicU64::new(299));
        let shared = Arc::clone(&seconds);
        probes.watch_device(move || Duration::from_secs(shared.load(Ordering::SeqCst)));
        says("/livez", "200", "ok\n").await;
        seconds.store(300, Ordering::SeqCst);
        says("/livez", "503", "the device thread is stuck\n").await;
        probes.draining();
        says("/readyz", "503", "draining\n").await;
        drain.start();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_logs_filter_is_changed_from_this_machine_and_never_to_a_bad_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, signal) = shutdown::channel();
        let (log, _layer) = unshown("info");
        let shown = (Metrics::new(), Probes::default());
        let server = tokio::spawn(serve(listener, shown, Some(log.clone()), signal));
        let put = |body: &'static str| ask(address, "PUT /log-level HTTP/1.1", body);
        assert!(get(address, "/log-level").await.ends_with("\r\n\r\ninfo\n"));
        let changed = put("warn,frameshift::engine=debug\n").await;
        assert!(changed.starts_with("HTTP/1.1 200 OK\r\n"), "{changed}");
        let now = log.to_string();
        assert!(now.contains("frameshift::engine=debug"), "{now}");
        for wrong in ["frameshift=loudly", ""] {
            let refused = put(wrong).await;
            assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
        }
        let page = "PUT /log-level HTTP/1.1\r\nOrigin: http://example.com";
        let refused = ask(address, page, "trace").await;
        assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
        let long = "x".repeat(LONGEST_FILTER + 1);
        let refused = ask(address, "PUT /log-level HTTP/1.1", &long).await;
        assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
        assert_eq!(log.to_string(), now);
        drain.start();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn another_machine_may_not_change_the_logs_filter() {
        let (log, _layer) = unshown("info");
        let asked = |peer: &str| {
            let peer = ConnectInfo(peer.parse().unwrap());
            replace(State(log.clone()), peer, HeaderMap::new(), "debug".into())
        };
        for peer in ["10.1.2.3:5", "[2001:db8::1]:5", "[::ffff:10.1.2.3]:5"] {
            assert_eq!(asked(peer).await.0, StatusCode::FORBIDDEN, "{peer}");
        }
        assert_eq!(log.to_string(), "info");
        for peer in ["127.0.0.1:5", "[::1]:5", "[::ffff:127.0.0.1]:5"] {
            assert_eq!(asked(peer).await.0, StatusCode::OK, "{peer}");
        }
    }
}
