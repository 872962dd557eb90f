//! Two epochs of each preset's recipe against PyTorch with the same draws: `tests/peer/epochs.py` computes weights, clips and draws a second time from their
//! definitions, and writes what comes of them.

use std::path::Path;

use safetensors::SafeTensors;

use super::*;
use crate::ids::VideoId;
use crate::jobs::augment;
use crate::jobs::dataset::{Example, Truths};
use crate::rng::splitmix64;
use crate::spec::{ClassWeights, Head};

const SEED: u64 = 29;
const CLIPS: u64 = 300;
const CLASSES: usize = 10;
const FRAMES: usize = 8;
const EPOCHS: u64 = 2;
const SIDE: usize = 32;

/// What a preset says, as far as a step depends on it.
struct Case {
    name: &'static str,
    pre_attn: bool,
    hyper: HyperParameters,
    is_multi: bool,
}

fn cases() -> [Case; 3] {
    let common = HyperParameters {
        base_learning_rate: Some(1e-3),
        warmup_epochs: Some(2.0),
        weight_decay: Some(1e-2),
        dropout: Some(0.5),
        ..HyperParameters::default()
    };
    let k400 = HyperParameters {
        epochs: Some(12),
        batch_size: Some(192),
        horizontal_flip: Some(true),
        ..common.clone()
    };
    [
        Case {
            name: "k400-12x384",
            pre_attn: false,
            hyper: k400.clone(),
            is_multi: false,
        },
        Case {
            name: "ssv2-24x384",
            pre_attn: true,
            hyper: HyperParameters {
                epochs: Some(50),
                batch_size: Some(256),
                ..common
            },
            is_multi: false,
        },
        Case {
            name: "multi-label",
            pre_attn: false,
            hyper: HyperParameters {
                label_smoothing: Some(0.1),
                class_weights: Some(ClassWeights::Balanced),
                ..k400
            },
            is_multi: true,
        },
    ]
}

/// The counter generator of the golden vectors.
fn generated(name: &str, count: usize, mean: f32, spread: f64) -> Vec<f32> {
    let start = 14_695_981_039_346_656_037_u64;
    let base = format!("{SEED}:{name}").bytes().fold(start, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211)
    });
    let value = |i: u64| {
        let unit = (splitmix64(base.wrapping_add(i)) >> 40) as f32 * (1.0 / 8_388_608.0) - 1.0;
        mean + unit * spread as f32
    };
    (0..count as u64).map(value).collect()
}

fn weights(shapes: impl Iterator<Item = (String, Vec<usize>)>) -> Tensors {
    let weight = |(name, shape): (String, Vec<usize>)| {
        let count = shape.iter().product();
        let mean = f32::from(u8::from(name.contains("ln_") && name.ends_with("weight")));
        let spread = match shape.len() {
            1 => 0.1,
            _ => (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt(),
        };
        let values = generated(&name, count, mean, spread);
        (name, (shape, values))
    };
    shapes.map(weight).collect()
}

fn model(pre_attn: bool) -> (Arc<Backbone>, AdapterSet) {
    let config = BackboneConfig {
        image_size: SIDE,
        patch_size: 8,
        width: 32,
        layers: 2,
        heads: 2,
        mlp_width: 64,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        pre_norm: true,
        patch_bias: false,
        normalization: Normalization::CLIP,
    };
    let adapter = AdapterConfig {
        adapter_width: 12,
        adapter_layers: None,
        adapter_kernel_size: [3, 1, 1],
        adapter_pre_attn: pre_attn,
        adapter_pre_mlp: true,
        head: Head::Mean,
    };
    let frozen = weights(config.tensors().into_iter());
    let backbone = Backbone::from_tensors("peer", config, Digest([1; 32]), frozen).unwrap();
    let fresh = AdapterSet::fresh(
        backbone.config(),
        adapter,
        CLASSES,
        &Draws::new(1).weights(),
    );
    let shapes = fresh.unwrap().tensors().unwrap().into_iter();
    let trained = weights(shapes.map(|(name, (shape, _))| (name, shape)));
    let set = AdapterSet::from_tensors(trained, backbone.config(), adapter, CLASSES);
    (Arc::new(backbone), set.unwrap())
}

/// What the clips of a case are: of several labels, those that the script gives them.
fn truths(case: &Case) -> Truths {
    if !case.is_multi {
        return Truths::single(CLASSES);
    }
    let has =
        |clip: u64, label: u64| splitmix64(clip * CLASSES as u64 + label).is_multiple_of(label + 2);
    let rows = |clip| {
        let labels = (0..CLASSES as u64).filter(|label| has(clip, *label));
        labels.map(|label| label as u32).collect()
    };
    let examples = (0..CLIPS as u32).map(|class| Example {
        video: VideoId::generate(),
        class,
        frames: FRAMES as u32,
        size: (SIDE as u32, SIDE as u32),
    });
    let truths = Truths::multi(CLASSES, (0..CLIPS).map(rows).collect());
    truths.weighted(&examples.collect::<Vec<_>>())
}

/// The losses of the steps of two epochs, and the weights after them.
fn trained(case: &Case) -> (Vec<f64>, Tensors) {
    let (backbone, set) = model(case.pre_attn);
    let plan = Plan::new(&case.hyper, CLIPS, &set.config(), SEED).with_frames(FRAMES);
    assert_eq!(
        plan.learning_rate,
        1e-3 * f64::from(plan.batch_size) / 256.0
    );
    let (truths, draws) = (truths(case), Draws::new(SEED));
    let mut trainer = Trainer::continued(backbone, &set, CLASSES, plan.clone()).unwrap();
    let mut losses = Vec::new();
    for step in 0..EPOCHS * plan.steps_per_epoch() {
        let (epoch, _) = plan.position(step);
        let order = draws.order(epoch, CLIPS);
        let picked: Vec<u64> = plan.places(step).map(|place| order.at(place)).collect();
        let clip = |index: &u64| -> Arc<[f32]> {
            let count = 3 * FRAMES * SIDE * SIDE;
            let mut planes = generated(&format!("clip.{index}"), count, 0.0, 1.7);
            if plan.horizontal_flip && draws.is_mirrored(epoch, *index) {
                augment::mirror(&mut planes, SIDE);
            }
            planes.into()
        };
        let label = |index: &u64| match case.is_multi {
            true => *index as u32,
            false => (*index % CLASSES as u64) as u32,
        };
        let mut targets = Targets {
            labels: picked.iter().map(label).collect(),
            ..Targets::default()
        };
        truths.mark(&mut targets);
        let input = Input::Frames(picked.iter().map(clip).collect(), Vec::new());
        let mut running = trainer.begin(input, targets, u64::MAX).unwrap();
        while running.advance().unwrap() != crate::model::Step::Done {}
        let output = running.finish().unwrap();
        let report = trainer.update(output, picked.len() as u64, 0).unwrap();
        losses.push(report.loss);
    }
    (losses, trainer.snapshot().unwrap().tensors().unwrap())
}

#[test]
fn two_epochs_of_each_preset_are_those_of_pytorch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/peer");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("vectors");
    let described: serde_json::Value = serde_json::from_slice(&read("epochs.json")).unwrap();
    let bytes = read("epochs.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for case in cases() {
        let (losses, weights) = trained(&case);
        let expected = described["losses"][case.name].as_array().unwrap();
        assert_eq!(losses.len(), expected.len());
        for (got, want) in losses.iter().zip(expected) {
            let error = (got - want.as_f64().unwrap()).abs();
            assert!(error < 1e-4, "{}: {losses:?} {expected:?}", case.name);
        }
        // The rate of the last step is three quarters of the peak; the limit is that of the golden vectors.
        let batch = f64::from(case.hyper.batch_size.unwrap());
        let rate = 0.75 * 1e-3 * batch / 256.0;
        for (name, (_, got)) in &weights {
            let own = file.tensor(&format!("{}/{name}", case.name)).unwrap();
            let (quads, _) = own.data().as_chunks();
            let want: Vec<f32> = quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect();
            assert_eq!(got.len(), want.len(), "{name}");
            let most = want.iter().fold(0.0_f32, |most, own| most.max(own.abs()));
            let limit = rate / 250.0 + 1e-6 * f64::from(most);
            let errors = got.iter().zip(&want).map(|(a, b)| f64::from((a - b).abs()));
            let error = errors.fold(0.0, f64::max);
            assert!(
                error <= limit,
                "{} {name}: {error:.2e} of {limit:.2e}",
                case.name
            );
        }
    }
}
