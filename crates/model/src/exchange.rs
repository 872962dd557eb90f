//! Adapter sets in foreign files: imports checkpoints of the reference and safetensors files, and exports PyTorch files.
//!
//! Invariant: imports use the checkpoint reader, with its limits and without executing anything; names, shapes and finiteness are validated before
//! any value is used. An exported set that is imported again is bit-equal.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;

use super::load::{self, Archive, Checkpoint, Part};
use super::{AdapterSet, BackboneConfig, Tensors, file};
use crate::spec::{AdapterConfig, Digest, Head, Invalid};

/// Key of a PyTorch file under which the version's manifest is stored.
pub const MANIFEST_KEY: &str = "frameshift";
/// Names of the last layer's tensors, by what the head is; the paper's is the last one.
const HEADS: [[&str; 2]; 4] = [
    ["head.frames.fc.weight", "head.frames.fc.bias"],
    ["head.conv.fc.weight", "head.conv.fc.bias"],
    ["head.attention.fc.weight", "head.attention.fc.bias"],
    ["fc.weight", "fc.bias"],
];

/// Reason why a file is not an adapter set for this backbone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read, or holds values that are not finite.
    #[error(transparent)]
    Load(#[from] load::Error),
    /// The tensors of the file do not fit the model.
    #[error(transparent)]
    Model(#[from] super::Error),
    /// The file has no head.
    #[error("the file has no {0:?}: it is not a checkpoint of an ST-Adapter or a linear probe")]
    NoHead(&'static str),
    /// The tensors of the file do not have the shapes of one adapter configuration.
    #[error("its adapters are not of one shape: {0}")]
    Shape(#[source] Invalid),
    /// The file was trained on another backbone.
    #[error("it was trained on backbone {got}, the resident one is {expected}")]
    Backbone {
        /// Digest of the resident backbone.
        expected: Digest,
        /// Digest of the backbone in the file.
        got: Digest,
    },
}

/// Adapter set that was read from a file.
#[derive(Debug)]
pub struct Imported {
    /// Positions and shape of the adapters.
    pub adapter: AdapterConfig,
    /// Number of classes of the head.
    pub classes: usize,
    /// Whether the file also contains the frozen backbone; its digest was then compared with that of the resident one.
    pub whole: bool,
    tensors: Tensors,
}

/// Returns the texts in a file: the metadata of a safetensors file, or the strings of a PyTorch file.
pub fn texts(archive: &Archive) -> BTreeMap<String, String> {
    match archive.torch() {
        Some(torch) => torch.texts.iter().cloned().collect(),
        None => archive.header().metadata.clone(),
    }
}

/// Reads an adapter set from a file; `digest` is that of the resident backbone.
///
/// # Errors
/// When the file cannot be read, does not fit the backbone, or was trained on another one.
pub fn read(
    archive: Archive,
    backbone: &BackboneConfig,
    digest: Digest,
) -> Result<Imported, Error> {
    let path = archive.path().to_owned();
    let checkpoint = Checkpoint::single(archive);
    let has = |name: &&str| checkpoint.find(name).is_some();
    let [.., papers] = HEADS;
    let head = HEADS.into_iter().find(|head| has(&head[0]));
    let head = head.unwrap_or(papers);
    if let Some(missing) = head.into_iter().find(|name| !has(name)) {
        return Err(Error::NoHead(missing));
    }
    let own = |name: &str| load::is_head(name) || load::is_adapter(name);
    let shapes: BTreeMap<&str, &[usize]> = checkpoint
        .names()
        .filter(|name| own(name))
        .filter_map(|name| Some((name, checkpoint.find(name)?.1.shape.as_slice())))
        .collect();
    let adapter = shape_of(&shapes, backbone).map_err(Error::Shape)?;
    let classes = shapes[head[0]].first().copied().unwrap_or(0);
    let whole = checkpoint.names().any(|name| !own(name));
    // Names and shapes are validated before values are read, so that the backbone and the configuration bound the size of a tensor.
    super::adapter::check_shapes(&shapes, backbone, adapter, classes)?;
    let mut tensors = Tensors::new();
    for name in shapes.keys() {
        tensors.insert((*name).to_owned(), checkpoint.values(name)?);
    }
    if whole {
        let got = load::whole_plan(&path, checkpoint)?.digest()?;
        if got != digest {
            let expected = digest;
            return Err(Error::Backbone { expected, got });
        }
    }
    Ok(Imported {
        adapter,
        classes,
        whole,
        tensors,
    })
}

impl Imported {
    /// Converts the tensors to a set with a task's configuration.
    ///
    /// # Errors
    /// When a tensor is missing, unexpected or has another shape; the error names the first such tensor.
    pub fn into_set(
        self,
        backbone: &BackboneConfig,
        adapter: AdapterConfig,
    ) -> Result<AdapterSet, super::Error> {
        AdapterSet::from_tensors(self.tensors, backbone, adapter, self.classes)
    }

    /// Converts the tensors to the file of a set with a task's configuration, byte for byte as [`AdapterSet::to_safetensors`] writes it without metadata, but
    /// without packing weights that nobody multiplies by. Also returns the number of weights.
    ///
    /// # Errors
    /// Same as [`Imported::into_set`].
    pub fn into_file(
        self,
        sizes: &BackboneConfig,
        adapter: AdapterConfig,
    ) -> Result<(Vec<u8>, u64), super::Error> {
        AdapterSet::check(&self.tensors, sizes, adapter, self.classes)?;
        let weights = self.tensors.values().map(|(_, values)| values.len() as u64);
        let parameters = weights.sum();
        let bytes = file::write(&self.tensors, &BTreeMap::new(), load::Float::F32);
        Ok((bytes, parameters))
    }

    /// Returns whether both configurations have the same head, and put the same adapters into a backbone of `layers` blocks.
    pub fn is_same_shape(a: &AdapterConfig, b: &AdapterConfig, layers: usize) -> bool {
        let blocks = |config: &AdapterConfig| {
            let own = config
                .adapter_layers
                .map_or(layers, |own| own.get() as usize);
            (own, config.adapter_width, config.adapter_kernel_size)
        };
        let sites = |config: &AdapterConfig| (config.adapter_pre_attn, config.adapter_pre_mlp);
        let sites_agree = sites(a) == sites(b) && (!a.has_sites() || blocks(a) == blocks(b));
        a.head == b.head && sites_agree
    }
}

/// Derives the head from the tensors.
fn head_of(shapes: &BTreeMap<&str, &[usize]>, backbone: &BackboneConfig) -> Result<Head, Invalid> {
    let [[frames, _], [conv, _], [attention, _], _] = HEADS;
    let count = |name: &str, values: usize, of_frame: usize| {
        let count = u16::try_from(values / of_frame.max(1)).ok();
        count.and_then(NonZeroU16::new).ok_or_else(|| {
            let problem = format!("{name} has {values} values, which are not of frames");
            Invalid::new("head", problem)
        })
    };
    if let Some(shape) = shapes.get(frames) {
        let columns = shape.get(1).copied().unwrap_or(0);
        return count(frames, columns, backbone.width).map(Head::Frames);
    }
    if shapes.contains_key(attention) {
        let positions = shapes.get("head.attention.positions");
        let rows = positions.and_then(|shape| shape.first().copied());
        return count(attention, rows.unwrap_or(0), 1).map(Head::Attention);
    }
    Ok(match shapes.contains_key(conv) {
        true => Head::Conv,
        false => Head::Mean,
    })
}

/// Derives head, width, kernel, sites and blocks from the tensors; later checks of all shapes find out whether the tensors agree.
fn shape_of(
    shapes: &BTreeMap<&str, &[usize]>,
    backbone: &BackboneConfig,
) -> Result<AdapterConfig, Invalid> {
    let layers = backbone.layers;
    let mut config = AdapterConfig {
        head: head_of(shapes, backbone)?,
        ..AdapterConfig::LINEAR_PROBE
    };
    let mut first = None;
    for (name, shape) in shapes.iter().filter(|(name, _)| load::is_adapter(name)) {
        let mut parts = name.split('.').skip(2);
        let (Some(block), Some(site)) = (parts.next(), parts.next()) else {
            continue;
        };
        let block: usize = block
            .parse()
            .map_err(|_| Invalid::new("adapter_layers", format!("block {block:?}")))?;
        first = Some(first.map_or(block, |first: usize| first.min(block)));
        match site {
            "adapter_pre_attn" => config.adapter_pre_attn = true,
            _ => config.adapter_pre_mlp = true,
        }
        if let (true, &[width, _, t, h, w]) = (name.ends_with(".conv.weight"), *shape) {
            let [width, t, h, w] =
                [width, t, h, w].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
            config.adapter_width = width;
            config.adapter_kernel_size = [t, h, w];
        }
    }
    let Some(first) = first else {
        config.validate()?;
        return Ok(config);
    };
    let count = layers.checked_sub(first).filter(|&count| count > 0);
    let count = count.ok_or_else(|| {
        let problem = format!("adapters in block {first}, the backbone has {layers} blocks");
        Invalid::new("adapter_layers", problem)
    })?;
    if count < layers {
        config.adapter_layers = u32::try_from(count).ok().and_then(NonZeroU32::new);
    }
    config.validate()?;
    Ok(config)
}

/// Converts a set in a safetensors file to a PyTorch file, which the reference's `load_model` and `torch.load(weights_only=True)` read. The file's
/// metadata is stored in it as one text. Equal arguments give equal bytes.
///
/// # Errors
/// When the file is not a safetensors file of floats.
pub fn to_torch(safetensors: &[u8]) -> Result<Vec<u8>, super::Error> {
    let header = load::Header::parse(safetensors).map_err(super::Error::Safetensors)?;
    // The metadata maps texts to texts, so serde_json cannot fail.
    let manifest = serde_json::to_string(&header.metadata).unwrap_or_default();
    let tensors = file::read(safetensors)?;
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort_by_key(|name| place(name));
    let parts: Vec<Part<'_>> = names
        .into_iter()
        .map(|name| {
            let (shape, values) = &tensors[name];
            Part {
                name,
                shape,
                values,
            }
        })
        .collect();
    Ok(load::write_torch(
        &parts,
        &[(MANIFEST_KEY, manifest.as_str())],
    ))
}

/// Returns the sort key of a tensor in the order of the reference's state dictionaries: by block, by site, by layer; the head last.
fn place(name: &str) -> (usize, bool, usize, String) {
    const LAYERS: [&str; 3] = ["fc1", "conv", "fc2"];
    let parts: Vec<&str> = name.split('.').collect();
    let layer = parts.iter().rev().nth(1).copied().unwrap_or_default();
    let rank = LAYERS
        .iter()
        .position(|own| *own == layer)
        .unwrap_or(LAYERS.len());
    let block = parts.get(2).and_then(|block| block.parse().ok());
    let is_weight = name.ends_with(".weight");
    let last = format!("{}{name}", if is_weight { 0 } else { 1 });
    let is_late = parts.get(3) != Some(&"adapter_pre_attn");
    (block.unwrap_or(usize::MAX), is_late, rank, last)
}

/// Returns the name that stands for an imported file in messages.
pub fn label() -> &'static Path {
    Path::new("the file")
}

#[cfg(test)]
mod tests;
