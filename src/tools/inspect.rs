//! `frameshift inspect`: what a checkpoint folder, a backbone file or an adapter file holds, and whether a server would load it.
//!
//! Invariant: it reads with the loader's own strictness and bounds; a file that the loader refuses is shown as far as its header can be trusted, with
//! the loader's reason.

#![allow(clippy::print_stdout)] // A command of the CLI speaks on standard output.

mod adapters;
mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::model::load::{self, Archive, Header, Loaded};
use crate::model::{Activation, BackboneConfig};
use crate::spec::{Digest, Normalization};

pub use adapters::{Adapters, Site};

/// Most files of a folder that are shown.
const MAX_FILES: usize = 256;

/// Arguments of `frameshift inspect`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A checkpoint's folder, or a .safetensors file
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing in it can be read.
    #[error(transparent)]
    Load(#[from] load::Error),
    /// The folder cannot be listed.
    #[error("cannot list {}: {source}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The report cannot be written as JSON.
    #[error("cannot write the report as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A backbone that a server would load.
    Backbone,
    /// Adapters and a head, or a head alone.
    AdapterSet,
    /// Tensors of another kind, or a checkpoint that the loader refuses.
    Tensors,
}

/// What a path holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// As given.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// The backbone, when it is one.
    pub backbone: Option<Backbone>,
    /// The adapter set, when it is one.
    pub adapters: Option<Adapters>,
    /// Why the loader refuses it as a backbone; not said of an adapter set.
    pub refusal: Option<String>,
    /// Its safetensors files, sorted by name.
    pub files: Vec<File>,
}

/// A backbone that loads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backbone {
    /// `hf_clip` or `reference`.
    pub family: &'static str,
    /// Of the canonical tensors: what servers and adapter versions name.
    pub digest: Digest,
    /// Number of weights.
    pub parameters: usize,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a square patch.
    pub patch_size: usize,
    /// Of the residual stream.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden width of the MLP.
    pub mlp_width: usize,
    /// `quick_gelu` or `gelu`.
    pub activation: &'static str,
    /// Of every LayerNorm.
    pub eps: f64,
    /// Of the pixels.
    pub normalization: Normalization,
}

/// One safetensors file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: usize,
    /// Of the whole file.
    pub sha256: Digest,
    /// Elements of all tensors.
    pub elements: usize,
    /// As stored.
    pub metadata: BTreeMap<String, String>,
    /// Sorted by name.
    pub tensors: Vec<Tensor>,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tensor {
    /// As stored.
    pub name: String,
    /// As safetensors spells it.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Inspects and prints.
///
/// # Errors
/// When nothing in the path can be read.
pub fn run(args: &Args) -> Result<(), Error> {
    let report = inspect(&args.path)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// Looks at a folder or file.
///
/// # Errors
/// When nothing in it can be read.
pub fn inspect(path: &Path) -> Result<Report, Error> {
    let archives = archives(path)?;
    let adapters = match archives.as_slice() {
        [only] => adapters::find(only.header()),
        _ => None,
    };
    let (backbone, refusal) = match load::open(path) {
        Ok(loaded) => (Some(backbone(&loaded)), None),
        // Without a readable file the reason is all that there is to say.
        Err(error) if archives.is_empty() => return Err(error.into()),
        Err(error) => (None, adapters.is_none().then(|| error.to_string())),
    };
    let kind = match (&backbone, &adapters) {
        (Some(_), _) => Kind::Backbone,
        (None, Some(_)) => Kind::AdapterSet,
        (None, None) => Kind::Tensors,
    };
    Ok(Report {
        path: path.to_owned(),
        kind,
        backbone,
        adapters,
        refusal,
        files: archives.iter().map(file).collect(),
    })
}

/// The safetensors files of a folder whose headers are sound, or the file itself.
fn archives(path: &Path) -> Result<Vec<Archive>, Error> {
    let safetensors = |path: &Path| path.extension().is_some_and(|end| end == "safetensors");
    if !path.is_dir() {
        // Other files, and paths that are not there, are the loader's to refuse.
        return match safetensors(path) {
            true => Ok(vec![Archive::open(path)?]),
            false => Ok(Vec::new()),
        };
    }
    let list = |source| Error::List {
        path: path.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).map_err(list)? {
        let path = entry.map_err(list)?.path();
        if safetensors(&path) && paths.len() < MAX_FILES {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths
        .iter()
        .filter_map(|path| Archive::open(path).ok())
        .collect())
}

fn backbone(loaded: &Loaded) -> Backbone {
    let BackboneConfig {
        image_size,
        patch_size,
        width,
        layers,
        heads,
        mlp_width,
        activation,
        eps,
        normalization,
        ..
    } = loaded.config;
    Backbone {
        family: loaded.family,
        digest: loaded.digest,
        parameters: loaded
            .tensors
            .values()
            .map(|(_, values)| values.len())
            .sum(),
        image_size,
        patch_size,
        width,
        layers,
        heads,
        mlp_width,
        activation: match activation {
            Activation::QuickGelu => "quick_gelu",
            Activation::Gelu => "gelu",
        },
        eps,
        normalization,
    }
}

fn file(archive: &Archive) -> File {
    let Header { entries, metadata } = archive.header();
    let name = archive.path().file_name().unwrap_or_default();
    File {
        name: name.to_string_lossy().into_owned(),
        bytes: archive.bytes().len(),
        sha256: Digest(Sha256::digest(archive.bytes()).into()),
        elements: entries.iter().map(load::Entry::elements).sum(),
        metadata: metadata.clone(),
        tensors: entries
            .iter()
            .map(|entry| Tensor {
                name: entry.name.clone(),
                dtype: format!("{:?}", entry.dtype),
                shape: entry.shape.clone(),
            })
            .collect(),
    }
}
