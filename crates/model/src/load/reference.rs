//! The reference's own tensor names in one safetensors file, whose metadata says what the names do not: how the built-in backbone is stored.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checkpoint::Checkpoint;
use super::decide::{Constants, Geometry, Overrides, Said, heads_of_width};
use super::file::Archive;
use super::naming::{Naming, Scheme};
use super::plan::{Draft, Plan};
use super::values::Float;
use super::{Error, measure};
use crate::spec::{Invalid, Normalization};
use crate::{Activation, BackboneConfig, Tensors, file};

/// The metadata key whose value is the configuration, as JSON.
pub const CONFIG_KEY: &str = "frameshift.backbone";
const FORMAT_VERSION: u32 = 1;
const NAMING: Naming = Naming {
    scheme: Scheme::Reference,
    prefix: "",
};

/// The configuration as stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredConfig {
    format_version: u32,
    image_size: usize,
    patch_size: usize,
    width: usize,
    layers: usize,
    heads: usize,
    mlp_width: usize,
    activation: StoredActivation,
    eps: f64,
    pre_norm: bool,
    patch_bias: bool,
    normalization: Normalization,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredActivation {
    QuickGelu,
    Gelu,
}

/// The metadata that makes a file of the reference's tensors a backbone that can be loaded.
pub fn metadata(config: &BackboneConfig) -> BTreeMap<String, String> {
    let stored = StoredConfig {
        format_version: FORMAT_VERSION,
        image_size: config.image_size,
        patch_size: config.patch_size,
        width: config.width,
        layers: config.layers,
        heads: config.heads,
        mlp_width: config.mlp_width,
        activation: match config.activation {
            Activation::QuickGelu => StoredActivation::QuickGelu,
            Activation::Gelu => StoredActivation::Gelu,
        },
        eps: config.eps,
        pre_norm: config.pre_norm,
        patch_bias: config.patch_bias,
        normalization: config.normalization,
    };
    // Plain numbers and names: serde_json has no way to fail on them.
    let json = serde_json::to_string(&stored).unwrap_or_default();
    BTreeMap::from([(CONFIG_KEY.to_owned(), json)])
}

/// A backbone as a file: the reference's names, values rounded to `float`, the configuration and `more` as metadata. Equal arguments give equal
/// bytes.
pub fn write(
    config: &BackboneConfig,
    tensors: &Tensors,
    float: Float,
    more: &BTreeMap<String, String>,
) -> Vec<u8> {
    let mut all = more.clone();
    all.extend(metadata(config));
    file::write(tensors, &all, float)
}

/// Whether a file says that it is in this format.
pub(super) fn is_own(archive: &Archive) -> bool {
    archive.header().metadata.contains_key(CONFIG_KEY)
}

/// Plans a file of the reference's tensors with its configuration.
pub(super) fn plan(path: &Path, archive: Archive, overrides: &Overrides) -> Result<Plan, Error> {
    let file = archive.path().to_owned();
    let Some(json) = archive.header().metadata.get(CONFIG_KEY) else {
        return Err(Error::NoConfig {
            path: file,
            found: "tensors of the reference's names",
        });
    };
    let stored: StoredConfig = serde_json::from_str(json).map_err(|source| Error::Json {
        path: file.clone(),
        source,
    })?;
    let config = read_config(stored).map_err(|source| Error::Config { path: file, source })?;
    let from = || format!("the file's {CONFIG_KEY}");
    let geometry = Geometry {
        image_size: config.image_size,
        patch_size: config.patch_size,
        width: config.width,
        layers: config.layers,
        mlp_width: config.mlp_width,
        pre_norm: config.pre_norm,
        patch_bias: config.patch_bias,
        from: from(),
    };
    let constants = Constants {
        heads: Said::new(config.heads, from()),
        activation: Said::new(config.activation, from()),
        eps: Said::new(config.eps, from()),
        normalization: Said::new(config.normalization, from()),
        why: "",
    };
    let draft = Draft {
        path,
        sizes_in: path,
        family: "reference",
        geometry,
        constants,
        checkpoint: Checkpoint::single(archive),
        naming: NAMING,
    };
    Plan::new(draft, overrides)
}

/// Plans a whole checkpoint of the reference's training code, which trains on OpenAI's CLIP only; adapters and head are not part of the backbone.
pub(super) fn whole(
    path: &Path,
    checkpoint: Checkpoint,
    overrides: &Overrides,
) -> Result<Plan, Error> {
    let geometry = measure::geometry(&checkpoint, &NAMING)?;
    let rule = "the reference's rule: OpenAI's CLIP";
    let mut heads = heads_of_width(geometry.width, "the reference");
    heads.from = rule.to_owned();
    let constants = Constants {
        heads,
        activation: Said::new(Activation::QuickGelu, rule),
        eps: Said::new(1e-5, rule),
        normalization: Said::new(Normalization::CLIP, rule),
        why: "heads are of width 64, which does not divide the width",
    };
    let draft = Draft {
        path,
        sizes_in: path,
        family: "reference",
        geometry,
        constants,
        checkpoint,
        naming: NAMING,
    };
    Plan::new(draft, overrides)
}

fn read_config(stored: StoredConfig) -> Result<BackboneConfig, Invalid> {
    if stored.format_version != FORMAT_VERSION {
        return Err(Invalid::new(
            "format_version",
            format!("expected {FORMAT_VERSION}, got {}", stored.format_version),
        ));
    }
    let Normalization { mean, std } = stored.normalization;
    let usable = mean.iter().chain(&std).all(|value| value.is_finite());
    if !usable || std.iter().any(|&channel| channel <= 0.0) {
        return Err(Invalid::new(
            "normalization",
            "expected finite means and positive deviations",
        ));
    }
    let config = BackboneConfig {
        image_size: stored.image_size,
        patch_size: stored.patch_size,
        width: stored.width,
        layers: stored.layers,
        heads: stored.heads,
        mlp_width: stored.mlp_width,
        activation: match stored.activation {
            StoredActivation::QuickGelu => Activation::QuickGelu,
            StoredActivation::Gelu => Activation::Gelu,
        },
        eps: stored.eps,
        pre_norm: stored.pre_norm,
        patch_bias: stored.patch_bias,
        normalization: stored.normalization,
    };
    config.validate()?;
    Ok(config)
}
