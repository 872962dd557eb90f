//! The device thread, its handle and its counters.
//!
//! Invariant: work items run only on this thread, which lives until it is stopped or every handle is gone.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::handover::{Handover, Refused};
use super::schedule::{Schedule, Turn};
use super::slice::{self, SliceEnd};
use super::{Config, Error, Health, Owner, Priority, Source, Steady, Work};
use crate::fair::{Weight, Weights};
use crate::ids::TenantId;
use crate::shutdown::Signal;
use crate::telemetry::Metrics;

/// Consecutive panics after which a source is no longer asked again without a wake-up.
const STUMBLES: u32 = 8;

/// Handle of the device, which takes work items; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    core: Arc<Core>,
    /// Stops the thread when the last handle is gone.
    _alive: Arc<Alive>,
}

/// Handle for the training of a tenant, whose time on the device is counted for it: tenants that train at the same time share the device equally.
#[derive(Debug, Clone)]
pub struct Owned {
    handle: Handle,
    owner: TenantId,
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
    /// Slices of serving items.
    pub serving_slices: u64,
    /// Slices of training items.
    pub training_slices: u64,
    /// Serving items that finished.
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

/// A submitted item, its class, and whom its time is counted for.
type Submitted = (Box<dyn Work>, Priority, Owner);

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
    });
    let (sender, ended) = oneshot::channel();
    let exit = Exit {
        core: core.clone(),
        _ended: sender,
    };
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
    /// Returns the handle for the training of a tenant.
    #[must_use]
    pub fn owned_by(&self, tenant: &TenantId) -> Owned {
        Owned {
            handle: self.clone(),
            owner: tenant.clone(),
        }
    }

    /// Submits a work item that serves.
    ///
    /// # Errors
    /// [`Error::Full`] when too many items are submitted, [`Error::Stopped`].
    pub fn submit(&self, work: Box<dyn Work>) -> Result<(), Error> {
        self.hand_over((work, Priority::Serving, None))
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
        let owner = Some(self.owner.clone());
        self.handle.hand_over((work, Priority::Training, owner))
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

/// Marks the thread as ended when it is dropped, however the thread ends.
struct Exit {
    core: Arc<Core>,
    /// Sender whose drop tells the service that the thread has ended.
    _ended: oneshot::Sender<()>,
}

impl Drop for Exit {
    fn drop(&mut self) {
        let (works, source) = self.core.handover.end();
        works.into_iter().for_each(slice::discard);
        slice::discard(source);
    }
}

/// State that only the thread uses.
struct Device {
    schedule: Schedule<u64>,
    works: HashMap<u64, Box<dyn Work>>,
    source: Option<Box<dyn Source>>,
    /// Next free key, for formed batches and submitted items alike.
    next_key: u64,
    /// Keys of the formed batches that run or whose results are on their way; they do not count as held. There are at most three.
    formed: Vec<u64>,
    /// Consecutive panics of the source.
    stumbles: u32,
    /// Last field, so that the items and the source are dropped before it reports the end.
    exit: Exit,
}

impl Device {
    fn new(exit: Exit) -> Self {
        let config = &exit.core.config;
        Self {
            schedule: Schedule::new(config),
            works: HashMap::new(),
            source: None,
            next_key: 0,
            formed: Vec::new(),
            stumbles: 0,
            exit,
        }
    }

    fn run(mut self) {
        let mut idle = false;
        loop {
            let stopping = self.take_in(idle);
            if stopping {
                for key in self.schedule.drop_training() {
                    self.drop_work(key);
                }
            }
            self.look_for_results();
            let turn = self.schedule.turn();
            idle = turn == Turn::Idle;
            self.exit.core.pulse.begins();
            match turn {
                Turn::Run(key, priority) => self.slice(key, priority),
                Turn::Form => self.form(),
                Turn::Idle if stopping => return,
                Turn::Idle => {}
            }
            self.exit.core.pulse.ends();
            if let Some(reason) = self.exit.core.health.lost() {
                tracing::error!(reason = &*reason, "the device thread ends");
                let _ = self.exit.core.lost.set(reason);
                return;
            }
        }
    }

    /// Tells the schedule which results have arrived.
    fn look_for_results(&mut self) {
        for key in self.schedule.parked() {
            let work = self.works.get(&key);
            if work.is_none_or(|work| slice::is_ready(work.as_ref())) {
                self.schedule.ready(key);
            }
        }
    }

    /// Waits while the device is paused, or idle and nothing has arrived; then takes in what has arrived. Returns whether the device is stopping.
    fn take_in(&mut self, idle: bool) -> bool {
        let arrived = self.exit.core.handover.take_in(idle);
        let replaced = arrived.source.and_then(|new| self.source.replace(new));
        slice::discard(replaced);
        if arrived.woken && self.source.is_some() {
            self.schedule.wake();
        }
        for (work, priority, owner) in arrived.works {
            let key = self.add(work);
            let bytes = self
                .works
                .get(&key)
                .map_or(0, |work| slice::bytes(work.as_ref()));
            let weight = self.exit.core.weight_of(owner.as_ref());
            self.schedule.push(key, priority, (bytes, owner, weight));
        }
        arrived.stopping
    }

    fn add(&mut self, work: Box<dyn Work>) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        self.works.insert(key, work);
        key
    }

    fn drop_work(&mut self, key: u64) {
        if let Some(at) = self.formed.iter().position(|formed| *formed == key) {
            self.formed.swap_remove(at);
        } else {
            self.exit.core.handover.release();
        }
        slice::discard(self.works.remove(&key));
    }

    fn form(&mut self) {
        let formed = self
            .source
            .as_mut()
            .map(|source| slice::form(source.as_mut()));
        let work = match formed.transpose() {
            Ok(work) => {
                self.stumbles = 0;
                work.flatten()
            }
            Err(message) => return self.stumbled(&message),
        };
        let key = work.map(|work| self.add(work));
        self.formed.extend(key);
        self.schedule.formed(key);
    }

    /// Handles a panic of the source. The clips that wait there would otherwise wait until the next wake-up, so the source is asked again; a source
    /// that panics every time is left alone after a while, until the next wake-up.
    fn stumbled(&mut self, message: &Arc<str>) {
        tracing::error!(%message, "forming a batch panicked");
        let core = &self.exit.core;
        core.counters.panics.fetch_add(1, Ordering::Release);
        core.metrics.device_panic();
        self.schedule.formed(None);
        self.stumbles = self.stumbles.saturating_add(1);
        if self.stumbles < STUMBLES {
            self.schedule.wake();
        }
    }

    fn slice(&mut self, key: u64, priority: Priority) {
        let Some(work) = self.works.get_mut(&key) else {
            // Every key of the schedule has its item; otherwise this keeps the mistake from repeating without end.
            return self.schedule.gone(key, Duration::ZERO);
        };
        let counters = &self.exit.core.counters;
        if slice::is_cancelled(work.as_ref()) {
            counters.cancelled.fetch_add(1, Ordering::Release);
            self.schedule.gone(key, Duration::ZERO);
            return self.drop_work(key);
        }
        // Counted before the slice runs, so that a caller who has a result finds the slice that gave it counted.
        let metrics = &self.exit.core.metrics;
        let slices = match priority {
            Priority::Serving => &counters.serving_slices,
            Priority::Training => &counters.training_slices,
        };
        slices.fetch_add(1, Ordering::Release);
        let begun = Instant::now();
        let outcome = slice::run(work.as_mut());
        let took = begun.elapsed();
        metrics.slice(priority.kind(), took);
        match outcome {
            SliceEnd::More => return self.schedule.ran(key, took),
            SliceEnd::Pending => return self.schedule.pending(key, took),
            SliceEnd::Done if priority == Priority::Serving => {
                counters.batches.fetch_add(1, Ordering::Release);
            }
            SliceEnd::Done => {}
            SliceEnd::Panicked(message) => {
                tracing::error!(%message, ?priority, "a device slice panicked; its work item is dropped");
                counters.panics.fetch_add(1, Ordering::Release);
                metrics.device_panic();
            }
        }
        self.schedule.gone(key, took);
        self.drop_work(key);
    }
}

#[cfg(test)]
mod tests;
