//! Logs, metrics and the clock: what the server tells its operators.
//!
//! Invariant: nothing here changes what a request gets; every metric name and label is in [`metrics`], once.

mod clock;
mod exposition;
mod labels;
mod logs;
pub mod metrics;
mod sparse;

pub use clock::{now, now_micros};
pub use exposition::serve as serve_metrics;
pub use logs::{LogFormat, init};
pub use metrics::Metrics;
pub use sparse::Sparse;

/// Why logs or the metrics endpoint could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not in the syntax of `tracing_subscriber::EnvFilter`.
    #[error("log filter {filter:?} is not valid")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What the parser said.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has its subscriber already.
    #[error("logs are already set up in this process")]
    AlreadySet,
    /// The metrics endpoint stopped.
    #[error("the metrics endpoint failed")]
    Endpoint(#[source] std::io::Error),
}
