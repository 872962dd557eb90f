//! Logs, metrics, traces and the clock: what operators see of the server.
//!
//! Invariant: nothing here changes the result of a request; every metric name and label is defined once, in [`metrics`].

mod clock;
mod exposition;
mod labels;
mod logs;
pub mod metrics;
mod probes;
pub mod replica;
mod sparse;
pub mod trace;

pub use clock::{now, now_micros};
pub use exposition::serve as serve_metrics;
pub use logs::{LogFilter, LogFormat, init};
pub use metrics::Metrics;
pub use probes::Probes;
pub use sparse::Sparse;
pub use trace::Traces;

/// Reason why the log or the metrics endpoint could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not in the syntax of `tracing_subscriber::EnvFilter`.
    #[error("log filter {filter:?} is not valid")]
    Filter {
        /// Filter that was given.
        filter: String,
        /// Error of the parser.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The filter is empty.
    #[error("the log filter is empty")]
    NoFilter,
    /// The process already has a log subscriber.
    #[error("logs are already set up in this process")]
    AlreadySet,
    /// The metrics endpoint failed while it was serving.
    #[error("the metrics endpoint failed")]
    Endpoint(#[source] std::io::Error),
}
