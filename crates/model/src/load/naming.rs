//! How each family names the tensors of a vision tower, and what it has besides them.
//!
//! Invariant: a canonical tensor is made of stored ones by joining them along the first axis and by dropping axes of length one, and by nothing else.

/// How a family names its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// The reference's own names, which OpenAI and open_clip use as well.
    Reference,
    /// Names of Hugging Face's CLIP.
    HfClip,
    /// Names of Hugging Face's ViT.
    HfVit,
    /// Names of timm.
    Timm,
}

/// A scheme, and the beginning of every name of the vision tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Naming {
    pub(super) scheme: Scheme,
    pub(super) prefix: &'static str,
}

/// Beginnings of names, as canonical and as stored.
type Renames = [(&'static str, &'static str)];

const HF_CLIP_TOWER: &Renames = &[
    ("conv1.", "embeddings.patch_embedding."),
    ("class_embedding", "embeddings.class_embedding"),
    (
        "positional_embedding",
        "embeddings.position_embedding.weight",
    ),
    // The spelling is that of transformers.
    ("ln_pre.", "pre_layrnorm."),
    ("ln_post.", "post_layernorm."),
];
const HF_CLIP_BLOCK: &Renames = &[
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];
const HF_VIT_TOWER: &Renames = &[
    ("conv1.", "embeddings.patch_embeddings.projection."),
    ("class_embedding", "embeddings.cls_token"),
    ("positional_embedding", "embeddings.position_embeddings"),
    ("ln_post.", "layernorm."),
];
const HF_VIT_BLOCK: &Renames = &[
    ("ln_1.", "layernorm_before."),
    ("ln_2.", "layernorm_after."),
    ("attn.out_proj.", "attention.output.dense."),
    ("mlp.c_fc.", "intermediate.dense."),
    ("mlp.c_proj.", "output.dense."),
];
const TIMM_TOWER: &Renames = &[
    ("conv1.", "patch_embed.proj."),
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
];
const TIMM_BLOCK: &Renames = &[
    ("ln_1.", "norm1."),
    ("ln_2.", "norm2."),
    ("attn.in_proj_", "attn.qkv."),
    ("attn.out_proj.", "attn.proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

impl Naming {
    /// The stored tensors that make a canonical one, with their shapes.
    pub(super) fn stored(&self, name: &str, shape: &[usize]) -> Vec<(String, Vec<usize>)> {
        let own = |rest: String, shape: Vec<usize>| (format!("{}{rest}", self.prefix), shape);
        let Some((block, rest)) = of_block(name) else {
            return vec![own(self.of_tower(name), self.batched(name, shape))];
        };
        let place = match self.scheme {
            Scheme::Reference => return vec![own(name.to_owned(), shape.to_vec())],
            Scheme::HfClip => format!("encoder.layers.{block}."),
            Scheme::HfVit => format!("encoder.layer.{block}."),
            Scheme::Timm => format!("blocks.{block}."),
        };
        let joined = rest.strip_prefix("attn.in_proj_");
        let parts: Vec<String> = match (self.scheme, joined) {
            // The reference has queries, keys and values in one product, in this order.
            (Scheme::HfClip, Some(kind)) => ["q", "k", "v"]
                .map(|part| format!("{place}self_attn.{part}_proj.{kind}"))
                .to_vec(),
            (Scheme::HfVit, Some(kind)) => ["query", "key", "value"]
                .map(|part| format!("{place}attention.attention.{part}.{kind}"))
                .to_vec(),
            (Scheme::HfClip, None) => vec![format!("{place}{}", renamed(rest, HF_CLIP_BLOCK))],
            (Scheme::HfVit, None) => vec![format!("{place}{}", renamed(rest, HF_VIT_BLOCK))],
            (_, _) => vec![format!("{place}{}", renamed(rest, TIMM_BLOCK))],
        };
        let mut part = shape.to_vec();
        if let Some(first) = part.first_mut() {
            *first /= parts.len();
        }
        parts
            .into_iter()
            .map(|name| own(name, part.clone()))
            .collect()
    }

    /// The stored name of a canonical tensor that is one stored tensor.
    pub(super) fn one(&self, name: &str) -> String {
        let parts = self.stored(name, &[]);
        parts
            .into_iter()
            .map(|(name, _)| name)
            .next()
            .unwrap_or_default()
    }

    fn of_tower(&self, name: &str) -> String {
        match self.scheme {
            Scheme::Reference => name.to_owned(),
            Scheme::HfClip => renamed(name, HF_CLIP_TOWER),
            Scheme::HfVit => renamed(name, HF_VIT_TOWER),
            Scheme::Timm => renamed(name, TIMM_TOWER),
        }
    }

    /// The stored shape: ImageNet ViTs store the class token and the positions with a batch axis of length one, the class token with a token axis as
    /// well.
    fn batched(&self, name: &str, shape: &[usize]) -> Vec<usize> {
        let axes = match (self.scheme, name) {
            (Scheme::HfVit | Scheme::Timm, "class_embedding") => 2,
            (Scheme::HfVit | Scheme::Timm, "positional_embedding") => 1,
            _ => 0,
        };
        [vec![1; axes], shape.to_vec()].concat()
    }

    /// Whether a family may have this tensor besides its vision tower: a text tower, projections, heads, scalars of a loss.
    pub(super) fn beside(&self, name: &str) -> bool {
        let begins = |list: &[&str]| list.iter().any(|begin| name.starts_with(begin));
        let within = name.strip_prefix(self.prefix);
        match self.scheme {
            Scheme::HfClip => {
                // Written by transformers before 4.31: 0 to tokens - 1, as int64.
                within == Some("embeddings.position_ids")
                    || matches!(name, "logit_scale" | "logit_bias")
                    || begins(&[
                        "text_model.",
                        "text_projection.",
                        "visual_projection.",
                        "classifier.",
                    ])
            }
            Scheme::HfVit => {
                begins(&["classifier.", "decoder."])
                    || within.is_some_and(|rest| {
                        rest.starts_with("pooler.") || rest == "embeddings.mask_token"
                    })
            }
            Scheme::Timm => begins(&["head.", "head_dist.", "pre_logits."]) || name == "mask_token",
            Scheme::Reference if self.prefix.is_empty() => {
                name == "proj" || is_head(name) || is_adapter(name)
            }
            Scheme::Reference => {
                name == "visual.proj"
                    || matches!(name, "positional_embedding" | "text_projection")
                    || begins(&[
                        "transformer.resblocks.",
                        "token_embedding.",
                        "ln_final.",
                        "text.",
                    ])
                    || matches!(
                        name,
                        "logit_scale"
                            | "logit_bias"
                            | "input_resolution"
                            | "context_length"
                            | "vocab_size"
                            | "attn_mask"
                    )
            }
        }
    }
}

/// Whether a tensor belongs to one of the reference's adapters.
pub(crate) fn is_adapter(name: &str) -> bool {
    of_block(name).is_some_and(|(_, rest)| {
        rest.starts_with("adapter_pre_attn.") || rest.starts_with("adapter_pre_mlp.")
    })
}

/// Whether a tensor belongs to the head of an adapter set.
pub fn is_head(name: &str) -> bool {
    const OWN: [&str; 3] = ["head.frames.", "head.conv.", "head.attention."];
    matches!(name, "fc.weight" | "fc.bias") || OWN.iter().any(|own| name.starts_with(own))
}

/// The block's number and the rest of a canonical name.
fn of_block(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("transformer.resblocks.")?.split_once('.')
}

fn renamed(name: &str, beginnings: &Renames) -> String {
    beginnings
        .iter()
        .find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
        .unwrap_or_else(|| name.to_owned())
}
