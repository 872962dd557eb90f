//! The loop of the device thread: it takes in what has arrived and runs the slices in the order of the schedule.
//!
//! Invariant: every item that was taken in is dropped here, at the latest when the thread ends, however it ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::schedule::{Schedule, Turn};
use super::super::slice::{self, SliceEnd};
use super::super::{Priority, Purpose, Source, Work};
use super::Core;

/// Consecutive panics after which a source is no longer asked again without a wake-up.
pub(super) const STUMBLES: u32 = 8;

/// Marks the thread as ended when it is dropped, however the thread ends.
pub(super) struct Exit {
    core: Arc<Core>,
    /// Sender whose drop tells the service that the thread has ended.
    _ended: oneshot::Sender<()>,
}

impl Exit {
    pub(super) fn new(core: Arc<Core>, ended: oneshot::Sender<()>) -> Self {
        Self {
            core,
            _ended: ended,
        }
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        let (works, source) = self.core.handover.end();
        works.into_iter().for_each(slice::discard);
        slice::discard(source);
    }
}

/// An item with what it trains, if it trains.
struct Item {
    work: Box<dyn Work>,
    purpose: Option<Purpose>,
}

/// State that only the thread uses.
pub(super) struct Device {
    schedule: Schedule<u64>,
    works: HashMap<u64, Item>,
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
    pub(super) fn new(exit: Exit) -> Self {
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

    pub(super) fn run(mut self) {
        let mut idle = false;
        loop {
            let stopping = self.take_in(idle);
            if stopping {
                for key in self.schedule.drop_training() {
                    self.drop_work(key);
                }
            }
            self.look_for_results();
            self.look_for_callers();
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
            let item = self.works.get(&key);
            if item.is_none_or(|item| slice::is_ready(item.work.as_ref())) {
                self.schedule.ready(key);
            }
        }
    }

    /// Tells the schedule for which items somebody waits by now. An item is there as long as it prepares, so the device is not idle meanwhile.
    fn look_for_callers(&mut self) {
        for key in self.schedule.preparing() {
            let item = self.works.get(&key);
            if item.is_some_and(|item| slice::is_awaited(item.work.as_ref())) {
                self.schedule.hasten(key);
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
        for (work, priority, purpose) in arrived.works {
            let bytes = slice::bytes(work.as_ref());
            let owner = purpose.as_ref().map(|own| own.tenant.clone());
            let key = self.add(work, purpose);
            let weight = self.exit.core.weight_of(owner.as_ref());
            self.schedule.push(key, priority, (bytes, owner, weight));
        }
        arrived.stopping
    }

    fn add(&mut self, work: Box<dyn Work>, purpose: Option<Purpose>) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        self.works.insert(key, Item { work, purpose });
        key
    }

    fn drop_work(&mut self, key: u64) {
        if let Some(at) = self.formed.iter().position(|formed| *formed == key) {
            self.formed.swap_remove(at);
        } else {
            self.exit.core.handover.release();
        }
        slice::discard(self.works.remove(&key).map(|item| item.work));
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
        let key = work.map(|work| self.add(work, None));
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
        let Some(Item { work, purpose }) = self.works.get_mut(&key) else {
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
            Priority::Serving | Priority::Preparing => &counters.serving_slices,
            Priority::Training => &counters.training_slices,
        };
        slices.fetch_add(1, Ordering::Release);
        let begun = Instant::now();
        let outcome = slice::run(work.as_mut());
        let took = begun.elapsed();
        metrics.slice(priority.kind(), took);
        if !matches!(outcome, SliceEnd::Panicked(_)) {
            slice::used(work.as_mut(), took);
        }
        if let (Some(ledger), Some(own)) = (self.exit.core.ledger.get(), purpose) {
            slice::noted(ledger.as_ref(), own, took);
        }
        match outcome {
            SliceEnd::More => return self.schedule.ran(key, took),
            SliceEnd::Pending => return self.schedule.pending(key, took),
            SliceEnd::Done if priority != Priority::Training => {
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
