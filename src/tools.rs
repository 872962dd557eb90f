//! Command-line work on local files, without a server.

pub mod backup;
pub mod bench_compute;
pub mod convert;
pub mod inspect;
pub mod pretrain;
pub mod video;

use std::fmt::Display;
use std::io::Write;

/// Prints a line; nothing is left to do when the reader is gone, as behind `head`.
pub fn show(line: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
