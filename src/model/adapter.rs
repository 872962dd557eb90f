//! A task's adapters and head: immutable for serving, trainable for a job.
//!
//! Invariant: names, shapes and order of the weights follow from configuration, backbone and number of classes alone.

use std::collections::BTreeMap;

use candle_core::Var;

use super::block::Sites;
use super::load::Float;
use super::ops::depthwise::{Depthwise, Extent};
use super::ops::{read, tensor};
use super::site::{Adapter, Site};
use super::weights::{Linear, Mode};
use super::{BackboneConfig, Error, Tensors, backbone, file};
use crate::rng::Stream;
use crate::spec::{AdapterConfig, Invalid};

/// Names a weight and its shape.
type Named = (String, Vec<usize>);

/// What the names and shapes follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    config: AdapterConfig,
    classes: usize,
    /// Of the backbone.
    width: usize,
    layers: usize,
}

impl Form {
    fn new(
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
        if !(1..=1_000_000).contains(&classes) {
            let problem = format!("expected 1 to 1000000, got {classes}");
            return invalid("classes", problem);
        }
        Ok(Self {
            config,
            classes,
            width: backbone.width,
            layers: backbone.layers,
        })
    }

    /// The lowest block with adapters.
    fn first(&self) -> usize {
        match self.config.adapter_layers {
            _ if !self.config.has_sites() => self.layers,
            Some(layers) => self.layers.saturating_sub(layers.get() as usize),
            None => 0,
        }
    }

    fn kernel(&self) -> [usize; 3] {
        self.config.adapter_kernel_size.map(|size| size as usize)
    }

    /// In the reference's order.
    fn weights(&self) -> Vec<Named> {
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
        weights.push(("fc.weight".to_owned(), vec![self.classes, c]));
        weights.push(("fc.bias".to_owned(), vec![self.classes]));
        weights
    }
}

/// The adapters of a block.
#[derive(Default)]
struct Pair {
    pre_attn: Option<Adapter>,
    pre_mlp: Option<Adapter>,
}

/// All adapters of a task and its head; immutable.
pub struct AdapterSet {
    form: Form,
    /// From the lowest block with adapters on.
    pairs: Vec<Pair>,
    pub(super) fc: Linear,
}

impl std::fmt::Debug for AdapterSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterSet")
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

impl AdapterSet {
    /// The identity: convolutions and biases are 0, fc1 and fc2 uniform within 1 / √inputs, the head normal with deviation 0.02.
    ///
    /// # Errors
    /// When the configuration does not fit the backbone or there is no class.
    pub fn fresh(
        backbone: &BackboneConfig,
        config: AdapterConfig,
        classes: usize,
        rng: &Stream,
    ) -> Result<Self, Error> {
        let form = Form::new(backbone, config, classes)?;
        let mut values = BTreeMap::new();
        for (i, (name, shape)) in form.weights().into_iter().enumerate() {
            let mut stream = rng.fork(i as u64);
            let count = shape.iter().product();
            let fill: Vec<f32> = if name == "fc.weight" {
                (0..count).map(|_| 0.02 * stream.normal()).collect()
            } else if name.ends_with("fc1.weight") || name.ends_with("fc2.weight") {
                let bound = 1.0 / (shape[1] as f32).sqrt();
                (0..count).map(|_| stream.range(-bound, bound)).collect()
            } else {
                vec![0.0; count]
            };
            values.insert(name, fill);
        }
        Self::build(form, &Mode::Frozen(None), |name| {
            values.remove(name).ok_or_else(|| missing(name))
        })
    }

    /// Reads what `to_safetensors` wrote (f32; f16 and bf16 are widened).
    ///
    /// # Errors
    /// Names the first tensor that is missing, unexpected, of another shape or not finite.
    pub fn from_safetensors(
        bytes: &[u8],
        backbone: &BackboneConfig,
        config: AdapterConfig,
        classes: usize,
    ) -> Result<Self, Error> {
        let tensors = file::read(bytes)?;
        Self::from_tensors(tensors, backbone, config, classes)
    }

    /// From tensors with the reference's names.
    ///
    /// # Errors
    /// Names the first tensor that is missing, unexpected, of another shape or not finite.
    pub fn from_tensors(
        mut tensors: Tensors,
        backbone: &BackboneConfig,
        config: AdapterConfig,
        classes: usize,
    ) -> Result<Self, Error> {
        let form = Form::new(backbone, config, classes)?;
        backbone::check(&form.weights().into_iter().collect(), &tensors)?;
        Self::build(form, &Mode::Frozen(None), |name| {
            let taken = tensors.remove(name).ok_or_else(|| missing(name))?;
            Ok(taken.1)
        })
    }

    /// f32, under the reference's names (`transformer.resblocks.N.adapter_pre_mlp.fc1.weight` …, `fc.weight`, `fc.bias`); equal sets and metadata give
    /// equal bytes.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn to_safetensors(&self, metadata: BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
        let tensors = self.tensors();
        Ok(file::write(&tensors, &metadata, Float::F32))
    }

    /// All weights by name.
    pub fn tensors(&self) -> Tensors {
        let mut tensors = Tensors::new();
        for (name, shape) in self.form.weights() {
            let values = self.values(&name);
            tensors.insert(name, (shape, values));
        }
        tensors
    }

    /// Memory of the weights.
    pub fn bytes(&self) -> u64 {
        let adapters = self.pairs.iter().flat_map(|p| [&p.pre_attn, &p.pre_mlp]);
        self.fc.bytes() + adapters.flatten().map(Adapter::bytes).sum::<u64>()
    }

    /// Weights, counted.
    pub fn parameters(&self) -> u64 {
        let count = |named: &Named| named.1.iter().product::<usize>() as u64;
        self.form.weights().iter().map(count).sum()
    }

    /// Rows of the head.
    pub fn classes(&self) -> usize {
        self.form.classes
    }

    /// Where the adapters sit and their shape.
    pub fn config(&self) -> AdapterConfig {
        self.form.config
    }

    fn build(
        form: Form,
        mode: &Mode,
        mut fetch: impl FnMut(&str) -> Result<Vec<f32>, Error>,
    ) -> Result<Self, Error> {
        let (c, w) = (form.width, form.config.adapter_width as usize);
        let mut adapter = |present: bool, block: usize, kind: &str| {
            if !present {
                return Ok(None);
            }
            let mut part =
                |rest: &str| fetch(&format!("transformer.resblocks.{block}.{kind}.{rest}"));
            let fc1 = Linear::new(&part("fc1.weight")?, c, 1, Some(part("fc1.bias")?), mode);
            let fc2 = Linear::new(&part("fc2.weight")?, w, 1, Some(part("fc2.bias")?), mode);
            let conv = Depthwise::new(&part("conv.weight")?, &part("conv.bias")?, form.kernel());
            Ok::<_, Error>(Some(Adapter { fc1, conv, fc2 }))
        };
        let mut pairs = Vec::new();
        for block in form.first()..form.layers {
            pairs.push(Pair {
                pre_attn: adapter(form.config.adapter_pre_attn, block, "adapter_pre_attn")?,
                pre_mlp: adapter(form.config.adapter_pre_mlp, block, "adapter_pre_mlp")?,
            });
        }
        let fc = Linear::new(&fetch("fc.weight")?, c, 1, Some(fetch("fc.bias")?), mode);
        Ok(Self { form, pairs, fc })
    }

    fn values(&self, name: &str) -> Vec<f32> {
        let linear = |linear: &Linear, part: &str| {
            let (weight, bias) = linear.unpacked();
            if part == "weight" {
                weight
            } else {
                bias.to_vec()
            }
        };
        let parts: Vec<&str> = name.split('.').collect();
        let &[.., layer, part] = parts.as_slice() else {
            return Vec::new();
        };
        let &[_, _, block, kind, ..] = parts.as_slice() else {
            return linear(&self.fc, part);
        };
        let pair = block
            .parse::<usize>()
            .ok()
            .and_then(|block| self.pairs.get(block.checked_sub(self.form.first())?));
        let adapter = pair.and_then(|pair| match kind {
            "adapter_pre_attn" => pair.pre_attn.as_ref(),
            _ => pair.pre_mlp.as_ref(),
        });
        match (adapter, layer) {
            (Some(adapter), "fc1") => linear(&adapter.fc1, part),
            (Some(adapter), "fc2") => linear(&adapter.fc2, part),
            (Some(adapter), _) => {
                let (weight, bias) = adapter.conv.unpacked();
                if part == "weight" {
                    weight
                } else {
                    bias.to_vec()
                }
            }
            (None, _) => Vec::new(),
        }
    }

    /// Whether the set was made for a backbone of these sizes.
    pub(super) fn fits(&self, backbone: &BackboneConfig) -> Result<(), Error> {
        if self.form.width != backbone.width || self.form.layers != backbone.layers {
            return Err(Error::Mismatch {
                expected: (backbone.width, backbone.layers),
                got: (self.form.width, self.form.layers),
            });
        }
        Ok(())
    }

    /// The lowest block with an adapter that moves the logits: one before the last block's MLP moves none.
    pub(super) fn lowest_live_block(&self) -> Option<usize> {
        let (first, last) = (self.form.first(), self.form.layers - 1);
        let live = first < last || (first == last && self.form.config.adapter_pre_attn);
        live.then_some(first)
    }

    /// Adds this set's adapters in a block to those of the batch.
    pub(super) fn push_sites<'a>(
        &'a self,
        block: usize,
        frames: &std::ops::Range<usize>,
        extent: Extent,
        sites: &mut Sites<'a>,
    ) {
        let pair = block
            .checked_sub(self.form.first())
            .and_then(|i| self.pairs.get(i));
        let site = |adapter| Site {
            frames: frames.clone(),
            extent,
            adapter,
        };
        sites
            .pre_attn
            .push(site(pair.and_then(|pair| pair.pre_attn.as_ref())));
        sites
            .pre_mlp
            .push(site(pair.and_then(|pair| pair.pre_mlp.as_ref())));
    }
}

fn missing(name: &str) -> Error {
    Error::MissingTensor {
        name: name.to_owned(),
    }
}

/// A set whose weights an optimiser moves.
pub struct TrainableSet {
    form: Form,
    parameters: Vec<(String, Var)>,
}

impl TrainableSet {
    /// Starts from a set; shares nothing with it.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn new(set: &AdapterSet) -> Result<Self, Error> {
        let mut parameters = Vec::new();
        for (name, shape) in set.form.weights() {
            let var = Var::from_tensor(&tensor(set.values(&name), shape)?)?;
            parameters.push((name, var));
        }
        Ok(Self {
            form: set.form,
            parameters,
        })
    }

    /// The weights of now, immutable; shares nothing with `self`.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn snapshot(&self) -> Result<AdapterSet, Error> {
        self.build(&Mode::Frozen(None))
    }

    /// Name and value of every weight, in a fixed order.
    pub fn parameters(&self) -> &[(String, Var)] {
        &self.parameters
    }

    /// Rows of the head.
    pub fn classes(&self) -> usize {
        self.form.classes
    }

    /// The layers of now, with gradients.
    pub(super) fn layers(&self) -> Result<AdapterSet, Error> {
        self.build(&Mode::Trainable)
    }

    fn build(&self, mode: &Mode) -> Result<AdapterSet, Error> {
        let by_name: BTreeMap<&str, &Var> = self
            .parameters
            .iter()
            .map(|(name, var)| (name.as_str(), var))
            .collect();
        AdapterSet::build(self.form, mode, |name| {
            let var = by_name.get(name).ok_or_else(|| missing(name))?;
            Ok(read(var.as_tensor(), <[f32]>::to_vec)?)
        })
    }
}

impl TrainableSet {
    /// A zero gradient for every weight.
    pub(super) fn zeros(&self) -> Result<super::Gradients, Error> {
        let zero = |(name, var): &(String, Var)| Ok((name.clone(), var.as_tensor().zeros_like()?));
        self.parameters.iter().map(zero).collect()
    }
}
