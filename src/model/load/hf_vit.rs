//! Hugging Face's ViT: `config.json` of transformers 4 and 5, for ViTModel, ViTForImageClassification and their kin.

use std::path::Path;

use super::decide::{Constants, Geometry, Overrides, Said};
use super::fields::Fields;
use super::hf_clip::{activation, three_channels};
use super::naming::{Naming, Scheme};
use super::plan::{Draft, Plan};
use super::{Error, measure, preprocessor};
use crate::spec::{Invalid, Normalization};

/// Begins the names where the ViT is a part of a model.
const PART: &str = "vit.";

/// Reads the ViT of a folder whose configuration is at hand.
pub(super) fn plan(
    path: &Path,
    folder: &Path,
    config: Fields<'_>,
    overrides: &Overrides,
) -> Result<Plan, Error> {
    let config_path = folder.join("config.json");
    let (geometry, mut constants) = read_config(config).map_err(|source| Error::Config {
        path: config_path.clone(),
        source,
    })?;
    constants.normalization = preprocessor::normalization(folder, Normalization::HALF)?;
    let (config, decisions) = constants.decide(path, geometry, overrides)?;
    config.validate().map_err(|source| Error::Config {
        path: config_path,
        source,
    })?;
    let checkpoint = super::hf_weights(folder)?;
    let prefix = if checkpoint.names().any(|name| name.starts_with(PART)) {
        PART
    } else {
        ""
    };
    measure::refuse_foreign(&checkpoint, prefix)?;
    Plan::new(Draft {
        path,
        family: "hf_vit",
        config,
        decisions,
        checkpoint,
        naming: Naming {
            scheme: Scheme::HfVit,
            prefix,
        },
    })
}

/// Absent keys have the defaults of transformers' `ViTConfig`.
fn read_config(fields: Fields<'_>) -> Result<(Geometry, Constants), Invalid> {
    three_channels(fields)?;
    if !fields.flag("qkv_bias", true)? {
        let problem = "queries, keys and values without biases are not supported";
        return Err(Invalid::new("qkv_bias", problem));
    }
    let geometry = Geometry {
        image_size: fields.side("image_size", 224)?,
        patch_size: fields.side("patch_size", 16)?,
        width: fields.count("hidden_size", 768)?,
        layers: fields.count("num_hidden_layers", 12)?,
        mlp_width: fields.count("intermediate_size", 3072)?,
        pre_norm: false,
        patch_bias: true,
        from: "config.json and the tensors' shapes".to_owned(),
    };
    let name = fields.text("hidden_act")?.unwrap_or("gelu");
    let constants = Constants {
        heads: Said::new(
            fields.count("num_attention_heads", 12)?,
            "config.json num_attention_heads",
        ),
        activation: Said::new(activation(name)?, "config.json hidden_act"),
        eps: Said::new(
            fields.number("layer_norm_eps", 1e-12)?,
            "config.json layer_norm_eps",
        ),
        normalization: Said::nothing(),
        why: "",
    };
    Ok((geometry, constants))
}
