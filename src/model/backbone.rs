//! The frozen backbone: patch embedding, blocks, norms.
//!
//! Invariant: loaded once, shared by `Arc`, never written to.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::{BackboneConfig, Error};
use crate::spec::Digest;

/// Tensors by the reference's name: shape and row-major values.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A frozen image backbone; share it by `Arc`.
pub struct Backbone;

impl Backbone {
    /// Builds a backbone; the tensors are packed and freed one by one.
    ///
    /// # Errors
    /// Names the first tensor that is missing, unexpected, of another shape or not finite.
    pub fn from_tensors(
        _name: &str,
        _config: BackboneConfig,
        _digest: Digest,
        _tensors: Tensors,
    ) -> Result<Self, Error> {
        todo!()
    }

    /// Sizes and constants.
    pub fn config(&self) -> &BackboneConfig {
        todo!()
    }

    /// Of the canonical tensors.
    pub fn digest(&self) -> Digest {
        todo!()
    }

    /// What it was loaded as.
    pub fn name(&self) -> &str {
        todo!()
    }

    /// Weights, counted.
    pub fn parameters(&self) -> u64 {
        todo!()
    }

    /// Memory of the weights.
    pub fn bytes(&self) -> u64 {
        todo!()
    }

    /// How often a frozen linear layer ran, over all users of this backbone.
    pub fn frozen_linear_calls(&self) -> u64 {
        todo!()
    }

    /// Addresses of the weights: equal for two users of one backbone.
    pub fn weight_pointers(&self) -> Vec<usize> {
        todo!()
    }

    /// Frames `[N, 3, S, S]` (normalised) to the input of the first block, `[N, L, C]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn embed(&self, _frames: &Tensor) -> Result<Tensor, Error> {
        todo!()
    }

    /// Frames `[N, 3, S, S]` (normalised) through the bare backbone: the output of every block, each `[N, L, C]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn hidden_states(&self, _frames: &Tensor) -> Result<Vec<Tensor>, Error> {
        todo!()
    }

    /// The final norm: `[N, C]` to `[N, C]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn final_norm(&self, _features: &Tensor) -> Result<Tensor, Error> {
        todo!()
    }
}
