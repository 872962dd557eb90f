//! The weights of a job and its optimiser, and what a step changes.
//!
//! Invariant: weights, moments and progress change together, in the last slice of a step and under one lock; a step that is dropped before has
//! changed nothing.

mod walk;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::augment::Draws;
use super::dataset::{Order, Targets};
use super::heads::Tried;
use super::plan::Plan;
use super::schedule;
use super::selection::{Look, Looks};
use crate::ids::VideoId;
use crate::metadata::JobTimes;
use crate::model::adamw::{self, AdamW};
use crate::model::{
    AdapterSet, Backbone, Dropout, Error, Keep, Kept as Places, StepOutput, Tensors, TrainableSet,
    TrainingStep,
};
use crate::spec::{AdapterConfig, Publish};

pub(super) use walk::{Forward, ForwardWalk, HeadPass, StepWalk};

/// How far a job has come.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Position {
    /// Steps done.
    pub(super) step: u64,
    /// Mean loss of each finished epoch.
    pub(super) losses: Vec<f64>,
    /// Share of the clips that were right in each finished epoch; fewer than losses when a release that did not count them began the job.
    pub(super) accuracies: Vec<f64>,
    /// Sum of the losses of the clips of the epoch under way.
    pub(super) loss_sum: f64,
    /// Clips of the epoch under way.
    pub(super) loss_clips: u64,
    /// Clips of the epoch under way that were right.
    pub(super) right: u64,
    /// Time on the device.
    pub(super) training: Duration,
    /// In which order epochs take their examples.
    pub(super) order: Order,
    /// Evaluations of the validation split.
    pub(super) looks: Looks,
    /// Whether the rate is half of the plan's, since the loss was once no number.
    pub(super) is_halved: bool,
    /// Time that the job took besides its steps.
    pub(super) times: JobTimes,
    /// Training videos that could no longer be decoded.
    pub(super) skipped: BTreeSet<VideoId>,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StepReport {
    /// Steps done with it.
    pub(super) done: u64,
    /// Mean loss of its clips.
    pub(super) loss: f64,
    /// Share of its clips that were right.
    pub(super) accuracy: f64,
    pub(super) learning_rate: f64,
    pub(super) clips: u64,
    /// Bytes that it held on the device, with the weights and the optimiser's state.
    pub(super) bytes: u64,
}

/// Why a step changed nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error("the loss is not finite")]
    NotFinite,
    #[error(transparent)]
    Model(#[from] Error),
    #[error(transparent)]
    Torn(#[from] Torn),
}

/// What a step's clips are.
pub(super) enum Input {
    /// Planes `[3, T, S, S]` of each, and where the tokens of each frame are kept; no places when they are not.
    Frames(Vec<Arc<[f32]>>, Vec<Vec<Option<Places>>>),
    /// Frozen features of each, for a set without sites: what its head reads, before the final norm.
    Features(Vec<Vec<f32>>),
}

/// What a checkpoint has besides weights and moments: how far the job is, the best evaluation's weights, and what came of heads without adapters.
pub(super) type Kept = (Position, Option<Arc<AdapterSet>>, Option<Arc<Tried>>);

/// Weights, optimiser and progress of one job.
pub(super) struct Trainer {
    backbone: Arc<Backbone>,
    plan: Plan,
    set: TrainableSet,
    optimizer: AdamW,
    bytes: u64,
    parameters: u64,
    position: Position,
    /// Weights of the best evaluation.
    best: Option<Arc<AdapterSet>>,
    /// What came of heads without adapters, once they were tried.
    tried: Option<Arc<Tried>>,
}

/// A trainer that steps share with whoever saves it.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Trainer>>);

/// The trainer's last change stopped in the middle: its weights and moments belong to no step, and only a checkpoint can be gone on from.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a step panicked while it changed the weights")]
pub(super) struct Torn;

impl Shared {
    /// The trainer; waits for a slice that uses it.
    ///
    /// # Errors
    /// [`Torn`] when a panic left it half changed.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, Trainer>, Torn> {
        self.0.lock().map_err(|_: PoisonError<_>| Torn)
    }
}

impl Trainer {
    /// Weights of the plan's seed, at step 0.
    pub(super) fn fresh(
        backbone: Arc<Backbone>,
        adapter: AdapterConfig,
        classes: usize,
        plan: Plan,
    ) -> Result<Self, Error> {
        let weights = Draws::new(plan.seed).weights();
        let set = AdapterSet::fresh(backbone.config(), adapter, classes, &weights)?;
        Self::of(backbone, &set, plan)
    }

    /// Weights of an earlier set, at step 0; those of classes that it does not have are of the plan's seed.
    pub(super) fn continued(
        backbone: Arc<Backbone>,
        parent: &AdapterSet,
        classes: usize,
        plan: Plan,
    ) -> Result<Self, Error> {
        let weights = Draws::new(plan.seed).weights();
        let set = parent.grown(backbone.config(), classes, &weights)?;
        Self::of(backbone, &set, plan)
    }

    /// Goes on where a checkpoint was taken.
    pub(super) fn resumed(
        backbone: Arc<Backbone>,
        set: &AdapterSet,
        plan: Plan,
        (steps, moments): (u64, Tensors),
        (position, best, tried): Kept,
    ) -> Result<Self, Error> {
        let mut trainer = Self::of(backbone, set, plan)?;
        trainer.optimizer.restore(steps, moments)?;
        trainer.position = position;
        trainer.best = best;
        trainer.tried = tried;
        Ok(trainer)
    }

    fn of(backbone: Arc<Backbone>, set: &AdapterSet, plan: Plan) -> Result<Self, Error> {
        let trainable = TrainableSet::beside(set, &backbone)?;
        let config = adamw::Config {
            weight_decay: plan.weight_decay,
            clip_norm: plan.clip_norm,
            ..adamw::Config::default()
        };
        Ok(Self {
            optimizer: AdamW::new(trainable.parameters(), config)?,
            // The weights and two moments of each.
            bytes: 3 * set.bytes(),
            parameters: set.parameters(),
            set: trainable,
            backbone,
            plan,
            position: Position::default(),
            best: None,
            tried: None,
        })
    }

    pub(super) fn shared(self) -> Shared {
        Shared(Arc::new(Mutex::new(self)))
    }

    pub(super) fn position(&self) -> &Position {
        &self.position
    }

    /// Steps of the optimiser and its moments.
    pub(super) fn moments(&self) -> Result<(u64, Tensors), Error> {
        self.optimizer.state()
    }

    /// The weights of now.
    pub(super) fn snapshot(&self) -> Result<AdapterSet, Error> {
        self.set.snapshot()
    }

    /// Weights of the best evaluation so far.
    pub(super) fn best(&self) -> Option<&Arc<AdapterSet>> {
        self.best.as_ref()
    }

    /// What came of heads without adapters; `None` before they were tried.
    pub(super) fn tried(&self) -> Option<&Arc<Tried>> {
        self.tried.as_ref()
    }

    pub(super) fn has_tried(&mut self, tried: Arc<Tried>) {
        self.tried = Some(tried);
    }

    /// Takes note of the time that the job has taken besides its steps, and of the videos that it has left out. Returns whether there are more of them.
    pub(super) fn took(&mut self, times: JobTimes, skipped: BTreeSet<VideoId>) -> bool {
        self.position.times = times;
        std::mem::replace(&mut self.position.skipped, skipped) != self.position.skipped
    }

    /// Whether training has taken as much time as it may.
    pub(super) fn is_spent(&self) -> bool {
        let most = self.plan.budget.seconds.map(Duration::from_secs);
        most.is_some_and(|most| self.position.training >= most)
    }

    /// Goes on from an earlier state of the job at half the rate; what came of heads without adapters stays.
    pub(super) fn roll_back(&mut self, earlier: Self) {
        let tried = earlier.tried.clone().or_else(|| self.tried.take());
        let training = self.position.training;
        *self = earlier;
        self.tried = tried;
        self.position.is_halved = true;
        // What was computed in vain was computed.
        self.position.training = training;
    }

    /// Trainable parameters.
    pub(super) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Takes note of an evaluation of the weights of now. Returns whether it is the best so far.
    pub(super) fn looked(&mut self, look: Look, set: Arc<AdapterSet>) -> bool {
        let policy = self.plan.selection;
        let is_best = self.position.looks.add(look, policy.best_by);
        if is_best && policy.publish == Publish::Best {
            self.best = Some(set);
        }
        is_best
    }

    /// The validation split cannot be evaluated: it is not tried again, and the last weights will be published.
    pub(super) fn go_blind(&mut self) {
        self.position.looks.is_blind = true;
        self.best = None;
    }

    fn begin(&self, input: Input, targets: Targets, room: u64) -> Result<TrainingStep, Error> {
        let Targets {
            labels,
            goals,
            marks,
        } = targets;
        // Marks are all that a step needs to know of labels that do not exclude one another.
        let labels = match marks {
            Some(_) => vec![0; labels.len()],
            None => labels,
        };
        let dropout = (self.plan.dropout > 0.0).then(|| Dropout {
            rate: self.plan.dropout,
            stream: Draws::new(self.plan.seed).dropout(self.position.step),
        });
        let backbone = || Arc::clone(&self.backbone);
        let step = match input {
            Input::Features(features) => {
                TrainingStep::from_features(backbone(), &self.set, &features, &labels, dropout)
            }
            Input::Frames(frames, kept) => {
                let keep = Keep::Within(room);
                let step = TrainingStep::new(backbone(), &self.set, frames, &labels, dropout, keep);
                step.map(|step| step.keeping(kept))
            }
        };
        let step = step?.smoothing(self.plan.label_smoothing);
        match marks {
            Some(marks) => step.marked(marks),
            None => step.towards(goals),
        }
    }

    fn update(
        &mut self,
        output: StepOutput,
        clips: u64,
        bytes: u64,
    ) -> Result<StepReport, StepError> {
        if !output.loss.is_finite() {
            return Err(StepError::NotFinite);
        }
        let plan = &self.plan;
        let factor = if self.position.is_halved { 0.5 } else { 1.0 };
        let rate = schedule::after_warmup(
            self.position.step,
            plan.total_steps(),
            plan.warmup_steps(),
            factor * plan.learning_rate,
        );
        let parameters = self.set.parameters();
        self.optimizer.step(parameters, &output.gradients, rate)?;
        let position = &mut self.position;
        position.step += 1;
        position.loss_sum += output.loss * clips as f64;
        position.loss_clips += clips;
        position.right += output.correct as u64;
        if position.step.is_multiple_of(plan.steps_per_epoch()) {
            let count = position.loss_clips.max(1) as f64;
            position.losses.push(position.loss_sum / count);
            position.accuracies.push(position.right as f64 / count);
            (position.loss_sum, position.loss_clips, position.right) = (0.0, 0, 0);
        }
        Ok(StepReport {
            done: position.step,
            loss: output.loss,
            accuracy: output.correct as f64 / clips.max(1) as f64,
            learning_rate: rate,
            clips,
            bytes: bytes + self.bytes,
        })
    }
}

#[cfg(test)]
mod tests;
