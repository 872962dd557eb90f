//! open_clip: a folder with `open_clip_config.json`, and the bare state dictionaries and checkpoints of its trainer.

use std::path::Path;

use serde_json::Value;

use super::checkpoint::Checkpoint;
use super::decide::{Constants, Geometry, Overrides, Said, heads_of_width};
use super::error::{Error, Format};
use super::fields::Fields;
use super::naming::{Naming, Scheme};
use super::plan::{Draft, Plan};
use super::{measure, preprocessor};
use crate::Activation;
use crate::spec::{Invalid, Normalization};

const CONFIG: &str = "open_clip_config.json";
/// The default of `vision_cfg.head_width`.
const HEAD_WIDTH: usize = 64;
/// Keys of `vision_cfg` that change the function when they are on.
const FEATURES: &[(&str, &str)] = &[
    ("timm_model_name", "a timm trunk inside of open_clip"),
    ("ls_init_value", "layer scale"),
    ("attentional_pool", "attention pooling"),
    (
        "global_average_pool",
        "average pooling instead of a class token",
    ),
    ("qk_norm", "norms of queries and keys"),
    ("scaled_cosine_attn", "cosine attention"),
    ("scale_heads", "scaled heads"),
    ("scale_attn_inner", "a norm inside of attention"),
    ("scale_attn", "a norm inside of attention"),
    ("scale_fc", "a norm inside of the MLP"),
    ("act_kwargs", "an activation with arguments"),
];

/// Plans a folder whose configuration is at hand.
pub(super) fn plan(
    path: &Path,
    folder: &Path,
    config: Fields<'_>,
    overrides: &Overrides,
) -> Result<Plan, Error> {
    let sizes_in = folder.join(CONFIG);
    let wrong = |source| Error::Config {
        path: sizes_in.clone(),
        source,
    };
    let required = |key| move || Invalid::new(key, "missing");
    let model = (config.object("model_cfg").map_err(wrong)?)
        .ok_or_else(required("model_cfg"))
        .map_err(wrong)?;
    let vision = (model.object("vision_cfg").map_err(wrong)?)
        .ok_or_else(required("vision_cfg"))
        .map_err(wrong)?;
    refuse(folder, vision)?;
    let checkpoint = super::open_clip_weights(folder)?;
    let naming = naming("visual.");
    measure::refuse_foreign(&checkpoint, naming.prefix)?;
    let geometry = measure::geometry(&checkpoint, &naming)?;
    let constants = read_config(config, model, vision, &geometry).map_err(wrong)?;
    let draft = Draft {
        path,
        sizes_in: &sizes_in,
        family: "open_clip",
        geometry,
        constants,
        checkpoint,
        naming,
    };
    Plan::new(draft, overrides)
}

/// Plans a state dictionary without a configuration.
pub(super) fn bare(
    path: &Path,
    checkpoint: Checkpoint,
    prefix: &'static str,
    overrides: &Overrides,
) -> Result<Plan, Error> {
    let naming = naming(prefix);
    let geometry = measure::geometry(&checkpoint, &naming)?;
    let constants = Constants {
        heads: heads_of_width(geometry.width, "open_clip"),
        activation: Said::nothing(),
        eps: Said::new(1e-5, "open_clip's rule"),
        normalization: Said::new(Normalization::CLIP, "CLIP's rule"),
        why: "such files come with GELU (LAION's models) and with QuickGELU (OpenAI's and DFN's)",
    };
    let draft = Draft {
        path,
        sizes_in: path,
        family: "open_clip",
        geometry,
        constants,
        checkpoint,
        naming,
    };
    Plan::new(draft, overrides)
}

fn naming(prefix: &'static str) -> Naming {
    Naming {
        scheme: Scheme::Reference,
        prefix,
    }
}

/// Refuses a configuration that describes an unsupported architecture.
fn refuse(folder: &Path, vision: Fields<'_>) -> Result<(), Error> {
    let refuse = |format| {
        Err(Error::Unsupported {
            path: folder.to_owned(),
            format,
        })
    };
    // The blocks of a ResNet are given per stage.
    if vision.get("layers").is_some_and(Value::is_array) {
        let sign = "vision_cfg.layers is a list".to_owned();
        return refuse(Format::Convolutional { sign });
    }
    for &(key, feature) in FEATURES {
        let on = match vision.get(key) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Object(inner)) => !inner.is_empty(),
            Some(_) => true,
        };
        if on {
            let sign = format!("vision_cfg.{key}");
            return refuse(Format::Feature { feature, sign });
        }
    }
    let pooled = vision.get("pool_type").and_then(Value::as_str);
    if let Some(pool) = pooled.filter(|&pool| pool != "tok") {
        let (feature, sign) = ("another pooling", format!("vision_cfg.pool_type {pool:?}"));
        return refuse(Format::Feature { feature, sign });
    }
    Ok(())
}

fn read_config(
    config: Fields<'_>,
    model: Fields<'_>,
    vision: Fields<'_>,
    geometry: &Geometry,
) -> Result<Constants, Invalid> {
    let said = |field| vision.side(field, 0).map(|side| (side > 0).then_some(side));
    measure::agree("image_size", said("image_size")?, geometry.image_size)?;
    measure::agree("patch_size", said("patch_size")?, geometry.patch_size)?;
    measure::agree("width", said("width")?, geometry.width)?;
    measure::agree("layers", said("layers")?, geometry.layers)?;
    let head_width = vision.count("head_width", HEAD_WIDTH)?;
    if !geometry.width.is_multiple_of(head_width) {
        let problem = format!("{head_width} does not divide the width {}", geometry.width);
        return Err(Invalid::new("head_width", problem));
    }
    let quick = model.flag("quick_gelu", false)?;
    let eps = match vision.object("norm_kwargs")? {
        Some(norm) => norm.number("eps", 1e-5)?,
        None => 1e-5,
    };
    let normalization = match config.object("preprocess_cfg")? {
        Some(preprocess) => Said::new(
            preprocessor::of_fields(preprocess, ["mean", "std"], Normalization::CLIP)?,
            format!("{CONFIG} preprocess_cfg"),
        ),
        None => Said::new(Normalization::CLIP, "CLIP's rule"),
    };
    Ok(Constants {
        heads: Said::new(
            geometry.width / head_width,
            format!("{CONFIG} vision_cfg.head_width (64 when absent)"),
        ),
        activation: Said::new(
            if quick {
                Activation::QuickGelu
            } else {
                Activation::Gelu
            },
            format!("{CONFIG} quick_gelu (false when absent)"),
        ),
        eps: Said::new(eps, "open_clip's rule, or vision_cfg.norm_kwargs"),
        normalization,
        why: "",
    })
}
