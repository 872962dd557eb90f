//! What an orchestrator is told over HTTP: whether the process lives, and whether it is ready for requests.
//!
//! Invariant: liveness depends on nothing outside the process: a restart mends neither a database nor a bucket.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Time after which a slice that still runs counts as stuck: one block of one batch takes seconds on the slowest processor.
const STUCK: Duration = Duration::from_secs(300);

type Busy = Box<dyn Fn() -> Duration + Send + Sync>;

/// State of the process; clones share it.
#[derive(Clone, Default)]
pub struct Probes(Arc<State>);

#[derive(Default)]
struct State {
    is_open: AtomicBool,
    is_ready: AtomicBool,
    is_draining: AtomicBool,
    /// How long the device thread has been at its slice; not set before there is one.
    device: OnceLock<Busy>,
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Probes({:?})", self.readiness())
    }
}

impl Probes {
    /// Says how to ask for how long the device thread has been at its slice.
    pub fn watch_device(&self, busy_for: impl Fn() -> Duration + Send + Sync + 'static) {
        let _ = self.0.device.set(Box::new(busy_for));
    }

    /// The database is open.
    pub fn opened(&self) {
        self.0.is_open.store(true, Ordering::SeqCst);
    }

    /// The backbone is loaded and warm.
    pub fn ready(&self) {
        self.0.is_ready.store(true, Ordering::SeqCst);
    }

    /// The process drains.
    pub fn draining(&self) {
        self.0.is_draining.store(true, Ordering::SeqCst);
    }

    /// Returns why the process is not ready for requests.
    pub(super) fn readiness(&self) -> Result<(), &'static str> {
        if self.0.is_draining.load(Ordering::SeqCst) {
            return Err("draining");
        }
        if !self.0.is_open.load(Ordering::SeqCst) {
            return Err("waiting for the database or the objects");
        }
        if !self.0.is_ready.load(Ordering::SeqCst) {
            return Err("loading");
        }
        Ok(())
    }

    /// Returns why the process should be ended and started again.
    pub(super) fn liveness(&self) -> Result<(), &'static str> {
        let busy = self.0.device.get().map_or(Duration::ZERO, |busy| busy());
        if busy >= STUCK {
            return Err("the device thread is stuck");
        }
        Ok(())
    }
}
