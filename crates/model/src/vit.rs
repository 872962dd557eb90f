//! The image transformer: patch embedding, blocks and final norm, with frozen or trainable weights.

use std::borrow::Cow;

use candle_core::Result;
use rayon::prelude::*;

use super::block::Block;
pub(super) use super::ops::placed::embed::Picture;
use super::ops::placed::embed::{self, Cut};
use super::ops::placed::linear::Rows;
use super::ops::placed::{self, Onto};
use super::ops::{Array, Numbers, Place, Vector};
use super::weights::{Found, LayerNorm, Linear, Mode};
use super::{BackboneConfig, Error};

/// All layers of a backbone.
pub(super) struct Vit {
    conv1: Linear,
    /// Class embedding in row 0, plus the positional embedding: `[L, C]`.
    base: Vector,
    ln_pre: Option<LayerNorm>,
    pub(super) blocks: Vec<Block>,
    /// On the host in every place, as heads are.
    pub(super) ln_post: LayerNorm,
    place: Place,
}

/// Activations that the embedding's backward pass reads.
pub(super) struct SavedEmbedding {
    patches: Array,
    /// Input of ln_pre.
    x: Array,
}

/// Function that calls its second argument with the row-major values of a named tensor.
pub(super) type Fetch<'f> = dyn Fn(&str, &mut dyn FnMut(Cow<'_, [f32]>)) -> Fetched + Sync + 'f;
/// Result of a fetch: an error when the tensor does not exist.
pub(super) type Fetched = std::result::Result<(), Error>;

/// Builds layers from fetched tensors.
#[derive(Clone, Copy)]
struct Maker<'m> {
    config: &'m BackboneConfig,
    mode: &'m Mode,
    fetch: &'m Fetch<'m>,
}

impl Maker<'_> {
    fn values(&self, name: &str) -> std::result::Result<Vec<f32>, Error> {
        let mut own = Vec::new();
        (self.fetch)(name, &mut |values| own = values.into_owned())?;
        Ok(own)
    }

    fn linear(
        &self,
        weight: &str,
        bias: Option<&str>,
        k: usize,
        sections: usize,
    ) -> std::result::Result<Linear, Error> {
        let mut bias = bias.map(|bias| self.values(bias)).transpose()?;
        let mut linear = None;
        (self.fetch)(weight, &mut |values| {
            linear = Some(Linear::new(&values, k, sections, bias.take(), self.mode));
        })?;
        let missing = || Error::MissingTensor {
            name: weight.to_owned(),
        };
        Ok(linear.ok_or_else(missing)??)
    }

    fn norm(&self, name: &str) -> std::result::Result<LayerNorm, Error> {
        let weight = self.values(&format!("{name}.weight"))?;
        let bias = self.values(&format!("{name}.bias"))?;
        Ok(LayerNorm::new(weight, bias, self.config.eps, self.mode)?)
    }

    fn block(&self, i: usize) -> std::result::Result<Block, Error> {
        let (c, mlp) = (self.config.width, self.config.mlp_width);
        let name = |rest: &str| format!("transformer.resblocks.{i}.{rest}");
        let linear = |weight: &str, bias: &str, k, sections| {
            self.linear(&name(weight), Some(&name(bias)), k, sections)
        };
        Ok(Block {
            ln_1: self.norm(&name("ln_1"))?,
            in_proj: linear("attn.in_proj_weight", "attn.in_proj_bias", c, 3)?,
            out_proj: linear("attn.out_proj.weight", "attn.out_proj.bias", c, 1)?,
            ln_2: self.norm(&name("ln_2"))?,
            c_fc: linear("mlp.c_fc.weight", "mlp.c_fc.bias", c, 1)?,
            c_proj: linear("mlp.c_proj.weight", "mlp.c_proj.bias", mlp, 1)?,
            heads: self.config.heads,
            activation: self.config.activation,
        })
    }
}

impl Vit {
    /// Builds the layers; calls `fetch` once for every tensor of `config.tensors()`, on all cores.
    pub(super) fn new(
        config: &BackboneConfig,
        mode: &Mode,
        fetch: &Fetch<'_>,
    ) -> std::result::Result<Self, Error> {
        let maker = Maker {
            config,
            mode,
            fetch,
        };
        let patch_bias = config.patch_bias.then_some("conv1.bias");
        let patch_len = 3 * config.patch_size * config.patch_size;
        let pixels = mode.without_integers();
        let embedding = Maker {
            mode: &pixels,
            ..maker
        };
        let conv1 = embedding.linear("conv1.weight", patch_bias, patch_len, 1)?;
        // Results stay in order, so that the same tensors give the same error whatever the order in which threads run.
        let blocks: Vec<std::result::Result<Block, Error>> = (0..config.layers)
            .into_par_iter()
            .map(|i| maker.block(i))
            .collect();
        let blocks = blocks.into_iter().collect::<std::result::Result<_, _>>()?;
        let ln_pre = config.pre_norm.then(|| maker.norm("ln_pre")).transpose()?;
        let exact = mode.exact();
        let of_heads = Maker {
            mode: &exact,
            ..maker
        };
        let ln_post = of_heads.norm("ln_post")?;
        let mut base = maker.values("positional_embedding")?;
        for (x, class) in base.iter_mut().zip(maker.values("class_embedding")?) {
            *x += class;
        }
        let place = mode.place().clone();
        Ok(Self {
            conv1,
            base: Vector::new(base, &place)?,
            ln_pre,
            blocks,
            ln_post,
            place,
        })
    }

    /// Returns what the embedding wants of patches: their number format and place.
    pub(super) fn input(&self) -> (Numbers, &Place) {
        (self.conv1.reads(), &self.place)
    }

    /// Returns where the blocks run.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Embeds patches `[N, P, 3 · patch²]`. Returns the first block's input `[N, L, C]`, and what the backward pass needs.
    pub(super) fn embed(&self, patches: &Array) -> Result<(Array, SavedEmbedding)> {
        let x = self.conv1.embed(patches, &self.base)?;
        let y = match &self.ln_pre {
            Some(norm) => norm.forward(&x, Numbers::F32)?,
            None => x.clone(),
        };
        let patches = patches.clone();
        Ok((y, SavedEmbedding { patches, x }))
    }

    /// Computes the gradients of the embedding's weights from the gradient of the first block's input.
    pub(super) fn embed_back(
        &self,
        dy: &Array,
        saved: &SavedEmbedding,
        found: &mut Found,
    ) -> Result<()> {
        let dx = match &self.ln_pre {
            Some(norm) => {
                norm.gradients(&saved.x, dy, "ln_pre", found)?;
                norm.backward(&saved.x, dy, &dy.zeros_like()?)?
            }
            None => dy.clone(),
        };
        let names = ["conv1.weight", "conv1.bias"];
        let patches = (&saved.patches, Rows::All);
        self.conv1
            .gradients(patches, (&dx, Rows::Patches), names, found)?;
        let (n, tokens, c) = dx.dims3()?;
        let base = placed::columns(&dx.reshape((n, tokens * c))?, Rows::All, &Onto::NOTHING)?;
        found.push(("class_embedding".to_owned(), base.rows(0..c)?));
        found.push((
            "positional_embedding".to_owned(),
            base.reshape((tokens, c))?,
        ));
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        let base = (self.base.len() * size_of::<f32>()) as u64;
        let norms = self.ln_post.bytes() + self.ln_pre.as_ref().map_or(0, LayerNorm::bytes);
        self.conv1.bytes() + base + norms + self.blocks.iter().map(Block::bytes).sum::<u64>()
    }

    pub(super) fn pointers(&self) -> Vec<usize> {
        let mut pointers = vec![self.conv1.pointer(), self.base.pointer()];
        pointers.extend(self.ln_pre.as_ref().map(LayerNorm::pointer));
        pointers.extend(self.blocks.iter().flat_map(Block::pointers));
        pointers.push(self.ln_post.pointer());
        pointers
    }
}

/// Splits pictures into patches `[N, P, 3 · patch²]`, in this place.
pub(super) fn patches(
    pictures: &[Picture<'_>],
    config: &BackboneConfig,
    (reads, place): (Numbers, &Place),
) -> Result<Array> {
    let cut = Cut {
        grid: config.grid(),
        side: config.image_size,
        patch: config.patch_size,
    };
    embed::patches(pictures, cut, reads, place)
}

/// Returns the pictures of a batch `[N, 3, S, S]`.
pub(super) fn pictures<'a>(images: &'a [f32], config: &BackboneConfig) -> Vec<Picture<'a>> {
    images
        .chunks_exact(config.frame_len())
        .map(|values| Picture {
            values,
            channel: values.len() / 3,
        })
        .collect()
}

/// Returns the frames of a clip `[3, T, S, S]`.
pub(super) fn frames<'a>(
    clip: &'a [f32],
    config: &BackboneConfig,
) -> impl Iterator<Item = Picture<'a>> {
    let (count, plane) = (
        clip.len() / config.frame_len().max(1),
        config.image_size * config.image_size,
    );
    (0..count).map(move |t| Picture {
        values: &clip[t * plane..],
        channel: count * plane,
    })
}

/// Embeds clips `[3, T, S, S]`. Returns the first block's input, `[ΣT, L, C]`.
pub(super) fn embed_clips(
    vit: &Vit,
    clips: &[std::sync::Arc<[f32]>],
    config: &BackboneConfig,
) -> Result<Array> {
    let pictures: Vec<Picture<'_>> = clips.iter().flat_map(|clip| frames(clip, config)).collect();
    Ok(vit.embed(&patches(&pictures, config, vit.input())?)?.0)
}
