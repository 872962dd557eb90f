//! Hand-over of work from any thread to the device thread: a bounded inbox, pauses, and the end.
//!
//! Invariant: what was accepted is taken in once, or given back at the end; a pause begins only between two turns, and no turn begins while it lasts;
//! whatever arrives wakes the device thread. The locks come from the parent, so that a model checker can put its own in their place.

use std::collections::VecDeque;
use std::sync::PoisonError;

use super::sync::{Condvar, Mutex, MutexGuard};

/// Inbox that all threads share: of work items `W`, and of the source `S` of more.
pub(super) struct Handover<W, S> {
    /// Most items that are held at a time.
    capacity: usize,
    /// A plain mutex, because it is held for a few pointer moves and never across an await or a slice.
    inbox: Mutex<Inbox<W, S>>,
    /// Notified when something arrived for the thread.
    arrived: Condvar,
    /// Notified when the thread is between two turns.
    quiet: Condvar,
}

struct Inbox<W, S> {
    works: VecDeque<W>,
    source: Option<S>,
    /// Submitted items that are not finished or dropped yet, here or with the thread.
    held: usize,
    woken: bool,
    pauses: usize,
    in_turn: bool,
    stopping: bool,
    ended: bool,
}

/// What arrived since the thread looked last.
pub(super) struct Arrivals<W, S> {
    /// Submitted items, in their order.
    pub(super) works: VecDeque<W>,
    /// A new source.
    pub(super) source: Option<S>,
    /// Whether the source may have a batch again.
    pub(super) woken: bool,
    /// Whether the device is to stop.
    pub(super) stopping: bool,
}

/// Why an item was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many items as there may be are held.
    Full,
    /// The device stops or has stopped.
    Stopped,
}

impl<W, S> Handover<W, S> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            inbox: Mutex::new(Inbox {
                works: VecDeque::new(),
                source: None,
                held: 0,
                woken: false,
                pauses: 0,
                in_turn: false,
                stopping: false,
                ended: false,
            }),
            arrived: Condvar::new(),
            quiet: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox<W, S>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts an item, or refuses it and drops it.
    pub(super) fn submit(&self, work: W) -> Result<(), Refused> {
        let mut inbox = self.lock();
        if inbox.stopping || inbox.ended {
            return Err(Refused::Stopped);
        }
        if inbox.held >= self.capacity {
            return Err(Refused::Full);
        }
        inbox.held += 1;
        inbox.works.push_back(work);
        self.arrived.notify_all();
        Ok(())
    }

    /// Sets the source, which replaces an earlier one. One that comes after the end is given back.
    pub(super) fn set_source(&self, source: S) -> Option<S> {
        let mut inbox = self.lock();
        if inbox.ended {
            return Some(source);
        }
        inbox.woken = true;
        self.arrived.notify_all();
        inbox.source.replace(source)
    }

    /// Says that the source may have a batch.
    pub(super) fn wake(&self) {
        self.lock().woken = true;
        self.arrived.notify_all();
    }

    /// Begins a pause, after waiting for the turn that runs.
    pub(super) fn pause(&self) {
        let mut inbox = self.lock();
        inbox.pauses += 1;
        while inbox.in_turn {
            let waited = self.quiet.wait(inbox);
            inbox = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a pause.
    pub(super) fn resume(&self) {
        self.lock().pauses -= 1;
        self.arrived.notify_all();
    }

    /// Asks the thread to stop.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.arrived.notify_all();
    }

    /// Called by the thread: an accepted item has left it.
    pub(super) fn release(&self) {
        self.lock().held -= 1;
    }

    /// Called by the thread, between two turns: waits while there is a pause, or while the thread is idle and nothing has arrived; then begins a turn.
    pub(super) fn take_in(&self, idle: bool) -> Arrivals<W, S> {
        let mut inbox = self.lock();
        inbox.in_turn = false;
        self.quiet.notify_all();
        let has_nothing =
            |inbox: &Inbox<W, S>| inbox.works.is_empty() && !inbox.woken && inbox.source.is_none();
        while !inbox.stopping && (inbox.pauses > 0 || (idle && has_nothing(&inbox))) {
            let waited = self.arrived.wait(inbox);
            inbox = waited.unwrap_or_else(PoisonError::into_inner);
        }
        inbox.in_turn = true;
        Arrivals {
            works: std::mem::take(&mut inbox.works),
            source: inbox.source.take(),
            woken: std::mem::take(&mut inbox.woken),
            stopping: inbox.stopping,
        }
    }

    /// Called when the thread has ended, however it ended: nothing is accepted any more, and nobody waits for it. Gives back what was not taken in.
    pub(super) fn end(&self) -> (VecDeque<W>, Option<S>) {
        let mut inbox = self.lock();
        inbox.ended = true;
        inbox.in_turn = false;
        let left = (std::mem::take(&mut inbox.works), inbox.source.take());
        drop(inbox);
        self.quiet.notify_all();
        left
    }
}
