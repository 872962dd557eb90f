//! AdamW with decoupled weight decay and clipping by the global gradient norm, over named weights.
//!
//! Invariant: an update depends only on weights, gradients, moments and step count, and the order of every sum is fixed, so a restored optimiser
//! continues bit for bit.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var};
use rayon::prelude::*;

use super::ops::{read, slice, slice_mut, squares};
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

/// First and second moment of one weight.
struct Moments {
    /// Name of the weight.
    name: String,
    /// Running mean of the weight's gradient.
    first: Tensor,
    /// Running mean of the squared gradient.
    second: Tensor,
}

/// Optimiser with its state.
pub struct AdamW {
    config: Config,
    /// Number of updates so far.
    steps: u64,
    /// Moments, in the order of the weights.
    moments: Vec<Moments>,
}

impl AdamW {
    /// Creates an optimiser at step 0, with zero moments.
    ///
    /// # Errors
    /// When a tensor cannot be created.
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

    /// Updates `parameters` (the same ones that `new` was given) once. Returns the global gradient norm before clipping.
    ///
    /// # Errors
    /// When a gradient is missing or has another shape; no weight has changed then.
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

    /// Returns the number of steps, and both moments as `<name>.m` and `<name>.v`.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn state(&self) -> std::result::Result<(u64, Tensors), Error> {
        let mut state = Tensors::new();
        for moments in &self.moments {
            for (end, tensor) in [("m", &moments.first), ("v", &moments.second)] {
                let values = tensor.flatten_all()?.to_vec1()?;
                let name = format!("{}.{end}", moments.name);
                state.insert(name, (tensor.dims().to_vec(), values));
            }
        }
        Ok((self.steps, state))
    }

    /// Restores a saved state.
    ///
    /// # Errors
    /// When a tensor is missing, unexpected or has another shape; the error names the first such tensor, and nothing has changed.
    pub fn restore(&mut self, steps: u64, mut state: Tensors) -> std::result::Result<(), Error> {
        let mut take = |name: String, like: &Tensor| {
            let Some((shape, values)) = state.remove(&name) else {
                return Err(Error::MissingTensor { name });
            };
            if shape != like.dims() || values.len() != like.elem_count() {
                let (expected, got) = (like.dims().to_vec(), shape);
                return Err(Error::WrongShape {
                    name,
                    expected,
                    got,
                });
            }
            Ok(Tensor::from_vec(values, shape, like.device())?)
        };
        let mut restored = Vec::with_capacity(self.moments.len());
        for Moments {
            name,
            first,
            second,
        } in &self.moments
        {
            restored.push(Moments {
                name: name.clone(),
                first: take(format!("{name}.m"), first)?,
                second: take(format!("{name}.v"), second)?,
            });
        }
        if let Some((name, _)) = state.pop_first() {
            return Err(Error::UnexpectedTensor { name });
        }
        (self.steps, self.moments) = (steps, restored);
        Ok(())
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

/// Number of elements that one thread updates at a time.
const CHUNK: usize = 65_536;

/// Update of a moment: m = keep · m + add · g, or + add · g² when `square`.
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

/// Update of a weight: w = keep · w - rate · m / (√v / root + eps).
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
