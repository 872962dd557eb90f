//! How a job trains, as it is submitted.
//!
//! Invariant: a field that a release before did not have is written only when it was given, so that a repeated request compares as equal.

use serde::{Deserialize, Serialize};

use super::Selection;

/// Whether half of the training clips are mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mirror {
    /// No clip is.
    Off,
    /// Half of them are.
    On,
    /// Half of them are, unless a label names a side.
    Auto,
}

/// How to train, as submitted; a field that is `None` is chosen from the data set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HyperParameters {
    /// Passes over the training split.
    pub epochs: Option<u32>,
    /// Clips per step.
    pub batch_size: Option<u32>,
    /// Peak learning rate.
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay, not on biases.
    pub weight_decay: Option<f64>,
    /// Share of the steps over which the learning rate rises.
    pub warmup_share: Option<f64>,
    /// Dropout before the head.
    pub dropout: Option<f64>,
    /// Largest global gradient norm; 0 means no clipping.
    pub clip_norm: Option<f64>,
    /// Smallest share of the area that a random crop keeps; 1 means the centre crop.
    pub min_crop_area: Option<f64>,
    /// Mirrors half of the training clips.
    pub horizontal_flip: Option<bool>,
    /// Seed of every random choice.
    pub seed: Option<u64>,
    /// Steps between checkpoints.
    pub checkpoint_steps: Option<u32>,
    /// Whether half of the training clips are mirrored; once it is there, it is what decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// Epochs over which the learning rate rises, in place of a share. What the release before did not have is written only when it was given, so that a
    /// repeated request compares as equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_epochs: Option<f64>,
    /// Peak learning rate of a batch of 256 clips, in place of that of the batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_learning_rate: Option<f64>,
    /// Share of a label's weight that is spread over all labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f64>,
    /// Largest scale of the picture's short side before a random crop of the view's size, in place of crops of random areas; 1 means none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_side_scale: Option<f64>,
    /// Probability that a rectangle of a training clip is erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_erasing: Option<f64>,
    /// RandAugment of the training pictures, in timm's syntax.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rand_augment: Option<String>,
    /// What is measured beside training; `None` in records of a release that evaluated once, at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
    /// How much each label's clips count in the loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
    /// Whether an epoch takes as many clips of each label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balanced_sampling: Option<bool>,
    /// Parameter of the distribution of mixup's shares; 0 means none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixup: Option<f64>,
    /// Parameter of the distribution of CutMix's shares; 0 means none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutmix: Option<f64>,
    /// Steps after which training ends at the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Seconds of device time after which training ends at the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<u64>,
    /// Frames of training clips after which training ends at the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_clip_frames: Option<u64>,
    /// Confidence below which the version marks its answers as unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_below: Option<f64>,
    /// Newest checkpoints that are kept while the job is under way, and beside them that of the best evaluation; `None` keeps the newest one alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_checkpoints: Option<u32>,
    /// Number of the task's version whose weights training starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
}

impl HyperParameters {
    /// What a job does about mirroring, of a task with adapters or of one without, whose clips are fixed.
    pub fn wanted_mirror(&self, has_adapters: bool) -> Mirror {
        let by_flip = || match self.horizontal_flip {
            Some(true) => Mirror::On,
            Some(false) => Mirror::Off,
            None if has_adapters => Mirror::Auto,
            None => Mirror::Off,
        };
        self.mirror.unwrap_or_else(by_flip)
    }
}

/// How much each label's clips count in the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeights {
    /// Every clip counts the same.
    #[default]
    Equal,
    /// All labels count the same: a clip counts by clips / (labels · clips of its label).
    Balanced,
}
