//! One claim's work, from validation to the published version.
//!
//! Invariant: every write shows the claim's lease and the state that it is in; a drain leaves a checkpoint of the last whole step.

mod check;
mod heads;
mod looks;
mod parent;
mod prepare;
mod rollback;
mod sketches;
mod stamps;
mod survey;
mod test;
mod train;
mod views;

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::context::{Context, Gauge};
use super::dataset::Truths;
use super::evaluation::Forwards;
use super::failure::Failure;
use super::heads::Course;
use super::journal::Journal;
use super::memory::Demand;
use super::selection::Look;
use super::spent::{Phase, Spent};
use super::state::{self, Stop};
use crate::blocking::blocking;
use crate::device;
use crate::faults;
use crate::metadata::{BUDGET_SPENT, CurvePoint, EARLY_STOPPED, JobRecord, JobUpdate, Lease};
use crate::registry::Publication;
use crate::spec::HyperParameters;

use looks::{Chosen, Measure, Measured};
use prepare::Prepared;
use test::Subject;

/// The reason of a job that succeeded without metrics.
const UNMEASURED: &str = "EVALUATION_FAILED";

/// A point of the validation curve.
fn curve_point(look: &Look, steps_per_epoch: u64) -> CurvePoint {
    let epoch = look.step.saturating_sub(1) / steps_per_epoch.max(1) + 1;
    CurvePoint {
        step: look.step,
        epoch: u32::try_from(epoch).unwrap_or(u32::MAX),
        loss: look.loss,
        top1: look.top1,
        map: look.map,
    }
}

/// A job in the hands of a runner.
pub(super) struct Run {
    context: Arc<Context>,
    lease: Lease,
    job: JobRecord,
    journal: Arc<Journal>,
    gauge: Gauge,
    measured: Measured,
    /// Where its time goes.
    spent: Arc<Spent>,
}

impl Run {
    pub(super) fn new(
        context: Arc<Context>,
        lease: Lease,
        job: JobRecord,
        stop: watch::Receiver<Option<Stop>>,
    ) -> Self {
        let journal = Journal::new(&context, lease.clone(), job.state, stop);
        Self {
            gauge: Gauge::new(context.parts.metrics.clone(), job.state),
            context,
            lease,
            job,
            journal: Arc::new(journal),
            measured: Measured::default(),
            spent: Arc::default(),
        }
    }

    /// Works until the job has succeeded.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        Box::pin(self.work()).await
    }

    async fn work(&mut self) -> Result<(), Failure> {
        if self.job.result.is_some() {
            return Box::pin(self.test_again()).await;
        }
        let began = Instant::now();
        let prepared = Box::pin(self.prepare()).await?;
        self.spent.add(Phase::Checks, began.elapsed());
        let step = prepared.trainer.lock()?.position().step;
        let plan = &prepared.training.plan;
        self.advance(JobUpdate {
            hyper_parameters: Some(HyperParameters {
                mirror: self.job.hyper_parameters.mirror,
                unknown_below: self.job.hyper_parameters.unknown_below,
                parent: self.job.hyper_parameters.parent,
                keep_checkpoints: self.job.hyper_parameters.keep_checkpoints,
                ..plan.hyper_parameters()
            }),
            step: Some(step),
            total_steps: Some(plan.total_steps()),
            ..JobUpdate::default()
        })
        .await?;
        Box::pin(self.train(&prepared)).await?;
        self.tell_end(&prepared).await?;
        let done = prepared.trainer.lock()?.position().step;
        self.advance(JobUpdate {
            step: Some(done),
            ..JobUpdate::default()
        })
        .await?;
        let chosen = self.chosen(&prepared).await?;
        let measure = Box::pin(self.evaluate(&prepared, &chosen)).await?;
        let measured = (chosen, measure);
        let (chosen, measure) = Box::pin(self.compare(&prepared, measured)).await?;
        self.advance(JobUpdate::default()).await?;
        Box::pin(self.publish(&prepared, chosen, measure)).await
    }

    async fn publish(
        &mut self,
        prepared: &Prepared,
        Chosen { set, step, course }: Chosen,
        (evaluation, samples): Measure,
    ) -> Result<(), Failure> {
        let unknown_below = self.job.hyper_parameters.unknown_below;
        let fit = move || samples.calibration(unknown_below);
        let calibration = blocking(fit).await?;
        let parts = &self.context.parts;
        let parameters = set.parameters();
        let plan = &prepared.training.plan;
        let position = prepared.trainer.lock()?.position().clone();
        let reason = match evaluation.problem {
            Some(_) => Some(UNMEASURED.into()),
            None if position.step == plan.total_steps() => None,
            None if position.looks.is_over(plan.selection) => Some(EARLY_STOPPED.into()),
            None => Some(BUDGET_SPENT.into()),
        };
        let (adapter, training_time) = (set.config(), position.training);
        // A head that was tried beside the job's own weights began anew.
        let parent = prepared.parent.filter(|_| course.is_none());
        let course = course.unwrap_or_else(|| Course {
            look: Look::default(),
            looks: position.looks.list,
            losses: position.losses,
            steps_per_epoch: plan.steps_per_epoch(),
        });
        let own = Arc::clone(&set);
        let tensors = blocking(move || own.to_safetensors(Default::default())).await??;
        let publication = Publication {
            labels: prepared.labels.clone(),
            adapter,
            backbone_digest: parts.backbone.digest(),
            parameters,
            precision: parts.backbone.precision(),
            parent,
            reason,
            has_test: prepared.has_test,
            evaluation,
            calibration,
            validation_curve: (course.looks.iter())
                .map(|look| curve_point(look, course.steps_per_epoch))
                .collect(),
            loss_curve: course.losses,
            step,
            seed: plan.seed,
            training_time,
            times: self.spent.times(),
            skipped_clips: prepared.training.skipped().len() as u64,
            tensors,
        };
        let publish = async || {
            Ok(parts
                .registry
                .publish(&self.lease, publication.clone())
                .await?)
        };
        let published = self.journal.patiently_moving(publish).await?;
        tracing::info!(
            job = %self.lease.job,
            task = %published.job.task,
            version = %published.version.version,
            top1 = published.version.manifest.evaluation.top1,
            "version published"
        );
        if published.job.state.is_final() {
            self.context.ended(&published.job).await;
            return Ok(());
        }
        faults::point("version-published");
        self.job = published.job;
        let subject = Subject {
            clips: &prepared.training.clips,
            forwards: self.forwards(prepared),
            labels: &prepared.labels,
        };
        Box::pin(self.test(subject, &set)).await
    }

    /// The device, whose time is counted for the job's tenant and task.
    fn device(&self) -> device::Owned {
        let device = &self.context.parts.device;
        device.owned_by(&self.lease.tenant, &self.job.task)
    }

    fn forwards(&self, prepared: &Prepared) -> Forwards {
        let truths = prepared.training.truths.clone();
        self.forwards_of(prepared.num_frames, prepared.demand.clone(), truths)
    }

    /// Forwards on clips of so many frames, whose time on the device is counted for the job's tenant.
    fn forwards_of(&self, num_frames: usize, demand: Demand, truths: Truths) -> Forwards {
        Forwards {
            device: self.device(),
            backbone: Arc::clone(&self.context.parts.backbone),
            num_frames,
            demand,
            truths,
        }
    }

    /// Goes on to the next state.
    async fn advance(&mut self, update: JobUpdate) -> Result<(), Failure> {
        let Some(to) = state::next(self.gauge.state()) else {
            return Ok(());
        };
        self.job = self.journal.advance(to, update).await?;
        self.gauge.moved(to);
        Ok(())
    }

    /// A message for the job's owner.
    async fn tell(&self, warning: bool, text: String) -> Result<(), Failure> {
        self.journal.tell(warning, text).await
    }

    /// The future's result, unless there is a reason to stop first.
    async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.journal.unless_stopped(work).await
    }
}
