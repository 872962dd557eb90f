//! The quickstart: the main job through the public gRPC API alone.
//!
//! Invariant: it knows the server as any client does: by the address that it prints and by `proto::v1`.

use std::path::PathBuf;

/// Arguments of `frameshift demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where to write the report
    #[arg(long, default_value = "demo/report.html")]
    pub report: PathBuf,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {}

/// Starts a server, runs the demo against it and writes the report.
///
/// # Errors
/// When a step fails or an accuracy is below what is promised.
pub async fn run(_args: Args) -> Result<(), Error> {
    todo!("waits for the server")
}
