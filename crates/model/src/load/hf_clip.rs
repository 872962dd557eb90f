//! Hugging Face's CLIP: `config.json` of transformers 4 and 5, for CLIPModel, CLIPVisionModel and their kin.

use std::path::Path;

use super::Error;
use super::decide::Overrides;
use super::fields::Fields;
use super::hugging_face::Model;
use super::naming::Scheme;
use super::plan::Plan;
use crate::spec::{Invalid, Normalization};

/// The model with the defaults of `CLIPVisionConfig`. Names begin with this part except where transformers 5 wrote a vision tower alone.
const CLIP: Model = Model {
    family: "hf_clip",
    scheme: Scheme::HfClip,
    part: "vision_model.",
    normalization: Normalization::CLIP,
    patch_size: 32,
    activation: "quick_gelu",
    eps: 1e-5,
    pre_norm: true,
    patch_bias: false,
};

/// Plans the vision tower of a CLIP folder whose configuration is at hand.
pub(super) fn plan(
    path: &Path,
    folder: &Path,
    config: Fields<'_>,
    overrides: &Overrides,
) -> Result<Plan, Error> {
    CLIP.plan(path, folder, vision_config(config), overrides)
}

/// The object that describes the vision tower.
fn vision_config(config: Fields<'_>) -> Result<Fields<'_>, Invalid> {
    if config.text("model_type")? == Some("clip_vision_model") {
        return Ok(config);
    }
    // Old files have both; transformers then takes the second.
    if let Some(inner) = config.object("vision_config_dict")? {
        return Ok(inner);
    }
    config
        .object("vision_config")?
        .ok_or_else(|| Invalid::new("vision_config", "a CLIP without a vision tower"))
}
