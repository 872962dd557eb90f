//! Hugging Face's CLIP: `config.json` of transformers 4 and 5, for CLIPModel, CLIPVisionModel and their kin.

use std::path::Path;

use super::decide::{Constants, Geometry, Overrides, Said};
use super::fields::Fields;
use super::naming::{Naming, Scheme};
use super::plan::{Draft, Plan};
use super::preprocessor;
use super::{Error, measure};
use crate::model::Activation;
use crate::spec::{Invalid, Normalization};

/// Begins the vision tower's names, except where transformers 5 wrote a vision tower alone.
const TOWER: &str = "vision_model.";

/// Reads the vision tower of a CLIP folder whose configuration is at hand.
pub(super) fn plan(
    path: &Path,
    folder: &Path,
    config: Fields<'_>,
    overrides: &Overrides,
) -> Result<Plan, Error> {
    let config_path = folder.join("config.json");
    let (geometry, mut constants) =
        vision_config(config)
            .and_then(read_config)
            .map_err(|source| Error::Config {
                path: config_path.clone(),
                source,
            })?;
    constants.normalization = preprocessor::normalization(folder, Normalization::CLIP)?;
    let (config, decisions) = constants.decide(path, geometry, overrides)?;
    config.validate().map_err(|source| Error::Config {
        path: config_path,
        source,
    })?;
    let checkpoint = super::hf_weights(folder)?;
    let prefix = if checkpoint.names().any(|name| name.starts_with(TOWER)) {
        TOWER
    } else {
        ""
    };
    measure::refuse_foreign(&checkpoint, prefix)?;
    Plan::new(Draft {
        path,
        family: "hf_clip",
        config,
        decisions,
        checkpoint,
        naming: Naming {
            scheme: Scheme::HfClip,
            prefix,
        },
    })
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

/// Absent keys have the defaults of transformers' `CLIPVisionConfig`, which leaves them out when it writes differences only.
fn read_config(fields: Fields<'_>) -> Result<(Geometry, Constants), Invalid> {
    three_channels(fields)?;
    let geometry = Geometry {
        image_size: fields.side("image_size", 224)?,
        patch_size: fields.side("patch_size", 32)?,
        width: fields.count("hidden_size", 768)?,
        layers: fields.count("num_hidden_layers", 12)?,
        mlp_width: fields.count("intermediate_size", 3072)?,
        pre_norm: true,
        patch_bias: false,
        from: "config.json and the tensors' shapes".to_owned(),
    };
    let name = fields.text("hidden_act")?.unwrap_or("quick_gelu");
    let constants = Constants {
        heads: Said::new(
            fields.count("num_attention_heads", 12)?,
            "config.json num_attention_heads",
        ),
        activation: Said::new(activation(name)?, "config.json hidden_act"),
        eps: Said::new(
            fields.number("layer_norm_eps", 1e-5)?,
            "config.json layer_norm_eps",
        ),
        normalization: Said::nothing(),
        why: "",
    };
    Ok((geometry, constants))
}

/// Other numbers of channels have other patch embeddings.
pub(super) fn three_channels(fields: Fields<'_>) -> Result<(), Invalid> {
    match fields.count("num_channels", 3)? {
        3 => Ok(()),
        channels => Err(Invalid::new(
            "num_channels",
            format!("expected 3, got {channels}"),
        )),
    }
}

/// What transformers calls an activation.
pub(super) fn activation(name: &str) -> Result<Activation, Invalid> {
    Activation::named(name).ok_or_else(|| {
        Invalid::new(
            "hidden_act",
            format!("unknown activation {name:?}, expected \"quick_gelu\" or \"gelu\""),
        )
    })
}
