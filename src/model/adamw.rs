//! AdamW with decoupled decay and clipping by the global norm, over named weights.
//!
//! Invariant: an update depends on weights, gradients, moments and step count alone; the order of every sum is fixed.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var};
use rayon::prelude::*;

use super::ops::{read, slice, slice_mut, squares};
use super::{Error, Gradients};

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
    /// As the reference trains: 0.9, 0.999, 1e-8, decay 0.01, no clipping.
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

/// Both moments of one weight.
pub struct Moments {
    /// The weight's name.
    pub name: String,
    /// Of the gradient.
    pub first: Tensor,
    /// Of its square.
    pub second: Tensor,
}

/// The optimiser's state.
pub struct AdamW {
    config: Config,
    /// Updates so far.
    pub steps: u64,
    /// In the order of the weights.
    pub moments: Vec<Moments>,
}

impl AdamW {
    /// At step 0.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn new(parameters: &[(String, Var)], config: Config) -> std::result::Result<Self, Error> {
        let mut moments = Vec::with_capacity(parameters.len());
        for (name, var) in parameters {
            moments.push(Moments {
                name: name.clone(),
                first: var.as_tensor().zeros_like()?,
                second: var.as_tensor().zeros_like()?,
            });
        }
        Ok(Self {
            config,
            steps: 0,
            moments,
        })
    }

    /// One update of `parameters`, which are those of `new`; returns the global gradient norm before clipping.
    ///
    /// # Errors
    /// When a gradient is missing or of another shape; then nothing has moved.
    pub fn step(
        &mut self,
        parameters: &[(String, Var)],
        gradients: &Gradients,
        learning_rate: f64,
    ) -> std::result::Result<f64, Error> {
        let mut sum = 0.0;
        for (name, var) in parameters {
            let gradient = gradients
                .get(name)
                .ok_or_else(|| Error::MissingTensor { name: name.clone() })?;
            if gradient.dims() != var.dims() {
                return Err(Error::WrongShape {
                    name: name.clone(),
                    expected: var.dims().to_vec(),
                    got: gradient.dims().to_vec(),
                });
            }
            sum += read(gradient, squares)?;
        }
        let norm = sum.sqrt();
        let clips = self.config.clip_norm > 0.0 && norm > self.config.clip_norm;
        let scale = if clips {
            self.config.clip_norm / (norm + 1e-6)
        } else {
            1.0
        };
        self.steps += 1;
        for ((name, var), moments) in parameters.iter().zip(&self.moments) {
            if let Some(gradient) = gradients.get(name) {
                self.update(
                    name,
                    var,
                    &gradient.contiguous()?,
                    moments,
                    (learning_rate, scale),
                )?;
            }
        }
        Ok(norm)
    }

    fn update(
        &self,
        name: &str,
        var: &Var,
        gradient: &Tensor,
        moments: &Moments,
        (learning_rate, scale): (f64, f64),
    ) -> Result<()> {
        let Config { beta1, beta2, .. } = self.config;
        let moment = |beta: f64, square| Moment {
            keep: beta as f32,
            add: (1.0 - beta) as f32,
            scale: scale as f32,
            square,
        };
        moments.first.inplace_op2(gradient, &moment(beta1, false))?;
        moments.second.inplace_op2(gradient, &moment(beta2, true))?;
        let decay = if name.contains(".bias") {
            0.0
        } else {
            self.config.weight_decay
        };
        let steps = self.steps as f64;
        let update = Update {
            keep: (1.0 - learning_rate * decay) as f32,
            rate: (learning_rate / (1.0 - beta1.powf(steps))) as f32,
            root: (1.0 - beta2.powf(steps)).sqrt() as f32,
            eps: self.config.eps as f32,
        };
        var.as_tensor()
            .inplace_op3(&moments.first, &moments.second, &update)
    }
}

/// Elements that a thread takes at once.
const CHUNK: usize = 65_536;

/// m = keep · m + add · g, or · g².
struct Moment {
    keep: f32,
    add: f32,
    scale: f32,
    square: bool,
}

impl InplaceOp2 for Moment {
    fn name(&self) -> &'static str {
        "adamw-moment"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<()> {
        let (moment, gradient) = (slice_mut(s1, l1)?, slice(s2, l2)?);
        moment
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .for_each(|(moment, gradient)| {
                for (m, g) in moment.iter_mut().zip(gradient) {
                    let g = g * self.scale;
                    let g = if self.square { g * g } else { g };
                    *m = self.keep * *m + self.add * g;
                }
            });
        Ok(())
    }
}

/// w = keep · w - rate · m / (√v / root + eps).
struct Update {
    keep: f32,
    rate: f32,
    root: f32,
    eps: f32,
}

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adamw-update"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<()> {
        let (weight, first, second) = (slice_mut(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        weight
            .par_chunks_mut(CHUNK)
            .zip(first.par_chunks(CHUNK))
            .zip(second.par_chunks(CHUNK))
            .for_each(|((weight, first), second)| {
                for ((w, m), v) in weight.iter_mut().zip(first).zip(second) {
                    *w = self.keep * *w - self.rate * m / (v.sqrt() / self.root + self.eps);
                }
            });
        Ok(())
    }
}
