//! `frameshift inspect`: shows the content of a checkpoint folder, a backbone file or an adapter file, and whether a server would load it.
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
use crate::model::exchange::MANIFEST_KEY;
use crate::model::load::{self, Archive, Decision, Header, Overrides, Passed, Plan};
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
    /// Values that the files do not say: heads=…,activation=gelu|quick_gelu,eps=…,mean=r/g/b,std=r/g/b
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub backbone_override: Option<Overrides>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Reasons why an inspection fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing in the path can be read.
    #[error(transparent)]
    Load(#[from] load::Error),
    /// The folder cannot be listed.
    #[error("cannot list {}: {source}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The content was shown, and a server would not load it.
    #[error("{}: a server would refuse this as a backbone; the report says why", path.display())]
    Refused {
        /// The path.
        path: PathBuf,
    },
    /// The report cannot be written as JSON.
    #[error("cannot write the report as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Load(error) => super::load_code(error),
            Self::List { .. } => 66,
            Self::Refused { .. } => 65,
            Self::Json(_) => 70,
        }
    }
}

/// Kind of a path's content.
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

/// The content of a path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The path as given.
    pub path: PathBuf,
    /// Kind of the content.
    pub kind: Kind,
    /// The backbone, when it is one.
    pub backbone: Option<Backbone>,
    /// The adapter set, when it is one.
    pub adapters: Option<Adapters>,
    /// Reason why the loader refuses it as a backbone; absent for an adapter set.
    pub refusal: Option<String>,
    /// Files of tensors, sorted by name.
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
    /// Digest of the canonical tensors, by which servers and adapter versions name the backbone.
    pub digest: Digest,
    /// Number of weights.
    pub parameters: u64,
    /// Tensors that its files have besides the vision tower: a text tower, a head.
    pub besides: usize,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a square patch.
    pub patch_size: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden width of the MLP.
    pub mlp_width: usize,
    /// `quick_gelu` or `gelu`.
    pub activation: &'static str,
    /// Epsilon of every LayerNorm.
    pub eps: f64,
    /// Mean and deviation of the pixels.
    pub normalization: Normalization,
    /// Values that the tensors do not say, each with its source.
    pub decisions: Vec<Decision>,
}

/// A file of tensors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct File {
    /// Name of the file.
    pub name: String,
    /// Size of the file.
    pub bytes: usize,
    /// Digest of the whole file.
    pub sha256: Digest,
    /// Format of the file.
    pub format: &'static str,
    /// The keys of a PyTorch file's root that are not read: an optimiser's state, an epoch.
    pub not_read: Vec<String>,
    /// Objects of unknown classes that are passed over without being built: an options object, a number of NumPy.
    pub passed_over: Vec<Passed>,
    /// Elements of all tensors.
    pub elements: usize,
    /// Metadata as stored.
    pub metadata: BTreeMap<String, String>,
    /// Tensors of the file, sorted by name.
    pub tensors: Vec<Tensor>,
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tensor {
    /// Name of the tensor as stored.
    pub name: String,
    /// Type of the elements, by the name that safetensors gives it.
    pub dtype: String,
    /// Shape of the tensor.
    pub shape: Vec<usize>,
}

/// Inspects and prints.
///
/// # Errors
/// When nothing in the path can be read, or a server would refuse it.
pub fn run(args: &Args) -> Result<(), Error> {
    let overrides = args.backbone_override.clone().unwrap_or_default();
    let report = inspect_with(&args.path, &overrides)?;
    if args.json {
        show(serde_json::to_string_pretty(&report)?);
    } else {
        show(report.to_string().trim_end());
    }
    match report.refusal {
        Some(_) => Err(Error::Refused {
            path: args.path.clone(),
        }),
        None => Ok(()),
    }
}

/// Looks at a folder or file.
///
/// # Errors
/// When nothing in the path can be read.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    inspect_with(path, &Overrides::default())
}

/// Looks at a folder or file, with the operator's overrides.
///
/// # Errors
/// When nothing in the path can be read.
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
            .unwrap_or_default()
            .into_iter()
            // An import reads the manifest of an exported version.
            .filter(|key| key != MANIFEST_KEY)
            .collect(),
        passed_over: archive
            .torch()
            .map(|torch| torch.passed.clone())
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
