//! The start and the end of the device thread, its handle and its counters.
//!
//! Invariant: work items run only on this thread, which lives until it is stopped or every handle is gone.

mod turns;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::handover::{Handover, Refused};
use super::slice;
use super::{Config, Error, Health, Priority, Purpose, Source, Steady, Work};
use crate::fair::{Ledger, Weight, Weights};
use crate::ids::{TaskId, TenantId};
use crate::shutdown::Signal;
use crate::telemetry::Metrics;

use turns::{Device, Exit};

/// Handle of the device, which takes work items; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    core: Arc<Core>,
    /// Stops the thread when the last handle is gone.
    _alive: Arc<Alive>,
}

/// Handle for the training of a tenant's task, whose time on the device is taken down for it: tenants that train at the same time share the device by their
/// weights.
#[derive(Debug, Clone)]
pub struct Owned {
    handle: Handle,
    purpose: Purpose,
}

/// The device's service: it waits for the thread and stops it at the drain.
#[derive(Debug)]
pub struct Service {
    core: Arc<Core>,
    thread: thread::JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

/// Pause of the device: no slice runs while it lives.
#[derive(Debug)]
pub struct PauseGuard(Arc<Core>);

/// Counters of the device since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Slices of serving items and of those that prepare what serves later.
    pub serving_slices: u64,
    /// Slices of training items.
    pub training_slices: u64,
    /// Items that finished, those that train aside.
    pub batches: u64,
    /// Items dropped because they were cancelled.
    pub cancelled: u64,
    /// Items dropped because a slice panicked.
    pub panics: u64,
}

impl Stats {
    /// Returns the number of slices of both kinds.
    pub fn slices(&self) -> u64 {
        self.serving_slices + self.training_slices
    }
}

/// A submitted item, its class, and what a training item trains.
type Submitted = (Box<dyn Work>, Priority, Option<Purpose>);

/// State that the handles and the thread share.
struct Core {
    config: Config,
    handover: Handover<Submitted, Box<dyn Source>>,
    counters: Counters,
    metrics: Metrics,
    pulse: Pulse,
    health: Box<dyn Health>,
    /// Why the thread has ended by itself.
    lost: OnceLock<Arc<str>>,
    /// Weights by which tenants share training; equal ones while there are none.
    weights: OnceLock<Arc<dyn Weights>>,
    /// Where the time of training is taken down, if anywhere.
    ledger: OnceLock<Arc<dyn Ledger>>,
}

impl Core {
    fn weight_of(&self, owner: Option<&TenantId>) -> Weight {
        match (self.weights.get(), owner) {
            (Some(weights), Some(tenant)) => weights.of(tenant),
            (None, _) | (_, None) => Weight::ONE,
        }
    }
}

/// When the thread began what it is doing.
#[derive(Debug)]
struct Pulse {
    epoch: Instant,
    /// Milliseconds after the epoch, plus one; 0 while the thread waits.
    since: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        Self {
            epoch: Instant::now(),
            since: AtomicU64::new(0),
        }
    }

    fn begins(&self) {
        let since = self.epoch.elapsed().as_millis() as u64 + 1;
        self.since.store(since, Ordering::Relaxed);
    }

    fn ends(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    fn busy_for(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => {
                let now = self.epoch.elapsed();
                now.saturating_sub(Duration::from_millis(since - 1))
            }
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    serving_slices: AtomicU64,
    training_slices: AtomicU64,
    batches: AtomicU64,
    cancelled: AtomicU64,
    panics: AtomicU64,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("config", &self.config)
            .finish()
    }
}

#[derive(Debug)]
struct Alive(Arc<Core>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.handover.stop();
    }
}

/// Starts the device thread on the processor.
///
/// # Errors
/// [`Error::Thread`] when the operating system refuses the thread.
pub fn start(config: Config, metrics: Metrics) -> Result<(Handle, Service), Error> {
    start_on(Box::new(Steady), config, metrics)
}

/// Starts the device thread on an accelerator. When it is lost the thread drops all items and ends.
///
/// # Errors
/// Same as [`start`].
pub fn start_on(
    health: Box<dyn Health>,
    config: Config,
    metrics: Metrics,
) -> Result<(Handle, Service), Error> {
    let core = Arc::new(Core {
        handover: Handover::new(config.queue),
        config,
        counters: Counters::default(),
        metrics,
        pulse: Pulse::new(),
        health,
        lost: OnceLock::new(),
        weights: OnceLock::new(),
        ledger: OnceLock::new(),
    });
    let (sender, ended) = oneshot::channel();
    let exit = Exit::new(core.clone(), sender);
    let thread = thread::Builder::new()
        .name("device".to_owned())
        .spawn(move || Device::new(exit).run())
        .map_err(|error| Error::Thread {
            reason: error.to_string().into(),
        })?;
    let handle = Handle {
        core: core.clone(),
        _alive: Arc::new(Alive(core.clone())),
    };
    let service = Service {
        core,
        thread,
        ended,
    };
    Ok((handle, service))
}

impl Handle {
    /// Returns the handle for the training of a tenant's task.
    #[must_use]
    pub fn owned_by(&self, tenant: &TenantId, task: &TaskId) -> Owned {
        Owned {
            handle: self.clone(),
            purpose: Purpose {
                tenant: tenant.clone(),
                task: task.clone(),
            },
        }
    }

    /// Submits a work item that serves.
    ///
    /// # Errors
    /// [`Error::Full`] when too many items are submitted, [`Error::Stopped`].
    pub fn submit(&self, work: Box<dyn Work>) -> Result<(), Error> {
        self.hand_over((work, Priority::Serving, None))
    }

    /// Submits a work item for which nobody waits yet.
    ///
    /// # Errors
    /// Same as [`Handle::submit`].
    pub(super) fn submit_ahead(&self, work: Box<dyn Work>) -> Result<(), Error> {
        self.hand_over((work, Priority::Preparing, None))
    }

    fn hand_over(&self, item: Submitted) -> Result<(), Error> {
        self.core
            .handover
            .submit(item)
            .map_err(|refused| match refused {
                Refused::Full => Error::Full {
                    queue: self.core.config.queue,
                },
                Refused::Stopped => Error::Stopped,
            })
    }

    /// Sets the source of serving batches, which replaces an earlier one.
    pub fn set_source(&self, source: Box<dyn Source>) {
        // A source that nobody asked yet, or that comes too late, may panic when it is dropped.
        slice::discard(self.core.handover.set_source(source));
    }

    /// Has tenants share the device's training by these weights, which are set once.
    pub fn share_by(&self, weights: Arc<dyn Weights>) {
        let _ = self.core.weights.set(weights);
    }

    /// Has the time of training taken down in this ledger, which is set once.
    pub fn account_to(&self, ledger: Arc<dyn Ledger>) {
        let _ = self.core.ledger.set(ledger);
    }

    /// Tells the device that the source may have a batch.
    pub fn wake(&self) {
        self.core.handover.wake();
    }

    /// Pauses the device between two slices, after waiting for the slice that runs. Pauses nest. A device that is stopping ignores them.
    pub fn pause(&self) -> PauseGuard {
        self.core.handover.pause();
        PauseGuard(self.core.clone())
    }

    /// Returns for how long the slice that runs now has been running; zero between slices.
    pub fn busy_for(&self) -> Duration {
        self.core.pulse.busy_for()
    }

    /// Returns the counters.
    pub fn stats(&self) -> Stats {
        let counters = &self.core.counters;
        Stats {
            serving_slices: counters.serving_slices.load(Ordering::Acquire),
            training_slices: counters.training_slices.load(Ordering::Acquire),
            batches: counters.batches.load(Ordering::Acquire),
            cancelled: counters.cancelled.load(Ordering::Acquire),
            panics: counters.panics.load(Ordering::Acquire),
        }
    }
}

impl Owned {
    /// Submits a work item that trains.
    ///
    /// # Errors
    /// [`Error::Full`] when too many items are submitted, [`Error::Stopped`].
    pub fn submit(&self, work: Box<dyn Work>) -> Result<(), Error> {
        let purpose = Some(self.purpose.clone());
        self.handle.hand_over((work, Priority::Training, purpose))
    }
}

impl Drop for PauseGuard {
    fn drop(&mut self) {
        self.0.handover.resume();
    }
}

impl Service {
    /// Runs until the drain, then finishes the serving work that waits, drops training work, and ends the thread. Returns earlier only when every
    /// handle is gone, the thread has died or the accelerator is lost, in which case the process has to drain.
    ///
    /// # Errors
    /// [`Error::Lost`] when the accelerator is lost, [`Error::Stopped`] when the thread has died.
    pub async fn run(mut self, drain: Signal) -> Result<(), Error> {
        tokio::select! {
            () = drain.draining() => {
                self.core.handover.stop();
                let _ = (&mut self.ended).await;
            }
            _ = &mut self.ended => {}
        }
        // The thread has left its loop, so this does not block.
        self.thread.join().map_err(|_| Error::Stopped)?;
        match self.core.lost.get() {
            Some(reason) => Err(Error::Lost {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
