//! What happens inside this process that others wait for: new jobs, new events, jobs to be stopped.
//!
//! Invariant: hints only; whoever waits also asks the database again after a while, since another process may have written.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Notify, watch};

use super::state::Stop;
use crate::ids::JobId;
use crate::metadata::JobRecord;

/// Cancelled jobs that are remembered: in a process without runners nobody asks for them.
const CANCELLED: usize = 1000;

/// Hints of one process.
#[derive(Debug)]
pub(super) struct Hints {
    queued: Notify,
    /// Jobs that were cancelled while they waited, so that no runner has them. Held for a moment only.
    cancelled: Mutex<Vec<JobRecord>>,
    any_cancelled: Notify,
    /// Who waits for events of a job; entries of those that are gone stay until the next look. Held for a look-up only.
    waiting: Mutex<HashMap<JobId, Weak<Notify>>>,
    /// Held for a look-up only, never across an await.
    running: Mutex<HashMap<JobId, Registered>>,
    /// Jobs that runners of this process have had.
    taken: AtomicU64,
}

/// How the newest claim of a job can be stopped.
#[derive(Debug)]
struct Registered {
    epoch: u64,
    stop: watch::Sender<Option<Stop>>,
}

/// Ends the registration of a running job when it is dropped, but not that of a newer claim.
pub(super) struct Running<'a> {
    hints: &'a Hints,
    job: JobId,
    epoch: u64,
}

impl Hints {
    pub(super) fn new() -> Self {
        Self {
            queued: Notify::new(),
            cancelled: Mutex::new(Vec::new()),
            any_cancelled: Notify::new(),
            waiting: Mutex::new(HashMap::new()),
            running: Mutex::new(HashMap::new()),
            taken: AtomicU64::new(0),
        }
    }

    /// A job waits for a runner.
    pub(super) fn job_queued(&self) {
        self.queued.notify_one();
    }

    /// Another process may have queued a job or written events: whoever waits asks the database.
    pub(super) fn look(&self) {
        self.queued.notify_waiters();
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for reader in waiting.values().filter_map(Weak::upgrade) {
            reader.notify_one();
        }
    }

    /// Waits until a job was queued.
    pub(super) async fn queued(&self) {
        self.queued.notified().await;
    }

    /// A job was cancelled while it waited: its files may go.
    pub(super) fn cancelled_while_waiting(&self, job: JobRecord) {
        let mut cancelled = self
            .cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // What is left out is found at the next start, or by the collector.
        if cancelled.len() < CANCELLED {
            cancelled.push(job);
        }
        drop(cancelled);
        self.any_cancelled.notify_one();
    }

    /// The jobs that were cancelled since the last look.
    pub(super) fn cancelled(&self) -> Vec<JobRecord> {
        std::mem::take(
            &mut *self
                .cancelled
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Waits until a job was cancelled while it waited.
    pub(super) async fn any_cancelled(&self) {
        self.any_cancelled.notified().await;
    }

    /// The job has new events.
    pub(super) fn events_written(&self, job: JobId) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = waiting.get(&job).and_then(Weak::upgrade) {
            reader.notify_one();
        }
    }

    /// Is notified whenever the job has new events, until it is dropped.
    pub(super) fn events_of(&self, job: JobId) -> Arc<Notify> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, reader| reader.strong_count() > 0);
        let reader = Arc::new(Notify::new());
        waiting.insert(job, Arc::downgrade(&reader));
        reader
    }

    /// A runner of this process has the job by claim number `epoch` and can be stopped through `stop`.
    pub(super) fn running(
        &self,
        job: JobId,
        epoch: u64,
        stop: watch::Sender<Option<Stop>>,
    ) -> Running<'_> {
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(job, Registered { epoch, stop });
        Running {
            hints: self,
            job,
            epoch,
        }
    }

    /// Returns whether a runner of this process has a job, and how many jobs they have had.
    pub(super) fn activity(&self) -> (bool, u64) {
        let is_busy = !self.lock().is_empty();
        (is_busy, self.taken.load(Ordering::Relaxed))
    }

    /// Stops the job if a runner of this process has it.
    pub(super) fn stop(&self, job: JobId, why: Stop) {
        if let Some(registered) = self.lock().get(&job) {
            stop(&registered.stop, why);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Registered>> {
        // A map of senders is whole after every single operation.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = self.hints.lock();
        if running
            .get(&self.job)
            .is_some_and(|newest| newest.epoch == self.epoch)
        {
            running.remove(&self.job);
        }
    }
}

/// Asks for a stop; the first reason stays, except that a lost lease outranks all: nothing may be written then.
pub(super) fn stop(sender: &watch::Sender<Option<Stop>>, why: Stop) {
    sender.send_if_modified(|now| {
        let changes = now.is_none() || (why == Stop::LostLease && *now != Some(why));
        if changes {
            *now = Some(why);
        }
        changes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_ends_late_leaves_its_successor_stoppable() {
        let hints = Hints::new();
        let job = JobId::generate();
        let (old, _old) = watch::channel(None);
        let (new, stopped) = watch::channel(None);
        let first = hints.running(job, 1, old);
        let second = hints.running(job, 2, new);
        drop(first);
        hints.stop(job, Stop::Cancel);
        assert_eq!(*stopped.borrow(), Some(Stop::Cancel));
        drop(second);
        assert!(hints.lock().is_empty());
    }
}
