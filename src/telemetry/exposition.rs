//! The Prometheus endpoint: `GET /metrics`, and nothing else.
//!
//! Invariant: the endpoint only reads.

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use super::{Error, Metrics};
use crate::shutdown::Signal;

/// Content type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `/metrics` on a bound listener until the drain.
///
/// # Errors
/// [`Error::Endpoint`] when the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    mut drain: Signal,
) -> Result<(), Error> {
    let routes = Router::new()
        .route("/metrics", get(show))
        .with_state(metrics);
    axum::serve(listener, routes)
        .with_graceful_shutdown(async move { drain.draining().await })
        .await
        .map_err(Error::Endpoint)
}

async fn show(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(CONTENT_TYPE, OPEN_METRICS)], metrics.text())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::shutdown;

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_endpoint_shows_metrics_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, signal) = shutdown::channel();
        let metrics = Metrics::new();
        metrics.queue_clips(3);
        let server = tokio::spawn(serve(listener, metrics, signal));
        let found = get(address, "/metrics").await;
        assert!(found.starts_with("HTTP/1.1 200 OK\r\n"), "{found}");
        assert!(found.contains("application/openmetrics-text"), "{found}");
        assert!(found.contains("frameshift_queue_clips 3\n"), "{found}");
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404 "));
        drain.start();
        server.await.unwrap().unwrap();
    }
}
