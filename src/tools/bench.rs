//! `frameshift bench`: what can be measured, each command owned by its module.

use super::{bench_compute, bench_fleet, bench_serve};

/// Commands of `frameshift bench`.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Measurements of the model alone.
    #[command(flatten)]
    Model(bench_compute::Command),
    /// Measurements of a server under load.
    #[command(flatten)]
    Server(bench_serve::Command),
    /// Fills a database with tasks, videos and waiting jobs, and measures what servers ask of it all the time
    Fleet(bench_fleet::Args),
}
