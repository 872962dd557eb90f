//! The decoding processes.

use std::process::ExitCode;

/// The processes and the queue before them.
pub(super) struct Pool;

/// What the hidden subcommand `video-worker` runs, before anything else in the program.
pub fn main() -> ExitCode {
    todo!()
}
