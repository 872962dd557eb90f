//! `frameshift inspect`: what a checkpoint folder, a backbone file or an adapter file holds, and whether a server would load it.
//!
//! Invariant: it reads with the loader's own strictness and bounds; a file that the loader refuses is shown as far as its header can be trusted, with
//! the loader's reason.

mod adapters;
mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::model::BackboneConfig;
use crate::model::load::{self, Archive, Decision, Header, Overrides, Plan};
use crate::spec::{Digest, Normalization};
use crate::tools::show;

pub use adapters::{Adapters, Site};

/// Most files of a folder that are shown.
const MAX_FILES: usize = 256;

/// Arguments of `frameshift inspect`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A checkpoint's folder, or a safetensors or PyTorch file
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// What its files do not say: heads=…,activation=gelu|quick_gelu,eps=…,mean=r/g/b,std=r/g/b
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub backbone_override: Option<Overrides>,
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
pub struct Inspection {
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
    /// Its files of tensors, sorted by name.
    pub files: Vec<File>,
}

/// A backbone that loads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backbone {
    /// `hf_clip`, `hf_vit`, `open_clip`, `openai_clip`, `timm_vit` or `reference`.
    pub family: &'static str,
    /// The files' format.
    pub format: String,
    /// The float formats of its stored weights.
    pub stored_as: String,
    /// Of the canonical tensors: what servers and adapter versions name.
    pub digest: Digest,
    /// Number of weights.
    pub parameters: u64,
    /// Tensors that its files have besides the vision tower: a text tower, a head.
    pub besides: usize,
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
    /// What was decided, and from what.
    pub decisions: Vec<Decision>,
}

/// One file of tensors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: usize,
    /// Of the whole file.
    pub sha256: Digest,
    /// Its format.
    pub format: &'static str,
    /// The keys of a PyTorch file's root that are not read: an optimiser's state, an epoch.
    pub not_read: Vec<String>,
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
    let overrides = args.backbone_override.clone().unwrap_or_default();
    let report = inspect_with(&args.path, &overrides)?;
    if args.json {
        show(serde_json::to_string_pretty(&report)?);
    } else {
        show(report.to_string().trim_end());
    }
    Ok(())
}

/// Looks at a folder or file.
///
/// # Errors
/// When nothing in it can be read.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    inspect_with(path, &Overrides::default())
}

/// As [`inspect`], with the operator's word.
///
/// # Errors
/// When nothing in it can be read.
pub fn inspect_with(path: &Path, overrides: &Overrides) -> Result<Inspection, Error> {
    let archives = archives(path)?;
    let adapters = match archives.as_slice() {
        [only] => adapters::find(only.header()),
        _ => None,
    };
    let read = load::plan(path, overrides).and_then(|plan| backbone(&plan));
    let (backbone, refusal) = match read {
        Ok(backbone) => (Some(backbone), None),
        // Without a readable file the reason is all that there is to say.
        Err(error) if archives.is_empty() => return Err(error.into()),
        Err(error) => (None, adapters.is_none().then(|| error.to_string())),
    };
    let kind = match (&backbone, &adapters) {
        (Some(_), _) => Kind::Backbone,
        (None, Some(_)) => Kind::AdapterSet,
        (None, None) => Kind::Tensors,
    };
    Ok(Inspection {
        path: path.to_owned(),
        kind,
        backbone,
        adapters,
        refusal,
        files: archives.iter().map(file).collect(),
    })
}

/// The files of tensors of a folder whose headers are sound, or the file itself.
fn archives(path: &Path) -> Result<Vec<Archive>, Error> {
    const WEIGHTS: [&str; 5] = ["safetensors", "bin", "pt", "pth", "ckpt"];
    let weights = |path: &Path| {
        let end = path.extension().and_then(std::ffi::OsStr::to_str);
        end.is_some_and(|end| WEIGHTS.contains(&end))
    };
    if !path.is_dir() {
        return Ok(vec![Archive::open(path)?]);
    }
    let list = |source| Error::List {
        path: path.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).map_err(list)? {
        let path = entry.map_err(list)?.path();
        if weights(&path) && paths.len() < MAX_FILES {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths
        .iter()
        .filter_map(|path| Archive::open(path).ok())
        .collect())
}

fn backbone(plan: &Plan) -> Result<Backbone, load::Error> {
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
    } = *plan.config();
    Ok(Backbone {
        family: plan.family(),
        format: plan.format(),
        stored_as: plan.stored_as(),
        digest: plan.digest()?,
        parameters: plan.parameters(),
        besides: plan.besides(),
        image_size,
        patch_size,
        width,
        layers,
        heads,
        mlp_width,
        activation: activation.name(),
        eps,
        normalization,
        decisions: plan.decisions().to_vec(),
    })
}

fn file(archive: &Archive) -> File {
    let Header { entries, metadata } = archive.header();
    let name = archive.path().file_name().unwrap_or_default();
    File {
        name: name.to_string_lossy().into_owned(),
        bytes: archive.bytes().len(),
        sha256: Digest(Sha256::digest(archive.bytes()).into()),
        format: archive.format(),
        not_read: archive
            .torch()
            .map(|torch| torch.besides.clone())
            .unwrap_or_default(),
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
