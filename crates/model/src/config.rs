//! Sizes and constants of a backbone, with the reference's name and shape of each of its tensors.
//!
//! Invariant: a configuration that passed [`BackboneConfig::validate`] describes a model that can be built and run.

use std::collections::BTreeMap;

use crate::spec::{Geometry, Invalid, Normalization};

/// Activation between the two products of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// QuickGELU of OpenAI's CLIP: x · σ(1.702 x).
    QuickGelu,
    /// GELU of LAION's CLIP and ImageNet ViTs: x · Φ(x), with the error function.
    Gelu,
}

impl Activation {
    /// Returns the name of the activation: `quick_gelu` or `gelu`.
    pub fn name(self) -> &'static str {
        match self {
            Self::QuickGelu => "quick_gelu",
            Self::Gelu => "gelu",
        }
    }

    /// Returns the activation of a name; `None` when the name is unknown.
    pub fn named(name: &str) -> Option<Self> {
        [Self::QuickGelu, Self::Gelu]
            .into_iter()
            .find(|own| own.name() == name)
    }
}

/// Sizes and constants of a ViT.
#[derive(Debug, Clone, PartialEq)]
pub struct BackboneConfig {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a square patch, in pixels; divides the side of the image.
    pub patch_size: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of attention heads; divides the width.
    pub heads: usize,
    /// Hidden width of the MLP.
    pub mlp_width: usize,
    /// Activation of the MLP.
    pub activation: Activation,
    /// Epsilon of every LayerNorm: 1e-5 for CLIP, 1e-6 for timm.
    pub eps: f64,
    /// Whether there is a LayerNorm before the blocks (CLIP).
    pub pre_norm: bool,
    /// Whether the patch embedding has a bias (ImageNet ViTs).
    pub patch_bias: bool,
    /// Mean and standard deviation that the pixels were normalised with.
    pub normalization: Normalization,
}

impl BackboneConfig {
    /// Sizes and constants of CLIP's ViT-B/16.
    pub const VIT_B_16: Self = Self {
        image_size: 224,
        patch_size: 16,
        width: 768,
        layers: 12,
        heads: 12,
        mlp_width: 3072,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        pre_norm: true,
        patch_bias: false,
        normalization: Normalization::CLIP,
    };

    /// Returns the limits that the backbone sets on a task's shape.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            image_size: self.image_size,
            layers: self.layers,
            width: self.width,
        }
    }

    /// Returns the number of patches along a side of the image.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size.max(1)
    }

    /// Returns the number of tokens of a frame: the class token and one for each patch.
    pub fn tokens(&self) -> usize {
        1 + self.grid() * self.grid()
    }

    /// Returns the number of values of one frame: 3 · side².
    pub fn frame_len(&self) -> usize {
        3 * self.image_size * self.image_size
    }

    /// Validates the sizes and constants.
    ///
    /// # Errors
    /// When a field is out of range, or does not divide another one; the error names the first such field.
    pub fn validate(&self) -> Result<(), Invalid> {
        let limits = [
            ("image_size", self.image_size, 4096),
            ("patch_size", self.patch_size, 256),
            ("width", self.width, 16_384),
            ("layers", self.layers, 256),
            ("heads", self.heads, 256),
            ("mlp_width", self.mlp_width, 65_536),
        ];
        for (field, value, most) in limits {
            if !(1..=most).contains(&value) {
                return Err(Invalid::new(
                    field,
                    format!("expected 1 to {most}, got {value}"),
                ));
            }
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            let problem = format!("{} does not divide {}", self.patch_size, self.image_size);
            return Err(Invalid::new("patch_size", problem));
        }
        if !self.width.is_multiple_of(self.heads) {
            let problem = format!("{} do not divide the width {}", self.heads, self.width);
            return Err(Invalid::new("heads", problem));
        }
        if !(self.eps > 0.0 && self.eps < 1.0) {
            return Err(Invalid::new("eps", format!("got {}", self.eps)));
        }
        Ok(())
    }

    /// Returns the name and shape of every tensor, as the reference names them.
    pub fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        let (c, m) = (self.width, self.mlp_width);
        let mut shapes = BTreeMap::from([
            (
                "conv1.weight".to_owned(),
                vec![c, 3, self.patch_size, self.patch_size],
            ),
            ("class_embedding".to_owned(), vec![c]),
            ("positional_embedding".to_owned(), vec![self.tokens(), c]),
            ("ln_post.weight".to_owned(), vec![c]),
            ("ln_post.bias".to_owned(), vec![c]),
        ]);
        if self.patch_bias {
            shapes.insert("conv1.bias".to_owned(), vec![c]);
        }
        if self.pre_norm {
            shapes.insert("ln_pre.weight".to_owned(), vec![c]);
            shapes.insert("ln_pre.bias".to_owned(), vec![c]);
        }
        for block in 0..self.layers {
            let of_block = [
                ("ln_1.weight", vec![c]),
                ("ln_1.bias", vec![c]),
                ("attn.in_proj_weight", vec![3 * c, c]),
                ("attn.in_proj_bias", vec![3 * c]),
                ("attn.out_proj.weight", vec![c, c]),
                ("attn.out_proj.bias", vec![c]),
                ("ln_2.weight", vec![c]),
                ("ln_2.bias", vec![c]),
                ("mlp.c_fc.weight", vec![m, c]),
                ("mlp.c_fc.bias", vec![m]),
                ("mlp.c_proj.weight", vec![c, m]),
                ("mlp.c_proj.bias", vec![c]),
            ];
            for (name, shape) in of_block {
                shapes.insert(format!("transformer.resblocks.{block}.{name}"), shape);
            }
        }
        shapes
    }
}
