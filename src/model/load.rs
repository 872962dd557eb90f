//! Checkpoints from disk: which family and format a file or folder is, and its vision tower under the reference's names.
//!
//! Invariant: a checkpoint is untrusted. It is read strictly and within bounds that follow from its real size, nothing in it is ever run, and every
//! refusal names the file and the tensor, field or format.

mod assemble;
mod checkpoint;
mod digest;
mod error;
mod family;
mod fields;
mod file;
mod header;
mod hf_clip;
mod reference;
mod values;
mod write;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use checkpoint::{Checkpoint, IndexError};
pub use digest::digest;
pub use error::{Error, Format};
pub use file::Archive;
pub use header::{Entry, Header, HeaderError};
pub use reference::{CONFIG_KEY, metadata as reference_metadata, write as write_reference};
pub use values::Float;
pub use write::{Stored, serialize};

use super::{Backbone, BackboneConfig, Tensors};
use crate::spec::{Digest, Precision};
use family::Found;

/// The built-in backbone, which `frameshift pretrain` made.
const BUILTIN: &[u8] = include_bytes!("../../assets/backbone/builtin.safetensors");

/// Longest `config.json` that is read.
const MAX_CONFIG: u64 = 1 << 20;

/// A checkpoint's vision tower, read and checked.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it is called: the last part of its path.
    pub name: String,
    /// `hf_clip` or `reference`.
    pub family: &'static str,
    /// Sizes and constants.
    pub config: BackboneConfig,
    /// Every tensor of the configuration, under the reference's names.
    pub tensors: Tensors,
    /// Of the tensors.
    pub digest: Digest,
}

impl Loaded {
    fn new(path: &Path, family: &'static str, config: BackboneConfig, tensors: Tensors) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str());
        Self {
            name: name.to_string_lossy().into_owned(),
            family,
            config,
            digest: digest(&tensors),
            tensors,
        }
    }
}

/// Reads a checkpoint: a folder (Hugging Face's CLIP, or one safetensors file of the reference's tensors) or such a file itself.
///
/// # Errors
/// When it is of another family or format, or anything in it is missing, extra, malformed, wrongly shaped or not finite.
pub fn open(path: &Path) -> Result<Loaded, Error> {
    match family::find(path)? {
        Found::HfClip { folder, config } => hf_clip::load(&folder, fields::Fields(&config)),
        Found::Reference { file } => reference::load(path, Archive::open(&file)?),
    }
}

/// Reads a file of the reference's tensors that is part of the program.
///
/// # Errors
/// As [`open`].
pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Loaded, Error> {
    reference::load(Path::new(name), Archive::embedded(name, bytes)?)
}

impl Backbone {
    /// Loads a checkpoint: a folder with `config.json` (Hugging Face's CLIP), or a safetensors file of the reference's tensors.
    ///
    /// # Errors
    /// As [`open`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::load_in(path, Precision::F32)
    }

    /// The same in any precision.
    ///
    /// # Errors
    /// As [`open`].
    pub fn load_in(path: &Path, precision: Precision) -> Result<Self, Error> {
        Self::from_loaded(open(path)?, precision)
    }

    /// Loads the small backbone that is part of the program: see `assets/backbone/MODEL_CARD.md`.
    ///
    /// # Errors
    /// As [`open`].
    pub fn builtin() -> Result<Self, Error> {
        Self::builtin_in(Precision::F32)
    }

    /// The same in any precision.
    ///
    /// # Errors
    /// As [`open`].
    pub fn builtin_in(precision: Precision) -> Result<Self, Error> {
        Self::from_loaded(embedded("builtin", BUILTIN)?, precision)
    }

    fn from_loaded(loaded: Loaded, precision: Precision) -> Result<Self, Error> {
        let Loaded {
            name,
            config,
            tensors,
            digest,
            ..
        } = loaded;
        let backbone = Self::from_tensors_in(&name, config, digest, tensors, precision)?;
        Ok(backbone)
    }
}

/// The weights of a Hugging Face folder, single or sharded.
fn hf_weights(folder: &Path) -> Result<Checkpoint, Error> {
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok(Checkpoint::single(Archive::open(&single)?));
    }
    let index = folder.join("model.safetensors.index.json");
    if index.exists() {
        return Checkpoint::sharded(&index);
    }
    Err(family::without_safetensors(folder))
}
