//! AdamW with decoupled weight decay and clipping by the global gradient norm, over named weights.
//!
//! Invariant: an update depends only on weights, gradients, moments and step count, and the order of every sum is fixed, so a restored optimiser
//! continues bit for bit.

use std::ops::Range;

use super::flat::{Entry, Flat};
use super::ops::placed::adamw::{self as passes, Factors, Own};
use super::{Error, Gradients, Tensors};

/// Hyper-parameters of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Constant added to the square root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; not applied to weights whose name contains `.bias`.
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 means no clipping.
    pub clip_norm: f64,
}

impl Default for Config {
    /// Returns the reference's values: 0.9, 0.999, 1e-8, decay 0.01, no clipping.
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

/// Optimiser with its state, in one buffer for each moment.
pub struct AdamW {
    config: Config,
    /// Number of updates so far.
    steps: u64,
    /// Running means of the gradients.
    first: Flat,
    /// Running means of the squared gradients.
    second: Flat,
}

impl AdamW {
    /// Creates an optimiser at step 0, with zero moments, where the weights are.
    ///
    /// # Errors
    /// When a buffer cannot be created.
    pub fn new(weights: &Flat, config: Config) -> Result<Self, Error> {
        let place = weights.place();
        Ok(Self {
            config,
            steps: 0,
            first: weights.zeros(&place)?,
            second: weights.zeros(&place)?,
        })
    }

    /// Updates `weights` (the same ones that `new` was given) once. Returns the global gradient norm before clipping.
    ///
    /// # Errors
    /// When a gradient is missing or has another shape; no weight has changed then.
    pub fn step(
        &mut self,
        weights: &Flat,
        gradients: &Gradients,
        learning_rate: f64,
    ) -> Result<f64, Error> {
        self.first.matches(weights)?;
        weights.matches(gradients)?;
        let gradients = gradients.values().to(&weights.place())?;
        let ranges: Vec<Range<usize>> = weights.entries().iter().map(|e| e.range.clone()).collect();
        let norm = passes::sum_of_squares(&gradients, &ranges)?.sqrt();
        let clips = self.config.clip_norm > 0.0 && norm > self.config.clip_norm;
        let scale = if clips {
            self.config.clip_norm / (norm + 1e-6)
        } else {
            1.0
        };
        let steps = self.steps + 1;
        let own: Vec<Own> = weights
            .entries()
            .iter()
            .map(|entry| self.own(entry, learning_rate))
            .collect();
        let moments = [self.first.values(), self.second.values()];
        let factors = self.factors(steps, learning_rate, scale);
        passes::update(weights.values(), &gradients, moments, &own, factors)?;
        // An update that failed, as on a device without room, is not a step.
        self.steps = steps;
        Ok(norm)
    }

    /// Returns the number of steps, and both moments as `<name>.m` and `<name>.v`.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn state(&self) -> Result<(u64, Tensors), Error> {
        let mut state = self.first.named(".m")?;
        state.append(&mut self.second.named(".v")?);
        Ok((self.steps, state))
    }

    /// Restores a saved state.
    ///
    /// # Errors
    /// When a tensor is missing, unexpected or has another shape; the error names the first such tensor, and nothing has changed.
    pub fn restore(&mut self, steps: u64, mut state: Tensors) -> Result<(), Error> {
        let place = self.first.place();
        for Entry { name, shape, .. } in self.first.entries() {
            for end in ["m", "v"] {
                let name = format!("{name}.{end}");
                let Some((got, values)) = state.get(&name) else {
                    return Err(Error::MissingTensor { name });
                };
                if got != shape || values.len() != shape.iter().product::<usize>() {
                    let (expected, got) = (shape.clone(), got.clone());
                    return Err(Error::WrongShape {
                        name,
                        expected,
                        got,
                    });
                }
            }
        }
        let mut taken = |end: &str| {
            self.first.with(&place, |name| {
                let name = format!("{name}.{end}");
                let found = state.remove(&name);
                let (_, values) = found.ok_or(Error::MissingTensor { name })?;
                Ok(values)
            })
        };
        let (first, second) = (taken("m")?, taken("v")?);
        if let Some((name, _)) = state.pop_first() {
            return Err(Error::UnexpectedTensor { name });
        }
        (self.steps, self.first, self.second) = (steps, first, second);
        Ok(())
    }

    /// Returns a weight's position, and the share of it that weight decay leaves.
    fn own(&self, entry: &Entry, learning_rate: f64) -> Own {
        let decay = if entry.name.contains(".bias") {
            0.0
        } else {
            self.config.weight_decay
        };
        Own {
            range: entry.range.clone(),
            keep: (1.0 - learning_rate * decay) as f32,
        }
    }

    /// Returns the factors of this step; the first one is step 1.
    fn factors(&self, step: u64, learning_rate: f64, scale: f64) -> Factors {
        let Config { beta1, beta2, .. } = self.config;
        let steps = step as f64;
        Factors {
            first: [beta1 as f32, (1.0 - beta1) as f32],
            second: [beta2 as f32, (1.0 - beta2) as f32],
            scale: scale as f32,
            rate: (learning_rate / (1.0 - beta1.powf(steps))) as f32,
            root: (1.0 - beta2.powf(steps)).sqrt() as f32,
            eps: self.config.eps as f32,
        }
    }
}
