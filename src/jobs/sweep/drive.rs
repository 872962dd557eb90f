//! What moves sweeps on: their jobs are submitted as places become free, and a round follows when all jobs of the one before have ended.
//!
//! Invariant: whoever does it, and however often, makes nothing twice: jobs and tasks are made by request ids that follow from the sweep, and a change is
//! written only over the revision that it follows.

use std::sync::Arc;
use std::time::Duration;

use super::{AT_A_TIME, hyper_parameters, missing, request, survivors};
use crate::ids::{DatasetId, JobId, RequestId, SweepId, TaskId};
use crate::jobs::context::Context;
use crate::jobs::{Error, Handle, Submission};
use crate::metadata::{
    self, JobRecord, NewTask, SweepJob, SweepOutcome, SweepProgress, SweepRecord, SweepShape,
    SweepSpec, SweepUpdate,
};
use crate::spec::JobState;
use crate::telemetry::metrics::Holding;
use crate::{library, registry};

/// Sweeps that are read at a time: one with all the jobs that it may have takes megabytes.
const SOME: u32 = 8;
/// How long the duty of moving sweeps on is one process's.
const DUTY: Duration = Duration::from_secs(15);

/// How a sweep ended, and why when it failed.
type End = (JobState, Option<String>);

/// What keeps a sweep from its next job.
enum Held {
    /// A place that is not free now.
    Waits,
    /// Something that stays: the sweep fails with this.
    For(String),
}

impl Context {
    /// Moves sweeps on until the drain.
    pub(in crate::jobs) async fn drive_sweeps(self: Arc<Self>, handle: Handle) {
        let drain = self.drain.clone();
        let holding = Holding::new(self.parts.metrics.clone());
        loop {
            // Wherever it is dropped, nothing is lost or made twice.
            tokio::select! {
                () = drain.draining() => return,
                moved = Box::pin(self.move_sweeps(&handle, &holding)) => if let Err(error) = moved {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "sweeps cannot be moved on");
                },
            }
            tokio::select! {
                () = drain.draining() => return,
                () = tokio::time::sleep(self.config.poll) => {}
            }
        }
    }

    async fn move_sweeps(&self, handle: &Handle, holding: &Holding) -> Result<(), Error> {
        let metadata = &self.parts.metadata;
        let mut after = None;
        loop {
            let open = metadata.open_sweeps(after, SOME);
            let open = self.patience.records(open).await?;
            let Some(last) = open.last() else {
                if after.is_none() {
                    holding.let_go();
                }
                return Ok(());
            };
            after = Some((last.create_time, last.id));
            let is_last = open.len() < SOME as usize;
            if !metadata.is_exclusive()
                && !holding.after(
                    metadata
                        .take_duty("sweeps", &self.parts.replica, DUTY)
                        .await?,
                )
            {
                return Ok(());
            }
            for sweep in open {
                if self.drain.is_draining() {
                    return Ok(());
                }
                if let Err(error) = self.move_sweep(handle, &sweep).await {
                    tracing::warn!(sweep = %sweep.id, error = &error as &dyn std::error::Error, "a sweep cannot be moved on");
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Moves a sweep on as far as it goes now.
    async fn move_sweep(&self, handle: &Handle, sweep: &SweepRecord) -> Result<(), Error> {
        let mut progress = sweep.progress.clone();
        self.note_outcomes(sweep, &mut progress).await?;
        if !sweep.cancel_requested && progress.failure.is_none() {
            self.submit(handle, sweep, &mut progress).await?;
        }
        let end = match (progress.failure.clone(), sweep.cancel_requested) {
            (None, false) => next_round(&sweep.spec, &mut progress),
            (why, _) => {
                let end = match why {
                    Some(why) => (JobState::Failed, Some(why)),
                    None => (JobState::Cancelled, None),
                };
                self.recall(sweep, &mut progress).await?;
                cancel(handle, sweep, &progress).await?;
                (under_way(&progress) == 0).then_some(end)
            }
        };
        if end.is_none() && progress == sweep.progress {
            return Ok(());
        }
        let update = SweepUpdate {
            progress: progress.clone(),
            end,
        };
        if self.parts.metadata.move_sweep(sweep, update).await? {
            return Ok(());
        }
        // Whoever changed it meanwhile moves it on; when it has ended, nobody does.
        match handle.get_sweep(&sweep.tenant, sweep.id).await {
            Ok(now) if now.state.is_final() => cancel(handle, sweep, &progress).await,
            Ok(_) | Err(Error::Metadata(metadata::Error::NotFound { .. })) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Adds jobs that were submitted and not written down, since whoever submitted them ended before that.
    async fn recall(&self, sweep: &SweepRecord, progress: &mut SweepProgress) -> Result<(), Error> {
        let free = AT_A_TIME.saturating_sub(under_way(progress));
        for own in missing(&sweep.spec, progress).into_iter().take(free) {
            let Some(request) = job_request(sweep.id, progress.round, own) else {
                continue;
            };
            let metadata = &self.parts.metadata;
            if let Some(job) = metadata.requested_job(&sweep.tenant, request).await? {
                progress.jobs.push(begun(job, progress.round, own));
            }
        }
        Ok(())
    }

    async fn note_outcomes(
        &self,
        sweep: &SweepRecord,
        progress: &mut SweepProgress,
    ) -> Result<(), Error> {
        for own in progress.jobs.iter_mut().filter(|own| own.outcome.is_none()) {
            let gone = SweepOutcome {
                state: JobState::Failed,
                is_unmeasured: false,
                version: 0,
                top1: 0.0,
                loss: 0.0,
                parameters: 0,
                training_micros: 0,
            };
            let Ok(id) = own.job.parse::<JobId>() else {
                own.outcome = Some(gone);
                continue;
            };
            match self.parts.metadata.get_job(&sweep.tenant, id).await {
                Ok(job) if job.state.is_final() => own.outcome = Some(outcome_of(&job, gone)),
                Ok(_) => {}
                Err(metadata::Error::NotFound { .. }) => own.outcome = Some(gone),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Submits jobs of the round as far as there are places. Notes why the sweep fails when that cannot go on.
    async fn submit(
        &self,
        handle: &Handle,
        sweep: &SweepRecord,
        progress: &mut SweepProgress,
    ) -> Result<(), Error> {
        let free = AT_A_TIME.saturating_sub(under_way(progress));
        for (point, seed) in missing(&sweep.spec, progress).into_iter().take(free) {
            let job = match self
                .submit_one(handle, sweep, progress, (point, seed))
                .await?
            {
                Ok(job) => job,
                Err(Held::Waits) => return Ok(()),
                Err(Held::For(why)) => {
                    progress.failure = Some(why);
                    return Ok(());
                }
            };
            let digest = *progress.dataset_digest.get_or_insert(job.dataset_digest);
            let own = begun(job.id, progress.round, (point, seed));
            progress.jobs.push(own);
            if job.dataset_digest != digest {
                let why = "the data set was changed while the sweep ran, so that its jobs cannot be compared";
                progress.failure = Some(why.into());
                return Ok(());
            }
        }
        Ok(())
    }

    async fn submit_one(
        &self,
        handle: &Handle,
        sweep: &SweepRecord,
        progress: &SweepProgress,
        (point, seed): (usize, u64),
    ) -> Result<Result<JobRecord, Held>, Error> {
        let spec = &sweep.spec;
        let place = |point: usize| spec.points.get(point).map(|own| own.shape);
        let Some(shape) = place(point).and_then(|shape| spec.shapes.get(shape)) else {
            return Ok(Err(Held::For(format!("point {point} has no shape"))));
        };
        let (Ok(task), Ok(dataset)) = (
            shape.task.parse::<TaskId>(),
            spec.dataset.parse::<DatasetId>(),
        ) else {
            return Ok(Err(Held::For("a name cannot be read".into())));
        };
        // Request ids are forgotten after a time, which a sweep may outlive.
        let mut jobs = progress.jobs.iter();
        if !jobs.any(|own| place(own.point) == place(point)) {
            let made = self.create_task(sweep, shape, &task).await?;
            if let Err(held) = made {
                return Ok(Err(held));
            }
        }
        let wanted = Submission {
            priority: spec.priority,
            dataset_version: spec.dataset_version,
            ..hyper_parameters(spec, progress.round, (point, seed)).into()
        };
        if let Err(error) = self.opened(sweep, &dataset).await {
            return held(error);
        }
        let made = job_request(sweep.id, progress.round, (point, seed));
        let job = handle.submit(&sweep.tenant, &task, &dataset, wanted, made);
        match job.await {
            Ok(job) => Ok(Ok(job)),
            Err(error) => held(error),
        }
    }

    /// Makes sure that the examples of the version that the sweep is about can be read, if there is one.
    async fn opened(&self, sweep: &SweepRecord, dataset: &DatasetId) -> Result<(), Error> {
        let version = sweep.spec.dataset_version;
        if version.is_none() {
            return Ok(());
        }
        let library = &self.parts.library;
        let opened = library.snapshot_at(&sweep.tenant, dataset, version).await;
        match opened {
            Ok(_) => Ok(()),
            Err(library::Error::Metadata(error)) => Err(error.into()),
            // The store is away, or its bytes are damaged: it is tried again.
            Err(error) => Err(metadata::Error::Unavailable(Box::new(error)).into()),
        }
    }

    /// Creates the task of a shape, unless the sweep has.
    async fn create_task(
        &self,
        sweep: &SweepRecord,
        shape: &SweepShape,
        task: &TaskId,
    ) -> Result<Result<(), Held>, Error> {
        let new = NewTask {
            id: task.clone(),
            display_name: format!("sweep {}", sweep.id),
            adapter: shape.adapter,
            sampling: shape.sampling,
            // Most of the versions are only compared.
            auto_serve: false,
            auto_head: shape.auto_head,
        };
        let made = request_of(sweep.id, &format!("task {task}"));
        let created = self.parts.registry.create_task(&sweep.tenant, new, made);
        match created.await {
            Ok(_) => Ok(Ok(())),
            Err(registry::Error::Metadata(error)) => held(error.into()),
            Err(registry::Error::Invalid(invalid)) => held(invalid.into()),
            Err(error) => Ok(Err(Held::For(error.to_string()))),
        }
    }
}

/// What an error means for a sweep.
///
/// # Errors
/// The error itself when it passes.
fn held<T>(error: Error) -> Result<Result<T, Held>, Error> {
    if matches!(&error, Error::Metadata(metadata::Error::TooManyJobs { .. })) {
        return Ok(Err(Held::Waits));
    }
    // A fault of the database is not one of the sweep.
    let is_passing =
        |own: &metadata::Error| own.is_temporary() || matches!(own, metadata::Error::Backend(_));
    if matches!(&error, Error::Metadata(own) if is_passing(own)) {
        return Err(error);
    }
    Ok(Err(Held::For(error.to_string())))
}

fn request_of(sweep: SweepId, what: &str) -> Option<RequestId> {
    request(sweep, what).to_string().parse().ok()
}

fn job_request(sweep: SweepId, round: u32, (point, seed): (usize, u64)) -> Option<RequestId> {
    request_of(sweep, &format!("job {round} {point} {seed}"))
}

/// A job that was just submitted.
fn begun(job: JobId, round: u32, (point, seed): (usize, u64)) -> SweepJob {
    SweepJob {
        job: job.to_string(),
        round,
        point,
        seed,
        outcome: None,
    }
}

/// Jobs of a sweep that have not ended.
fn under_way(progress: &SweepProgress) -> usize {
    let jobs = progress.jobs.iter();
    jobs.filter(|own| own.outcome.is_none()).count()
}

/// Begins the next round when all jobs of this one have ended. Returns how the sweep ended when there is none.
fn next_round(spec: &SweepSpec, progress: &mut SweepProgress) -> Option<End> {
    if under_way(progress) > 0 || !missing(spec, progress).is_empty() {
        return None;
    }
    if let Some(points) = survivors(spec, progress) {
        progress.points = points;
        progress.round += 1;
        return None;
    }
    let jobs = progress.jobs.iter();
    let outcomes = jobs
        .filter(|own| own.round == progress.round)
        .filter_map(|own| own.outcome);
    let mut good = outcomes.filter(|own| own.state == JobState::Succeeded);
    let Some(first) = good.next() else {
        return Some((JobState::Failed, Some("no job succeeded".into())));
    };
    if first.is_unmeasured && good.all(|own| own.is_unmeasured) {
        let why = "no job was evaluated on a validation split, by which points are compared: give the data set one, or validation_share a larger value";
        return Some((JobState::Failed, Some(why.into())));
    }
    Some((JobState::Succeeded, None))
}

fn outcome_of(job: &JobRecord, gone: SweepOutcome) -> SweepOutcome {
    match &job.result {
        Some(result) if job.state == JobState::Succeeded => SweepOutcome {
            state: job.state,
            is_unmeasured: result.evaluation.problem.is_some() || result.evaluation.examples == 0,
            version: result.version,
            top1: result.evaluation.compared(),
            loss: result.evaluation.loss,
            parameters: result.parameters,
            training_micros: result.training_micros,
        },
        _ => SweepOutcome {
            state: job.state,
            ..gone
        },
    }
}

/// Asks the jobs of a sweep that have not ended to stop.
async fn cancel(
    handle: &Handle,
    sweep: &SweepRecord,
    progress: &SweepProgress,
) -> Result<(), Error> {
    for own in progress.jobs.iter().filter(|own| own.outcome.is_none()) {
        let Ok(id) = own.job.parse::<JobId>() else {
            continue;
        };
        match handle.cancel(&sweep.tenant, id).await {
            Ok(_)
            | Err(Error::Metadata(
                metadata::Error::JobFinished { .. } | metadata::Error::NotFound { .. },
            )) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
