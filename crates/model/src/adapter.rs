//! Adapters and head of a task, immutable.
//!
//! Invariant: the names, shapes and order of the weights follow from the configuration, the backbone and the number of classes alone.

use std::collections::BTreeMap;

use super::block::Sites;
use super::head::Head;
use super::layout::{Layout, Named};
use super::load::Float;
use super::ops::depthwise::Extent;
use super::ops::placed::{Depthwise, is_same};
use super::ops::{Array, Place};
use super::site::{Adapter, Site};
use super::weights::{Linear, Mode};
use super::{Backbone, BackboneConfig, Error, Tensors, backbone, file};
use crate::rng::Stream;
use crate::spec::{AdapterConfig, Invalid, Precision};

/// Beginning of the names of adapters.
const BLOCKS: &str = "transformer.resblocks.";

/// Adapters of one block. Most sets have one of the two, and thousands of sets are in memory, so that one that is absent takes no more than a pointer.
#[derive(Default)]
struct Pair {
    pre_attn: Option<Box<Adapter>>,
    pre_mlp: Option<Box<Adapter>>,
}

/// All adapters of a task and its head, immutable.
pub struct AdapterSet {
    pub(super) form: Layout,
    /// Adapters of each block, from the lowest block with adapters upwards.
    pairs: Vec<Pair>,
    pub(super) head: Head,
    /// Where the adapters are; the head is on the host.
    place: Place,
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
        Self::build(form, &Mode::frozen(Precision::F32, None), |name| {
            whole(values.remove(name).ok_or_else(|| missing(name))?)
        })
    }

    /// Returns this set for more classes: their rows of the last layer follow its own, which keep every bit, and begin as those of a fresh set of so many
    /// classes do.
    ///
    /// # Errors
    /// When there are fewer classes than the set has, or the set does not fit the backbone.
    pub fn grown(
        &self,
        backbone: &BackboneConfig,
        classes: usize,
        rng: &Stream,
    ) -> Result<Self, Error> {
        self.fits(backbone)?;
        let mut tensors = Self::fresh(backbone, self.config(), classes, rng)?.tensors()?;
        for (name, (_, values)) in self.tensors()? {
            // Rows of the last layer follow one another, and no other weight depends on the classes.
            let grown = tensors.get_mut(&name).ok_or_else(|| missing(&name))?;
            let Some(own) = grown.1.get_mut(..values.len()) else {
                let problem = format!("the set has {}, got {classes}", self.classes());
                return Err(Error::Value(Invalid::new("classes", problem)));
            };
            own.copy_from_slice(&values);
        }
        Self::from_tensors(tensors, backbone, self.config(), classes)
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

    /// Reads a set that [`Self::to_safetensors`] wrote as this backbone serves it: every bit is as [`Self::from_safetensors`] and [`Self::beside`] give it.
    /// On the host no copy of all its weights is made on the way, only one of each tensor in turn.
    ///
    /// # Errors
    /// When a tensor is missing, unexpected or has another shape, or a value is not finite; when there is no memory for the weights.
    pub fn read_beside(
        bytes: &[u8],
        backbone: &Backbone,
        config: AdapterConfig,
        classes: usize,
    ) -> Result<Self, Error> {
        let sizes = backbone.config();
        if !backbone.place().is_host() {
            return Self::from_safetensors(bytes, sizes, config, classes)?.beside(backbone);
        }
        let form = Layout::new(sizes, config, classes)?;
        let file = file::Parsed::new(bytes)?;
        check_shapes(&file.shapes(), sizes, config, classes)?;
        let mode = Mode::frozen(backbone.precision(), None);
        Self::build(form, &mode, |name| whole(file.values(name)?))
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
        let form = Self::check(&tensors, backbone, config, classes)?;
        Self::build(form, &Mode::frozen(Precision::F32, None), |name| {
            let taken = tensors.remove(name).ok_or_else(|| missing(name))?;
            whole(taken.1)
        })
    }

    /// Returns the layout of a set of these tensors.
    ///
    /// # Errors
    /// Same as [`Self::from_tensors`].
    pub(super) fn check(
        tensors: &Tensors,
        backbone: &BackboneConfig,
        config: AdapterConfig,
        classes: usize,
    ) -> Result<Layout, Error> {
        let form = Layout::new(backbone, config, classes)?;
        backbone::check(&form.weights().into_iter().collect(), tensors)?;
        Ok(form)
    }

    /// Writes the set as f32 safetensors under the reference's names (`transformer.resblocks.N.adapter_pre_mlp.fc1.weight` …, `fc.weight`,
    /// `fc.bias`; heads that the reference does not have begin with `head.` and their kind); equal sets and metadata give equal bytes.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn to_safetensors(&self, metadata: BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
        let tensors = self.tensors()?;
        Ok(file::write(&tensors, &metadata, Float::F32))
    }

    /// Returns all weights by name, read back from where they are.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn tensors(&self) -> Result<Tensors, Error> {
        let mut tensors = Tensors::new();
        for (name, shape) in self.form.weights() {
            let values = self.values(&name)?;
            tensors.insert(name, (shape, values));
        }
        Ok(tensors)
    }

    /// Returns the memory of the weights in bytes.
    pub fn bytes(&self) -> u64 {
        let adapters = self.pairs.iter().flat_map(|p| [&p.pre_attn, &p.pre_mlp]);
        self.head.bytes() + adapters.flatten().map(|own| own.bytes()).sum::<u64>()
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

    /// Returns whether blocks with adapters have one before attention, and not only one before the MLP.
    pub(super) fn adapts_attention(&self) -> bool {
        self.form.config.adapter_pre_attn
    }

    /// Returns the frames to either side that an adapter in a block looks at, before attention or before the MLP; 0 where there is none.
    pub(super) fn reach(&self, block: usize, is_before_attention: bool) -> usize {
        let config = &self.form.config;
        let is_there = match is_before_attention {
            true => config.adapter_pre_attn,
            false => config.adapter_pre_mlp,
        };
        match is_there && block >= self.first_block() {
            true => self.form.kernel()[0] / 2,
            false => 0,
        }
    }

    /// Returns the set on the host with its weights rounded as a backbone of this precision serves it; keep `self` where they must stay exact.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn in_precision(&self, precision: Precision) -> Result<Self, Error> {
        self.placed(precision, &Place::Host)
    }

    /// Returns the set as this backbone serves it: with its weights rounded, and where the backbone's are.
    ///
    /// # Errors
    /// When the weights cannot be read, or there is no memory for them.
    pub fn beside(&self, backbone: &Backbone) -> Result<Self, Error> {
        self.placed(backbone.precision(), backbone.place())
    }

    /// Returns whether the set is where this backbone is.
    pub(super) fn is_beside(&self, backbone: &Backbone) -> bool {
        is_same(&self.place, backbone.place())
    }

    /// Returns the set rounded to this precision, with its adapters in this place.
    fn placed(&self, precision: Precision, place: &Place) -> Result<Self, Error> {
        let mode = Mode::frozen(precision, None).at(place);
        let of_adapters = mode.without_integers();
        let rounded = |adapter: &Option<Box<Adapter>>| {
            let adapter = adapter.as_ref();
            let rounded = adapter.map(|own| own.in_mode(&of_adapters));
            rounded.transpose().map(|own| own.map(Box::new))
        };
        let pairs = self.pairs.iter().map(|pair| {
            Ok::<_, Error>(Pair {
                pre_attn: rounded(&pair.pre_attn)?,
                pre_mlp: rounded(&pair.pre_mlp)?,
            })
        });
        Ok(Self {
            form: self.form,
            pairs: pairs.collect::<Result<_, Error>>()?,
            head: self.head.in_mode(&mode.exact())?,
            place: place.clone(),
        })
    }

    pub(super) fn build(
        form: Layout,
        mode: &Mode,
        mut fetch: impl FnMut(&str) -> Result<Array, Error>,
    ) -> Result<Self, Error> {
        let (c, w) = (form.width, form.config.adapter_width as usize);
        let (mode, of_head) = (&mode.without_integers(), mode.exact());
        let mut adapter = |present: bool, block: usize, kind: &str| {
            if !present {
                return Ok(None);
            }
            let mut part =
                |rest: &str| fetch(&format!("transformer.resblocks.{block}.{kind}.{rest}"));
            let fc1 = Linear::of(&part("fc1.weight")?, c, &part("fc1.bias")?, mode)?;
            let fc2 = Linear::of(&part("fc2.weight")?, w, &part("fc2.bias")?, mode)?;
            let (weight, bias) = (part("conv.weight")?, part("conv.bias")?);
            let conv = Depthwise::new(&weight, &bias, form.kernel(), mode.place())?;
            Ok::<_, Error>(Some(Box::new(Adapter { fc1, conv, fc2 })))
        };
        let mut pairs = Vec::new();
        for block in form.first()..form.layers {
            pairs.push(Pair {
                pre_attn: adapter(form.config.adapter_pre_attn, block, "adapter_pre_attn")?,
                pre_mlp: adapter(form.config.adapter_pre_mlp, block, "adapter_pre_mlp")?,
            });
        }
        let head = Head::build(form.head(), &of_head, fetch)?;
        let place = mode.place().clone();
        Ok(Self {
            form,
            pairs,
            head,
            place,
        })
    }

    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>, Error> {
        if !name.starts_with(BLOCKS) {
            return self.head.values(name);
        }
        let parts: Vec<&str> = name.split('.').collect();
        let &[_, _, block, kind, .., layer, part] = parts.as_slice() else {
            return Ok(Vec::new());
        };
        let pair = block
            .parse::<usize>()
            .ok()
            .and_then(|block| self.pairs.get(block.checked_sub(self.form.first())?));
        let adapter = pair.and_then(|pair| match kind {
            "adapter_pre_attn" => pair.pre_attn.as_deref(),
            _ => pair.pre_mlp.as_deref(),
        });
        let (weight, bias) = match (adapter, layer) {
            (Some(adapter), "fc1") => adapter.fc1.unpacked()?,
            (Some(adapter), "fc2") => adapter.fc2.unpacked()?,
            (Some(adapter), _) => adapter.conv.unpacked()?,
            (None, _) => return Ok(Vec::new()),
        };
        Ok(if part == "weight" { weight } else { bias })
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
            .push(site(pair.and_then(|pair| pair.pre_attn.as_deref())));
        sites
            .pre_mlp
            .push(site(pair.and_then(|pair| pair.pre_mlp.as_deref())));
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

/// Returns the values of a weight as an array without a shape of its own.
fn whole(values: Vec<f32>) -> Result<Array, Error> {
    let count = values.len();
    Ok(Array::of(values, count)?)
}

pub(super) fn missing(name: &str) -> Error {
    Error::MissingTensor {
        name: name.to_owned(),
    }
}
