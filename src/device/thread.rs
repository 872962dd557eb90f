//! The thread, its handle and its counters.
//!
//! Invariant: works run on this thread only, and it lives until it is stopped or every handle is gone.

use super::{Config, Error, Priority, Source, Work};
use crate::shutdown::Signal;
use crate::telemetry::Metrics;

/// Gives work to the device; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {}

/// The running thread.
#[derive(Debug)]
pub struct Service {}

/// While it lives the device runs nothing.
#[derive(Debug)]
pub struct PauseGuard {}

/// What the device has done since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Slices of serving works.
    pub serving_slices: u64,
    /// Slices of training works.
    pub training_slices: u64,
    /// Serving works that finished.
    pub batches: u64,
    /// Works dropped because they were cancelled.
    pub cancelled: u64,
    /// Works dropped because a slice panicked.
    pub panics: u64,
}

impl Stats {
    /// Slices of both kinds.
    pub fn slices(&self) -> u64 {
        self.serving_slices + self.training_slices
    }
}

/// Starts the device thread.
///
/// # Errors
/// [`Error::Thread`] when the OS refuses it.
pub fn start(_config: Config, _metrics: Metrics) -> Result<(Handle, Service), Error> {
    todo!()
}

impl Handle {
    /// Gives a work to the device.
    ///
    /// # Errors
    /// [`Error::Full`] when too many wait, [`Error::Stopped`].
    pub fn submit(&self, _work: Box<dyn Work>, _priority: Priority) -> Result<(), Error> {
        todo!()
    }

    /// Sets who forms serving batches; replaces an earlier one.
    pub fn set_source(&self, _source: Box<dyn Source>) {
        todo!()
    }

    /// Says that the source may have work.
    pub fn wake(&self) {
        todo!()
    }

    /// Stops the device between two slices; waits for the slice that runs now. Guards nest.
    pub fn pause(&self) -> PauseGuard {
        todo!()
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        todo!()
    }
}

impl Service {
    /// Runs until the drain, then finishes serving work that was taken, drops training work, and ends the thread. Returns early only when
    /// every handle is gone.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the thread died.
    pub async fn run(self, _drain: Signal) -> Result<(), Error> {
        todo!()
    }
}
