//! Validation: everything that training needs is there, and every problem with it is found at once.
//!
//! Invariant: nothing is trained before every example was decoded once, in this claim or in the one that took the checkpoint.

use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use sha2::{Digest as _, Sha256};

use super::Run;
use crate::ids::VideoId;
use crate::jobs::checkpoint::{self, Origin};
use crate::jobs::dataset::{Clips, Example, Pictures, Sources, Training, blocking, in_order};
use crate::jobs::failure::Failure;
use crate::jobs::memory::Demand;
use crate::jobs::plan::Plan;
use crate::jobs::trainer::{Shared, Trainer};
use crate::jobs::validation::{self, Problems};
use crate::library;
use crate::metadata::{self, ExampleRecord, TaskRecord, VideoRecord};
use crate::model::StepShape;
use crate::spec::{Digest, LabelSet, Split};
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

/// An example whose video has a record.
struct Found {
    record: VideoRecord,
    example: Example,
    split: Split,
}

impl Run {
    /// Checks the data set and makes the trainer, from the newest checkpoint if there is one.
    pub(super) async fn prepare(&mut self) -> Result<Prepared, Failure> {
        let parts = self.context.parts.clone();
        let tenant = &self.lease.tenant;
        let task = || async { Ok(parts.registry.get_task(tenant, &self.job.task).await?) };
        let task = self.journal.patiently(task).await?;
        let digest = self.job.dataset_digest;
        let snapshot = || async { Ok(parts.library.open_snapshot(tenant, digest).await?) };
        let snapshot = self.journal.patiently(snapshot).await?;
        let (labels, mut problems) = validation::labels(&snapshot.examples);
        let Some(labels) = labels else {
            return Err(Failure::Dataset(problems));
        };
        let clips = self.clips(&task)?;
        let look_up = records(&clips, &labels, &snapshot.examples, &mut problems);
        let found = self.unless_stopped(look_up).await?;
        let count = |split| found.iter().filter(|found| found.split == split).count() as u64;
        let has_sites = task.adapter.has_sites();
        let seed = self.job.hyper_parameters.seed.unwrap_or_default();
        let plan = Plan::new(
            &self.job.hyper_parameters,
            count(Split::Train),
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
            let check = decode_all(
                &clips,
                &found,
                has_sites && plan.min_crop_area >= 1.0,
                &mut problems,
            );
            self.unless_stopped(check).await?;
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
        let of = |split| found.iter().filter(move |found| found.split == split);
        Ok(Prepared {
            labels,
            validation: of(Split::Validation).map(|found| found.example).collect(),
            training: Arc::new(Training {
                examples: of(Split::Train).map(|found| found.example).collect(),
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
            let bytes = self.journal.patiently(bytes).await?;
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

/// The records of the videos of training and validation, in the order of the examples.
async fn records(
    clips: &Clips,
    labels: &LabelSet,
    examples: &[ExampleRecord],
    problems: &mut Problems,
) -> Result<Vec<Found>, Failure> {
    let used = examples
        .iter()
        .filter(|example| example.split != Split::Test);
    let looked_up = used.map(|example| {
        let record = clips.record(example.video);
        async move { (example, record.await) }.boxed()
    });
    let mut looked_up = in_order(looked_up.collect());
    let mut found = Vec::new();
    while let Some((example, record)) = looked_up.next().await {
        match record {
            Ok(record) => {
                // The labels are in alphabetical order.
                let class = labels
                    .as_slice()
                    .binary_search(&example.label)
                    .unwrap_or_default() as u32;
                found.push(Found {
                    example: clips.example(&record, class),
                    record,
                    split: example.split,
                });
            }
            Err(failure) if is_gone(&failure) => problems.push(gone(example.video)),
            Err(failure) => return Err(failure),
        }
    }
    Ok(found)
}

/// Decodes every video once.
async fn decode_all(
    clips: &Clips,
    found: &[Found],
    keep: bool,
    problems: &mut Problems,
) -> Result<(), Failure> {
    let checks = found.iter().map(|found| {
        let check = clips.check(found.example, keep && found.split == Split::Train);
        async move { (found, check.await) }.boxed()
    });
    let mut checks = in_order(checks.collect());
    while let Some((found, checked)) = checks.next().await {
        match checked {
            Ok(()) => {}
            Err(Failure::Video { video, why }) => {
                problems.push_unavailable(format!(
                    "video {video} ({:?}): {why}",
                    found.record.display_name
                ));
            }
            Err(failure) if is_gone(&failure) => problems.push(gone(found.example.video)),
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

fn is_gone(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Library(library::Error::Metadata(metadata::Error::NotFound { .. }))
    )
}

fn gone(video: VideoId) -> String {
    format!("video {video} does not exist any more")
}
