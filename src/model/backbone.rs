//! The frozen backbone.
//!
//! Invariant: loaded once, shared by `Arc`, never written to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Tensor;

use super::block::{Reach, Sites, Tokens};
use super::vit::{self, Vit};
use super::weights::Mode;
use super::{BackboneConfig, Error, ops};
use crate::spec::{Digest, Precision};

/// Tensors by the reference's name: shape and row-major values.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A frozen image backbone; share it by `Arc`.
pub struct Backbone {
    name: String,
    config: BackboneConfig,
    digest: Digest,
    precision: Precision,
    calls: Arc<AtomicU64>,
    pub(super) vit: Vit,
}

impl std::fmt::Debug for Backbone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backbone")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .field("precision", &self.precision)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Backbone {
    /// Builds a backbone in 32-bit floats; the tensors are packed and freed one by one.
    ///
    /// # Errors
    /// Names the first tensor that is missing, unexpected, of another shape or not finite.
    pub fn from_tensors(
        name: &str,
        config: BackboneConfig,
        digest: Digest,
        tensors: Tensors,
    ) -> Result<Self, Error> {
        Self::from_tensors_in(name, config, digest, tensors, Precision::F32)
    }

    /// The same in any precision.
    ///
    /// # Errors
    /// As `from_tensors`.
    pub fn from_tensors_in(
        name: &str,
        config: BackboneConfig,
        digest: Digest,
        mut tensors: Tensors,
        precision: Precision,
    ) -> Result<Self, Error> {
        config.validate().map_err(Error::Config)?;
        check(&config.tensors(), &tensors)?;
        let calls = Arc::new(AtomicU64::new(0));
        let mode = Mode::Frozen(precision, Some(Arc::clone(&calls)));
        let vit = Vit::new(&config, &mode, |name| match tensors.remove(name) {
            Some((_, values)) => Ok(values),
            None => Err(Error::MissingTensor { name: name.into() }),
        })?;
        Ok(Self {
            name: name.to_owned(),
            config,
            digest,
            precision,
            calls,
            vit,
        })
    }

    /// Sizes and constants.
    pub fn config(&self) -> &BackboneConfig {
        &self.config
    }

    /// Of the canonical tensors.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Of its matrix products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What it was loaded as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Weights, counted.
    pub fn parameters(&self) -> u64 {
        let shapes = self.config.tensors();
        shapes
            .values()
            .map(|s| s.iter().product::<usize>() as u64)
            .sum()
    }

    /// Memory of the weights.
    pub fn bytes(&self) -> u64 {
        self.vit.bytes()
    }

    /// How often a frozen linear layer ran, over all users of this backbone.
    pub fn frozen_linear_calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Addresses of the weights: equal for two users of one backbone.
    pub fn weight_pointers(&self) -> Vec<usize> {
        self.vit.pointers()
    }

    /// Frames `[N, 3, S, S]` (normalised) to the input of the first block, `[N, L, C]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn embed(&self, frames: &Tensor) -> Result<Tensor, Error> {
        let side = self.config.image_size;
        let (n, ..) = frames.dims4()?;
        if frames.dims() != [n, 3, side, side] {
            return Err(Error::WrongShape {
                name: "frames".to_owned(),
                expected: vec![n, 3, side, side],
                got: frames.dims().to_vec(),
            });
        }
        let patches = ops::read(frames, |values| {
            vit::patches(&vit::pictures(values, &self.config), &self.config)
        })??;
        Ok(self.vit.embed(&patches)?.0)
    }

    /// Frames `[N, 3, S, S]` (normalised) through the bare backbone: the output of every block, each `[N, L, C]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn hidden_states(&self, frames: &Tensor) -> Result<Vec<Tensor>, Error> {
        let mut x = self.embed(frames)?;
        let mut states = Vec::with_capacity(self.vit.blocks.len());
        for block in &self.vit.blocks {
            x = block
                .forward(&x, &Sites::default(), Tokens::All, Reach::Nothing)?
                .0;
            states.push(x.clone());
        }
        Ok(states)
    }

    /// The final norm: `[N, C]` to `[N, C]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn final_norm(&self, features: &Tensor) -> Result<Tensor, Error> {
        Ok(self.vit.ln_post.forward(&features.contiguous()?)?)
    }
}

/// Names the first tensor that is missing, unexpected, of another shape or not finite.
pub(super) fn check(
    expected: &BTreeMap<String, Vec<usize>>,
    tensors: &Tensors,
) -> Result<(), Error> {
    for (name, shape) in expected {
        let Some((got, values)) = tensors.get(name) else {
            return Err(Error::MissingTensor { name: name.clone() });
        };
        if got != shape || values.len() != shape.iter().product::<usize>() {
            return Err(Error::WrongShape {
                name: name.clone(),
                expected: shape.clone(),
                got: got.clone(),
            });
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::NotFinite {
                name: name.clone(),
                index,
            });
        }
    }
    match tensors.keys().find(|name| !expected.contains_key(*name)) {
        Some(name) => Err(Error::UnexpectedTensor { name: name.clone() }),
        None => Ok(()),
    }
}
