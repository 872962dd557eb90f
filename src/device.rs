//! The device thread: one OS thread owns the compute; serving and training take turns on it, one block of one batch at a time.
//!
//! Invariant: the device knows neither jobs nor the engine, and interleaving the slices of different work items never changes a bit of a result,
//! since each item's state is its own. A panic inside a slice drops that item alone.

mod schedule;
mod slice;
mod thread;
mod walk;

use std::sync::Arc;

use crate::telemetry::metrics::DeviceKind;

pub use crate::spec::Step;
pub use thread::{Handle, PauseGuard, Service, Stats, start};
pub use walk::Walk;

/// Which kind of work comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Work that runs its slices back to back, before any training.
    Serving,
    /// Work that gives the device back after every slice, and takes turns with other training work.
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

/// A work item that the device runs slice by slice. It reports its own result, for example through a channel that it holds; when it is dropped before
/// it is done (cancelled, panicked, or the device stopped) that channel closes.
pub trait Work: Send {
    /// Runs one slice: one block of one batch.
    fn advance(&mut self) -> Step;

    /// Whether nobody waits for the result any more; asked before every slice, and if so the item is dropped.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Called when a slice panicked with this message; the item is dropped next, and nothing else is called.
    fn panicked(&mut self, _message: &Arc<str>) {}

    /// Memory that the item needs while it runs, in bytes; a training item waits until its share fits into the budget.
    fn bytes(&self) -> u64 {
        0
    }
}

/// Forms serving work when the device can take it, so that a batch grows while the device is busy.
pub trait Source: Send {
    /// Forms the next batch; `None` when nothing waits. The device asks again after [`Handle::wake`] and after each slice. Called on the device
    /// thread, so it must be quick.
    fn next(&mut self) -> Option<Box<dyn Work>>;
}

/// How the device takes turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Most submitted items at a time, running or not; more is an error. Each is a step of a running job or a warm-up, so a few dozen are plenty.
    pub queue: usize,
    /// Bytes that training items may need together; a single one always runs.
    pub training_bytes: u64,
    /// Serving batches in a row after which a waiting training item gets one slice.
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

/// Why the device did not run a work item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too many items wait.
    #[error("the device's queue is full: {queue} works are there")]
    Full {
        /// Capacity of the queue.
        queue: usize,
    },
    /// The device has stopped, or dropped the item while it stopped.
    #[error("the device has stopped")]
    Stopped,
    /// A slice of this item panicked.
    #[error("a device slice panicked: {message}")]
    Panicked {
        /// Message of the panic.
        message: Arc<str>,
    },
    /// The OS refused the thread.
    #[error("the device thread did not start: {reason}")]
    Thread {
        /// Error message of the OS.
        reason: Arc<str>,
    },
}
