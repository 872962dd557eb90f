//! Hugging Face's CLIP: `config.json` and the tensor names of its vision tower, as transformers 4 and 5 write them.

use std::path::Path;

use super::assemble::{Wanted, assemble};
use super::fields::Fields;
use super::file::read_json;
use super::{Error, Loaded, MAX_CONFIG};
use crate::model::{Activation, BackboneConfig};
use crate::spec::{Invalid, Normalization};

/// Begins the vision tower's names, except where transformers 5 wrote a vision tower alone.
const TOWER: &str = "vision_model.";
/// What a full CLIP has besides its vision tower, and heads that nobody asks here.
const BESIDES: [&str; 4] = [
    "text_model.",
    "text_projection.",
    "visual_projection.",
    "classifier.",
];
/// Scalars of the contrastive loss.
const SCALARS: [&str; 2] = ["logit_scale", "logit_bias"];
/// Written by transformers before 4.31: 0 to tokens - 1, as int64.
const POSITION_IDS: &str = "embeddings.position_ids";
/// Of transformers' processors; a pixel becomes 0 to 1.
const RESCALE: f64 = 1.0 / 255.0;

/// Reads the vision tower of a CLIP folder whose configuration is at hand.
pub(super) fn load(folder: &Path, config: Fields<'_>) -> Result<Loaded, Error> {
    let path = folder.join("config.json");
    let mut config = vision_config(config)
        .and_then(read_config)
        .map_err(|source| Error::Config {
            path: path.clone(),
            source,
        })?;
    config.normalization = normalization(folder)?;
    config
        .validate()
        .map_err(|source| Error::Config { path, source })?;
    let checkpoint = super::hf_weights(folder)?;
    let prefix = if checkpoint.names().any(|name| name.starts_with(TOWER)) {
        TOWER
    } else {
        ""
    };
    let wanted: Vec<Wanted> = config
        .tensors()
        .into_iter()
        .map(|(name, shape)| Wanted {
            parts: stored(&name)
                .into_iter()
                .map(|part| format!("{prefix}{part}"))
                .collect(),
            name,
            shape,
        })
        .collect();
    let tensors = assemble(&checkpoint, &wanted, |name| ignored(name, prefix))?;
    Ok(Loaded::new(folder, "hf_clip", config, tensors))
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
fn read_config(fields: Fields<'_>) -> Result<BackboneConfig, Invalid> {
    let channels = fields.count("num_channels", 3)?;
    if channels != 3 {
        return Err(Invalid::new(
            "num_channels",
            format!("expected 3, got {channels}"),
        ));
    }
    Ok(BackboneConfig {
        image_size: fields.side("image_size", 224)?,
        patch_size: fields.side("patch_size", 32)?,
        width: fields.count("hidden_size", 768)?,
        layers: fields.count("num_hidden_layers", 12)?,
        heads: fields.count("num_attention_heads", 12)?,
        mlp_width: fields.count("intermediate_size", 3072)?,
        activation: activation(fields.text("hidden_act")?.unwrap_or("quick_gelu"))?,
        eps: fields.number("layer_norm_eps", 1e-5)?,
        pre_norm: true,
        patch_bias: false,
        normalization: Normalization::CLIP,
    })
}

fn activation(name: &str) -> Result<Activation, Invalid> {
    match name {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" => Ok(Activation::Gelu),
        other => Err(Invalid::new(
            "hidden_act",
            format!("unknown activation {other:?}, expected \"quick_gelu\" or \"gelu\""),
        )),
    }
}

/// Mean and deviation from `preprocessor_config.json`, or inside `processor_config.json`; CLIP's own when neither is there.
fn normalization(folder: &Path) -> Result<Normalization, Error> {
    let alone = folder.join("preprocessor_config.json");
    let of_processor = folder.join("processor_config.json");
    let (path, key) = if alone.exists() {
        (alone, None)
    } else if of_processor.exists() {
        (of_processor, Some("image_processor"))
    } else {
        return Ok(Normalization::CLIP);
    };
    let object: serde_json::Map<String, serde_json::Value> = read_json(&path, MAX_CONFIG)?;
    let read = || {
        let fields = Fields(&object);
        match key {
            None => read_normalization(fields),
            Some(key) => fields
                .object(key)?
                .map_or(Ok(Normalization::CLIP), read_normalization),
        }
    };
    read().map_err(|source| Error::Config { path, source })
}

fn read_normalization(fields: Fields<'_>) -> Result<Normalization, Invalid> {
    let rescale = fields.number("rescale_factor", RESCALE)?;
    if !fields.flag("do_rescale", true)? || (rescale / RESCALE - 1.0).abs() > 1e-3 {
        return Err(Invalid::new(
            "rescale_factor",
            "only pixels that are divided by 255 are supported",
        ));
    }
    if !fields.flag("do_normalize", true)? {
        return Ok(Normalization {
            mean: [0.0; 3],
            std: [1.0; 3],
        });
    }
    let mean = fields.channels("image_mean")?;
    let std = fields.channels("image_std")?;
    if std.is_some_and(|std| std.iter().any(|&channel| channel <= 0.0)) {
        return Err(Invalid::new("image_std", "expected positive numbers"));
    }
    Ok(Normalization {
        mean: mean.unwrap_or(Normalization::CLIP.mean),
        std: std.unwrap_or(Normalization::CLIP.std),
    })
}

/// The stored tensors, below the prefix, that make one of the reference's.
fn stored(name: &str) -> Vec<String> {
    let Some(rest) = name.strip_prefix("transformer.resblocks.") else {
        return vec![of_tower(name)];
    };
    let (block, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let stored = |own: &str| format!("encoder.layers.{block}.{own}");
    if let Some(kind) = rest.strip_prefix("attn.in_proj_") {
        // The reference has queries, keys and values in one product, in this order.
        return ["q", "k", "v"]
            .map(|part| stored(&format!("self_attn.{part}_proj.{kind}")))
            .to_vec();
    }
    const BLOCK: [(&str, &str); 5] = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("attn.out_proj.", "self_attn.out_proj."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ];
    vec![stored(&renamed(rest, &BLOCK))]
}

fn of_tower(name: &str) -> String {
    const TOWER: [(&str, &str); 5] = [
        ("conv1.", "embeddings.patch_embedding."),
        ("class_embedding", "embeddings.class_embedding"),
        (
            "positional_embedding",
            "embeddings.position_embedding.weight",
        ),
        // Spelt so in transformers.
        ("ln_pre.", "pre_layrnorm."),
        ("ln_post.", "post_layernorm."),
    ];
    renamed(name, &TOWER)
}

fn renamed(name: &str, beginnings: &[(&str, &str)]) -> String {
    beginnings
        .iter()
        .find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
        .unwrap_or_else(|| name.to_owned())
}

fn ignored(name: &str, prefix: &str) -> bool {
    let position_ids = name
        .strip_prefix(prefix)
        .is_some_and(|rest| rest == POSITION_IDS);
    position_ids || SCALARS.contains(&name) || BESIDES.iter().any(|begin| name.starts_with(begin))
}
