//! How a job trains: what was submitted, completed from the size of the data set.
//!
//! Invariant: pure; equal inputs give an equal plan, and a complete plan gives itself again, so that a resumed job trains as it began.

mod check;
mod chosen;

use std::ops::Range;

use super::selection::Policy;
use crate::spec::{AdapterConfig, ClassWeights, HyperParameters, Invalid, RandAugment};

pub use check::check;

/// Steps that a job takes by default, as near as its epochs allow: at least so many, and so many for each label.
const STEPS: u64 = 250;
const STEPS_OF_LABEL: u64 = 25;
/// Fewest and most epochs by default.
const EPOCHS: (u64, u64) = (4, 40);
/// Clips per step by default.
pub(super) const BATCH: u32 = 8;
/// Number of training clips from which on the head has dropout by default.
const DROPOUT_FROM: u64 = 512;
/// Checkpoints of a job by default.
const CHECKPOINTS: u64 = 20;
/// Fewest steps between checkpoints by default.
const CHECKPOINT_STEPS: u64 = 10;

/// Complete plan of a job's training; the fields are those of [`HyperParameters`].
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Passes over the training split.
    pub epochs: u32,
    /// Clips per step at most; the steps of an epoch have as many as each other, or one fewer.
    pub batch_size: u32,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay, not on biases.
    pub weight_decay: f64,
    /// How long the learning rate rises.
    pub warmup: Warmup,
    /// Dropout before the head.
    pub dropout: f64,
    /// Largest global gradient norm; 0 means no clipping.
    pub clip_norm: f64,
    /// Smallest share of the area that a random crop keeps; 1 means the centre crop.
    pub min_crop_area: f64,
    /// Whether half of the training clips are mirrored.
    pub horizontal_flip: bool,
    /// Seed of every random choice.
    pub seed: u64,
    /// Steps between checkpoints.
    pub checkpoint_steps: u32,
    /// Peak learning rate of a batch of 256 clips, when that was submitted.
    pub base_learning_rate: Option<f64>,
    /// Share of a label's weight that is spread over all labels.
    pub label_smoothing: f64,
    /// Largest scale of the picture's short side before a random crop; 1 means no such crop.
    pub short_side_scale: f64,
    /// Probability that a rectangle of a clip is erased.
    pub random_erasing: f64,
    /// How pictures are changed at random.
    pub rand_augment: Option<RandAugment>,
    /// Number of training clips.
    pub clips: u64,
    /// Number of labels, as far as it is known.
    pub labels: u64,
    /// Evaluations beside training, and which weights are published.
    pub selection: Policy,
    /// How much each label's clips count in the loss.
    pub class_weights: ClassWeights,
    /// Whether an epoch takes as many clips of each label.
    pub balanced_sampling: bool,
    /// How the clips of a step are mixed.
    pub mixing: Mixing,
    /// Limits at which training ends early.
    pub budget: Budget,
}

/// How the clips of a step are mixed in pairs; 0 means not.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Mixing {
    /// Parameter of the distribution of the shares by which clips are blended.
    pub mixup: f64,
    /// Parameter of the distribution of the shares of the pictures that are replaced.
    pub cutmix: f64,
}

/// Limits at which training ends early; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// Most steps.
    pub steps: Option<u64>,
    /// Most seconds of device time.
    pub seconds: Option<u64>,
    /// Most frames of training clips.
    pub clip_frames: Option<u64>,
    /// Frames of a clip, by which the limit of frames is one of clips.
    pub num_frames: u64,
}

/// How long the learning rate rises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warmup {
    /// The rate rises over a share of the steps.
    Share(f64),
    /// The rate rises over a number of epochs.
    Epochs(f64),
}

impl Plan {
    /// Whether every epoch shows one of two pictures of a frame, itself or its mirror image: none is cropped at random, changed or mixed.
    pub fn shows_frames_unchanged(&self) -> bool {
        let is_cropped = self.min_crop_area < 1.0 || self.short_side_scale > 1.0;
        let is_changed = self.rand_augment.is_some() || self.random_erasing > 0.0;
        let is_mixed = self.mixing.mixup > 0.0 || self.mixing.cutmix > 0.0;
        !(is_cropped || is_changed || is_mixed)
    }

    /// Completes what was submitted for `clips` training clips (at least 1) of a task with these adapters. `seed` is used when none was submitted.
    pub fn new(
        submitted: &HyperParameters,
        clips: u64,
        adapter: &AdapterConfig,
        seed: u64,
    ) -> Self {
        let clips = clips.max(1);
        let most = u32::try_from(clips).unwrap_or(u32::MAX);
        let batch_size = submitted
            .batch_size
            .unwrap_or(BATCH.min(most))
            .clamp(1, most);
        let plan = Self {
            epochs: 1,
            batch_size,
            learning_rate: submitted
                .learning_rate
                .or(submitted
                    .base_learning_rate
                    .map(|base| scaled(base, batch_size)))
                .unwrap_or_else(|| learning_rate(adapter) * rate_factor(batch_size)),
            weight_decay: submitted.weight_decay.unwrap_or(1e-2),
            warmup: match (submitted.warmup_epochs, submitted.warmup_share) {
                (Some(epochs), _) => Warmup::Epochs(epochs),
                (None, share) => Warmup::Share(share.unwrap_or(0.1)),
            },
            dropout: submitted
                .dropout
                .unwrap_or(if clips >= DROPOUT_FROM { 0.5 } else { 0.0 }),
            clip_norm: submitted.clip_norm.unwrap_or(0.0),
            min_crop_area: submitted.min_crop_area.unwrap_or(1.0),
            horizontal_flip: submitted.horizontal_flip.unwrap_or(false),
            seed: submitted.seed.unwrap_or(seed),
            checkpoint_steps: 1,
            base_learning_rate: submitted.base_learning_rate,
            label_smoothing: submitted.label_smoothing.unwrap_or(0.0),
            short_side_scale: submitted.short_side_scale.unwrap_or(1.0),
            random_erasing: submitted.random_erasing.unwrap_or(0.0),
            // What was submitted was checked.
            rand_augment: augment(submitted).unwrap_or_default(),
            clips,
            labels: 0,
            selection: Policy::new(submitted.selection.as_ref()),
            class_weights: submitted.class_weights.unwrap_or_default(),
            balanced_sampling: submitted.balanced_sampling.unwrap_or(false),
            mixing: Mixing {
                mixup: submitted.mixup.unwrap_or(0.0),
                cutmix: submitted.cutmix.unwrap_or(0.0),
            },
            budget: Budget {
                steps: submitted.max_steps,
                seconds: submitted.max_seconds,
                clip_frames: submitted.max_clip_frames,
                num_frames: 1,
            },
        };
        plan.with_labels(submitted, 0)
    }

    /// Returns the same plan for clips of so many labels.
    #[must_use]
    pub fn with_labels(mut self, submitted: &HyperParameters, labels: usize) -> Self {
        self.labels = labels as u64;
        let (per_epoch, (fewest, most)) = (self.steps_per_epoch(), EPOCHS);
        let automatic = self.wanted_steps().div_ceil(per_epoch).clamp(fewest, most);
        self.epochs = submitted.epochs.unwrap_or(automatic as u32);
        let steps = per_epoch * u64::from(self.epochs);
        let apart = steps.div_ceil(CHECKPOINTS).max(CHECKPOINT_STEPS);
        let apart = u32::try_from(apart).unwrap_or(u32::MAX);
        self.checkpoint_steps = submitted.checkpoint_steps.unwrap_or(apart);
        self
    }

    /// Steps that are enough for the labels.
    fn wanted_steps(&self) -> u64 {
        STEPS.max(STEPS_OF_LABEL.saturating_mul(self.labels))
    }

    /// Returns the same plan for clips of so many frames.
    #[must_use]
    pub fn with_frames(mut self, num_frames: usize) -> Self {
        self.budget.num_frames = num_frames.max(1) as u64;
        self
    }

    /// Returns the same plan for a validation split of so many clips.
    #[must_use]
    pub fn with_validation(
        mut self,
        submitted: &HyperParameters,
        adapter: &AdapterConfig,
        clips: u64,
    ) -> Self {
        if adapter.has_sites() {
            let submitted = submitted.selection.as_ref();
            self.selection = self.selection.for_clips(submitted, clips);
        }
        self
    }

    /// Steps of one epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.clips.div_ceil(u64::from(self.batch_size))
    }

    /// Steps in all: those of the epochs, as far as the budgets of steps and frames allow; at least 1.
    pub fn total_steps(&self) -> u64 {
        let all = self.steps_per_epoch() * u64::from(self.epochs);
        let steps = self.budget.steps.unwrap_or(all);
        let frames = self.budget.clip_frames.unwrap_or(u64::MAX);
        let within = self.steps_within(frames / self.budget.num_frames.max(1));
        all.min(steps).min(within).max(1)
    }

    /// Frames of the clips of all steps.
    pub fn clip_frames(&self) -> u64 {
        let clips = self.total_steps().saturating_mul(self.batch_size.into());
        clips.saturating_mul(self.budget.num_frames)
    }

    /// The most steps that together have so many clips at most.
    fn steps_within(&self, clips: u64) -> u64 {
        let per_epoch = self.steps_per_epoch();
        let (epochs, left) = (clips / self.clips, clips % self.clips);
        // After w steps of an epoch, clips · w / steps of the epoch were taken, rounded down.
        let more = (u128::from(left + 1) * u128::from(per_epoch) - 1) / u128::from(self.clips);
        let more = u64::try_from(more).unwrap_or(u64::MAX).min(per_epoch - 1);
        epochs.saturating_mul(per_epoch).saturating_add(more)
    }

    /// Steps over which the learning rate rises.
    pub fn warmup_steps(&self) -> u64 {
        let steps = match self.warmup {
            Warmup::Share(share) => share.clamp(0.0, 1.0) * self.total_steps() as f64,
            Warmup::Epochs(epochs) => {
                // Of fewer steps than those of the epochs it is as large a part.
                let (each, total) = (self.steps_per_epoch() as f64, self.total_steps() as f64);
                let all = each * f64::from(self.epochs);
                let part = if total < all { total / all } else { 1.0 };
                epochs.max(0.0) * each * part
            }
        };
        steps.floor() as u64
    }

    /// Whether clips are parts of their pictures, or of changed pictures, that are drawn anew in each epoch, so that decoded ones are of no use.
    pub fn redraws(&self) -> bool {
        self.min_crop_area < 1.0 || self.short_side_scale > 1.0 || self.rand_augment.is_some()
    }

    /// Whether a clip differs from epoch to epoch by more than its frames.
    pub fn augments(&self) -> bool {
        self.redraws() || self.horizontal_flip || self.random_erasing > 0.0
    }

    /// Places of a step's examples in the order of its epoch: as many in each step of an epoch as in the others, or one fewer.
    pub fn places(&self, step: u64) -> Range<u64> {
        let (_, within) = self.position(step);
        let steps = self.steps_per_epoch();
        // Below 2^32 clips of at most as many steps.
        let at = |step: u64| {
            let place = u128::from(self.clips) * u128::from(step) / u128::from(steps.max(1));
            u64::try_from(place).unwrap_or(u64::MAX)
        };
        at(within)..at(within + 1)
    }

    /// Clips of the first so many steps.
    pub fn clips_of(&self, steps: u64) -> u64 {
        let (epochs, _) = self.position(steps);
        let begun = self.places(steps).start;
        self.clips.saturating_mul(epochs).saturating_add(begun)
    }

    /// Places of a step's examples as the release before divided an epoch: whole batches, and what is left.
    pub fn whole_places(&self, step: u64) -> Range<u64> {
        let (_, within) = self.position(step);
        let size = u64::from(self.batch_size);
        let begin = (within * size).min(self.clips);
        begin..(begin + size).min(self.clips)
    }

    /// Epoch (from 0) and step within it (from 0) of a step (from 0).
    pub fn position(&self, step: u64) -> (u64, u64) {
        (step / self.steps_per_epoch(), step % self.steps_per_epoch())
    }

    /// Whether a checkpoint is due once so many steps are done: every so often, and at the end, so that a crash while evaluating repeats no step.
    pub fn is_checkpoint_due(&self, done: u64) -> bool {
        done == self.total_steps() || done.is_multiple_of(u64::from(self.checkpoint_steps))
    }

    /// Returns the plan's values as they are stored and shown.
    pub fn hyper_parameters(&self) -> HyperParameters {
        HyperParameters {
            epochs: Some(self.epochs),
            batch_size: Some(self.batch_size),
            learning_rate: Some(self.learning_rate),
            weight_decay: Some(self.weight_decay),
            warmup_share: match self.warmup {
                Warmup::Share(share) => Some(share),
                Warmup::Epochs(_) => None,
            },
            dropout: Some(self.dropout),
            clip_norm: Some(self.clip_norm),
            min_crop_area: Some(self.min_crop_area),
            horizontal_flip: Some(self.horizontal_flip),
            seed: Some(self.seed),
            checkpoint_steps: Some(self.checkpoint_steps),
            mirror: None,
            warmup_epochs: match self.warmup {
                Warmup::Share(_) => None,
                Warmup::Epochs(epochs) => Some(epochs),
            },
            base_learning_rate: self.base_learning_rate,
            label_smoothing: Some(self.label_smoothing),
            short_side_scale: Some(self.short_side_scale),
            random_erasing: Some(self.random_erasing),
            rand_augment: self.rand_augment.map(|augment| augment.to_string()),
            selection: Some(self.selection.as_submitted()),
            class_weights: Some(self.class_weights),
            balanced_sampling: Some(self.balanced_sampling),
            mixup: Some(self.mixing.mixup),
            cutmix: Some(self.mixing.cutmix),
            max_steps: self.budget.steps,
            max_seconds: self.budget.seconds,
            max_clip_frames: self.budget.clip_frames,
            unknown_below: None,
            parent: None,
            keep_checkpoints: None,
        }
    }
}

/// Smallest and largest factor of the learning rate that follows from the batch.
const RATE_FACTORS: (f64, f64) = (0.5, 2.0);

/// Factor of the default learning rate for batches of so many clips. The noise of Adam's steps stays the same when the rate changes as the square root of the
/// batch (Malladi et al., 2022, arXiv 2205.10287); far from the batch that the rates are for, the rule is not relied upon.
fn rate_factor(batch_size: u32) -> f64 {
    let factor = (f64::from(batch_size) / f64::from(BATCH)).sqrt();
    factor.clamp(RATE_FACTORS.0, RATE_FACTORS.1)
}

/// Peak learning rate of batches of [`BATCH`] clips by default. Heads that read every frame have as many times the inputs of the paper's, each of which moves the logits by the rate.
fn learning_rate(adapter: &AdapterConfig) -> f64 {
    match (adapter.has_sites(), adapter.head.is_mean()) {
        (true, true) => 2e-3 * width_factor(adapter.adapter_width),
        (false, true) => 5e-3,
        (_, false) => 1e-3,
    }
}

/// Width of the paper's adapters, and the largest factor of the learning rate that follows from a smaller one.
const WIDTH: u32 = 384;
const WIDTH_FACTOR: f64 = 2.0;

/// Factor of the default learning rate for adapters of this width. Adapters add nothing before the first step, and Adam moves each weight by about the rate, so
/// that what a narrow adapter adds grows more slowly.
fn width_factor(width: u32) -> f64 {
    let factor = (f64::from(WIDTH) / f64::from(width.max(1))).sqrt();
    factor.clamp(1.0, WIDTH_FACTOR)
}

/// RandAugment as it was submitted; an empty text is none.
fn augment(submitted: &HyperParameters) -> Result<Option<RandAugment>, Invalid> {
    let text = submitted.rand_augment.as_deref().unwrap_or_default();
    match text {
        "" => Ok(None),
        text => text.parse().map(Some),
    }
}

/// Peak learning rate of a batch, from that of 256 clips.
fn scaled(base: f64, batch_size: u32) -> f64 {
    base * f64::from(batch_size) / 256.0
}

#[cfg(test)]
mod tests;
