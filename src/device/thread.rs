//! The thread, its handle and its counters.
//!
//! Invariant: works run on this thread only, and it lives until it is stopped or every handle is gone.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;

use super::schedule::{Schedule, Turn};
use super::slice::{self, SliceEnd};
use super::{Config, Error, Priority, Source, Work};
use crate::shutdown::Signal;
use crate::telemetry::Metrics;

/// Panics in a row after which a source is not asked again by itself.
const STUMBLES: u32 = 8;

/// Gives work to the device; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    core: Arc<Core>,
    /// Stops the thread when the last handle is gone.
    _alive: Arc<Alive>,
}

/// The running thread.
#[derive(Debug)]
pub struct Service {
    core: Arc<Core>,
    thread: thread::JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

/// While it lives the device runs nothing.
#[derive(Debug)]
pub struct PauseGuard(Arc<Core>);

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

/// What handles and the thread share.
struct Core {
    config: Config,
    /// A plain mutex: held for a few pointer moves, never across an await or a slice.
    inbox: Mutex<Inbox>,
    /// Something arrived for the thread.
    arrived: Condvar,
    /// The thread is between two turns.
    quiet: Condvar,
    counters: Counters,
    metrics: Metrics,
}

#[derive(Default)]
struct Inbox {
    works: VecDeque<(Box<dyn Work>, Priority)>,
    source: Option<Box<dyn Source>>,
    /// Submitted works that are not gone yet, here or with the thread.
    held: usize,
    woken: bool,
    pauses: usize,
    in_turn: bool,
    stopping: bool,
    ended: bool,
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

impl Core {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stopping = true;
        self.arrived.notify_all();
    }
}

#[derive(Debug)]
struct Alive(Arc<Core>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Starts the device thread.
///
/// # Errors
/// [`Error::Thread`] when the OS refuses it.
pub fn start(config: Config, metrics: Metrics) -> Result<(Handle, Service), Error> {
    let core = Arc::new(Core {
        config,
        inbox: Mutex::default(),
        arrived: Condvar::new(),
        quiet: Condvar::new(),
        counters: Counters::default(),
        metrics,
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
    /// Gives a work to the device.
    ///
    /// # Errors
    /// [`Error::Full`] when too many are there, [`Error::Stopped`].
    pub fn submit(&self, work: Box<dyn Work>, priority: Priority) -> Result<(), Error> {
        let mut inbox = self.core.lock();
        if inbox.stopping || inbox.ended {
            return Err(Error::Stopped);
        }
        let queue = self.core.config.queue;
        if inbox.held >= queue {
            return Err(Error::Full { queue });
        }
        inbox.held += 1;
        inbox.works.push_back((work, priority));
        self.core.arrived.notify_all();
        Ok(())
    }

    /// Sets who forms serving batches; replaces an earlier one.
    pub fn set_source(&self, source: Box<dyn Source>) {
        let mut inbox = self.core.lock();
        if !inbox.ended {
            inbox.source = Some(source);
            inbox.woken = true;
            self.core.arrived.notify_all();
        }
    }

    /// Says that the source may have work.
    pub fn wake(&self) {
        self.core.lock().woken = true;
        self.core.arrived.notify_all();
    }

    /// Stops the device between two slices; waits for the slice that runs now. Guards nest. A device that stops ignores them.
    pub fn pause(&self) -> PauseGuard {
        let mut inbox = self.core.lock();
        inbox.pauses += 1;
        while inbox.in_turn {
            inbox = self
                .core
                .quiet
                .wait(inbox)
                .unwrap_or_else(PoisonError::into_inner);
        }
        PauseGuard(self.core.clone())
    }

    /// The counters.
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

impl Drop for PauseGuard {
    fn drop(&mut self) {
        self.0.lock().pauses -= 1;
        self.0.arrived.notify_all();
    }
}

impl Service {
    /// Runs until the drain, then finishes serving work that waits, drops training work, and ends the thread. Returns early only when every
    /// handle is gone or the thread died; the latter's meaning is to drain the process.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the thread died.
    pub async fn run(mut self, mut drain: Signal) -> Result<(), Error> {
        tokio::select! {
            () = drain.draining() => {
                self.core.stop();
                let _ = (&mut self.ended).await;
            }
            _ = &mut self.ended => {}
        }
        // The thread has left its loop, so this does not block.
        self.thread.join().map_err(|_| Error::Stopped)
    }
}

/// Marks the end of the thread, however it ends.
struct Exit {
    core: Arc<Core>,
    /// Dropping it tells the service.
    _ended: oneshot::Sender<()>,
}

impl Drop for Exit {
    fn drop(&mut self) {
        let (works, source) = {
            let mut inbox = self.core.lock();
            inbox.ended = true;
            inbox.in_turn = false;
            (std::mem::take(&mut inbox.works), inbox.source.take())
        };
        self.core.quiet.notify_all();
        works.into_iter().for_each(slice::discard);
        slice::discard(source);
    }
}

/// What the thread owns.
struct Device {
    schedule: Schedule<u64>,
    works: HashMap<u64, Box<dyn Work>>,
    source: Option<Box<dyn Source>>,
    /// Keys from here are new; those of formed batches and of submitted works alike.
    next_key: u64,
    /// The formed batch that runs, which is not counted as held.
    formed: Option<u64>,
    /// Panics of the source in a row.
    stumbles: u32,
    /// Last, so that works and source are gone when it tells of the end.
    exit: Exit,
}

impl Device {
    fn new(exit: Exit) -> Self {
        let config = &exit.core.config;
        Self {
            schedule: Schedule::new(config.serving_run, config.training_bytes),
            works: HashMap::new(),
            source: None,
            next_key: 0,
            formed: None,
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
            let turn = self.schedule.turn();
            idle = turn == Turn::Idle;
            match turn {
                Turn::Run(key, priority) => self.slice(key, priority),
                Turn::Form => self.form(),
                Turn::Idle if stopping => return,
                Turn::Idle => {}
            }
        }
    }

    /// Waits while the device is paused, or idle with nothing new; then takes what has arrived. Says whether the device stops.
    fn take_in(&mut self, idle: bool) -> bool {
        let core = self.exit.core.clone();
        let mut inbox = core.lock();
        inbox.in_turn = false;
        core.quiet.notify_all();
        while !inbox.stopping
            && (inbox.pauses > 0
                || (idle && inbox.works.is_empty() && !inbox.woken && inbox.source.is_none()))
        {
            inbox = core
                .arrived
                .wait(inbox)
                .unwrap_or_else(PoisonError::into_inner);
        }
        inbox.in_turn = true;
        let works = std::mem::take(&mut inbox.works);
        let replaced = inbox.source.take().and_then(|new| self.source.replace(new));
        let woken = std::mem::take(&mut inbox.woken);
        let stopping = inbox.stopping;
        drop(inbox);
        slice::discard(replaced);
        if woken && self.source.is_some() {
            self.schedule.wake();
        }
        for (work, priority) in works {
            let key = self.add(work);
            let bytes = self
                .works
                .get(&key)
                .map_or(0, |work| slice::bytes(work.as_ref()));
            self.schedule.push(key, priority, bytes);
        }
        stopping
    }

    fn add(&mut self, work: Box<dyn Work>) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        self.works.insert(key, work);
        key
    }

    fn drop_work(&mut self, key: u64) {
        if self.formed == Some(key) {
            self.formed = None;
        } else {
            self.exit.core.lock().held -= 1;
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
        self.formed = key;
        self.schedule.formed(key);
    }

    /// The source panicked. What waits there would sleep until somebody wakes the device, so it is asked again; one that does nothing but panic is
    /// left alone after a while, until then.
    fn stumbled(&mut self, message: &Arc<str>) {
        tracing::error!(%message, "forming a batch panicked");
        let core = &self.exit.core;
        core.counters.panics.fetch_add(1, Ordering::Release);
        core.metrics.device_panic();
        self.formed = None;
        self.schedule.formed(None);
        self.stumbles = self.stumbles.saturating_add(1);
        if self.stumbles < STUMBLES {
            self.schedule.wake();
        }
    }

    fn slice(&mut self, key: u64, priority: Priority) {
        let Some(work) = self.works.get_mut(&key) else {
            // Every key of the schedule has its work; this keeps a mistake from repeating for ever.
            return self.schedule.gone(key);
        };
        let counters = &self.exit.core.counters;
        if slice::is_cancelled(work.as_ref()) {
            counters.cancelled.fetch_add(1, Ordering::Release);
            self.schedule.gone(key);
            return self.drop_work(key);
        }
        // Counted before it runs: whoever gets a result from a slice finds that slice counted.
        let metrics = &self.exit.core.metrics;
        let slices = match priority {
            Priority::Serving => &counters.serving_slices,
            Priority::Training => &counters.training_slices,
        };
        slices.fetch_add(1, Ordering::Release);
        let begun = Instant::now();
        let outcome = slice::run(work.as_mut());
        metrics.slice(priority.kind(), begun.elapsed());
        match outcome {
            SliceEnd::More => return self.schedule.ran(key),
            SliceEnd::Done if priority == Priority::Serving => {
                counters.batches.fetch_add(1, Ordering::Release);
            }
            SliceEnd::Done => {}
            SliceEnd::Panicked(message) => {
                tracing::error!(%message, ?priority, "a device slice panicked; its work is dropped");
                counters.panics.fetch_add(1, Ordering::Release);
                metrics.device_panic();
            }
        }
        self.schedule.gone(key);
        self.drop_work(key);
    }
}

#[cfg(test)]
mod tests;
