//! timm's ViTs: a folder with `config.json`, with or without `model_args`, and bare state dictionaries.

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

const NAMING: Naming = Naming {
    scheme: Scheme::Timm,
    prefix: "",
};
/// Beginnings of the architecture names of plain ViTs.
const ARCHITECTURES: [&str; 2] = ["vit_", "deit_"];
/// Values of `model_args` that change the function.
const FEATURES: &[(&str, &str)] = &[
    ("reg_tokens", "register tokens"),
    ("init_values", "layer scale"),
    ("no_embed_class", "positions without a class token's"),
    ("qk_norm", "norms of queries and keys"),
    ("scale_attn_norm", "a norm inside of attention"),
    ("scale_mlp_norm", "a norm inside of the MLP"),
];

/// Plans a folder whose configuration is at hand.
pub(super) fn plan(
    path: &Path,
    folder: &Path,
    config: Fields<'_>,
    overrides: &Overrides,
) -> Result<Plan, Error> {
    let sizes_in = folder.join("config.json");
    let wrong = |source| Error::Config {
        path: sizes_in.clone(),
        source,
    };
    let architecture = config.text("architecture").map_err(wrong)?.unwrap_or("");
    let args = config.object("model_args").map_err(wrong)?;
    refuse(folder, architecture, args)?;
    let checkpoint = super::hf_weights(folder)?;
    refuse_tokens(&checkpoint)?;
    let geometry = measure::geometry(&checkpoint, &NAMING)?;
    let constants = read_config(config, args, architecture, &geometry).map_err(wrong)?;
    let draft = Draft {
        path,
        sizes_in: &sizes_in,
        family: "timm_vit",
        geometry,
        constants,
        checkpoint,
        naming: NAMING,
    };
    Plan::new(draft, overrides)
}

/// Plans a state dictionary without a configuration.
pub(super) fn bare(
    path: &Path,
    checkpoint: Checkpoint,
    overrides: &Overrides,
) -> Result<Plan, Error> {
    refuse_tokens(&checkpoint)?;
    let geometry = measure::geometry(&checkpoint, &NAMING)?;
    let clip = geometry.pre_norm;
    let constants = Constants {
        heads: heads_of_width(geometry.width, "timm"),
        activation: if clip {
            Said::nothing()
        } else {
            Said::new(Activation::Gelu, "timm's rule")
        },
        eps: Said::new(if clip { 1e-5 } else { 1e-6 }, "timm's rule"),
        normalization: if clip {
            Said::new(Normalization::CLIP, "CLIP's rule")
        } else {
            Said::new(Normalization::HALF, "timm's rule for ViTs")
        },
        why: "heads are of width 64 where no other is published for the width; timm's copies of CLIP come with GELU and with QuickGELU",
    };
    let draft = Draft {
        path,
        sizes_in: path,
        family: "timm_vit",
        geometry,
        constants,
        checkpoint,
        naming: NAMING,
    };
    Plan::new(draft, overrides)
}

/// Refuses a configuration that describes an unsupported architecture.
fn refuse(folder: &Path, architecture: &str, args: Option<Fields<'_>>) -> Result<(), Error> {
    let refuse = |format| {
        Err(Error::Unsupported {
            path: folder.to_owned(),
            format,
        })
    };
    if !ARCHITECTURES
        .iter()
        .any(|begin| architecture.starts_with(begin))
    {
        let architecture = architecture.chars().take(64).collect();
        return refuse(Format::Timm { architecture });
    }
    let Some(args) = args else { return Ok(()) };
    if args.get("class_token") == Some(&Value::Bool(false)) {
        let (feature, sign) = ("no class token", "model_args.class_token".to_owned());
        return refuse(Format::Feature { feature, sign });
    }
    for &(key, feature) in FEATURES {
        let on = match args.get(key) {
            None | Some(Value::Bool(false)) => false,
            Some(value) => value.as_f64() != Some(0.0),
        };
        if on {
            let sign = format!("model_args.{key}");
            return refuse(Format::Feature { feature, sign });
        }
    }
    // Other blocks, norms, MLPs and positions are given by name.
    const NAMED: [(&str, &[&str]); 5] = [
        ("norm_layer", &["layernorm", "LayerNorm"]),
        ("pos_embed", &["learn"]),
        ("block_fn", &[]),
        ("mlp_layer", &["mlp", "Mlp"]),
        ("global_pool", &["token", "avg", ""]),
    ];
    for (key, known) in NAMED {
        if let Some(value) = args.get(key).and_then(Value::as_str)
            && !known.contains(&value)
        {
            let sign = format!(
                "model_args.{key} {:?}",
                value.chars().take(64).collect::<String>()
            );
            let feature = "another architecture";
            return refuse(Format::Feature { feature, sign });
        }
    }
    Ok(())
}

fn refuse_tokens(checkpoint: &Checkpoint) -> Result<(), Error> {
    if checkpoint.find("cls_token").is_none()
        && checkpoint.find("patch_embed.proj.weight").is_some()
    {
        return Err(Error::Unsupported {
            path: checkpoint.path(),
            format: Format::Feature {
                feature: "no class token",
                sign: "tensor \"cls_token\" is not there".to_owned(),
            },
        });
    }
    measure::refuse_foreign(checkpoint, "")
}

fn read_config(
    config: Fields<'_>,
    args: Option<Fields<'_>>,
    architecture: &str,
    geometry: &Geometry,
) -> Result<Constants, Invalid> {
    if let Some(args) = args {
        let said = |field| args.side(field, 0).map(|side| (side > 0).then_some(side));
        measure::agree("img_size", said("img_size")?, geometry.image_size)?;
        measure::agree("patch_size", said("patch_size")?, geometry.patch_size)?;
        measure::agree("embed_dim", said("embed_dim")?, geometry.width)?;
        measure::agree("depth", said("depth")?, geometry.layers)?;
    }
    let heads = match args.map(|args| args.count("num_heads", 0)).transpose()? {
        Some(heads) if heads > 0 => Said::new(heads, "config.json model_args.num_heads"),
        Some(_) | None => {
            let mut said = heads_of_width(geometry.width, "timm");
            said.from = format!("{} (as {architecture})", said.from);
            said
        }
    };
    let named = args
        .map(|args| args.text("act_layer"))
        .transpose()?
        .flatten();
    let activation = match named {
        Some(name) => {
            let known = Activation::named(name);
            let problem = || Invalid::new("act_layer", format!("unknown activation {name:?}"));
            Said::new(
                known.ok_or_else(problem)?,
                "config.json model_args.act_layer",
            )
        }
        None if architecture.contains("quickgelu") => {
            Said::new(Activation::QuickGelu, format!("timm's {architecture}"))
        }
        None => Said::new(Activation::Gelu, "timm's rule"),
    };
    // timm's copies of CLIP have CLIP's norm before the blocks and CLIP's eps.
    let clip = geometry.pre_norm;
    let eps = if clip { 1e-5 } else { 1e-6 };
    // Before timm 0.8 the pre-trained configuration's fields lay at the root.
    let inner = config.object("pretrained_cfg")?.unwrap_or(config);
    let own = if clip {
        Normalization::CLIP
    } else {
        Normalization::HALF
    };
    Ok(Constants {
        heads,
        activation,
        eps: Said::new(eps, "timm's rule"),
        normalization: Said::new(
            preprocessor::of_fields(inner, ["mean", "std"], own)?,
            "config.json pretrained_cfg",
        ),
        why: "model_args does not say it, and no rule knows the width",
    })
}
