//! Command-line work beside the client's: on local files, and load on a server to measure it.

pub mod backup;
pub mod bench;
pub mod bench_compute;
pub mod bench_fleet;
pub mod bench_serve;
pub mod bootstrap;
pub mod convert;
pub mod fetch_backbone;
pub mod fsck;
pub mod inspect;
pub mod migrate;
pub mod pretrain;
pub mod restore;
mod transfer;
pub mod video;

use std::fmt::Display;
use std::io::Write;

use crate::model::load;

/// The exit code of a checkpoint that does not load: 66 when a file cannot be read, 64 for a wrong override, else 65.
fn load_code(error: &load::Error) -> u8 {
    if matches!(error, load::Error::Io { .. }) {
        66
    } else if matches!(error, load::Error::Override { .. }) {
        64
    } else {
        65
    }
}

/// The exit code of a file that cannot be written.
const CANNOT_CREATE: u8 = 73;

/// The system's word on a file, without the name of a temporary file that stood in for it.
fn bare(error: std::io::Error) -> std::io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => error.kind().into(),
    }
}

/// Prints a line; nothing is left to do when the reader is gone, as behind `head`.
pub fn show(line: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
