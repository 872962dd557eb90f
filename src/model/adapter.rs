//! Adapters and head of a task, immutable.
//!
//! Invariant: the names, shapes and order of the weights follow from the configuration, the backbone and the number of classes alone.

use std::collections::BTreeMap;

use super::block::Sites;
use super::head::Head;
use super::layout::{Layout, Named};
use super::load::Float;
use super::ops::depthwise::{Depthwise, Extent};
use super::site::{Adapter, Site};
use super::weights::{Linear, Mode};
use super::{BackboneConfig, Error, Tensors, backbone, file};
use crate::rng::Stream;
use crate::spec::{AdapterConfig, Precision};

/// Beginning of the names of adapters.
const BLOCKS: &str = "transformer.resblocks.";

/// Adapters of one block.
#[derive(Default)]
struct Pair {
    pre_attn: Option<Adapter>,
    pre_mlp: Option<Adapter>,
}

/// All adapters of a task and its head, immutable.
pub struct AdapterSet {
    pub(super) form: Layout,
    /// Adapters of each block, from the lowest block with adapters upwards.
    pairs: Vec<Pair>,
    pub(super) head: Head,
}

impl std::fmt::Debug for AdapterSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterSet")
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

impl AdapterSet {
    /// Creates a set whose adapters compute the identity: convolutions and biases are 0, fc1 and fc2 uniform within 1 / √inputs, the paper's head normal
    /// with standard deviation 0.02, as every head's last layer is on as many inputs.
    ///
    /// # Errors
    /// When the configuration does not fit the backbone, or there are no classes.
    pub fn fresh(
        backbone: &BackboneConfig,
        config: AdapterConfig,
        classes: usize,
        rng: &Stream,
    ) -> Result<Self, Error> {
        let form = Layout::new(backbone, config, classes)?;
        let mut values = BTreeMap::new();
        for (i, (name, shape)) in form.weights().into_iter().enumerate() {
            let mut stream = rng.fork(i as u64);
            let count = shape.iter().product();
            let fill: Vec<f32> = if !name.starts_with(BLOCKS) {
                form.head().initial(&name, &shape, &mut stream)
            } else if name.ends_with("fc1.weight") || name.ends_with("fc2.weight") {
                let bound = 1.0 / (shape[1] as f32).sqrt();
                (0..count).map(|_| stream.range(-bound, bound)).collect()
            } else {
                vec![0.0; count]
            };
            values.insert(name, fill);
        }
        Self::build(form, &Mode::Frozen(Precision::F32, None), |name| {
            values.remove(name).ok_or_else(|| missing(name))
        })
    }

    /// Reads a set that [`Self::to_safetensors`] wrote (f32; f16 and bf16 are widened).
    ///
    /// # Errors
    /// When a tensor is missing, unexpected, not finite or has another shape; the error names the first such tensor.
    pub fn from_safetensors(
        bytes: &[u8],
        backbone: &BackboneConfig,
        config: AdapterConfig,
        classes: usize,
    ) -> Result<Self, Error> {
        let tensors = file::read(bytes)?;
        Self::from_tensors(tensors, backbone, config, classes)
    }

    /// Builds a set from tensors with the reference's names.
    ///
    /// # Errors
    /// When a tensor is missing, unexpected, not finite or has another shape; the error names the first such tensor.
    pub fn from_tensors(
        mut tensors: Tensors,
        backbone: &BackboneConfig,
        config: AdapterConfig,
        classes: usize,
    ) -> Result<Self, Error> {
        let form = Layout::new(backbone, config, classes)?;
        backbone::check(&form.weights().into_iter().collect(), &tensors)?;
        Self::build(form, &Mode::Frozen(Precision::F32, None), |name| {
            let taken = tensors.remove(name).ok_or_else(|| missing(name))?;
            Ok(taken.1)
        })
    }

    /// Writes the set as f32 safetensors under the reference's names (`transformer.resblocks.N.adapter_pre_mlp.fc1.weight` …, `fc.weight`,
    /// `fc.bias`; heads that the reference does not have begin with `head.` and their kind); equal sets and metadata give equal bytes.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn to_safetensors(&self, metadata: BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
        let tensors = self.tensors();
        Ok(file::write(&tensors, &metadata, Float::F32))
    }

    /// Returns all weights by name.
    pub fn tensors(&self) -> Tensors {
        let mut tensors = Tensors::new();
        for (name, shape) in self.form.weights() {
            let values = self.values(&name);
            tensors.insert(name, (shape, values));
        }
        tensors
    }

    /// Returns the memory of the weights in bytes.
    pub fn bytes(&self) -> u64 {
        let adapters = self.pairs.iter().flat_map(|p| [&p.pre_attn, &p.pre_mlp]);
        self.head.bytes() + adapters.flatten().map(Adapter::bytes).sum::<u64>()
    }

    /// Returns the number of weights.
    pub fn parameters(&self) -> u64 {
        let count = |named: &Named| named.1.iter().product::<usize>() as u64;
        self.form.weights().iter().map(count).sum()
    }

    /// Returns the number of classes, which is the number of rows of the head.
    pub fn classes(&self) -> usize {
        self.form.classes
    }

    /// Returns the positions and shape of the adapters.
    pub fn config(&self) -> AdapterConfig {
        self.form.config
    }

    /// Returns an error unless the head can read clips of so many frames.
    pub(super) fn reads_frames(&self, got: usize) -> Result<(), Error> {
        match self.form.config.head.num_frames() {
            Some(own) if usize::from(own.get()) != got => Err(Error::HeadFrames {
                expected: own.get().into(),
                got,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns the index of the lowest block with an adapter; the number of blocks when there is none.
    pub(super) fn first_block(&self) -> usize {
        self.form.first()
    }

    /// Returns the set with its weights rounded as a backbone of this precision serves it; keep `self` where they must stay exact.
    #[must_use]
    pub fn in_precision(&self, precision: Precision) -> Self {
        let mode = Mode::Frozen(precision, None);
        let pairs = self.pairs.iter().map(|pair| {
            let rounded = |adapter: &Option<Adapter>| {
                let mode = mode.without_integers();
                adapter.as_ref().map(|adapter| adapter.in_mode(&mode))
            };
            Pair {
                pre_attn: rounded(&pair.pre_attn),
                pre_mlp: rounded(&pair.pre_mlp),
            }
        });
        Self {
            form: self.form,
            pairs: pairs.collect(),
            head: self.head.in_mode(&mode.exact()),
        }
    }

    pub(super) fn build(
        form: Layout,
        mode: &Mode,
        mut fetch: impl FnMut(&str) -> Result<Vec<f32>, Error>,
    ) -> Result<Self, Error> {
        let (c, w) = (form.width, form.config.adapter_width as usize);
        let (mode, of_head) = (&mode.without_integers(), mode.exact());
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
        let head = Head::build(form.head(), &of_head, fetch)?;
        Ok(Self { form, pairs, head })
    }

    pub(super) fn values(&self, name: &str) -> Vec<f32> {
        if !name.starts_with(BLOCKS) {
            return self.head.values(name);
        }
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
            return Vec::new();
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

    /// Returns an error unless the set was made for a backbone of these sizes.
    pub(super) fn fits(&self, backbone: &BackboneConfig) -> Result<(), Error> {
        if self.form.width != backbone.width || self.form.layers != backbone.layers {
            return Err(Error::Mismatch {
                expected: (backbone.width, backbone.layers),
                got: (self.form.width, self.form.layers),
            });
        }
        Ok(())
    }

    /// Appends this set's adapters in a block to those of the batch.
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
            sums: None,
        };
        sites
            .pre_attn
            .push(site(pair.and_then(|pair| pair.pre_attn.as_ref())));
        sites
            .pre_mlp
            .push(site(pair.and_then(|pair| pair.pre_mlp.as_ref())));
    }
}

/// Checks the names and shapes of a set's tensors before their values are read.
pub(super) fn check_shapes(
    shapes: &BTreeMap<&str, &[usize]>,
    backbone: &BackboneConfig,
    config: AdapterConfig,
    classes: usize,
) -> Result<(), Error> {
    let expected: BTreeMap<String, Vec<usize>> = Layout::new(backbone, config, classes)?
        .weights()
        .into_iter()
        .collect();
    for (name, shape) in &expected {
        let got = shapes.get(name.as_str()).ok_or_else(|| missing(name))?;
        if got != shape {
            return Err(Error::WrongShape {
                name: name.clone(),
                expected: shape.clone(),
                got: got.to_vec(),
            });
        }
    }
    match shapes.keys().find(|name| !expected.contains_key(**name)) {
        Some(name) => Err(Error::UnexpectedTensor {
            name: (*name).to_owned(),
        }),
        None => Ok(()),
    }
}

pub(super) fn missing(name: &str) -> Error {
    Error::MissingTensor {
        name: name.to_owned(),
    }
}
