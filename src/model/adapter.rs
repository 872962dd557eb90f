//! A task's adapters and head: immutable for serving, trainable for a job.

use std::collections::BTreeMap;

use super::{BackboneConfig, Error};
use crate::rng::Stream;
use crate::spec::AdapterConfig;

/// All adapters of a task and its head; immutable.
pub struct AdapterSet;

impl AdapterSet {
    /// The identity: convolutions and biases are 0, fc1 and fc2 are Kaiming-uniform, the head is normal with deviation 0.02.
    ///
    /// # Errors
    /// When the configuration does not fit the backbone or there is no class.
    pub fn fresh(
        _backbone: &BackboneConfig,
        _config: AdapterConfig,
        _classes: usize,
        _rng: &Stream,
    ) -> Result<Self, Error> {
        todo!()
    }

    /// Reads what `to_safetensors` wrote (f32; f16 and bf16 are widened).
    ///
    /// # Errors
    /// Names the first tensor that is missing, unexpected, of another shape or not finite.
    pub fn from_safetensors(
        _bytes: &[u8],
        _backbone: &BackboneConfig,
        _config: AdapterConfig,
        _classes: usize,
    ) -> Result<Self, Error> {
        todo!()
    }

    /// f32, under the reference's names (`transformer.resblocks.N.adapter_pre_mlp.fc1.weight` …, `fc.weight`, `fc.bias`); equal sets and metadata give
    /// equal bytes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn to_safetensors(&self, _metadata: BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
        todo!()
    }

    /// Memory of the weights.
    pub fn bytes(&self) -> u64 {
        todo!()
    }

    /// Weights, counted.
    pub fn parameters(&self) -> u64 {
        todo!()
    }

    /// Rows of the head.
    pub fn classes(&self) -> usize {
        todo!()
    }

    /// Where the adapters sit and their shape.
    pub fn config(&self) -> AdapterConfig {
        todo!()
    }
}

/// A set whose weights an optimiser moves.
pub struct TrainableSet;

impl TrainableSet {
    /// Starts from a set.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn new(_set: &AdapterSet, _backbone: &BackboneConfig) -> Result<Self, Error> {
        todo!()
    }

    /// The weights of now, immutable; shares nothing with `self`.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn snapshot(&self) -> Result<AdapterSet, Error> {
        todo!()
    }

    /// Name and value of every weight, in a fixed order.
    pub fn parameters(&self) -> &[(String, candle_core::Var)] {
        todo!()
    }
}
