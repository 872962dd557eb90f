//! The runners: each takes a job, keeps its claim alive, works on it, and says how that ended.
//!
//! Invariant: a runner outlives every job that it takes, whatever happens to the job; when it stops, its job is ended, put back, or another's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::context::Context;
use super::failure::Failure;
use super::hints::{self, Hints};
use super::run::Run;
use super::state::Stop;
use super::{Config, Handle, Parts};
use crate::metadata::{self, Claim, Ending, Lease, Release, Topic, Unwanted};
use crate::shutdown::Signal;
use crate::telemetry::metrics::LeaseKind;

/// Runs until the drain.
pub(super) async fn run(
    (config, handle): (Config, Handle),
    hints: Arc<Hints>,
    parts: Parts,
    drain: Signal,
) {
    let context = Arc::new(Context::new(config, hints, parts, drain));
    // Jobs that a process before this one left are put back before their files are looked at.
    if let Err(error) = context.look_around().await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "cannot look for jobs that lost their worker");
    }
    context.sweep_features().await;
    context.open_decoded().await;
    let clearing = tokio::spawn(Arc::clone(&context).clear_up_cancelled());
    let _clearing = AbortOnDropHandle::new(clearing);
    let driving = tokio::spawn(Arc::clone(&context).drive_sweeps(handle));
    let _driving = AbortOnDropHandle::new(driving);
    let sweeping = tokio::spawn(Arc::clone(&context).keep_sweeping());
    let _sweeping = AbortOnDropHandle::new(sweeping);
    let mut runners = JoinSet::new();
    for number in 0..context.config.runners.max(1) {
        let context = Arc::clone(&context);
        let worker = format!("{}/{number}", context.parts.replica);
        runners.spawn(async move { context.work(&worker).await });
    }
    while let Some(ended) = runners.join_next().await {
        if let Err(error) = ended {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a job runner died"
            );
        }
    }
}

impl Context {
    async fn work(self: Arc<Self>, worker: &str) {
        let drain = self.drain.clone();
        while !drain.is_draining() {
            match self.next(worker).await {
                Ok(Some(claim)) => {
                    self.take(claim).await;
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot ask for a job"
                    );
                }
            }
            tokio::select! {
                () = drain.draining() => {}
                () = self.hints.queued() => {}
                () = tokio::time::sleep(self.config.poll) => {}
            }
        }
    }

    async fn next(&self, worker: &str) -> metadata::Result<Option<Claim>> {
        self.look_around().await?;
        let metadata = &self.parts.metadata;
        let claim = metadata.claim_job(worker, self.config.lease);
        self.patience.records(claim).await
    }

    /// Works on a job until it ends or is let go.
    async fn take(self: &Arc<Self>, claim: Claim) {
        let Claim { lease, job } = claim;
        tracing::info!(tenant = %lease.tenant, job = %lease.job, attempt = job.attempts, step = job.step, "job taken");
        let held = self.leases.hold(&lease);
        self.hints.events_written(lease.job);
        let (sender, stop) = watch::channel(None);
        if job.cancel_requested {
            hints::stop(&sender, Stop::Cancel);
        }
        let running = self.hints.running(lease.job, lease.epoch, sender.clone());
        let pulse =
            AbortOnDropHandle::new(tokio::spawn(Arc::clone(self).pulse(lease.clone(), sender)));
        let work = Run::new(Arc::clone(self), lease.clone(), job, stop.clone());
        // A loop of its own, so that a panic ends the job and not the runner.
        let work = AbortOnDropHandle::new(tokio::spawn(work.run()));
        let outcome = self.end_of(work, stop).await;
        drop(running);
        if let Err(failure) = outcome {
            self.let_go(&lease, failure).await;
        }
        drop((pulse, held));
        // A suspect that has gone makes room for whoever waits.
        self.hints.job_queued();
        self.hints.events_written(lease.job);
        self.parts.metadata.tell(Topic::Jobs);
    }

    /// How the work on a job ends. One that does not stop when it has to, since something that it waits for never answers, is given up.
    async fn end_of(
        &self,
        mut work: AbortOnDropHandle<Result<(), Failure>>,
        mut stop: watch::Receiver<Option<Stop>>,
    ) -> Result<(), Failure> {
        let parting = self.config.parting;
        let overdue = async move {
            let why = match stop.wait_for(Option::is_some).await {
                Ok(why) => why.unwrap_or(Stop::LostLease),
                // Nobody keeps the claim alive any more.
                Err(_) => Stop::LostLease,
            };
            tokio::time::sleep(parting).await;
            why
        };
        tokio::select! {
            biased;
            ended = &mut work => ended.unwrap_or(Err(Failure::Panicked)),
            why = overdue => {
                tracing::warn!(?why, "a job does not stop and is given up");
                Err(Failure::Stopped(why))
            }
        }
    }

    /// Keeps the claim alive and passes on why to stop.
    async fn pulse(self: Arc<Self>, lease: Lease, stop: watch::Sender<Option<Stop>>) {
        let every = self.config.lease / 3;
        let drain = self.drain.clone();
        let mut is_draining = false;
        loop {
            tokio::select! {
                () = drain.draining(), if !is_draining => {
                    is_draining = true;
                    hints::stop(&stop, Stop::Drain);
                    continue;
                }
                () = tokio::time::sleep(every) => {}
            }
            // A time limit of its own: a wait in the pool may take as long as the lease.
            let metadata = &self.parts.metadata;
            let beat = metadata.heartbeat(&lease, self.config.lease);
            let trouble = match tokio::time::timeout(every, beat).await {
                Ok(Ok(unwanted)) => {
                    self.leases.extended(&lease);
                    match unwanted {
                        Some(Unwanted::Cancel) => hints::stop(&stop, Stop::Cancel),
                        Some(Unwanted::Pause) => hints::stop(&stop, Stop::Pause),
                        None => {}
                    }
                    continue;
                }
                Ok(Err(metadata::Error::LeaseLost { .. })) => {
                    return hints::stop(&stop, Stop::LostLease);
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the database does not answer in time".into(),
            };
            tracing::warn!(job = %lease.job, error = trouble, "cannot extend a job's lease");
            if self.leases.ends_within(&lease, every) {
                return hints::stop(&stop, Stop::LostLease);
            }
        }
    }

    /// Says how a job ended that did not succeed.
    async fn let_go(&self, lease: &Lease, failure: Failure) {
        let job = lease.job;
        match failure.stop() {
            Some(Stop::LostLease) => {
                tracing::warn!(%job, "job lost to another claim");
                self.parts.metrics.lease_lost(LeaseKind::Job);
            }
            Some(Stop::Drain) => {
                tracing::info!(%job, "job put back");
                self.release(lease, Release::Drained).await;
            }
            Some(Stop::Pause) => {
                tracing::info!(%job, "job paused");
                self.release(lease, Release::Paused).await;
            }
            Some(Stop::Cancel) => self.end(lease, Ending::Cancelled).await,
            None => match failure.reason() {
                Some(reason) => self.fail(lease, reason, &failure).await,
                None => self.retry(lease, failure).await,
            },
        }
    }

    /// After an error of the server: the job is tried again, unless too many of them came since its newest checkpoint.
    async fn retry(&self, lease: &Lease, failure: Failure) {
        let job = lease.job;
        let record = self.parts.metadata.get_job(&lease.tenant, job);
        let record = self.patience.records(record).await;
        // A record that cannot be read is no reason to end a job.
        let errors = record.map_or(0, |record| record.errors) + 1;
        if errors >= self.config.errors {
            tracing::error!(%job, error = &failure as &dyn std::error::Error, "job given up");
            let last = Failure::Errors { errors };
            return self.fail(lease, "INTERNAL", &last).await;
        }
        tracing::warn!(%job, error = &failure as &dyn std::error::Error, "job put back after an error");
        // So that an error that stays does not use up all tries at once.
        let pause = Duration::from_secs(1).min(self.config.poll) * errors;
        let drain = self.drain.clone();
        tokio::select! {
            () = drain.draining() => {}
            () = tokio::time::sleep(pause.min(self.config.lease / 4)) => {}
        }
        self.release(lease, Release::AfterError).await;
    }
}
