//! The frozen image backbone.
//!
//! Invariant: a backbone is loaded once, shared by `Arc`, and never written to.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;

use super::block::{Sites, Tokens};
use super::load::{self, Decision, Overrides, Plan};
use super::ops::Array;
use super::vit::{self, Vit};
use super::weights::Mode;
use super::{BackboneConfig, Error, Place, ops};
use crate::spec::{Digest, Precision};

/// Tensors by the reference's names: shape and row-major values.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Origin of a backbone, for display.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Family of the checkpoint, as [`Plan::family`] names it.
    pub family: String,
    /// Format of the checkpoint's files.
    pub format: String,
    /// Float formats of the stored weights.
    pub stored_as: String,
    /// Settings of the backbone, each with its value and what decided it.
    pub decisions: Vec<Decision>,
}

/// Frozen image backbone; share it by `Arc`.
pub struct Backbone {
    name: String,
    config: BackboneConfig,
    digest: Digest,
    precision: Precision,
    origin: Origin,
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
    /// Loads a checkpoint (a folder or a file) of any supported family, in f32.
    ///
    /// # Errors
    /// Same as [`load::plan`], or when a value is not finite.
    pub fn load(path: &Path) -> Result<Self, load::Error> {
        Self::load_in(path, Precision::F32)
    }

    /// Loads a checkpoint like [`Backbone::load`], in any precision.
    ///
    /// # Errors
    /// Same as [`Backbone::load`].
    pub fn load_in(path: &Path, precision: Precision) -> Result<Self, load::Error> {
        Self::from_plan(&load::plan(path, &Overrides::default())?, precision)
    }

    /// Loads the small backbone that is part of the program: see `assets/backbone/MODEL_CARD.md`.
    ///
    /// # Errors
    /// Same as [`load::builtin`].
    pub fn builtin() -> Result<Self, load::Error> {
        Self::from_plan(&load::builtin(&Overrides::default())?, Precision::F32)
    }

    /// Reads, validates, hashes and packs a checkpoint tensor by tensor on all cores; at most one tensor per core is in memory twice.
    ///
    /// # Errors
    /// When a tensor cannot be read, or a value is not finite; the error names the tensor.
    pub fn from_plan(plan: &Plan, precision: Precision) -> Result<Self, load::Error> {
        Self::from_plan_on(plan, precision, &Place::Host)
    }

    /// Loads a checkpoint like [`Backbone::from_plan`], to any place.
    ///
    /// # Errors
    /// Same as [`Backbone::from_plan`], or when the place has no room for the weights or does not compute in this precision.
    pub fn from_plan_on(
        plan: &Plan,
        precision: Precision,
        place: &Place,
    ) -> Result<Self, load::Error> {
        // The model's error type cannot hold errors of a fetch, so they are kept here.
        let failed: Mutex<BTreeMap<String, load::Error>> = Mutex::default();
        let digests: Mutex<BTreeMap<String, Digest>> = Mutex::default();
        let calls = Arc::new(AtomicU64::new(0));
        let mode = Mode::frozen(precision, Some(Arc::clone(&calls))).at(place);
        let fetch = |name: &str, take: &mut dyn FnMut(Cow<'_, [f32]>)| {
            let values = match plan.tensor(name) {
                Ok(values) => values,
                Err(error) => {
                    let missing = Error::MissingTensor { name: name.into() };
                    lock(&failed).insert(name.to_owned(), error);
                    return Err(missing);
                }
            };
            let shape = plan.shape(name).unwrap_or_default();
            let digest = load::of_tensor(name, shape, &values);
            lock(&digests).insert(name.to_owned(), digest);
            take(values);
            plan.release(name);
            Ok(())
        };
        let vit = Vit::new(plan.config(), &mode, &fetch).map_err(|error| {
            if let Error::MissingTensor { name } = &error
                && let Some(cause) = lock(&failed).remove(name)
            {
                return cause;
            }
            load::Error::Model(error)
        })?;
        let digests: Vec<Digest> = lock(&digests).values().copied().collect();
        Ok(Self {
            name: plan.name().to_owned(),
            config: plan.config().clone(),
            digest: load::of_model(plan.config(), &digests),
            precision,
            origin: Origin {
                family: plan.family().to_owned(),
                format: plan.format(),
                stored_as: plan.stored_as(),
                decisions: plan.decisions().to_vec(),
            },
            calls,
            vit,
        })
    }

    /// Builds a backbone from tensors, in f32; the tensors are packed and freed one by one.
    ///
    /// # Errors
    /// When a tensor is missing, unexpected, not finite or has another shape; the error names the first such tensor.
    pub fn from_tensors(
        name: &str,
        config: BackboneConfig,
        digest: Digest,
        tensors: Tensors,
    ) -> Result<Self, Error> {
        Self::from_tensors_in(name, config, digest, tensors, Precision::F32)
    }

    /// Builds a backbone like [`Backbone::from_tensors`], in any precision.
    ///
    /// # Errors
    /// Same as [`Backbone::from_tensors`].
    pub fn from_tensors_in(
        name: &str,
        config: BackboneConfig,
        digest: Digest,
        tensors: Tensors,
        precision: Precision,
    ) -> Result<Self, Error> {
        Self::from_tensors_on(name, (config, digest), tensors, precision, &Place::Host)
    }

    /// Builds a backbone like [`Backbone::from_tensors_in`], in any place.
    ///
    /// # Errors
    /// Same as [`Backbone::from_tensors`], or when the place has no room for the weights or does not compute in this precision.
    pub fn from_tensors_on(
        name: &str,
        (config, digest): (BackboneConfig, Digest),
        tensors: Tensors,
        precision: Precision,
        place: &Place,
    ) -> Result<Self, Error> {
        config.validate().map_err(Error::Config)?;
        check(&config.tensors(), &tensors)?;
        let calls = Arc::new(AtomicU64::new(0));
        let mode = Mode::frozen(precision, Some(Arc::clone(&calls))).at(place);
        let tensors = Mutex::new(tensors);
        let fetch = |name: &str, take: &mut dyn FnMut(Cow<'_, [f32]>)| {
            let found = lock(&tensors).remove(name);
            let (_, values) = found.ok_or_else(|| Error::MissingTensor { name: name.into() })?;
            take(Cow::Owned(values));
            Ok(())
        };
        let vit = Vit::new(&config, &mode, &fetch)?;
        Ok(Self {
            name: name.to_owned(),
            config,
            digest,
            precision,
            origin: Origin::default(),
            calls,
            vit,
        })
    }

    /// Returns the sizes and constants of the backbone.
    pub fn config(&self) -> &BackboneConfig {
        &self.config
    }

    /// Returns the identity of the backbone: a digest of its canonical tensors and of the constants that change what it computes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the approximate peak memory in bytes of the activations of a forward pass over `frames` frames: inside a block, what the attention or
    /// the MLP reads and writes in addition to the residual stream. The planes of the input frames are not included.
    pub fn bytes_of(&self, frames: usize) -> u64 {
        let config = &self.config;
        let (width, hidden) = (config.width, config.mlp_width);
        let patch = 3 * config.patch_size * config.patch_size;
        // The stream before and after the block, and what an adapter adds to it; then either qkv and the attention's output, or both sides of the
        // activation.
        let inside = (4 * width).max(2 * hidden).max(patch);
        let token = (4 * width + inside) * size_of::<f32>();
        (frames * config.tokens() * token) as u64
    }

    /// Returns the precision of the matrix products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns where the weights are and the blocks run.
    pub fn place(&self) -> &Place {
        self.vit.place()
    }

    /// Whether [`Inference::sharing`](crate::Inference::sharing) keeps tokens of frames for later batches. The host does; on a GPU the
    /// memory is for sets and batches.
    pub fn keeps_tokens(&self) -> bool {
        self.place().is_host()
    }

    /// Returns the origin of the backbone; empty when it was built from tensors.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns the name that the backbone was loaded under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of weights.
    pub fn parameters(&self) -> u64 {
        let shapes = self.config.tensors();
        shapes
            .values()
            .map(|s| s.iter().product::<usize>() as u64)
            .sum()
    }

    /// Returns the memory of the weights in bytes.
    pub fn bytes(&self) -> u64 {
        self.vit.bytes()
    }

    /// Returns how often a frozen linear layer ran, over all users of this backbone.
    pub fn frozen_linear_calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Returns the addresses of the weights, which are equal for two users of one backbone.
    pub fn weight_pointers(&self) -> Vec<usize> {
        self.vit.pointers()
    }

    /// Embeds normalised frames `[N, 3, S, S]`. Returns the input of the first block, `[N, L, C]`.
    ///
    /// # Errors
    /// When the frames have another shape.
    pub fn embed(&self, frames: &Tensor) -> Result<Tensor, Error> {
        Ok(self.embedded(frames)?.host()?)
    }

    fn embedded(&self, frames: &Tensor) -> Result<Array, Error> {
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
            let pictures = vit::pictures(values, &self.config);
            vit::patches(&pictures, &self.config, self.vit.input())
        })??;
        Ok(self.vit.embed(&patches)?.0)
    }

    /// Runs normalised frames `[N, 3, S, S]` through the backbone without adapters. Returns the output of every block, each `[N, L, C]`.
    ///
    /// # Errors
    /// When the frames have another shape.
    pub fn hidden_states(&self, frames: &Tensor) -> Result<Vec<Tensor>, Error> {
        let mut x = self.embedded(frames)?;
        let mut states = Vec::with_capacity(self.vit.blocks.len());
        for block in &self.vit.blocks {
            x = block.infer(&x, &Sites::default(), Tokens::All)?;
            states.push(x.host()?);
        }
        Ok(states)
    }

    /// Applies the final norm to features `[N, C]`; the result has the same shape.
    ///
    /// # Errors
    /// When the features have another shape.
    pub fn final_norm(&self, features: &Tensor) -> Result<Tensor, Error> {
        let features = Array::Host(features.contiguous()?);
        let normed = self.vit.ln_post.forward(&features, ops::Numbers::F32)?;
        Ok(normed.host()?)
    }
}

/// Locks a mutex even after a panic, since every insertion leaves the map consistent.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the index of the first value that is not finite. Whether there is one is found by whole vectors of values.
pub(super) fn first_not_finite(values: &[f32]) -> Option<usize> {
    const INFINITE: u32 = f32::INFINITY.to_bits();
    let sizes = values.iter().map(|value| value.abs().to_bits());
    if sizes.fold(0, u32::max) < INFINITE {
        return None;
    }
    values.iter().position(|value| !value.is_finite())
}

/// Returns an error for the first tensor that is missing, unexpected, not finite or has another shape.
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
        if let Some(index) = first_not_finite(values) {
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
