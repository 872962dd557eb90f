//! The device thread: one OS thread owns the compute; serving and training take turns on it, one block of one batch at a time.
//!
//! Invariant: it knows neither jobs nor the engine, and interleaving the slices of different works never changes a result by a bit, since a
//! work's state is its own. A panic inside a slice drops that work alone.

mod schedule;
mod slice;
mod thread;
mod walk;

use std::sync::Arc;

use crate::telemetry::metrics::DeviceKind;

pub use crate::spec::Step;
pub use thread::{Handle, PauseGuard, Service, Stats, start};
pub use walk::Walk;

/// Whose turn comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Runs its slices back to back, before any training.
    Serving,
    /// Gives the device back after every slice; takes turns with other training works.
    Training,
}

impl Priority {
    fn kind(self) -> DeviceKind {
        match self {
            Self::Serving => DeviceKind::Serving,
            Self::Training => DeviceKind::Training,
        }
    }
}

/// Something that the device runs slice by slice. It reports its own result, for example through a channel that it holds; when it is dropped
/// before it is done (cancelled, panicked, or the device stopped) that channel closes.
pub trait Work: Send {
    /// Runs one slice: one block of one batch.
    fn advance(&mut self) -> Step;

    /// Whether nobody waits for the result any more; asked before every slice, and the work is dropped if so.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// A slice panicked with this message; the work is dropped next, and nothing else is called.
    fn panicked(&mut self, _message: &Arc<str>) {}

    /// Memory that it needs while it runs, in bytes; a training work waits until its share fits into the budget.
    fn bytes(&self) -> u64 {
        0
    }
}

/// Forms serving work when the device can take it, so that a batch grows while the device is busy.
pub trait Source: Send {
    /// The next batch; `None` when nothing waits. The device asks again after [`Handle::wake`] and after each slice. Called on the device
    /// thread: it must be quick.
    fn next(&mut self) -> Option<Box<dyn Work>>;
}

/// How the device takes turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Submitted works that may be there at once, running or not. Each is a step of a running job or a warm-up, so a few dozen are plenty; more
    /// is an error.
    pub queue: usize,
    /// Bytes that training works may need together; one alone always runs.
    pub training_bytes: u64,
    /// Serving batches in a row after which a waiting training work gets one slice.
    pub serving_run: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue: 64,
            training_bytes: 4 << 30,
            serving_run: 4,
        }
    }
}

/// Why the device did not run a work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too many works wait.
    #[error("the device's queue is full: {queue} works are there")]
    Full {
        /// Its capacity.
        queue: usize,
    },
    /// The device has stopped, or dropped the work while it stopped.
    #[error("the device has stopped")]
    Stopped,
    /// A slice of this work panicked.
    #[error("a device slice panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: Arc<str>,
    },
    /// The OS refused the thread.
    #[error("the device thread did not start: {reason}")]
    Thread {
        /// What the OS said.
        reason: Arc<str>,
    },
}
