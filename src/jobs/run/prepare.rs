//! Validation: everything that training needs is there, and every problem with it is found at once.
//!
//! Invariant: nothing is trained before every example was decoded once, in this claim or in the one that took the checkpoint.

use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};

use super::Run;
use super::survey::Survey;
use crate::blocking::blocking;
use crate::ids::AdapterVersion;
use crate::jobs::checkpoint::{self, Decoded, Origin};
use crate::jobs::dataset::{
    Balance, Clips, Example, Pictures, Prefixes, Sources, Training, Truths,
};
use crate::jobs::failure::Failure;
use crate::jobs::memory::Demand;
use crate::jobs::mirror;
use crate::jobs::plan::Plan;
use crate::jobs::selection::{self, Policy};
use crate::jobs::trainer::{Position, Shared, Trainer};
use crate::jobs::validation::Problems;
use crate::metadata::{CheckpointRecord, JobRecord, TaskRecord};
use crate::model::StepShape;
use crate::spec::{
    AdapterConfig, ClassWeights, ClipSampling, Digest, FrameOrder, HyperParameters, LabelSet,
    Precision, wilson,
};
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
    /// What all frozen features of its examples are computed from, besides the examples and the head that reads them.
    pub(super) features: Digest,
    /// Whether the test split is evaluated once the version is published.
    pub(super) has_test: bool,
    /// Whether heads without adapters are tried beside the task's adapters.
    pub(super) tries_heads: bool,
    /// The version that training started from.
    pub(super) parent: Option<AdapterVersion>,
}

/// The plan of a job on the clips that the survey found.
fn planned(
    task: &TaskRecord,
    (survey, labels): (&Survey, usize),
    submitted: &HyperParameters,
) -> Plan {
    let seed = submitted.seed.unwrap_or_default();
    let (training, validation) = (survey.training.len(), survey.validation.len());
    Plan::new(submitted, training as u64, &task.adapter, seed)
        .with_labels(submitted, labels)
        .with_frames(usize::from(task.sampling.num_frames.get()))
        .with_validation(submitted, &task.adapter, validation as u64)
}

impl Run {
    /// Checks the data set and makes the trainer, from the newest checkpoint if there is one.
    pub(super) async fn prepare(&mut self) -> Result<Prepared, Failure> {
        let parts = self.context.parts.clone();
        let tenant = &self.lease.tenant;
        let task = || async { Ok(parts.registry.get_task(tenant, &self.job.task).await?) };
        let task = self.journal.patiently(task).await?;
        let clips = self.clips(&task)?;
        let kind = self.label_kind().await?;
        let parent = self.parent((&task, kind)).await?;
        let known = parent.as_ref().map(|parent| &parent.labels);
        let survey = self.survey(&clips, (known, kind));
        let mut survey = self.unless_stopped(survey).await?;
        let mut problems = std::mem::take(&mut survey.problems);
        let Some(labels) = survey.labels.take() else {
            return Err(Failure::Dataset(problems));
        };
        let has_sites = task.adapter.has_sites();
        let seed = self.job.hyper_parameters.seed.unwrap_or_default();
        let held_out = self.hold_out(&clips, &mut survey, seed).await?;
        let mirrored = mirror::decide(&self.job.hyper_parameters, has_sites, &labels);
        let submitted = HyperParameters {
            horizontal_flip: Some(mirrored.is_on),
            ..self.job.hyper_parameters.clone()
        };
        let num_frames = usize::from(task.sampling.num_frames.get());
        let plan = planned(&task, (&survey, labels.len()), &submitted);
        let demand = self.admitted(&task, labels.len(), &plan)?;
        let origin = Origin {
            dataset: self.job.dataset_digest,
            backbone: Arc::clone(&parts.backbone),
            adapter: task.adapter,
            classes: labels.len(),
            plan: plan.clone(),
            parent: parent.as_ref().map(|parent| Arc::clone(&parent.set)),
        };
        let resumed = match problems.is_empty() {
            true => self.resume(&origin).await?,
            false => None,
        };
        if resumed.is_none() {
            let keep = has_sites && !plan.redraws();
            let (clips, order) = ((&clips, keep), task.sampling.order);
            self.check_all(clips, &survey, order, &mut problems).await?;
        }
        if !problems.is_empty() {
            return Err(Failure::Dataset(problems));
        }
        if resumed.is_none() {
            // A probe's clips are fixed, as the answer to the submission says.
            let told = mirrored.told.filter(|_| has_sites);
            let of = (&plan, &task.adapter);
            self.tell_of_data(told, &survey, held_out, of).await?;
            self.tell_parent(parent.as_ref(), (&survey, &labels))
                .await?;
        }
        let saved = resumed.as_ref().map(|trainer| trainer.position().step);
        let trainer = match resumed {
            Some(trainer) => trainer,
            None => fresh(&origin).await?,
        };
        self.spent.go_on(trainer.position().times);
        let prefixes = self.prefixes(&plan, &demand);
        Ok(Prepared {
            has_test: plan.selection.evaluate_test && survey.tests > 0,
            labels,
            validation: survey.validation,
            training: Arc::new(training(
                (clips, survey.training, survey.truths),
                (plan, prefixes),
                (trainer.position(), &demand),
            )),
            trainer: trainer.shared(),
            origin,
            saved,
            num_frames,
            demand,
            features: self.features_key(&task)?,
            // A clip of one frame has no order.
            tries_heads: task.auto_head && task.sampling.num_frames.get() > 1,
            parent: parent.map(|parent| parent.version),
        })
    }

    /// Tells what is suspicious about the data set, whether clips are mirrored, how the weights are chosen, and what the job chose by itself.
    async fn tell_of_data(
        &self,
        mirrored: Option<(bool, String)>,
        survey: &Survey,
        held_out: Option<usize>,
        (plan, adapter): (&Plan, &AdapterConfig),
    ) -> Result<(), Failure> {
        self.tell_findings().await?;
        if let Some((warning, text)) = mirrored {
            self.tell(warning, text).await?;
        }
        let of = (plan, adapter.has_sites());
        self.tell_validation(survey, held_out, of).await?;
        let width = self.context.parts.backbone.config().width;
        for chosen in plan.chosen(&self.job.hyper_parameters, adapter, width) {
            self.tell(false, chosen).await?;
        }
        Ok(())
    }

    /// Looks at the videos for near-duplicates, where that is wanted, and makes a validation split of a data set that has none. Returns the number of clips
    /// of both splits before, when there is one now.
    async fn hold_out(
        &mut self,
        clips: &Clips,
        survey: &mut Survey,
        seed: u64,
    ) -> Result<Option<usize>, Failure> {
        let policy = Policy::new(self.job.hyper_parameters.selection.as_ref());
        if policy.near_duplicates && self.job.checkpoint.is_none() {
            let looked = self.look_at_videos(clips);
            self.unless_stopped(looked).await?;
        }
        let alike = match policy.near_duplicates && survey.wants_hold_out(policy.validation_share) {
            true => self.alike(survey).await?,
            false => Vec::new(),
        };
        Ok(survey.hold_out(&alike, policy.validation_share, seed))
    }

    /// Checks that every video decodes, and tells of suspicious time stamps.
    async fn check_all(
        &self,
        (clips, keep): (&Clips, bool),
        survey: &Survey,
        order: FrameOrder,
        problems: &mut Problems,
    ) -> Result<(), Failure> {
        let check = self.check(clips, survey, keep, problems);
        self.unless_stopped(check).await?;
        match survey.stamps.warning(order) {
            Some(text) => self.tell(true, text).await,
            None => Ok(()),
        }
    }

    /// Returns what the steps of a plan take, unless that is too much for the budget of now, or for the labels that the snapshot has.
    fn admitted(&self, task: &TaskRecord, labels: usize, plan: &Plan) -> Result<Demand, Failure> {
        let demand = self
            .demand(task, labels)?
            .publishing(plan.selection.publish);
        let admitted = demand.admitted(Some(plan.batch_size));
        admitted.map_err(Failure::TooLarge)?;
        Ok(demand)
    }

    /// Tells what is suspicious about the data set.
    async fn tell_findings(&self) -> Result<(), Failure> {
        let library = &self.context.parts.library;
        let (tenant, digest) = (&self.lease.tenant, self.job.dataset_digest);
        let sketches = self.sketches();
        let check = || async { Ok(library.check(tenant, digest, sketches).await?) };
        let checked = self.journal.patiently_moving(check).await?;
        for finding in checked.findings {
            let videos = finding.videos.iter().map(|video| format!("videos/{video}"));
            let labels = finding.labels.iter().map(|label| format!("{label:?}"));
            let named: Vec<String> = videos.chain(labels).collect();
            let named = match named.is_empty() {
                true => String::new(),
                false => format!(" ({})", named.join(", ")),
            };
            self.tell(true, format!("the data set: {}{named}", finding.text))
                .await?;
        }
        Ok(())
    }

    /// Tells where the validation split comes from and what little it says.
    async fn tell_validation(
        &self,
        survey: &Survey,
        held_out: Option<usize>,
        (plan, has_sites): (&Plan, bool),
    ) -> Result<(), Failure> {
        let clips = survey.validation.len() as u64;
        if let Some(all) = held_out {
            let text = format!(
                "the data set has no validation split: {clips} of its {all} training clips, spread over the labels, are held out as one (validation_share {})",
                plan.selection.validation_share
            );
            self.tell(false, text).await?;
        }
        let submitted = self.job.hyper_parameters.selection.as_ref();
        if has_sites && clips > 0 && selection::chooses_last(submitted, clips) {
            let text = format!(
                "chosen: the last weights are published, and training does not stop early: {clips} validation clips do not tell which epoch is the best, {} or more do",
                selection::ENOUGH
            );
            self.tell(false, text).await?;
        }
        // Jobs of a release that told nothing of the kind go on to do so.
        let is_used = plan.selection.eval_every > 0;
        if !is_used || clips == 0 || clips >= selection::FEW {
            return Ok(());
        }
        let (low, high) = wilson(clips.div_ceil(2), clips);
        let text = format!(
            "the validation split has {clips} clips, which say little: an accuracy of {:.2} on them means one between {low:.2} and {high:.2}; {} or more are better",
            clips.div_ceil(2) as f64 / clips as f64,
            selection::FEW
        );
        self.tell(true, text).await
    }

    fn features_key(&self, task: &TaskRecord) -> Result<Digest, Failure> {
        let backbone = &self.context.parts.backbone;
        let of = (backbone.digest(), backbone.precision());
        let accelerator = backbone.place().kind();
        Ok(features_of(of, accelerator.as_deref(), &task.sampling)?)
    }

    /// What the steps of a task take.
    pub(super) fn demand(&self, task: &TaskRecord, classes: usize) -> Result<Demand, Failure> {
        let frames = usize::from(task.sampling.num_frames.get());
        self.demand_of(task.adapter, classes, frames)
    }

    /// What the steps of a set for clips of so many frames take.
    pub(super) fn demand_of(
        &self,
        adapter: AdapterConfig,
        classes: usize,
        num_frames: usize,
    ) -> Result<Demand, Failure> {
        let backbone = &self.context.parts.backbone;
        let of = (backbone.config(), backbone.precision());
        let sizes = StepShape::new(of, adapter, classes, num_frames).map_err(Failure::Task)?;
        let sizes = sizes.at(backbone.place());
        let budget = self.context.config.step_bytes;
        Ok(Demand::new(sizes, adapter.has_sites(), budget))
    }

    /// Where the tokens of training frames are kept: on the host, when each epoch shows the same pixels of them, or those mirrored, and blocks below the adapters are frozen.
    fn prefixes(&self, plan: &Plan, demand: &Demand) -> Option<Prefixes> {
        let is_able =
            plan.shows_frames_unchanged() && self.context.parts.backbone.place().is_host();
        let each = demand.frozen_bytes().filter(|_| is_able)?;
        Some(Prefixes::new(Arc::clone(&self.context.budget), each))
    }

    pub(super) fn clips(&self, task: &TaskRecord) -> Result<Clips, Failure> {
        let parts = &self.context.parts;
        let backbone = parts.backbone.config();
        let side = u16::try_from(backbone.image_size).unwrap_or(u16::MAX);
        Ok(Clips::new(
            Sources {
                library: parts.library.clone(),
                decoder: parts.decoder.clone(),
                journal: Arc::clone(&self.journal),
                // Frozen features spare more than decoded frames.
                decoded: self.context.decoded().filter(|_| task.adapter.has_sites()),
            },
            self.lease.tenant.clone(),
            task.sampling,
            Pictures {
                side,
                normalization: backbone.normalization,
            },
            &self.context.budget,
        ))
    }

    /// The trainer of the newest checkpoint that can be used; `None` when there is none.
    async fn resume(&self, origin: &Origin) -> Result<Option<Trainer>, Failure> {
        let Some(Decoded {
            trainer,
            computed_by,
        }) = self.newest(&self.job, origin).await?
        else {
            return Ok(None);
        };
        let text = format!("training goes on after step {}", trainer.position().step);
        self.tell(false, text).await?;
        if let Some(before) = computed_by {
            let text = format!(
                "the steps so far were computed by {before}: the result differs from that of an undisturbed job in its last bits"
            );
            self.tell(true, text).await?;
        }
        Ok(Some(trainer))
    }

    /// The trainer of the newest checkpoint of a job's record that can be used; tells the owner of those that cannot.
    pub(super) async fn newest(
        &self,
        job: &JobRecord,
        origin: &Origin,
    ) -> Result<Option<Decoded>, Failure> {
        let mut records = job.checkpoints().peekable();
        while let Some(record) = records.next() {
            let failure = match self.unless_stopped(self.read(record, origin)).await {
                Ok(decoded) => return Ok(Some(decoded)),
                Err(failure @ (Failure::Store(_) | Failure::Checkpoint(_))) => failure,
                Err(failure) => return Err(failure),
            };
            tracing::warn!(job = %self.lease.job, error = &failure as &dyn std::error::Error, "a checkpoint cannot be used");
            let step = record.step;
            let next = match records.peek() {
                Some(next) => format!("that of step {} is tried", next.step),
                None => "training starts anew".into(),
            };
            let text = format!("the checkpoint of step {step} cannot be used, {next}: {failure}");
            self.tell(true, text).await?;
        }
        Ok(None)
    }

    /// The trainer of a checkpoint.
    pub(super) async fn read(
        &self,
        record: &CheckpointRecord,
        origin: &Origin,
    ) -> Result<Decoded, Failure> {
        let key = Key::parse(&record.key)?;
        let store = &self.context.parts.store;
        let bytes = || async { Ok(store.get_verified(&key, record.sha256).await?) };
        let bytes = self.journal.patiently_moving(bytes).await?;
        let origin = origin.clone();
        Ok(blocking(move || checkpoint::decode(&bytes, &origin)).await??)
    }
}

/// What frozen features are computed from, besides the examples and the head that reads them: a backbone, how clips are taken, and the `accelerator` with its
/// library, whose sums differ in their last bits from those of others and of the host.
fn features_of(
    (backbone, precision): (Digest, Precision),
    accelerator: Option<&str>,
    sampling: &ClipSampling,
) -> Result<Digest, checkpoint::Error> {
    let sampling = serde_json::to_vec(sampling)?;
    let mut sha256 = Sha256::new();
    sha256.update(backbone.0);
    sha256.update(precision.to_string());
    sha256.update(sampling);
    sha256.update(accelerator.unwrap_or_default());
    Ok(Digest(sha256.finalize().into()))
}

/// The training split under a plan.
fn training(
    (clips, examples, truths): (Clips, Vec<Example>, Truths),
    (plan, prefixes): (Plan, Option<Prefixes>),
    (position, demand): (&Position, &Demand),
) -> Training {
    let balance = balance(&plan, &examples, &truths);
    let truths = match plan.class_weights {
        ClassWeights::Balanced => truths.weighted(&examples),
        ClassWeights::Equal => truths,
    };
    Training {
        balance,
        truths,
        prefixes,
        skipped: Mutex::new(position.skipped.clone()),
        examples,
        clips,
        order: position.order,
        ahead: demand.ahead(plan.batch_size),
        plan,
    }
}

/// What the job does about labels with unequal numbers of clips.
fn balance(plan: &Plan, training: &[Example], truths: &Truths) -> Balance {
    if truths.kind().is_multi() {
        // Each label has a weight of its own in the loss, and labels cannot take turns.
        return Balance::new(training, 0, (false, false));
    }
    let is_weighted = plan.class_weights == ClassWeights::Balanced;
    Balance::new(
        training,
        truths.classes(),
        (is_weighted, plan.balanced_sampling),
    )
}

/// A trainer at step 0. What the model refuses here is the task's shape.
pub(super) async fn fresh(origin: &Origin) -> Result<Trainer, Failure> {
    let Origin {
        backbone,
        adapter,
        classes,
        plan,
        parent,
        ..
    } = origin.clone();
    let fresh = move || match parent {
        None => Trainer::fresh(backbone, adapter, classes, plan),
        Some(parent) => Trainer::continued(backbone, &parent, classes, plan),
    };
    let trainer = blocking(fresh).await?;
    trainer.map_err(Failure::Task)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::spec::RotationPolicy;

    #[test]
    fn features_of_another_arithmetic_are_others() {
        let sampling = ClipSampling::uniform(NonZeroU16::MIN);
        let stored = ClipSampling {
            rotation: RotationPolicy::Stored,
            ..sampling
        };
        let (one, other) = (Digest([1; 32]), Digest([2; 32]));
        let mut keys: Vec<Digest> = [
            ((one, Precision::F32), None, &sampling),
            ((one, Precision::F32), Some("a GPU, library 1"), &sampling),
            ((one, Precision::F32), Some("a GPU, library 2"), &sampling),
            ((one, Precision::Bf16), None, &sampling),
            ((other, Precision::F32), None, &sampling),
            ((one, Precision::F32), None, &stored),
        ]
        .map(|(of, accelerator, sampling)| features_of(of, accelerator, sampling).unwrap())
        .to_vec();
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}
