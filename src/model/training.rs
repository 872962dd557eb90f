//! One training step of one set (forward, loss, backward), block by block; the optimiser comes after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;

use super::{Backbone, Error, Step, TrainableSet};
use crate::rng::Stream;

/// What the forward keeps for the backward; both give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Everything that the backward reads.
    All,
    /// Each block's input; the backward runs the block's forward again.
    Recompute,
}

/// Dropout before the head.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// Share of the features that become 0, in [0, 1).
    pub rate: f64,
    /// Which.
    pub stream: Stream,
}

/// Gradients by the reference's names. A weight that the loss does not depend on has zeros.
pub type Gradients = BTreeMap<String, Tensor>;

/// What a step found.
#[derive(Debug)]
pub struct StepOutput {
    /// Mean cross entropy in nats.
    pub loss: f64,
    /// Clips whose largest logit was their label's.
    pub correct: usize,
    /// Of every trainable weight.
    pub gradients: Gradients,
    /// `[clips][classes]`, with dropout applied.
    pub logits: Vec<Vec<f32>>,
}

/// A running step.
pub struct TrainingStep;

impl TrainingStep {
    /// `frames`: one buffer a clip, normalised planes `[3, T, S, S]`, all with the same T. Reads the weights of now.
    ///
    /// # Errors
    /// When clips, labels or the set do not fit.
    pub fn new(
        _backbone: Arc<Backbone>,
        _set: &TrainableSet,
        _frames: Vec<Arc<[f32]>>,
        _labels: &[u32],
        _dropout: Option<Dropout>,
        _keep: Keep,
    ) -> Result<Self, Error> {
        todo!()
    }

    /// A step of a set without sites, from what `Features` gave: `[C]` for each clip.
    ///
    /// # Errors
    /// When the set has sites, or features or labels do not fit.
    pub fn from_features(
        _backbone: Arc<Backbone>,
        _set: &TrainableSet,
        _features: &[Vec<f32>],
        _labels: &[u32],
        _dropout: Option<Dropout>,
    ) -> Result<Self, Error> {
        todo!()
    }

    /// Runs one block forward or backward, or the head.
    ///
    /// # Errors
    /// When it is called after the end.
    pub fn advance(&mut self) -> Result<Step, Error> {
        todo!()
    }

    /// Memory that the step holds at its peak, in bytes.
    pub fn bytes(&self) -> u64 {
        todo!()
    }

    /// Loss and gradients.
    ///
    /// # Errors
    /// Before the end.
    pub fn finish(self) -> Result<StepOutput, Error> {
        todo!()
    }
}
