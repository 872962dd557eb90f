//! AdamW over a trainable set, with state that can be saved and restored.

use std::collections::BTreeMap;

use crate::model::{Error, Gradients, Tensors, TrainableSet};

/// The constants of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled; not on names with `.bias`.
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 means no clipping.
    pub clip_norm: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 1e-2,
            clip_norm: 0.0,
        }
    }
}

/// AdamW with decoupled weight decay.
pub struct AdamW {
    _config: Config,
}

impl AdamW {
    /// At step 0.
    pub fn new(_set: &TrainableSet, _config: Config) -> Self {
        todo!()
    }

    /// One update; returns the global gradient norm before clipping.
    ///
    /// # Errors
    /// When a gradient is missing or of another shape.
    pub fn step(
        &mut self,
        _set: &TrainableSet,
        _gradients: &Gradients,
        _learning_rate: f64,
    ) -> Result<f64, Error> {
        todo!()
    }

    /// Steps so far, and both moments as `<name>.m` and `<name>.v`.
    pub fn state(&self) -> (u64, Tensors) {
        todo!()
    }

    /// Goes on from a saved state.
    ///
    /// # Errors
    /// Names the first tensor that is missing, unexpected or of another shape.
    pub fn restore(&mut self, _steps: u64, _state: Tensors) -> Result<(), Error> {
        let _: BTreeMap<(), ()> = BTreeMap::new();
        todo!()
    }
}
