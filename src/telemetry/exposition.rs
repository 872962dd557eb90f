//! The Prometheus endpoint: `GET /metrics`, and nothing else.
//!
//! Invariant: it only reads.

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use super::{Error, Metrics};
use crate::shutdown::Signal;

/// The content type of the OpenMetrics text format.
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
