//! The model on a device: what the self-check covers, and what changes no bit of a result.

use std::collections::BTreeSet;

use super::*;
use crate::adamw::{self, AdamW};
use crate::ops::cuda::fused::tests::used;
use crate::ops::cuda::fused::{Shape, Way};
use crate::spec::{AdapterConfig, Digest, Head, Step};
use crate::{AdapterSet, Backbone, Inference, Keep, Segment, Tensors, TrainableSet, TrainingStep};

/// A backbone of random weights on the device.
pub(super) fn backbone(
    gpu: &Arc<Gpu>,
    config: &BackboneConfig,
    precision: Precision,
) -> Arc<Backbone> {
    let mut stream = Stream::new(7, "backbone");
    let mut tensors = Tensors::new();
    for (name, shape) in config.tensors() {
        let is_gain = name.contains("ln_") && name.ends_with("weight");
        let centre = f32::from(u8::from(is_gain));
        let count = shape.iter().product();
        let values = (0..count).map(|_| centre + stream.range(-0.3, 0.3));
        tensors.insert(name, (shape, values.collect()));
    }
    let (of, place) = ((config.clone(), Digest([1; 32])), Place::Cuda(gpu.clone()));
    Arc::new(Backbone::from_tensors_on("test", of, tensors, precision, &place).unwrap())
}

/// Adapters before attention and MLP.
pub(super) fn adapters(width: u32, kernel: [u32; 3], head: Head) -> AdapterConfig {
    AdapterConfig {
        adapter_width: width,
        adapter_layers: None,
        adapter_kernel_size: kernel,
        adapter_pre_attn: true,
        adapter_pre_mlp: true,
        head,
    }
}

/// A set of random weights beside a backbone.
pub(super) fn set(backbone: &Backbone, config: AdapterConfig, seed: u64) -> Arc<AdapterSet> {
    let own = backbone.config();
    let mut stream = Stream::new(seed, "set");
    let fresh = AdapterSet::fresh(own, config, 3, &stream).unwrap();
    let mut tensors = fresh.tensors().unwrap();
    for (_, values) in tensors.values_mut() {
        values
            .iter_mut()
            .for_each(|x| *x += stream.range(-0.3, 0.3));
    }
    let set = AdapterSet::from_tensors(tensors, own, config, 3).unwrap();
    Arc::new(set.beside(backbone).unwrap())
}

pub(super) fn clip(backbone: &Backbone, frames: usize, seed: u64) -> Arc<[f32]> {
    let mut stream = Stream::new(seed, "clip");
    let values = frames * backbone.config().frame_len();
    (0..values).map(|_| stream.range(-2.0, 2.0)).collect()
}

/// Logits of clips, each of a set of its own.
pub(super) fn logits(
    backbone: &Arc<Backbone>,
    clips: &[(Arc<[f32]>, Arc<AdapterSet>)],
) -> std::result::Result<Vec<Vec<f32>>, crate::Error> {
    let len = backbone.config().frame_len();
    let segments = clips.iter().enumerate().map(|(i, (planes, set))| Segment {
        set: set.clone(),
        clips: i..i + 1,
        num_frames: planes.len() / len,
    });
    let segments = segments.collect();
    let planes = clips.iter().map(|(planes, _)| planes.clone()).collect();
    let mut inference = Inference::new(backbone.clone(), planes, segments)?;
    while inference.advance()? != Step::Done {}
    inference.into_logits()
}

pub(super) fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    let of = |row: &Vec<f32>| row.iter().map(|x| x.to_bits()).collect();
    rows.iter().map(of).collect()
}

/// Trains a set for two steps of two clips. Returns the weights.
pub(super) fn train(
    backbone: &Arc<Backbone>,
    set: &AdapterSet,
    keep: Keep,
) -> std::result::Result<Tensors, crate::Error> {
    let set = TrainableSet::beside(set, backbone)?;
    let mut optimizer = AdamW::new(set.parameters(), adamw::Config::default())?;
    for number in 0..2 {
        let clips = (0..2).map(|i| clip(backbone, 4, 2 * number + i)).collect();
        let mut step = TrainingStep::new(backbone.clone(), &set, clips, &[0, 2], None, keep)?;
        while step.advance()? != Step::Done {}
        let gradients = step.finish()?.gradients;
        optimizer.step(set.parameters(), &gradients, 1e-2)?;
    }
    set.snapshot()?.tensors()
}

/// Sets of many kinds.
fn kinds() -> Vec<AdapterConfig> {
    let four = 4.try_into().unwrap();
    vec![
        adapters(16, [3, 1, 1], Head::Mean),
        adapters(16, [3, 1, 1], Head::Frames(four)),
        adapters(8, [3, 3, 3], Head::Conv),
        adapters(5, [3, 1, 1], Head::Attention(four)),
        AdapterConfig::LINEAR_PROBE,
    ]
}

/// A device whose products of a backbone's MLP end with the activation in one kernel, which rounds once less than two.
fn fusing(config: &BackboneConfig) -> Option<Arc<Gpu>> {
    let mut gpu = gpu()?;
    let shape = |way, columns, inner| Shape {
        way,
        activation: config.activation,
        columns,
        inner,
    };
    let shapes = [
        shape(Way::Forward, config.mlp_width, config.width),
        shape(Way::Backward, config.mlp_width, config.width),
    ];
    Arc::get_mut(&mut gpu).expect("nobody else has it").fused = used(shapes);
    Some(gpu)
}

#[test]
fn what_a_step_keeps_changes_no_bit_where_products_end_with_their_activation() {
    let config = config(64, 1);
    let Some(gpu) = fusing(&config) else { return };
    let fused = backbone(&gpu, &config, Precision::Bf16);
    let own = set(&fused, adapters(8, [3, 1, 1], Head::Mean), 5);
    let all = train(&fused, &own, Keep::All).unwrap();
    assert!(train(&fused, &own, Keep::Recompute).unwrap() == all);
    // The one kernel runs: what is served has other bits than where there is none.
    let plain = backbone(&super::gpu().expect("a device"), &config, Precision::Bf16);
    let on = |backbone: &Arc<Backbone>| {
        let own = set(backbone, adapters(8, [3, 1, 1], Head::Mean), 5);
        bits(&logits(backbone, &[(clip(backbone, 4, 1), own)]).unwrap())
    };
    assert_ne!(on(&fused), on(&plain));
}

#[test]
fn the_self_check_covers_every_kernel_and_every_plan_of_the_model() {
    for (width, heads, precision) in [
        (36, 3, Precision::F32),
        (128, 2, Precision::F32),
        (48, 3, Precision::Bf16),
        (128, 2, Precision::Bf16),
    ] {
        let Some(gpu) = gpu() else { return };
        let config = BackboneConfig {
            patch_bias: width == 48,
            ..config(width, heads)
        };
        let place = Place::Cuda(gpu.clone());
        place.check(&config, precision).unwrap();
        let names = || -> BTreeSet<&'static str> {
            let launched = super::super::gpu::lock(&gpu.kernels.launched);
            launched.keys().copied().collect()
        };
        let (checked, plans) = (names(), gpu.products().kinds());
        let backbone = backbone(&gpu, &config, precision);
        let sets: Vec<Arc<AdapterSet>> = (0..)
            .zip(kinds())
            .map(|(seed, kind)| set(&backbone, kind, seed))
            .collect();
        let clips = |set: &Arc<AdapterSet>| (clip(&backbone, 4, 5), set.clone());
        logits(&backbone, &sets.iter().map(clips).collect::<Vec<_>>()).unwrap();
        for set in &sets {
            train(&backbone, set, Keep::All).unwrap();
            train(&backbone, set, Keep::Recompute).unwrap();
        }
        let missed: Vec<_> = names().difference(&checked).copied().collect();
        assert_eq!(missed, Vec::<&str>::new(), "width {width}, {precision:?}");
        let missed = gpu.products().kinds().into_iter();
        let missed: Vec<_> = missed.filter(|kind| !plans.contains(kind)).collect();
        assert_eq!(missed, [], "width {width}, {precision:?}");
    }
}

#[test]
fn the_convolutions_of_a_batch_take_one_launch_whatever_the_number_of_sets() {
    let Some(gpu) = gpu() else { return };
    let backbone = backbone(&gpu, &config(48, 3), Precision::Bf16);
    let launches = || -> usize {
        let launched = super::super::gpu::lock(&gpu.kernels.launched);
        let own = launched
            .iter()
            .filter(|(name, _)| name.starts_with("depthwise"));
        own.map(|(_, count)| count).sum()
    };
    let mut counts = Vec::new();
    for sets in [1, 7] {
        let kind = adapters(16, [3, 1, 1], Head::Mean);
        let clips: Vec<_> = (0..sets)
            .map(|seed| (clip(&backbone, 4, seed), set(&backbone, kind, seed)))
            .collect();
        let before = launches();
        logits(&backbone, &clips).unwrap();
        counts.push(launches() - before);
    }
    // Two blocks with two sites each, of which the last one is not read.
    assert_eq!(counts, [3, 3]);
}

#[test]
fn neither_the_order_of_threads_nor_late_streams_change_a_bit_of_the_model() {
    let Some(gpu) = gpu() else { return };
    for (width, heads, precision) in [(36, 3, Precision::F32), (64, 1, Precision::Bf16)] {
        let backbone = backbone(&gpu, &config(width, heads), precision);
        let run = || {
            let sets: Vec<_> = (0..)
                .zip(kinds())
                .map(|(seed, kind)| (clip(&backbone, 4, seed), set(&backbone, kind, seed)))
                .collect();
            let trained = train(&backbone, &sets[0].1, Keep::All).unwrap();
            let bits = |(shape, values): (Vec<usize>, Vec<f32>)| {
                (
                    shape,
                    values.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                )
            };
            let trained: Vec<_> = trained.into_values().map(bits).collect();
            (
                super::walk::bits(&logits(&backbone, &sets).unwrap()),
                trained,
            )
        };
        let expected = run();
        for (name, value) in [
            ("FS_EMULATED_ORDER", "1"),
            ("FS_EMULATED_ORDER", "7"),
            ("FS_EMULATED_LATE", "1"),
        ] {
            if !emulated(name, value) {
                return;
            }
            let got = run();
            gpu.synchronize().unwrap();
            emulated(name, "");
            assert!(got == expected, "{name}={value}, width {width}");
        }
    }
}

#[test]
fn a_clip_or_a_set_that_is_not_a_number_harms_no_neighbour() {
    let Some(gpu) = gpu() else { return };
    for (width, heads, precision) in [(36, 3, Precision::F32), (64, 1, Precision::Bf16)] {
        let backbone = backbone(&gpu, &config(width, heads), precision);
        let own = |seed| set(&backbone, adapters(16, [3, 1, 1], Head::Mean), seed);
        let (first, second) = (own(1), own(2));
        let mut batch = vec![
            (clip(&backbone, 4, 1), first.clone()),
            (clip(&backbone, 4, 2), second.clone()),
            (clip(&backbone, 4, 3), first.clone()),
        ];
        let expected = bits(&logits(&backbone, &batch).unwrap());
        let check = |batch: &[_], what| {
            let got = logits(&backbone, batch).unwrap();
            let is_finite = got[1].iter().any(|x| x.is_finite());
            assert!(!is_finite, "{what}: {:?}", got[1]);
            for other in [0, 2] {
                assert_eq!(bits(&got)[other], expected[other], "{what}");
            }
        };
        let good = batch[1].clone();
        batch[1].0 = vec![f32::NAN; good.0.len()].into();
        check(&batch, "clip");
        // A file with a NaN is refused; weights at the end of the range overflow.
        let mut tensors = second.tensors().unwrap();
        for (_, values) in tensors.values_mut() {
            values.fill(3e38);
        }
        let bad = AdapterSet::from_tensors(tensors, backbone.config(), second.config(), 3);
        batch[1] = (good.0.clone(), Arc::new(bad.unwrap()));
        check(&batch, "set");
    }
}

#[test]
fn a_steady_state_of_mixed_batches_takes_no_memory() {
    let Some(gpu) = gpu() else { return };
    let smallest = BackboneConfig {
        image_size: 4,
        patch_size: 4,
        layers: 1,
        mlp_width: 8,
        ..config(8, 1)
    };
    let backbone = backbone(&gpu, &smallest, Precision::Bf16);
    let sets: Vec<_> = (0..3)
        .map(|seed| set(&backbone, adapters(8, [1, 1, 1], Head::Mean), seed))
        .collect();
    let batch = |clips: usize| -> Vec<_> {
        let of = |i: usize| (clip(&backbone, 1, i as u64), sets[i % 3].clone());
        (0..clips).map(of).collect()
    };
    let expected: Vec<_> = (1..=4)
        .map(|clips| bits(&logits(&backbone, &batch(clips)).unwrap()))
        .collect();
    let before = gpu.memory().unwrap();
    for number in 0..1000 {
        let clips = number % 4;
        let got = logits(&backbone, &batch(clips + 1)).unwrap();
        assert_eq!(bits(&got), expected[clips]);
    }
    assert_eq!(gpu.memory().unwrap(), before);
}
