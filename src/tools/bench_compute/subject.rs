//! What is timed: a backbone, adapter sets and clips, random or from files, and the arithmetic that they need.

use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;
use serde::Serialize;

use super::loading::{self, Loaded, Loading};
use super::{Args, Error, On, What};
use crate::model::{self, Activation, AdapterSet, Backbone, BackboneConfig, Segment, load};
use crate::rng::Stream;
use crate::spec::{AdapterConfig, Head, Invalid, Normalization};

/// The official adapter configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Preset {
    /// A head alone.
    #[value(name = "bare")]
    #[serde(rename = "bare")]
    Bare,
    /// Width 384 before every MLP.
    #[value(name = "12x384")]
    #[serde(rename = "12x384")]
    PreMlp,
    /// Width 384 before attention and MLP of every block.
    #[value(name = "24x384")]
    #[serde(rename = "24x384")]
    Both,
}

impl Args {
    /// The adapters of the sets.
    fn adapter(&self) -> AdapterConfig {
        AdapterConfig {
            adapter_layers: self.last_blocks,
            ..self.preset.config()
        }
    }
}

impl Preset {
    fn config(self) -> AdapterConfig {
        AdapterConfig {
            adapter_width: 384,
            adapter_layers: None,
            adapter_kernel_size: [3, 1, 1],
            adapter_pre_attn: self == Self::Both,
            adapter_pre_mlp: self != Self::Bare,
            head: Head::Mean,
        }
    }
}

/// Backbones by their sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Size {
    /// Two narrow blocks, to try a command.
    Tiny,
    /// CLIP ViT-B/32.
    VitB32,
    /// CLIP ViT-B/16.
    VitB16,
    /// CLIP ViT-L/14.
    VitL14,
    /// CLIP ViT-L/14 at 336 pixels.
    #[value(name = "vit_l14_336")]
    VitL14At336,
    /// ImageNet ViT-S/16.
    TimmS16,
    /// ImageNet ViT-B/16.
    TimmB16,
    /// ImageNet ViT-L/16.
    TimmL16,
}

impl Size {
    /// The shape of the backbone.
    pub(in crate::tools) fn config(self) -> BackboneConfig {
        let (image_size, patch_size, width, layers) = match self {
            Self::Tiny => (48, 16, 128, 2),
            Self::VitB32 => (224, 32, 768, 12),
            Self::VitB16 | Self::TimmB16 => (224, 16, 768, 12),
            Self::VitL14 => (224, 14, 1024, 24),
            Self::VitL14At336 => (336, 14, 1024, 24),
            Self::TimmS16 => (224, 16, 384, 12),
            Self::TimmL16 => (224, 16, 1024, 24),
        };
        let clip = !matches!(self, Self::TimmS16 | Self::TimmB16 | Self::TimmL16);
        BackboneConfig {
            image_size,
            patch_size,
            width,
            layers,
            heads: width / 64,
            mlp_width: 4 * width,
            activation: if clip {
                Activation::QuickGelu
            } else {
                Activation::Gelu
            },
            eps: if clip { 1e-5 } else { 1e-6 },
            pre_norm: clip,
            patch_bias: !clip,
            normalization: Normalization::CLIP,
        }
    }

    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Everything that a run needs.
pub(super) struct Subject {
    pub(super) backbone: Arc<Backbone>,
    /// The first adapter set, not rounded.
    pub(super) exact: AdapterSet,
    sets: Vec<Arc<AdapterSet>>,
    pub(super) clips: Vec<Arc<[f32]>>,
    frames: usize,
    /// Time from the checkpoint (or random tensors) to packed weights.
    pub(super) load_ms: f64,
    /// Cost of loading a checkpoint.
    pub(super) loading: Option<Loading>,
}

impl Subject {
    pub(super) fn new(args: &Args, on: &On) -> Result<Self, Error> {
        let (frames, batch, sets) = (args.frames.get(), args.batch.get(), args.sets.get());
        if !batch.is_multiple_of(sets) {
            let problem = format!("{sets} do not divide a batch of {batch}");
            return Err(Error::Argument(Invalid::new("sets", problem)));
        }
        let Loaded {
            backbone,
            load_ms,
            loading,
        } = loading::load(args, on)?;
        let shape = backbone.config();
        let exact = match &args.set {
            Some(path) => read_set(path, shape, args.adapter())?,
            None => random_set(shape, args.adapter(), 0)?,
        };
        let mut all = vec![Arc::new(exact.beside(&backbone)?)];
        for i in 1..sets {
            let set = random_set(shape, args.adapter(), i as u64)?;
            all.push(Arc::new(set.beside(&backbone)?));
        }
        Ok(Self {
            clips: clips(args.input.as_deref(), batch, frames * shape.frame_len())?,
            backbone: Arc::new(backbone),
            exact,
            sets: all,
            frames,
            load_ms,
            loading,
        })
    }

    /// Segments with as many clips for each set.
    pub(super) fn segments(&self) -> Vec<Segment> {
        let own = self.clips.len() / self.sets.len();
        let segment = |(i, set): (usize, &Arc<AdapterSet>)| Segment {
            set: Arc::clone(set),
            clips: i * own..(i + 1) * own,
            num_frames: self.frames,
        };
        self.sets.iter().enumerate().map(segment).collect()
    }

    /// All clips for the first set.
    pub(super) fn one_segment(&self) -> Vec<Segment> {
        let segment = |set: &Arc<AdapterSet>| Segment {
            set: Arc::clone(set),
            clips: 0..self.clips.len(),
            num_frames: self.frames,
        };
        self.sets.first().map(segment).into_iter().collect()
    }

    /// 10⁹ operations (two for a multiply-add) by the formula, without what the last block's shortcut saves: so figures compare with others'.
    pub(super) fn gflop_per_clip(&self, what: What) -> f64 {
        let shape = self.backbone.config();
        let (c, l) = (shape.width as f64, shape.tokens() as f64);
        let patch = (3 * shape.patch_size * shape.patch_size) as f64;
        let block = l * c * (4.0 * c + 2.0 * shape.mlp_width as f64) + 2.0 * l * l * c;
        let frozen = (l - 1.0) * patch * c + shape.layers as f64 * block;
        let config = self.exact.config();
        let kinds = f64::from(u8::from(config.adapter_pre_attn))
            + f64::from(u8::from(config.adapter_pre_mlp));
        let width = f64::from(config.adapter_width);
        let taps: f64 = config
            .adapter_kernel_size
            .iter()
            .map(|&k| f64::from(k))
            .product();
        let adapter = (l - 1.0) * width * (2.0 * c + taps);
        let adapters = kinds * shape.layers as f64 * adapter;
        // Frozen layers have a gradient of their input alone; adapters also of their weights.
        let (of_frozen, of_adapters) = match what {
            What::Load => (0.0, 0.0),
            What::Infer => (1.0, 1.0),
            What::Train if kinds == 0.0 => (1.0, 1.0),
            What::Train => (2.0, 3.0),
        };
        2e-9 * self.frames as f64 * (of_frozen * frozen + of_adapters * adapters)
    }
}

/// Classes of the sets that are timed: those of Kinetics-400.
const CLASSES: usize = 400;

/// A set whose adapters do something: convolutions that are not 0.
fn random_set(
    shape: &BackboneConfig,
    config: AdapterConfig,
    seed: u64,
) -> Result<AdapterSet, Error> {
    Ok(random_classes(shape, config, CLASSES, seed)?)
}

/// Makes a set of random weights for this many classes, equal for equal arguments; its convolutions are not 0, so that its adapters do something.
///
/// # Errors
/// When the configuration does not fit the backbone.
pub(in crate::tools) fn random_classes(
    shape: &BackboneConfig,
    config: AdapterConfig,
    classes: usize,
    seed: u64,
) -> Result<AdapterSet, model::Error> {
    let rng = Stream::new(seed, "bench/set");
    let fresh = AdapterSet::fresh(shape, config, classes, &rng)?;
    let mut tensors = fresh.tensors()?;
    for (i, (name, (_, values))) in tensors.iter_mut().enumerate() {
        let mut rng = rng.fork(1000 + i as u64);
        if name.ends_with("conv.weight") {
            values.fill_with(|| rng.range(-0.5, 0.5));
        }
    }
    AdapterSet::from_tensors(tensors, shape, config, classes)
}

fn read_set(
    path: &Path,
    shape: &BackboneConfig,
    config: AdapterConfig,
) -> Result<AdapterSet, Error> {
    let archive = load::Archive::open(path).map_err(|source| Error::Backbone {
        path: path.to_owned(),
        source,
    })?;
    let classes = archive
        .header()
        .entries
        .iter()
        .find(|entry| entry.name == "fc.bias");
    let classes = classes.and_then(|entry| entry.shape.first().copied());
    let Some(classes) = classes else {
        let problem = format!("{} has no fc.bias", path.display());
        return Err(Error::Argument(Invalid::new("set", problem)));
    };
    Ok(AdapterSet::from_safetensors(
        archive.bytes(),
        shape,
        config,
        classes,
    )?)
}

fn clips(path: Option<&Path>, batch: usize, len: usize) -> Result<Vec<Arc<[f32]>>, Error> {
    let Some(path) = path else {
        let rng = Stream::new(1, "bench/clips");
        let clip = |i: usize| {
            let mut rng = rng.fork(i as u64);
            (0..len).map(|_| rng.range(-2.0, 2.0)).collect()
        };
        return Ok((0..batch).map(clip).collect());
    };
    let bytes = read(path)?;
    if bytes.len() != batch * len * size_of::<f32>() {
        let problem = format!(
            "{} has {} bytes, expected {} for this batch",
            path.display(),
            bytes.len(),
            batch * len * size_of::<f32>()
        );
        return Err(Error::Argument(Invalid::new("input", problem)));
    }
    let (values, _) = bytes.as_chunks::<4>();
    let clips = values.chunks_exact(len);
    Ok(clips
        .map(|clip| {
            clip.iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect()
        })
        .collect())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Inference, Keep, Step, TrainableSet, TrainingStep};
    use crate::spec::Digest;

    /// Checks one forward pass and one training step of two blocks.
    fn run(size: Size, frames: usize) {
        let shape = BackboneConfig {
            layers: 2,
            ..size.config()
        };
        let name = size.name();
        let tensors = loading::random_tensors(&name, &shape);
        let backbone = Backbone::from_tensors(&name, shape, Digest([0; 32]), tensors);
        let backbone = Arc::new(backbone.expect("a backbone"));
        let shape = backbone.config();
        let set = random_set(shape, Preset::Both.config(), 0).expect("a set");
        let clips = clips(None, 1, frames * shape.frame_len()).expect("a clip");
        let segment = Segment {
            set: Arc::new(set),
            clips: 0..1,
            num_frames: frames,
        };
        let set = TrainableSet::new(&segment.set).expect("a set");
        let batch = Inference::new(Arc::clone(&backbone), clips.clone(), vec![segment]);
        let mut batch = batch.expect("a batch");
        while batch.advance().expect("a slice") != Step::Done {}
        let logits = batch.into_logits().expect("logits");
        assert!(logits[0].iter().all(|logit| logit.is_finite()), "{name}");

        let step = TrainingStep::new(backbone, &set, clips, &[3], None, Keep::Within(0));
        let mut step = step.expect("a step");
        while step.advance().expect("a slice") != Step::Done {}
        let found = step.finish().expect("a step");
        assert_eq!(found.gradients.len(), set.parameters().len(), "{name}");
        let same = found.logits[0].iter().zip(&logits[0]);
        for (trained, served) in same {
            assert!(
                (trained - served).abs() <= 1e-4 * served.abs().max(1.0),
                "{name}"
            );
        }
    }

    #[test]
    fn every_size_runs_and_trains() {
        for &size in Size::value_variants() {
            run(size, 1);
        }
    }

    #[test]
    fn clips_of_eight_sixteen_and_thirty_two_frames_run_and_train() {
        for frames in [8, 16, 32] {
            run(Size::TimmS16, frames);
        }
        run(Size::VitB32, 32);
    }

    #[test]
    fn sizes_have_the_tokens_and_weights_of_their_models() {
        // Tokens of a frame, and millions of weights of the published models' image side, without what follows the last norm.
        let expected = [
            (Size::Tiny, 10, 0),
            (Size::VitB32, 50, 87),
            (Size::VitB16, 197, 86),
            (Size::VitL14, 257, 303),
            (Size::VitL14At336, 577, 304),
            (Size::TimmS16, 197, 22),
            (Size::TimmB16, 197, 86),
            (Size::TimmL16, 197, 303),
        ];
        assert_eq!(expected.len(), Size::value_variants().len());
        for (size, tokens, millions) in expected {
            let shape = size.config();
            assert_eq!(shape.tokens(), tokens, "{size:?}");
            let shapes = shape.tensors();
            let weights: usize = shapes.values().map(|s| s.iter().product::<usize>()).sum();
            assert_eq!((weights + 500_000) / 1_000_000, millions, "{size:?}");
        }
    }
}
