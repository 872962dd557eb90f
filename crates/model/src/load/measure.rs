//! Sizes that follow from the tensors' shapes, and signs of unsupported architectures.

use super::checkpoint::Checkpoint;
use super::decide::Geometry;
use super::error::{Error, Format};
use super::naming::Naming;
use crate::spec::Invalid;

/// A number of blocks that no model reaches.
const MAX_BLOCKS: usize = 256;

/// Parts of tensor names that no plain ViT has.
const FEATURES: &[(&str, &str)] = &[
    (".ls1.", "layer scale"),
    (".ls2.", "layer scale"),
    (".ls_1.", "layer scale"),
    (".ls_2.", "layer scale"),
    ("layer_scale", "layer scale"),
    (".gamma_1", "layer scale"),
    (".gamma_2", "layer scale"),
    ("reg_token", "register tokens"),
    ("register_tokens", "register tokens"),
    ("rope", "rotary positions (RoPE)"),
    ("rotary", "rotary positions (RoPE)"),
    ("inv_freq", "rotary positions (RoPE)"),
    ("dist_token", "a distillation token"),
    ("distillation_token", "a distillation token"),
    ("rel_pos", "relative positions"),
    ("relative_position", "relative positions"),
    ("attn_pool", "attention pooling"),
    (".q_norm.", "norms of queries and keys"),
    (".ln_q.", "norms of queries and keys"),
    (".query_norm", "norms of queries and keys"),
    (".inner_attn_ln.", "a norm inside of attention"),
    (".ln_attn.", "a norm inside of attention"),
    (".w12.", "a gated MLP"),
    (".fc1_g.", "a gated MLP"),
    (
        "fc_norm.",
        "a norm after average pooling instead of a class token's",
    ),
    ("visual.trunk.", "a timm trunk inside of open_clip"),
];
/// Parts of tensor names that only convolutional networks have.
const CONVOLUTIONS: &[&str] = &[
    "layer1.0.",
    "attnpool.",
    "patch_embed.backbone.",
    "patch_embed.conv",
    "trunk.stem",
    "stem.",
    "stages.",
];

/// Refuses a checkpoint with signs of another architecture, and names it.
pub(super) fn refuse_foreign(checkpoint: &Checkpoint, vision: &str) -> Result<(), Error> {
    let names = || checkpoint.names().filter(|name| name.starts_with(vision));
    let refuse = |format| {
        Err(Error::Unsupported {
            path: checkpoint.path(),
            format,
        })
    };
    let convolutional = names().find(|name| CONVOLUTIONS.iter().any(|sign| name.contains(sign)));
    if let Some(name) = convolutional {
        let sign = quote(name);
        return refuse(Format::Convolutional { sign });
    }
    for (sign, feature) in FEATURES {
        if let Some(name) = names().find(|name| name.contains(sign)) {
            let sign = quote(name);
            return refuse(Format::Feature { feature, sign });
        }
    }
    Ok(())
}

fn quote(name: &str) -> String {
    format!("tensor {:?}", name.chars().take(80).collect::<String>())
}

/// Reads the sizes from the tensors' shapes.
pub(super) fn geometry(checkpoint: &Checkpoint, naming: &Naming) -> Result<Geometry, Error> {
    let shape = |name: &str| -> Result<(String, &[usize]), Error> {
        let stored = naming.one(name);
        match checkpoint.find(&stored) {
            Some((_, entry)) => Ok((stored, &entry.shape)),
            None => Err(Error::Missing {
                path: checkpoint.path(),
                name: stored,
            }),
        }
    };
    let wrong = |field, problem: String| Error::Config {
        path: checkpoint.path(),
        source: Invalid::new(field, problem),
    };
    let (name, conv) = shape("conv1.weight")?;
    let &[width, 3, patch_size, across] = conv else {
        let problem = format!("{name:?} of shape {conv:?} is no patch embedding of three channels");
        return Err(wrong("patch_size", problem));
    };
    if patch_size != across {
        let problem = format!("{patch_size} x {across} is not square");
        return Err(wrong("patch_size", problem));
    }
    let (name, positions) = shape("positional_embedding")?;
    let rows = positions.len().checked_sub(2).map_or(0, |at| positions[at]);
    let grid = rows.saturating_sub(1).isqrt();
    if grid == 0 || grid * grid + 1 != rows {
        let problem =
            format!("{name:?} has {rows} rows, not those of a class token and a square grid");
        return Err(wrong("image_size", problem));
    }
    let has = |name: &str| checkpoint.find(&naming.one(name)).is_some();
    let layers = (0..MAX_BLOCKS)
        .take_while(|i| has(&format!("transformer.resblocks.{i}.ln_1.weight")))
        .count();
    let (_, mlp) = shape("transformer.resblocks.0.mlp.c_fc.weight")?;
    Ok(Geometry {
        image_size: grid.saturating_mul(patch_size),
        patch_size,
        width,
        layers,
        mlp_width: mlp.first().copied().unwrap_or(0),
        pre_norm: has("ln_pre.weight"),
        patch_bias: has("conv1.bias"),
        from: "the tensors' shapes".to_owned(),
    })
}

/// Checks a size that a configuration says against the tensors.
pub(super) fn agree(field: &'static str, said: Option<usize>, is: usize) -> Result<(), Invalid> {
    match said {
        Some(said) if said != is => Err(Invalid::new(
            field,
            format!("the configuration says {said}, the tensors {is}"),
        )),
        Some(_) | None => Ok(()),
    }
}
