//! One claim's work, from validation to the published version.
//!
//! Invariant: every write shows the claim's lease and the state that it is in; a drain leaves a checkpoint of the last whole step.

mod check;
mod prepare;
mod stamps;
mod survey;
mod train;

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;

use super::context::{Context, Gauge};
use super::dataset::blocking;
use super::evaluation::Forwards;
use super::failure::Failure;
use super::journal::Journal;
use super::state::{self, Stop};
use crate::metadata::{JobRecord, JobUpdate, Lease};
use crate::model::{AdapterSet, aside};
use crate::registry::Publication;
use crate::spec::Evaluation;

use prepare::Prepared;

/// The reason of a job that succeeded without metrics.
const UNMEASURED: &str = "EVALUATION_FAILED";

/// A job in the hands of a runner.
pub(super) struct Run {
    context: Arc<Context>,
    lease: Lease,
    job: JobRecord,
    journal: Arc<Journal>,
    gauge: Gauge,
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
        }
    }

    /// Works until the job has succeeded.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        Box::pin(self.work()).await
    }

    async fn work(&mut self) -> Result<(), Failure> {
        let prepared = Box::pin(self.prepare()).await?;
        let step = prepared.trainer.lock()?.position().step;
        let plan = &prepared.training.plan;
        self.advance(JobUpdate {
            hyper_parameters: Some(plan.hyper_parameters()),
            step: Some(step),
            total_steps: Some(plan.total_steps()),
            ..JobUpdate::default()
        })
        .await?;
        Box::pin(self.train(&prepared)).await?;
        self.advance(JobUpdate {
            step: Some(plan.total_steps()),
            ..JobUpdate::default()
        })
        .await?;
        let set = self.trained(&prepared).await?;
        let evaluation = Box::pin(self.evaluate(&prepared, &set)).await?;
        self.advance(JobUpdate::default()).await?;
        Box::pin(self.publish(&prepared, set, evaluation)).await
    }

    /// The weights after the last step.
    async fn trained(&self, prepared: &Prepared) -> Result<Arc<AdapterSet>, Failure> {
        let trainer = prepared.trainer.clone();
        let snapshot = move || {
            let trainer = trainer.lock()?;
            Ok::<_, Failure>(aside(|| trainer.snapshot())?)
        };
        Ok(Arc::new(blocking(snapshot).await??))
    }

    /// Metrics on the validation split. What cannot be measured is no reason to lose the weights: then the metrics say why there are none.
    async fn evaluate(
        &mut self,
        prepared: &Prepared,
        set: &Arc<AdapterSet>,
    ) -> Result<Evaluation, Failure> {
        if prepared.validation.is_empty() {
            let text = "the data set has no validation split: the version will have no metrics";
            self.tell(true, text.into()).await?;
        }
        let forwards = self.forwards(prepared);
        let clips = &prepared.training.clips;
        let metrics = forwards.evaluate(clips, &prepared.validation, set);
        let failure = match self.unless_stopped(metrics).await {
            Ok(metrics) => return Ok(metrics),
            Err(failure) => failure,
        };
        let is_last = self.job.errors + 1 >= self.context.config.errors;
        if !failure.spoils_metrics(is_last) {
            return Err(failure);
        }
        tracing::warn!(job = %self.lease.job, error = &failure as &dyn std::error::Error, "a version is published without metrics");
        let problem = match failure.reason() {
            Some(_) => failure.to_string(),
            None => "an internal error of the server".into(),
        };
        let text = format!("the evaluation failed, the version has no metrics: {problem}");
        self.tell(true, text).await?;
        Ok(Evaluation {
            problem: Some(problem),
            ..Evaluation::default()
        })
    }

    async fn publish(
        &mut self,
        prepared: &Prepared,
        set: Arc<AdapterSet>,
        evaluation: Evaluation,
    ) -> Result<(), Failure> {
        let parts = &self.context.parts;
        let parameters = set.parameters();
        let position = prepared.trainer.lock()?.position().clone();
        let tensors = blocking(move || set.to_safetensors(Default::default())).await??;
        let publication = Publication {
            labels: prepared.labels.clone(),
            backbone_digest: parts.backbone.digest(),
            parameters,
            precision: parts.backbone.precision(),
            parent: None,
            reason: evaluation.problem.is_some().then(|| UNMEASURED.into()),
            evaluation,
            loss_curve: position.losses,
            seed: prepared.training.plan.seed,
            training_time: position.training,
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
            "job succeeded"
        );
        self.context.ended(&published.job).await;
        Ok(())
    }

    fn forwards(&self, prepared: &Prepared) -> Forwards {
        Forwards {
            device: self.context.parts.device.clone(),
            backbone: Arc::clone(&self.context.parts.backbone),
            num_frames: prepared.num_frames,
            demand: prepared.demand.clone(),
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
