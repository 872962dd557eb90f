//! What a claim's worker writes into its job's events, and how it waits while something cannot be written or read.
//!
//! Invariant: events keep their order and cost at most one transaction a second, states and messages aside; an outage is told once, however many
//! parts of the job wait for its end, and counts as no error.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::context::Context;
use super::failure::{Failure, Outage};
use super::hints::Hints;
use super::patience::Patience;
use super::state::Stop;
use crate::metadata::{Event, JobRecord, JobUpdate, Lease, MetadataStore};
use crate::spec::JobState;

/// Most events that wait for their transaction; one more, and it does not wait for its time.
const PENDING: usize = 256;
/// First and longest pause between two tries during an outage.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The events of one claim. Every part of the job shares it.
pub(super) struct Journal {
    metadata: Arc<dyn MetadataStore>,
    hints: Arc<Hints>,
    lease: Lease,
    stop: watch::Receiver<Option<Stop>>,
    patience: Patience,
    /// Shortest time between two transactions of step events.
    interval: Duration,
    /// Held for a moment only, never across an await.
    page: Mutex<Page>,
}

struct Page {
    state: JobState,
    pending: Vec<Event>,
    update: JobUpdate,
    written: Option<Instant>,
    /// The outage that the job waits for, since when, and whether that is on record.
    outage: Option<(Outage, Instant, bool)>,
}

impl Journal {
    pub(super) fn new(
        context: &Context,
        lease: Lease,
        state: JobState,
        stop: watch::Receiver<Option<Stop>>,
    ) -> Self {
        Self {
            metadata: Arc::clone(&context.parts.metadata),
            hints: Arc::clone(&context.hints),
            lease,
            stop,
            patience: context.patience,
            interval: context.config.event_interval,
            page: Mutex::new(Page {
                state,
                pending: Vec::new(),
                update: JobUpdate::default(),
                written: None,
                outage: None,
            }),
        }
    }

    /// Goes from one state to the next; waits while that cannot be written.
    pub(super) async fn advance(
        &self,
        to: JobState,
        update: JobUpdate,
    ) -> Result<JobRecord, Failure> {
        self.flush().await?;
        let from = self.page().state;
        let record = self
            .patiently(async || {
                let advance = self
                    .metadata
                    .advance_job(&self.lease, from, to, update.clone());
                Ok(advance.await?)
            })
            .await?;
        self.page().state = to;
        self.hints.events_written(self.lease.job);
        Ok(record)
    }

    /// A message for the job's owner, with whatever was noted before.
    pub(super) async fn tell(&self, warning: bool, text: String) -> Result<(), Failure> {
        self.page().pending.push(Event::Message { warning, text });
        self.flush().await
    }

    /// Notes an event, which is written soon, or with `now` at once.
    pub(super) async fn note(
        &self,
        event: Event,
        update: JobUpdate,
        now: bool,
    ) -> Result<(), Failure> {
        let is_due = {
            let mut page = self.page();
            page.pending.push(event);
            page.update = update;
            let is_late = page.written.is_none_or(|at| at.elapsed() >= self.interval);
            now || is_late || page.pending.len() >= PENDING
        };
        if is_due { self.flush().await } else { Ok(()) }
    }

    /// Writes what was noted. While the database is away it is lost, and the job goes on for as long as its lease holds.
    pub(super) async fn flush(&self) -> Result<(), Failure> {
        let (state, events, update) = {
            let mut page = self.page();
            if page.pending.is_empty() {
                return Ok(());
            }
            page.written = Some(Instant::now());
            let events = std::mem::take(&mut page.pending);
            (page.state, events, std::mem::take(&mut page.update))
        };
        match self.append(state, &events, update).await {
            Err(failure) if failure.outage().is_some() => {
                tracing::warn!(job = %self.lease.job, error = &failure as &dyn std::error::Error, "cannot record events");
                Ok(())
            }
            written => written,
        }
    }

    /// Writes how far the job is, without an event. While the database is away it is lost.
    pub(super) async fn progress(&self, update: JobUpdate) -> Result<(), Failure> {
        let state = self.page().state;
        match self.append(state, &[], update).await {
            Err(failure) if failure.outage().is_some() => {
                tracing::warn!(job = %self.lease.job, error = &failure as &dyn std::error::Error, "cannot record how far a job is");
                Ok(())
            }
            written => written,
        }
    }

    /// Asks the database something again and again while an outage prevents it. The owner is told that the job waits, and that it goes on.
    pub(super) async fn patiently<T, F>(&self, work: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.retry(|| self.patience.asking(work())).await
    }

    /// As [`Self::patiently`], for what moves objects and may take as long as that.
    pub(super) async fn patiently_moving<T, F>(&self, work: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.retry(|| self.patience.moving(work())).await
    }

    async fn retry<T, F>(&self, work: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut pause = PAUSES.0;
        let mut has_waited = false;
        loop {
            let failure = match work().await {
                Err(failure) => failure,
                Ok(done) if !has_waited => return Ok(done),
                Ok(done) => {
                    self.is_over().await?;
                    return Ok(done);
                }
            };
            let Some(outage) = failure.outage() else {
                return Err(failure);
            };
            tracing::warn!(job = %self.lease.job, error = &failure as &dyn std::error::Error, "the job waits");
            has_waited = true;
            self.waits_for(outage).await?;
            self.pause(pause).await?;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn waits_for(&self, outage: Outage) -> Result<(), Failure> {
        let state = {
            let mut page = self.page();
            if page.outage.is_some() {
                return Ok(());
            }
            page.outage = Some((outage, Instant::now(), false));
            page.state
        };
        let text = format!("the job waits: {outage}");
        let event = Event::Message {
            warning: true,
            text,
        };
        match self.append(state, &[event], JobUpdate::default()).await {
            Ok(()) => {
                if let Some((_, _, is_told)) = &mut self.page().outage {
                    *is_told = true;
                }
                Ok(())
            }
            // It is told when the outage is over.
            Err(failure) if failure.outage().is_some() => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn is_over(&self) -> Result<(), Failure> {
        let Some((outage, since, is_told)) = self.page().outage.take() else {
            return Ok(());
        };
        let seconds = since.elapsed().as_secs();
        let text = if is_told {
            format!("the job goes on after {seconds} s")
        } else {
            format!("the job goes on; it waited {seconds} s: {outage}")
        };
        self.tell(false, text).await
    }

    /// Waits, unless there is a reason to stop.
    async fn pause(&self, span: Duration) -> Result<(), Failure> {
        let slept = async {
            tokio::time::sleep(span).await;
            Ok(())
        };
        self.unless_stopped(slept).await
    }

    /// The future's result, unless there is a reason to stop first.
    pub(super) async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut stop = self.stop.clone();
        let stopped = async move {
            match stop.wait_for(Option::is_some).await {
                Ok(why) => why.unwrap_or(Stop::LostLease),
                // Nobody keeps the claim alive any more.
                Err(_) => Stop::LostLease,
            }
        };
        tokio::select! {
            biased;
            why = stopped => Err(Failure::Stopped(why)),
            result = work => result,
        }
    }

    async fn append(
        &self,
        state: JobState,
        events: &[Event],
        update: JobUpdate,
    ) -> Result<(), Failure> {
        let append = self
            .metadata
            .append_events(&self.lease, state, events, update);
        self.patience.records(append).await?;
        self.hints.events_written(self.lease.job);
        Ok(())
    }

    fn page(&self) -> MutexGuard<'_, Page> {
        // Every field is whole after every single operation.
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
