//! The decoding processes: a zygote that this program starts by running its own file again, and the workers that it forks.
//!
//! Invariant: a worker decodes for one tenant only, sees one input at a time, and what it answers is checked before it is used.

mod busy;
mod converters;
mod exchange;
#[cfg(any(fuzzing, test))]
pub(super) mod fuzzing;
mod heap;
mod losses;
mod memory;
mod nursery;
mod parked;
mod pool;
mod queue;
mod samples;
mod sandbox;
mod serve;
mod slot;
mod wire;
mod zygote;

use std::fs::File;
use std::process::ExitCode;

use super::Reject;

pub(super) use pool::Pool;
pub(super) use slot::{Answer, Pixels};
pub(super) use wire::Work;

/// What the program runs when its first argument is `video-worker`, before anything else: no thread, no secret and no weight may be there yet.
///
/// Ends when the server's end of the socket on descriptor 0 closes. Exit code 64 when there is no such socket.
pub fn main() -> ExitCode {
    main_with(|_, _| None)
}

/// What a worker does before it decodes a file of this length; `Some` is its answer in place of decoding. It runs as confined as the decoder.
pub type Before = fn(&File, u64) -> Option<Reject>;

/// As [`main`], with something to do before every video: tests of the confinement are programs of their own that put their attacks there.
pub fn main_with(before: Before) -> ExitCode {
    zygote::run(before)
}

/// A worker that holds a tenant's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Id of the worker's process.
    pub pid: u32,
    /// Whom it decodes for.
    pub tenant: crate::ids::TenantId,
}
