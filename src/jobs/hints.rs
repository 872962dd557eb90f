//! What happens inside this process that others wait for: new jobs, new events, jobs to be stopped.
//!
//! Invariant: hints only; whoever waits also asks the database again after a while, since another process may have written.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use super::state::Stop;
use crate::ids::JobId;

/// Hints of one process.
#[derive(Debug)]
pub(super) struct Hints {
    queued: Notify,
    events: watch::Sender<u64>,
    /// Held for a look-up only, never across an await.
    running: Mutex<HashMap<JobId, watch::Sender<Option<Stop>>>>,
}

/// Ends the registration of a running job when it is dropped.
pub(super) struct Running<'a> {
    hints: &'a Hints,
    job: JobId,
}

impl Hints {
    pub(super) fn new() -> Self {
        Self {
            queued: Notify::new(),
            events: watch::channel(0).0,
            running: Mutex::new(HashMap::new()),
        }
    }

    /// A job waits for a runner.
    pub(super) fn job_queued(&self) {
        self.queued.notify_one();
    }

    /// Waits until a job was queued.
    pub(super) async fn queued(&self) {
        self.queued.notified().await;
    }

    /// Some job has new events.
    pub(super) fn events_written(&self) {
        self.events
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Changes whenever some job has new events.
    pub(super) fn events(&self) -> watch::Receiver<u64> {
        self.events.subscribe()
    }

    /// A runner of this process has the job and can be stopped through `stop`.
    pub(super) fn running(&self, job: JobId, stop: watch::Sender<Option<Stop>>) -> Running<'_> {
        self.lock().insert(job, stop);
        Running { hints: self, job }
    }

    /// Stops the job if a runner of this process has it.
    pub(super) fn cancel(&self, job: JobId) {
        if let Some(sender) = self.lock().get(&job) {
            stop(sender, Stop::Cancel);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, watch::Sender<Option<Stop>>>> {
        // A map of senders is whole after every single operation.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.hints.lock().remove(&self.job);
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
