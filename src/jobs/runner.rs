//! The runners: each takes a job, keeps its claim alive, works on it, and says how that ended.
//!
//! Invariant: a runner outlives every job that it takes, whatever happens to the job; when it stops, its job is ended, put back, or another's.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::dataset::{Budget, blocking};
use super::failure::Failure;
use super::features;
use super::hints::{self, Hints};
use super::run::Run;
use super::state::Stop;
use super::{Config, Parts};
use crate::ids::JobId;
use crate::metadata::{self, CheckpointRecord, Claim, Ending, JobRecord, Lease};
use crate::shutdown::Signal;
use crate::spec::JobState;
use crate::store::Key;

/// What all runners share.
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) hints: Arc<Hints>,
    pub(super) parts: Parts,
    pub(super) budget: Arc<Budget>,
    drain: Signal,
}

/// Runs until the drain.
pub(super) async fn run(config: Config, hints: Arc<Hints>, parts: Parts, drain: Signal) {
    let budget = Arc::new(Budget::new(config.clip_cache_bytes));
    let context = Arc::new(Context {
        config,
        hints,
        parts,
        budget,
        drain,
    });
    if !context.recover().await {
        return;
    }
    context.sweep_features().await;
    let mut runners = JoinSet::new();
    for number in 0..context.config.runners.max(1) {
        let context = Arc::clone(&context);
        runners.spawn(async move { context.work(&format!("runner-{number}")).await });
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
    /// Puts back what a process before this one was working on: it is gone, since a data directory is one process's own. `false` when the drain
    /// came first.
    async fn recover(&self) -> bool {
        let mut drain = self.drain.clone();
        loop {
            match self.parts.metadata.recover_jobs().await {
                Ok(0) => return true,
                Ok(jobs) => {
                    tracing::info!(jobs, "jobs of an earlier process go on");
                    return true;
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot put back jobs of an earlier process"
                    );
                }
            }
            tokio::select! {
                () = drain.draining() => return false,
                () = tokio::time::sleep(self.config.poll) => {}
            }
        }
    }

    async fn work(self: Arc<Self>, worker: &str) {
        let mut drain = self.drain.clone();
        while !drain.is_draining() {
            match self
                .parts
                .metadata
                .claim_job(worker, self.config.lease)
                .await
            {
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

    /// Works on a job until it ends or is let go.
    async fn take(self: &Arc<Self>, claim: Claim) {
        let Claim { lease, job } = claim;
        tracing::info!(tenant = %lease.tenant, job = %lease.job, attempt = job.attempts, step = job.step, "job taken");
        self.hints.events_written();
        let (sender, stop) = watch::channel(None);
        if job.cancel_requested {
            hints::stop(&sender, Stop::Cancel);
        }
        let running = self.hints.running(lease.job, sender.clone());
        let pulse =
            AbortOnDropHandle::new(tokio::spawn(Arc::clone(self).pulse(lease.clone(), sender)));
        let attempts = job.attempts;
        let work = Run::new(Arc::clone(self), lease.clone(), job, stop);
        // A loop of its own, so that a panic ends the job and not the runner.
        let work = AbortOnDropHandle::new(tokio::spawn(work.run()));
        let outcome = work.await.unwrap_or(Err(Failure::Panicked));
        drop(running);
        if let Err(failure) = outcome {
            self.let_go(&lease, attempts, failure).await;
        }
        drop(pulse);
        self.hints.events_written();
    }

    /// Keeps the claim alive and passes on why to stop.
    async fn pulse(self: Arc<Self>, lease: Lease, stop: watch::Sender<Option<Stop>>) {
        let every = self.config.lease / 3;
        let mut alive = Instant::now();
        let mut drain = self.drain.clone();
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
            match self
                .parts
                .metadata
                .heartbeat(&lease, self.config.lease)
                .await
            {
                Ok(is_unwanted) => {
                    alive = Instant::now();
                    if is_unwanted {
                        hints::stop(&stop, Stop::Cancel);
                    }
                }
                Err(metadata::Error::LeaseLost { .. }) => {
                    return hints::stop(&stop, Stop::LostLease);
                }
                Err(error) => {
                    tracing::warn!(job = %lease.job, error = &error as &dyn std::error::Error, "cannot extend a job's lease");
                    if alive.elapsed() + every >= self.config.lease {
                        return hints::stop(&stop, Stop::LostLease);
                    }
                }
            }
        }
    }

    /// Says how a job ended that did not succeed.
    async fn let_go(&self, lease: &Lease, attempts: u32, failure: Failure) {
        let job = lease.job;
        let written = match failure.stop() {
            Some(Stop::LostLease) => {
                tracing::warn!(%job, "job lost to another claim");
                return;
            }
            Some(Stop::Drain) => {
                tracing::info!(%job, "job put back");
                self.parts.metadata.release_job(lease).await
            }
            Some(Stop::Cancel) => self.end(lease, Ending::Cancelled).await,
            None => match failure.reason() {
                Some(reason) => self.fail(lease, reason, &failure).await,
                None if attempts < self.config.attempts => {
                    tracing::warn!(%job, error = &failure as &dyn std::error::Error, "job put back after an error");
                    // So that an error that stays does not use up all attempts at once.
                    let pause = Duration::from_secs(1).min(self.config.poll) * attempts;
                    tokio::time::sleep(pause.min(self.config.lease / 4)).await;
                    self.parts.metadata.release_job(lease).await
                }
                None => {
                    tracing::error!(%job, error = &failure as &dyn std::error::Error, "job given up");
                    let last = Failure::Attempts { attempts };
                    self.fail(lease, "INTERNAL", &last).await
                }
            },
        };
        if let Err(error) = written {
            tracing::warn!(%job, error = &error as &dyn std::error::Error, "cannot record how a job ended: its lease will run out");
        }
    }

    async fn fail(&self, lease: &Lease, reason: &str, why: &Failure) -> metadata::Result<()> {
        tracing::info!(job = %lease.job, reason, "job failed");
        let ending = Ending::Failed {
            reason: reason.into(),
            message: why.to_string(),
        };
        self.end(lease, ending).await
    }

    async fn end(&self, lease: &Lease, ending: Ending) -> metadata::Result<()> {
        let job = self.parts.metadata.end_job(lease, ending).await?;
        self.ended(&job).await;
        Ok(())
    }

    /// Tidies up after a job that ended.
    pub(super) async fn ended(&self, job: &JobRecord) {
        debug_assert!(job.state.is_final());
        self.parts.metrics.job_finished(&job.tenant, job.state);
        self.hints.events_written();
        if let Some(checkpoint) = &job.checkpoint {
            self.drop_checkpoint(job.id, checkpoint).await;
        }
        let path = features::path(&self.parts.scratch, &job.tenant, job.id);
        self.drop_features(path).await;
    }

    /// Deletes features that no job needs; a file that stays is found at the next start.
    async fn drop_features(&self, path: PathBuf) {
        let shown = path.display().to_string();
        match blocking(move || features::remove(&path)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    path = shown,
                    error = &error as &dyn std::error::Error,
                    "cannot delete frozen features"
                );
            }
            Err(_) => tracing::warn!(path = shown, "cannot delete frozen features"),
        }
    }

    /// Deletes the features of jobs that have ended, or that nobody knows any more.
    async fn sweep_features(&self) {
        let folder = self.parts.scratch.clone();
        let listed = move || {
            let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
            files.map(|file| file.path()).collect::<Vec<_>>()
        };
        for path in blocking(listed).await.unwrap_or_default() {
            let Some((tenant, job)) = features::owner(&path) else {
                continue;
            };
            let is_needed = match self.parts.metadata.get_job(&tenant, job).await {
                Ok(job) => !job.state.is_final(),
                Err(metadata::Error::NotFound { .. }) => false,
                Err(_) => true,
            };
            if !is_needed {
                self.drop_features(path).await;
            }
        }
    }

    /// Deletes a checkpoint that no record needs; one that stays is an orphan for the collector.
    pub(super) async fn drop_checkpoint(&self, job: JobId, checkpoint: &CheckpointRecord) {
        let dropped = match Key::parse(&checkpoint.key) {
            Ok(key) => self.parts.store.delete(&key).await,
            Err(error) => Err(error),
        };
        if let Err(error) = dropped {
            tracing::warn!(%job, error = &error as &dyn std::error::Error, "cannot delete a checkpoint");
        }
    }
}

/// Counts a job under the state that it is in here, for as long as it is here.
pub(super) struct Gauge {
    metrics: crate::telemetry::Metrics,
    state: JobState,
}

impl Gauge {
    pub(super) fn new(metrics: crate::telemetry::Metrics, state: JobState) -> Self {
        metrics.job_moved(None, Some(state));
        Self { metrics, state }
    }

    pub(super) fn moved(&mut self, to: JobState) {
        self.metrics.job_moved(Some(self.state), Some(to));
        self.state = to;
    }

    pub(super) fn state(&self) -> JobState {
        self.state
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.metrics.job_moved(Some(self.state), None);
    }
}
