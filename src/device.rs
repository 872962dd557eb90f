//! The device thread: one OS thread owns the compute. Serving and training take turns on it, one block of one batch at a time.
//!
//! Invariant: the device knows neither jobs nor the engine, and interleaving the slices of different work items never changes a bit of a result,
//! since each item's state is its own. A panic inside a slice drops that item alone.

mod handover;
#[cfg(test)]
mod modelled;
mod schedule;
mod slice;
mod thread;
mod walk;

/// Locks of the hand-over; its model has others.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

use std::sync::Arc;
use std::time::Duration;

use crate::ids::{TaskId, TenantId};
use crate::telemetry::metrics::DeviceKind;

pub use crate::spec::Step;
pub use thread::{Handle, Owned, PauseGuard, Service, Stats, start, start_on};
pub use walk::Walk;

/// Class of a work item, which decides the order of slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Priority {
    /// Serving work: its slices run back to back, before any training.
    Serving,
    /// Work for which nobody waits yet, such as the warm-up of a set before it serves: it yields the device to serving after every slice, and comes before
    /// training. While serving keeps the device busy it gets one slice after each serving item. Once somebody waits for it, it is serving work.
    Preparing,
    /// Training work: it yields the device after every slice, and takes turns with other training work.
    Training,
}

/// Whose share of the training a training item's time is taken from; serving items have no owner.
type Owner = Option<TenantId>;

/// The tenant and the task that a training item trains, for which its time is taken down.
#[derive(Debug, Clone)]
struct Purpose {
    tenant: TenantId,
    task: TaskId,
}

impl Priority {
    fn kind(self) -> DeviceKind {
        match self {
            Self::Serving | Self::Preparing => DeviceKind::Serving,
            Self::Training => DeviceKind::Training,
        }
    }
}

/// A work item that the device runs slice by slice. It reports its own result, for example through a channel that it holds; when it is dropped before
/// it is done (cancelled, panicked, or the device stopped), that channel closes.
pub trait Work: Send {
    /// Runs one slice: one block of one batch. After [`Step::Pending`] other items run until the result is there.
    fn advance(&mut self) -> Step;

    /// Returns whether the result is there, after `advance` has returned [`Step::Pending`].
    fn is_ready(&self) -> bool {
        true
    }

    /// Returns whether nobody waits for the result any more; called before every slice, and if true the item is dropped.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Returns whether somebody waits for the result by now; asked of items that prepare what serves later. Such an item serves from then on.
    fn is_awaited(&self) -> bool {
        false
    }

    /// Called after each slice that did not panic, with the time that it took.
    fn used(&mut self, _time: Duration) {}

    /// Called with the panic's message when a slice panicked; no other method is called afterwards, and the item is dropped.
    fn panicked(&mut self, _message: &Arc<str>) {}

    /// Returns the memory that the item needs while it runs, in bytes; a training item waits until this fits into the budget.
    fn bytes(&self) -> u64 {
        0
    }
}

/// Forms serving work when the device is ready for it, so that a batch can grow while the device is busy.
pub trait Source: Send {
    /// Forms the next batch; `None` when nothing waits. The device asks again after [`Handle::wake`] and after each slice. Called on the device
    /// thread, so it must be quick.
    fn next(&mut self) -> Option<Box<dyn Work>>;
}

/// State of the accelerator that the slices run on.
pub trait Health: Send + Sync {
    /// Returns why this process cannot use the accelerator any more; `None` while it can. Called after every slice.
    fn lost(&self) -> Option<Arc<str>>;
}

/// A device that cannot be lost: the processor.
#[derive(Debug, Clone, Copy)]
pub struct Steady;

impl Health for Steady {
    fn lost(&self) -> Option<Arc<str>> {
        None
    }
}

/// Limits of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Most submitted items at a time, running or waiting; further ones are refused. An item is a step of a running job or a warm-up, so a few dozen
    /// are plenty.
    pub queue: usize,
    /// Most bytes that training items may need together; a single item always runs.
    pub training_bytes: u64,
    /// Share of the device's time, in thousandths, that training keeps while serving keeps the device busy; 900 at most. What either side does not use
    /// is the other's. At 0 training runs only while serving is idle.
    pub training_share: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue: 64,
            training_bytes: 4 << 30,
            training_share: 100,
        }
    }
}

/// Reason why the device did not run a work item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The device's queue is full.
    #[error("the device's queue is full: {queue} work items are submitted")]
    Full {
        /// Capacity of the queue.
        queue: usize,
    },
    /// The device has stopped, or dropped the item while it stopped.
    #[error("the device has stopped")]
    Stopped,
    /// The accelerator cannot be used any more by this process, which has to start anew.
    #[error("{reason}")]
    Lost {
        /// Reason, as the driver gives it.
        reason: Arc<str>,
    },
    /// A slice of this item panicked.
    #[error("a device slice panicked: {message}")]
    Panicked {
        /// Message of the panic.
        message: Arc<str>,
    },
    /// The operating system refused to start the thread.
    #[error("the device thread did not start: {reason}")]
    Thread {
        /// Error of the operating system.
        reason: Arc<str>,
    },
}
