//! Composition of an adapter set: names and shapes of its weights, from configuration, backbone and number of classes.

use super::head::Sizes;
use super::{BackboneConfig, Error};
use crate::spec::{AdapterConfig, Invalid, MAX_LABELS};

/// Name and shape of a weight.
pub(super) type Named = (String, Vec<usize>);

/// Values that determine the names and shapes of a set's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) config: AdapterConfig,
    pub(super) classes: usize,
    /// Width of the backbone.
    pub(super) width: usize,
    pub(super) layers: usize,
    /// Number of the backbone's attention heads.
    pub(super) heads: usize,
}

impl Layout {
    pub(super) fn new(
        backbone: &BackboneConfig,
        config: AdapterConfig,
        classes: usize,
    ) -> Result<Self, Error> {
        config.validate().map_err(Error::Adapter)?;
        let invalid = |field, problem| Err(Error::Adapter(Invalid::new(field, problem)));
        if let Some(layers) = config.adapter_layers
            && config.has_sites()
            && layers.get() as usize > backbone.layers
        {
            let problem = format!("the backbone has {}, got {layers}", backbone.layers);
            return invalid("adapter_layers", problem);
        }
        if !(1..=MAX_LABELS).contains(&classes) {
            let problem = format!("expected 1 to {MAX_LABELS}, got {classes}");
            return invalid("classes", problem);
        }
        Ok(Self {
            config,
            classes,
            width: backbone.width,
            layers: backbone.layers,
            heads: backbone.heads,
        })
    }

    /// Returns the lowest block with adapters; the number of blocks when there are none.
    pub(super) fn first(&self) -> usize {
        match self.config.adapter_layers {
            _ if !self.config.has_sites() => self.layers,
            Some(layers) => self.layers.saturating_sub(layers.get() as usize),
            None => 0,
        }
    }

    /// Returns the lowest block with an adapter that affects the logits; one before the last block's MLP does not, unless the head reads patch tokens.
    pub(super) fn lowest_live_block(&self) -> Option<usize> {
        let (first, last) = (self.first(), self.layers - 1);
        let of_last = self.config.adapter_pre_attn || self.config.head.reads_patches();
        let live = first < last || (first == last && of_last);
        live.then_some(first)
    }

    pub(super) fn kernel(&self) -> [usize; 3] {
        self.config.adapter_kernel_size.map(|size| size as usize)
    }

    /// Returns the names and shapes of all weights, in the reference's order: adapters, then the head.
    pub(super) fn weights(&self) -> Vec<Named> {
        let (c, w) = (self.width, self.config.adapter_width as usize);
        let [t, y, x] = self.kernel();
        let kinds = [
            ("adapter_pre_attn", self.config.adapter_pre_attn),
            ("adapter_pre_mlp", self.config.adapter_pre_mlp),
        ];
        let mut weights = Vec::new();
        for block in self.first()..self.layers {
            for (kind, _) in kinds.into_iter().filter(|kind| kind.1) {
                let of_adapter = [
                    ("fc1.weight", vec![w, c]),
                    ("fc1.bias", vec![w]),
                    ("conv.weight", vec![w, 1, t, y, x]),
                    ("conv.bias", vec![w]),
                    ("fc2.weight", vec![c, w]),
                    ("fc2.bias", vec![c]),
                ];
                for (name, shape) in of_adapter {
                    let name = format!("transformer.resblocks.{block}.{kind}.{name}");
                    weights.push((name, shape));
                }
            }
        }
        weights.extend(self.head().weights());
        weights
    }

    pub(super) fn head(&self) -> Sizes {
        Sizes {
            kind: self.config.head,
            width: self.width,
            heads: self.heads,
            classes: self.classes,
        }
    }
}
