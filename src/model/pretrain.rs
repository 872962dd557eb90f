//! Training of a whole backbone with several heads, on single images: the same blocks with trainable weights.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::{BackboneConfig, Error};

/// How the weights move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Optimizer {
    /// Decoupled, on names without `.bias`.
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 means no clipping.
    pub clip_norm: f64,
}

/// What a step found, before its update.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Mean cross entropy of each head, in nats.
    pub losses: Vec<f64>,
    /// Share of images whose largest logit was their label's, for each head.
    pub accuracies: Vec<f64>,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
}

/// A backbone in training.
pub struct Trainer;

impl Trainer {
    /// Random weights from a seed; `heads`: classes of each head.
    ///
    /// # Errors
    /// When the configuration is none that can be built.
    pub fn new(
        _config: BackboneConfig,
        _heads: &[usize],
        _seed: u64,
        _optimizer: Optimizer,
    ) -> Result<Self, Error> {
        todo!()
    }

    /// One step of AdamW on the sum of the heads' losses. `images`: `[N, 3, S, S]`, normalised; `labels[head][image]`.
    ///
    /// # Errors
    /// When shapes or labels do not fit.
    pub fn step(
        &mut self,
        _images: &Tensor,
        _labels: &[Vec<u32>],
        _learning_rate: f64,
    ) -> Result<StepReport, Error> {
        todo!()
    }

    /// Losses and accuracies without an update.
    ///
    /// # Errors
    /// When shapes or labels do not fit.
    pub fn evaluate(&self, _images: &Tensor, _labels: &[Vec<u32>]) -> Result<StepReport, Error> {
        todo!()
    }

    /// Writes the backbone (not the heads) as f16 safetensors with the reference's tensor names and this metadata.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, _path: &Path, _metadata: &BTreeMap<String, String>) -> Result<(), Error> {
        todo!()
    }
}
