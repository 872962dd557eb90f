//! Checkpoints from disk: which family and format a file or folder is, and its vision tower under the reference's names.
//!
//! Invariant: a checkpoint is untrusted. It is read strictly and within bounds that follow from its real size, nothing in it is ever run, and every
//! refusal names the file and the tensor, field or format.

mod checkpoint;
mod decide;
mod digest;
mod error;
mod family;
mod fields;
mod file;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod header;
mod hf_clip;
mod hf_vit;
mod hugging_face;
mod measure;
mod naming;
mod open_clip;
mod openai;
mod plan;
mod preprocessor;
mod reference;
mod timm;
mod torch;
mod values;
mod write;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use checkpoint::{Checkpoint, IndexError, without_wrappers};
pub use decide::{Decision, Overrides};
pub use digest::digest;
pub use error::{Error, Format};
pub use file::{Archive, TorchFile};
pub use header::{Entry, Header, HeaderError};
pub use plan::Plan;
pub use reference::{CONFIG_KEY, metadata as reference_metadata, write as write_reference};
pub use torch::{Kind, Part, Passed, TorchError, ZipError, write_torch};
pub use values::Float;
pub use write::{Stored, serialize};

pub(super) use digest::{of_model, of_tensor};
pub(super) use naming::is_adapter;
pub use naming::is_head;

use super::{BackboneConfig, Tensors};
use crate::spec::Digest;

/// The built-in backbone, which `frameshift pretrain` made.
const BUILTIN: &[u8] = include_bytes!("../../../assets/backbone/builtin.safetensors");

/// Longest `config.json` that is read.
const MAX_CONFIG: u64 = 1 << 20;

/// A checkpoint's vision tower, read and checked, all of it in memory.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Name of the checkpoint: the last part of its path.
    pub name: String,
    /// Family of the checkpoint, as [`Plan::family`] names it.
    pub family: &'static str,
    /// Sizes and constants of the backbone.
    pub config: BackboneConfig,
    /// Every tensor of the configuration, under the reference's names.
    pub tensors: Tensors,
    /// Digest of constants and tensors.
    pub digest: Digest,
}

/// Examines a checkpoint (a folder or a file) without reading values: which family it belongs to, and whether it is complete.
///
/// # Errors
/// When it belongs to an unsupported family or format, or anything in it is missing, extra, malformed, wrongly shaped or undecided.
pub fn plan(path: &Path, overrides: &Overrides) -> Result<Plan, Error> {
    family::plan(path, overrides)
}

/// The plan of the backbone that is part of the program: see `assets/backbone/MODEL_CARD.md`.
///
/// # Errors
/// Same as [`plan`].
pub fn builtin(overrides: &Overrides) -> Result<Plan, Error> {
    embedded_plan("builtin", BUILTIN, overrides)
}

/// Same as [`plan`], for a whole checkpoint of the reference's training code that is already open.
///
/// # Errors
/// Same as [`plan`].
pub(super) fn whole_plan(path: &Path, checkpoint: Checkpoint) -> Result<Plan, Error> {
    reference::whole(path, checkpoint, &Overrides::default())
}

/// Reads a checkpoint.
///
/// # Errors
/// Same as [`plan`], or when a value is not finite.
pub fn open(path: &Path) -> Result<Loaded, Error> {
    Loaded::new(&plan(path, &Overrides::default())?)
}

/// Reads a file of the reference's tensors that is part of the program.
///
/// # Errors
/// Same as [`open`].
pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Loaded, Error> {
    Loaded::new(&embedded_plan(name, bytes, &Overrides::default())?)
}

fn embedded_plan(name: &str, bytes: &'static [u8], overrides: &Overrides) -> Result<Plan, Error> {
    reference::plan(Path::new(name), Archive::embedded(name, bytes)?, overrides)
}

impl Loaded {
    /// Reads all tensors of a plan.
    ///
    /// # Errors
    /// When a value is not finite.
    pub fn new(plan: &Plan) -> Result<Self, Error> {
        let tensors = plan.tensors()?;
        Ok(Self {
            name: plan.name().to_owned(),
            family: plan.family(),
            config: plan.config().clone(),
            digest: digest(plan.config(), &tensors),
            tensors,
        })
    }
}

/// The weights of a folder of transformers or timm, single or sharded.
fn hf_weights(folder: &Path) -> Result<Checkpoint, Error> {
    weights(
        folder,
        &[
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
        ],
    )
}

/// The weights of a folder of open_clip.
fn open_clip_weights(folder: &Path) -> Result<Checkpoint, Error> {
    weights(
        folder,
        &[
            "open_clip_model.safetensors",
            "open_clip_pytorch_model.safetensors",
            "open_clip_pytorch_model.bin",
        ],
    )
}

/// Opens the first of these files that exists.
fn weights(folder: &Path, names: &[&str]) -> Result<Checkpoint, Error> {
    let paths = names.iter().map(|name| folder.join(name));
    let Some(path) = paths.into_iter().find(|path| path.exists()) else {
        return Err(Error::NoWeights {
            path: folder.to_owned(),
        });
    };
    if path.extension().is_some_and(|end| end == "json") {
        return Checkpoint::sharded(&path);
    }
    Ok(Checkpoint::single(Archive::open(&path)?))
}
