//! Which rows a forward pass computes of frames that several clips show.

use std::sync::Arc;

use super::*;
use crate::rng::Stream;
use crate::spec::{self, Digest, Normalization};
use crate::{Activation, BackboneConfig, Tensors};

/// Blocks of the backbone.
const BLOCKS: usize = 3;

fn backbone() -> Arc<Backbone> {
    let config = BackboneConfig {
        image_size: 16,
        patch_size: 8,
        width: 16,
        layers: BLOCKS,
        heads: 2,
        mlp_width: 32,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        pre_norm: true,
        patch_bias: false,
        normalization: Normalization::CLIP,
    };
    let mut rng = Stream::new(1, "backbone");
    let tensors: Tensors = (config.tensors().into_iter())
        .map(|(name, shape)| {
            let count = shape.iter().product();
            let values = (0..count).map(|_| 0.2 * rng.normal()).collect();
            (name, (shape, values))
        })
        .collect();
    Arc::new(Backbone::from_tensors("test", config, Digest([1; 32]), tensors).unwrap())
}

/// A set of random weights with adapters in the last `layers` blocks, before attention as well or before the MLP alone.
fn set(backbone: &Backbone, layers: u32, adapter_pre_attn: bool, seed: u64) -> Arc<AdapterSet> {
    let config = spec::AdapterConfig {
        adapter_width: 4,
        adapter_layers: layers.try_into().ok(),
        adapter_kernel_size: [3, 1, 1],
        adapter_pre_attn,
        adapter_pre_mlp: true,
        head: spec::Head::Mean,
    };
    let mut rng = Stream::new(seed, "set");
    let fresh = AdapterSet::fresh(backbone.config(), config, 3, &rng).unwrap();
    let mut tensors = fresh.tensors().unwrap();
    for (_, values) in tensors.values_mut() {
        values
            .iter_mut()
            .for_each(|value| *value = 0.3 * rng.normal());
    }
    Arc::new(AdapterSet::from_tensors(tensors, backbone.config(), config, 3).unwrap())
}

fn clip(seed: u64, frames: usize, backbone: &Backbone) -> Pictures {
    let mut rng = Stream::new(seed, "clip");
    let values = (0..frames * backbone.config().frame_len()).map(|_| rng.normal());
    Pictures::from(values.collect::<Arc<[f32]>>())
}

/// A clip of each set; sets of one number show one clip.
fn batch(backbone: &Arc<Backbone>, clips: Vec<Pictures>, sets: &[Arc<AdapterSet>]) -> Inference {
    let segments = sets.iter().enumerate().map(|(at, set)| Segment {
        set: set.clone(),
        clips: at..at + 1,
        num_frames: 2,
    });
    Inference::new(backbone.clone(), clips, segments.collect()).unwrap()
}

/// Frames whose attention, and whose MLP, each block but the last one computes.
fn computed(mut inference: Inference) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    assert_eq!(inference.advance().unwrap(), Step::More);
    for index in 0..BLOCKS - 1 {
        let State::Block(at, Some(x)) = &inference.state else {
            panic!("a block comes next");
        };
        assert_eq!(*at, index);
        let forks = (0..inference.places.len()).map(|clip| inference.fork(clip, index));
        let forks: Vec<Option<Fork>> = forks.collect();
        let mut lanes = inference.lanes.clone();
        let rows = lanes.split(|clip| forks[clip] == Some(Fork::Block));
        let of_attention = match rows {
            Some(rows) => rows.iter().map(Range::len).sum(),
            None => x.dim(0).unwrap(),
        };
        assert_eq!(inference.advance().unwrap(), Step::More);
        let State::Block(_, Some(x)) = &inference.state else {
            panic!("another block comes next");
        };
        found.push((of_attention, x.dim(0).unwrap()));
    }
    found
}

fn finish(mut inference: Inference) -> Vec<Vec<u32>> {
    while inference.advance().unwrap() != Step::Done {}
    let logits = inference.into_logits().unwrap();
    let bits = |row: &Vec<f32>| row.iter().map(|value| value.to_bits()).collect();
    logits.iter().map(bits).collect()
}

#[test]
fn attention_below_the_first_adapter_of_a_block_is_computed_once_for_all_tasks() {
    let backbone = backbone();
    let shown = clip(1, 2, &backbone);
    for (layers, pre_attn, expected) in [
        // Two frames of one clip, and those of eight.
        (3, false, [(2, 16), (16, 16)]),
        (3, true, [(16, 16), (16, 16)]),
        (2, false, [(2, 2), (2, 16)]),
        (2, true, [(2, 2), (16, 16)]),
    ] {
        let sets: Vec<_> = (0..8)
            .map(|own| set(&backbone, layers, pre_attn, own))
            .collect();
        let shared = || batch(&backbone, vec![shown.clone(); 8], &sets).sharing();
        assert_eq!(computed(shared()), expected, "{layers} {pre_attn}");
        let apart = batch(&backbone, vec![shown.clone(); 8], &sets);
        assert_eq!(finish(shared()), finish(apart), "{layers} {pre_attn}");
    }
}

#[test]
fn clips_that_leave_in_different_halves_of_a_block_keep_their_bits() {
    let backbone = backbone();
    let (one, other) = (clip(1, 2, &backbone), clip(2, 2, &backbone));
    let kinds = [
        (3, false),
        (2, true),
        (2, false),
        (1, false),
        (3, true),
        (2, false),
    ];
    let sets = kinds.into_iter().zip(0..);
    let sets: Vec<_> = sets
        .map(|((layers, pre_attn), seed)| set(&backbone, layers, pre_attn, seed))
        .collect();
    // The last clip is nobody else's.
    let mut clips = vec![one; 5];
    clips.push(other);
    let shared = batch(&backbone, clips.clone(), &sets).sharing();
    let together = finish(shared);
    for (at, own) in together.iter().enumerate() {
        let alone = batch(&backbone, clips[at..=at].to_vec(), &sets[at..=at]);
        assert_eq!(finish(alone), std::slice::from_ref(own), "clip {at}");
    }
}

/// The clips of overlapping windows of so many frames, as one segment.
fn windows(
    backbone: &Arc<Backbone>,
    set: &Arc<AdapterSet>,
    (count, frames): (usize, usize),
) -> (Vec<Pictures>, Vec<Segment>) {
    let len = backbone.config().frame_len();
    let mut rng = Stream::new(5, "frames");
    let all: Vec<Arc<[f32]>> = (0..count + frames - 1)
        .map(|_| (0..len).map(|_| rng.normal()).collect())
        .collect();
    let clips = all.windows(frames).map(|own| Pictures::from(own.to_vec()));
    let segment = Segment {
        set: set.clone(),
        clips: 0..count,
        num_frames: frames,
    };
    (clips.collect(), vec![segment])
}

#[test]
fn beyond_the_first_adapter_frames_with_the_same_neighbours_are_computed_once() {
    let backbone = backbone();
    for (layers, expected) in [
        // Fifteen frames; then thirteen of them, and the ends of eight windows; then eleven, and two at each end.
        (2, [(15, 15), (15, 13 + 16)]),
        (3, [(15, 13 + 16), (13 + 16, 11 + 32)]),
    ] {
        let set = set(&backbone, layers, false, 1);
        let (clips, segments) = windows(&backbone, &set, (8, 8));
        let shared = Inference::new(backbone.clone(), clips, segments).unwrap();
        assert_eq!(computed(shared.sharing()), expected, "{layers}");
    }
}

#[test]
fn overlapping_windows_have_the_bits_of_each_alone_wherever_the_adapters_are() {
    let backbone = backbone();
    for (layers, pre_attn) in [(3, false), (3, true), (2, false), (2, true), (1, true)] {
        for frames in [2, 5, 8] {
            let set = set(&backbone, layers, pre_attn, 3);
            let (clips, segments) = windows(&backbone, &set, (6, frames));
            let shared = Inference::new(backbone.clone(), clips.clone(), segments.clone());
            let together = finish(shared.unwrap().sharing());
            for (at, clip) in clips.into_iter().enumerate() {
                let mut segment = segments[0].clone();
                segment.clips = 0..1;
                let alone = Inference::new(backbone.clone(), vec![clip], vec![segment]);
                let alone = finish(alone.unwrap());
                assert_eq!(alone[0], together[at], "{layers} {pre_attn} {frames} {at}");
            }
        }
    }
}
