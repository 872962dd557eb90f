//! Hugging Face's ViT: `config.json` of transformers 4 and 5, for ViTModel, ViTForImageClassification and their kin.

use std::path::Path;

use super::Error;
use super::decide::Overrides;
use super::fields::Fields;
use super::hugging_face::Model;
use super::naming::Scheme;
use super::plan::Plan;
use crate::spec::{Invalid, Normalization};

/// The model with the defaults of `ViTConfig`.
const VIT: Model = Model {
    family: "hf_vit",
    scheme: Scheme::HfVit,
    part: "vit.",
    normalization: Normalization::HALF,
    patch_size: 16,
    activation: "gelu",
    eps: 1e-12,
    pre_norm: false,
    patch_bias: true,
};

/// Plans the ViT of a folder whose configuration is at hand.
pub(super) fn plan(
    path: &Path,
    folder: &Path,
    config: Fields<'_>,
    overrides: &Overrides,
) -> Result<Plan, Error> {
    VIT.plan(path, folder, with_biases(config), overrides)
}

/// The configuration, if it describes blocks that we support.
fn with_biases(config: Fields<'_>) -> Result<Fields<'_>, Invalid> {
    if config.flag("qkv_bias", true)? {
        return Ok(config);
    }
    let problem = "queries, keys and values without biases are not supported";
    Err(Invalid::new("qkv_bias", problem))
}
