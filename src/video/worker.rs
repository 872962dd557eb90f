//! The decoding processes: a zygote that this program starts by running its own file again, and the workers that it forks.
//!
//! Invariant: a worker decodes for one tenant only, sees one input at a time, and what it answers is checked before it is used.

mod exchange;
mod memory;
mod nursery;
mod pool;
mod queue;
mod sandbox;
mod serve;
mod slot;
mod wire;
mod zygote;

use std::process::ExitCode;

pub(super) use pool::{Pool, Work};
pub(super) use slot::{Answer, Pixels};

/// What the program runs when its first argument is `video-worker`, before anything else: no thread, no secret and no weight may be there yet.
///
/// Ends when the server's end of the socket on descriptor 0 closes. Exit code 64 when there is no such socket.
pub fn main() -> ExitCode {
    zygote::run()
}

/// A worker that holds a tenant's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Whom it decodes for.
    pub tenant: crate::ids::TenantId,
}
