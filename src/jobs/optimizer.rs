//! AdamW over a trainable set, with state that can be saved and restored.
//!
//! Invariant: a restored optimiser continues bit for bit.

use crate::model::adamw;
pub use crate::model::adamw::Config;
use crate::model::{Error, Gradients, Tensors, TrainableSet};

/// AdamW with decoupled weight decay.
pub struct AdamW {
    inner: adamw::AdamW,
}

impl AdamW {
    /// At step 0.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn new(set: &TrainableSet, config: Config) -> Result<Self, Error> {
        let inner = adamw::AdamW::new(set.parameters(), config)?;
        Ok(Self { inner })
    }

    /// One update of the set that `new` saw; returns the global gradient norm before clipping.
    ///
    /// # Errors
    /// When a gradient is missing or of another shape; then nothing has moved.
    pub fn step(
        &mut self,
        set: &TrainableSet,
        gradients: &Gradients,
        learning_rate: f64,
    ) -> Result<f64, Error> {
        self.inner.step(set.parameters(), gradients, learning_rate)
    }

    /// Steps so far, and both moments as `<name>.m` and `<name>.v`.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn state(&self) -> Result<(u64, Tensors), Error> {
        let mut state = Tensors::new();
        for moments in &self.inner.moments {
            for (end, tensor) in [("m", &moments.first), ("v", &moments.second)] {
                let values = tensor.flatten_all()?.to_vec1()?;
                let name = format!("{}.{end}", moments.name);
                state.insert(name, (tensor.dims().to_vec(), values));
            }
        }
        Ok((self.inner.steps, state))
    }

    /// Goes on from a saved state.
    ///
    /// # Errors
    /// Names the first tensor that is missing, unexpected or of another shape; then nothing has changed.
    pub fn restore(&mut self, steps: u64, mut state: Tensors) -> Result<(), Error> {
        let mut restored = Vec::new();
        for moments in &self.inner.moments {
            for (end, tensor) in [("m", &moments.first), ("v", &moments.second)] {
                let name = format!("{}.{end}", moments.name);
                let Some((shape, values)) = state.remove(&name) else {
                    return Err(Error::MissingTensor { name });
                };
                if shape != tensor.dims() || values.len() != tensor.elem_count() {
                    return Err(Error::WrongShape {
                        name,
                        expected: tensor.dims().to_vec(),
                        got: shape,
                    });
                }
                restored.push(candle_core::Tensor::from_vec(
                    values,
                    shape,
                    tensor.device(),
                )?);
            }
        }
        if let Some((name, _)) = state.pop_first() {
            return Err(Error::UnexpectedTensor { name });
        }
        let mut restored = restored.into_iter();
        for moments in &mut self.inner.moments {
            if let (Some(first), Some(second)) = (restored.next(), restored.next()) {
                (moments.first, moments.second) = (first, second);
            }
        }
        self.inner.steps = steps;
        Ok(())
    }
}
