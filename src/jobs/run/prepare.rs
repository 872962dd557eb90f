//! Validation: everything that training needs is there, and every problem with it is found at once.
//!
//! Invariant: nothing is trained before every example was decoded once, in this claim or in the one that took the checkpoint.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::Run;
use crate::jobs::checkpoint::{self, Origin};
use crate::jobs::dataset::{Clips, Example, Pictures, Sources, Training, blocking};
use crate::jobs::failure::Failure;
use crate::jobs::memory::Demand;
use crate::jobs::plan::Plan;
use crate::jobs::trainer::{Shared, Trainer};
use crate::metadata::TaskRecord;
use crate::model::StepShape;
use crate::spec::{Digest, LabelSet};
use crate::store::Key;

/// What training needs.
pub(super) struct Prepared {
    pub(super) labels: LabelSet,
    pub(super) training: Arc<Training>,
    pub(super) validation: Vec<Example>,
    pub(super) trainer: Shared,
    /// What its checkpoints are of.
    pub(super) origin: Origin,
    /// Step of the newest checkpoint.
    pub(super) saved: Option<u64>,
    pub(super) num_frames: usize,
    /// What its steps take.
    pub(super) demand: Demand,
    /// What frozen features of its training examples are computed from.
    pub(super) features: Digest,
}

impl Run {
    /// Checks the data set and makes the trainer, from the newest checkpoint if there is one.
    pub(super) async fn prepare(&mut self) -> Result<Prepared, Failure> {
        let parts = self.context.parts.clone();
        let tenant = &self.lease.tenant;
        let task = || async { Ok(parts.registry.get_task(tenant, &self.job.task).await?) };
        let task = self.journal.patiently(task).await?;
        let clips = self.clips(&task)?;
        let survey = self.survey(&clips);
        let mut survey = self.unless_stopped(survey).await?;
        let mut problems = std::mem::take(&mut survey.problems);
        let Some(labels) = survey.labels.take() else {
            return Err(Failure::Dataset(problems));
        };
        let has_sites = task.adapter.has_sites();
        let seed = self.job.hyper_parameters.seed.unwrap_or_default();
        let plan = Plan::new(
            &self.job.hyper_parameters,
            survey.training.len() as u64,
            has_sites,
            seed,
        );
        let demand = self.demand(&task, labels.len())?;
        // What was admitted when it was submitted may be too much for the budget of now, or for the labels that the snapshot has.
        let admitted = demand.admitted(Some(plan.batch_size));
        admitted.map_err(Failure::TooLarge)?;
        let origin = Origin {
            dataset: self.job.dataset_digest,
            backbone: Arc::clone(&parts.backbone),
            adapter: task.adapter,
            classes: labels.len(),
            plan: plan.clone(),
        };
        let resumed = if problems.is_empty() {
            self.resume(&origin).await?
        } else {
            None
        };
        if resumed.is_none() {
            let keep = has_sites && plan.min_crop_area >= 1.0;
            let check = self.check(&clips, &survey, keep, &mut problems);
            self.unless_stopped(check).await?;
            if let Some(text) = survey.stamps.warning(task.sampling.order) {
                self.tell(true, text).await?;
            }
        }
        if !problems.is_empty() {
            return Err(Failure::Dataset(problems));
        }
        let saved = resumed.as_ref().map(|trainer| trainer.position().step);
        let trainer = match resumed {
            Some(trainer) => trainer,
            None => fresh(&origin).await?,
        };
        let order = trainer.position().order;
        let ahead = demand.ahead(plan.batch_size);
        Ok(Prepared {
            labels,
            validation: survey.validation,
            training: Arc::new(Training {
                examples: survey.training,
                clips,
                plan,
                order,
                ahead,
            }),
            trainer: trainer.shared(),
            origin,
            saved,
            num_frames: usize::from(task.sampling.num_frames.get()),
            demand,
            features: self.features_key(&task)?,
        })
    }

    fn features_key(&self, task: &TaskRecord) -> Result<Digest, Failure> {
        let backbone = &self.context.parts.backbone;
        let sampling = serde_json::to_vec(&task.sampling).map_err(checkpoint::Error::from)?;
        let mut sha256 = Sha256::new();
        sha256.update(self.job.dataset_digest.0);
        sha256.update(backbone.digest().0);
        sha256.update(backbone.precision().to_string());
        sha256.update(sampling);
        Ok(Digest(sha256.finalize().into()))
    }

    fn demand(&self, task: &TaskRecord, classes: usize) -> Result<Demand, Failure> {
        let backbone = &self.context.parts.backbone;
        let of = (backbone.config(), backbone.precision());
        let frames = usize::from(task.sampling.num_frames.get());
        let sizes = StepShape::new(of, task.adapter, classes, frames).map_err(Failure::Task)?;
        let budget = self.context.config.step_bytes;
        Ok(Demand::new(sizes, task.adapter.has_sites(), budget))
    }

    fn clips(&self, task: &TaskRecord) -> Result<Clips, Failure> {
        let parts = &self.context.parts;
        let backbone = parts.backbone.config();
        let side = u16::try_from(backbone.image_size).unwrap_or(u16::MAX);
        Ok(Clips::new(
            Sources {
                library: parts.library.clone(),
                decoder: parts.decoder.clone(),
                journal: Arc::clone(&self.journal),
            },
            self.lease.tenant.clone(),
            task.sampling,
            Pictures {
                side,
                normalization: backbone.normalization,
            },
            Arc::clone(&self.context.budget),
        ))
    }

    /// The trainer of the newest checkpoint; `None` when there is none, or none that can be used, which the owner is told.
    async fn resume(&self, origin: &Origin) -> Result<Option<Trainer>, Failure> {
        let Some(record) = self.job.checkpoint.clone() else {
            return Ok(None);
        };
        let read = async {
            let key = Key::parse(&record.key)?;
            let store = &self.context.parts.store;
            let bytes = || async { Ok(store.get_verified(&key, record.sha256).await?) };
            let bytes = self.journal.patiently_moving(bytes).await?;
            let origin = origin.clone();
            let trainer = blocking(move || checkpoint::decode(&bytes, &origin)).await??;
            Ok::<_, Failure>(trainer)
        };
        match self.unless_stopped(read).await {
            Ok(trainer) => {
                let text = format!("training goes on after step {}", trainer.position().step);
                self.tell(false, text).await?;
                Ok(Some(trainer))
            }
            Err(failure @ (Failure::Store(_) | Failure::Checkpoint(_))) => {
                tracing::warn!(job = %self.lease.job, error = &failure as &dyn std::error::Error, "a checkpoint cannot be used");
                let text = format!(
                    "the checkpoint of step {} cannot be used, training starts anew: {failure}",
                    record.step
                );
                self.tell(true, text).await?;
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// A trainer at step 0. What the model refuses here is the task's shape.
async fn fresh(origin: &Origin) -> Result<Trainer, Failure> {
    let Origin {
        backbone,
        adapter,
        classes,
        plan,
        ..
    } = origin.clone();
    let trainer = blocking(move || Trainer::fresh(backbone, adapter, classes, plan)).await?;
    trainer.map_err(Failure::Task)
}
