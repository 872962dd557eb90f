//! The `frameshift` program: parses, loads the configuration, runs, and turns outcomes into exit codes.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: a decoding process must not have the server's threads, secrets and weights.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == "video-worker")
    {
        return frameshift::video::worker::main();
    }
    ExitCode::SUCCESS
}
