//! The model through its public interface: batches, slices, threads and restarts must not change a result.

mod training;

use std::sync::{Arc, OnceLock};

use frameshift::device;
use frameshift::model::adamw::{AdamW, Config};
use frameshift::model::{
    Activation, AdapterSet, Backbone, BackboneConfig, Dropout, Error, Features, Inference, Keep,
    Kept, Place, Segment, Step, StepOutput, Tensors, TrainableSet, TrainingStep, adamw, pretrain,
};
use frameshift::rng::Stream;
use frameshift::spec::{AdapterConfig, Digest, Head, Normalization, Precision};
use frameshift::telemetry::Metrics;

pub(crate) fn small() -> BackboneConfig {
    BackboneConfig {
        image_size: 24,
        patch_size: 8,
        width: 40,
        layers: 4,
        heads: 2,
        mlp_width: 72,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        pre_norm: true,
        patch_bias: false,
        normalization: Normalization::CLIP,
    }
}

/// Returns where the model's tests compute: on the host, or on the device that `FRAMESHIFT_TEST_DEVICE` names (`cuda`). A process opens it once.
pub(crate) fn place() -> Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    let open = || match std::env::var("FRAMESHIFT_TEST_DEVICE").as_deref() {
        Ok("cuda") => Place::cuda(0).expect("a GPU"),
        Ok(other) => panic!("there is no test device {other}"),
        Err(_) => Place::Host,
    };
    PLACE.get_or_init(open).clone()
}

/// The place of the tests as a device thread sees it.
struct Watched(Place);

impl device::Health for Watched {
    fn lost(&self) -> Option<Arc<str>> {
        self.0.lost()
    }
}

/// Starts a device thread on the place of the tests.
pub(crate) fn device(metrics: &Metrics) -> (device::Handle, device::Service) {
    let health = Box::new(Watched(place()));
    let started = device::start_on(health, device::Config::default(), metrics.clone());
    started.expect("a device")
}

/// Whether the place of the tests computes in this precision: integers are for hosts only.
pub(crate) fn computes(precision: &Precision) -> bool {
    place().is_host() || *precision != Precision::Int8
}

pub(crate) fn random_tensors(config: &BackboneConfig, seed: u64) -> Tensors {
    let mut rng = Stream::new(seed, "backbone");
    let mut tensors = Tensors::new();
    for (name, shape) in config.tensors() {
        let one = if name.contains("ln_") && name.ends_with("weight") {
            1.0
        } else {
            0.0
        };
        let count = shape.iter().product();
        let values = (0..count).map(|_| one + 0.15 * rng.normal()).collect();
        tensors.insert(name, (shape, values));
    }
    tensors
}

fn backbone() -> Arc<Backbone> {
    backbone_in(Precision::F32)
}

pub(crate) fn backbone_in(precision: Precision) -> Arc<Backbone> {
    let config = small();
    let tensors = random_tensors(&config, 1);
    let of = (config, Digest([7; 32]));
    let made = Backbone::from_tensors_on("small", of, tensors, precision, &place());
    Arc::new(made.expect("a backbone"))
}

pub(crate) fn adapters(
    width: u32,
    layers: u32,
    kernel: [u32; 3],
    pre_attn: bool,
    pre_mlp: bool,
) -> AdapterConfig {
    AdapterConfig {
        adapter_width: width,
        adapter_layers: layers.try_into().ok(),
        adapter_kernel_size: kernel,
        adapter_pre_attn: pre_attn,
        adapter_pre_mlp: pre_mlp,
        head: Head::Mean,
    }
}

/// Returns a set whose weights are all random, so that every adapter has an effect.
pub(crate) fn lively(config: AdapterConfig, classes: usize, seed: u64) -> AdapterSet {
    let rng = Stream::new(seed, "set");
    let fresh = AdapterSet::fresh(&small(), config, classes, &rng).expect("a set");
    let mut rng = rng.fork(99);
    let mut tensors = fresh.tensors().expect("weights");
    for (_, values) in tensors.values_mut() {
        for value in values {
            *value += 0.2 * rng.normal();
        }
    }
    AdapterSet::from_tensors(tensors, &small(), config, classes).expect("a set")
}

pub(crate) fn clip(frames: usize, seed: u64) -> Arc<[f32]> {
    let mut rng = Stream::new(seed, "clip");
    (0..frames * small().frame_len())
        .map(|_| rng.normal())
        .collect()
}

pub(crate) fn finish(mut inference: Inference) -> Vec<Vec<f32>> {
    while inference.advance().expect("a slice") != Step::Done {}
    inference.into_logits().expect("logits")
}

pub(crate) fn alone(
    backbone: &Arc<Backbone>,
    set: &Arc<AdapterSet>,
    clip: &Arc<[f32]>,
    num_frames: usize,
) -> Vec<f32> {
    let segment = Segment {
        set: Arc::clone(set),
        clips: 0..1,
        num_frames,
    };
    let batch = Inference::new(Arc::clone(backbone), vec![Arc::clone(clip)], vec![segment]);
    finish(batch.expect("a batch")).remove(0)
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Returns segments of very different sets, with their clips.
pub(crate) fn mixed() -> (Vec<Arc<[f32]>>, Vec<Segment>) {
    let sets = [
        (lively(adapters(12, 4, [3, 1, 1], false, true), 5, 1), 3, 8),
        (lively(adapters(7, 2, [3, 3, 3], true, true), 3, 2), 2, 4),
        (lively(AdapterConfig::LINEAR_PROBE, 9, 3), 4, 1),
        (lively(adapters(33, 1, [5, 1, 3], true, false), 2, 4), 1, 3),
    ];
    let (mut clips, mut segments) = (Vec::new(), Vec::new());
    for (set, count, num_frames) in sets {
        let first = clips.len();
        clips.extend((0..count).map(|i| clip(num_frames, (first + i) as u64)));
        segments.push(Segment {
            set: Arc::new(set),
            clips: first..clips.len(),
            num_frames,
        });
    }
    (clips, segments)
}

#[test]
fn a_fresh_set_is_the_identity() {
    let backbone = backbone();
    let rng = Stream::new(5, "set");
    let probe = AdapterSet::fresh(&small(), AdapterConfig::LINEAR_PROBE, 6, &rng).expect("a set");
    let config = adapters(16, 4, [3, 3, 1], true, true);
    let fresh = AdapterSet::fresh(&small(), config, 6, &rng).expect("a set");
    let mut tensors = fresh.tensors().expect("weights");
    for (name, tensor) in probe.tensors().expect("weights") {
        tensors.insert(name, tensor);
    }
    let fresh = AdapterSet::from_tensors(tensors, &small(), config, 6).expect("a set");
    let clip = clip(4, 1);
    let with = alone(&backbone, &Arc::new(fresh), &clip, 4);
    let without = alone(&backbone, &Arc::new(probe), &clip, 4);
    assert_eq!(with, without);
}

#[test]
fn a_clips_logits_are_bit_equal_whatever_its_neighbours() {
    let backbone = backbone();
    let (clips, segments) = mixed();
    let batch = Inference::new(Arc::clone(&backbone), clips.clone(), segments.clone());
    let together = finish(batch.expect("a batch"));
    for segment in &segments {
        for i in segment.clips.clone() {
            let own = alone(&backbone, &segment.set, &clips[i], segment.num_frames);
            assert_eq!(bits(&own), bits(&together[i]), "clip {i}");
            assert!(own.iter().all(|x| x.is_finite()));
        }
    }
}

#[test]
fn sixteen_clips_of_three_tasks_cost_as_many_frozen_products_as_one_clip() {
    let backbone = backbone();
    let count = |clips: Vec<Arc<[f32]>>, segments: Vec<Segment>| {
        let before = backbone.frozen_linear_calls();
        let batch = Inference::new(Arc::clone(&backbone), clips, segments);
        finish(batch.expect("a batch"));
        backbone.frozen_linear_calls() - before
    };
    let sets: Vec<Arc<AdapterSet>> = (0..3)
        .map(|i| Arc::new(lively(adapters(8, 4, [3, 1, 1], false, true), 4, i)))
        .collect();
    let segment = |set: usize, clips: std::ops::Range<usize>| Segment {
        set: Arc::clone(&sets[set]),
        clips,
        num_frames: 2,
    };
    let one = count(vec![clip(2, 0)], vec![segment(0, 0..1)]);
    let clips = (0..16).map(|i| clip(2, i)).collect();
    let many = count(
        clips,
        vec![segment(0, 0..5), segment(1, 5..9), segment(2, 9..16)],
    );
    assert!(one > 0);
    assert_eq!(one, many);
}

#[test]
fn a_set_comes_back_from_its_file() {
    let config = adapters(12, 2, [3, 1, 1], true, true);
    let set = lively(config, 4, 12);
    let metadata = || {
        [
            ("b".to_owned(), "2".to_owned()),
            ("a".to_owned(), "\"1\"".to_owned()),
        ]
        .into()
    };
    let file = set.to_safetensors(metadata()).expect("bytes");
    assert_eq!(file, set.to_safetensors(metadata()).expect("bytes"));
    let back = AdapterSet::from_safetensors(&file, &small(), config, 4).expect("a set");
    let weights = set.tensors().expect("weights");
    assert_eq!(back.tensors().expect("weights"), weights);
    let (_, header) = safetensors::SafeTensors::read_metadata(&file).expect("a header");
    assert_eq!(header.metadata().as_ref().expect("metadata")["a"], "\"1\"");
    let count = weights.values().map(|t| t.1.len() as u64).sum::<u64>();
    assert_eq!(set.parameters(), count);
}

#[test]
fn a_file_that_does_not_fit_is_refused_by_name() {
    let config = adapters(12, 2, [3, 1, 1], false, true);
    let set = lively(config, 4, 13);
    let refuse = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = set.tensors().expect("weights");
        change(&mut tensors);
        AdapterSet::from_tensors(tensors, &small(), config, 4).expect_err("it does not fit")
    };
    let name = "transformer.resblocks.3.adapter_pre_mlp.fc1.weight";
    let missing = refuse(&|t| drop(t.remove(name)));
    assert!(matches!(missing, Error::MissingTensor { name: n } if n == name));
    let extra = refuse(&|t| drop(t.insert("extra".to_owned(), (vec![1], vec![0.0]))));
    assert!(matches!(extra, Error::UnexpectedTensor { name } if name == "extra"));
    let shape = refuse(&|t| t.get_mut(name).expect("it is there").0 = vec![40, 12]);
    assert!(matches!(shape, Error::WrongShape { name: n, .. } if n == name));
    let nan = refuse(&|t| t.get_mut(name).expect("it is there").1[5] = f32::NAN);
    assert!(matches!(nan, Error::NotFinite { name: n, index: 5 } if n == name));
    assert!(matches!(
        AdapterSet::from_safetensors(b"no file", &small(), config, 4),
        Err(Error::Safetensors(_))
    ));
    let deeper = adapters(12, 5, [3, 1, 1], false, true);
    assert!(matches!(
        AdapterSet::fresh(&small(), deeper, 4, &Stream::new(1, "set")),
        Err(Error::Adapter(_))
    ));
}
