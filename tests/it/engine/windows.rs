//! Windows that share frames: one batch computes a frame once, and every window answers what it answers alone.

use std::sync::Arc;

use frameshift::engine::{Clips, Kept, Load, Pictures};
use frameshift::ids::VersionRef;
use frameshift::model::{AdapterSet, Inference, Segment, Step};
use frameshift::spec::AdapterConfig;

use super::fixture::{ADAPTER, CLASSES, Running, bits, clip, config, patient, stored, version};

/// Adapters in all blocks, in the last one, and none.
fn shapes() -> [AdapterConfig; 3] {
    let last = AdapterConfig {
        adapter_layers: 1.try_into().ok(),
        adapter_pre_attn: true,
        ..ADAPTER
    };
    [ADAPTER, last, AdapterConfig::LINEAR_PROBE]
}

/// Adapters in the last two blocks.
fn upper() -> AdapterConfig {
    AdapterConfig {
        adapter_layers: 2.try_into().ok(),
        ..ADAPTER
    }
}

/// A set of random weights.
fn set(seed: u64, shape: AdapterConfig) -> Arc<AdapterSet> {
    let file = stored(seed, shape, 0.3);
    let set = AdapterSet::from_safetensors(&file.bytes, &config(), shape, CLASSES);
    Arc::new(set.unwrap())
}

/// Different frames, each `[3, S, S]`.
fn frames(count: usize) -> Vec<Arc<[f32]>> {
    (0..count)
        .map(|frame| clip(100 + frame as u64, 1))
        .collect()
}

/// The planes `[3, T, S, S]` of frames, copied.
fn planes(frames: &[Arc<[f32]>]) -> Arc<[f32]> {
    let plane = config().image_size * config().image_size;
    let channel = |channel: usize| {
        let of_frame = move |frame: &Arc<[f32]>| frame[channel * plane..][..plane].to_vec();
        frames.iter().flat_map(of_frame)
    };
    (0..3).flat_map(channel).collect()
}

#[tokio::test]
async fn overlapping_windows_of_several_versions_are_one_batch_and_each_is_as_alone() {
    let running = Running::start(patient()).await;
    let mut versions: Vec<VersionRef> = Vec::new();
    for (seed, shape) in (0..).zip(shapes()) {
        let version = version("a", &format!("t{seed}"), 1);
        running.shelf.put(&version, stored(seed, shape, 0.3));
        running.one(&version, clip(0, 4)).await.unwrap();
        versions.push(version);
    }
    let frames = frames(7);
    let windows: Vec<Vec<Arc<[f32]>>> = frames.windows(4).map(<[_]>::to_vec).collect();
    let mut alone = Vec::new();
    for version in &versions {
        for window in &windows {
            alone.push(running.one(version, planes(window)).await.unwrap());
        }
    }
    let load = Load {
        clips: windows.len(),
        frames: 4,
        readers: versions.len(),
    };
    let permit = running
        .engine
        .admit_all(&versions[0].tenant, &[load])
        .unwrap();
    let wanted = versions.iter().map(|version| Clips {
        version: version.clone(),
        clips: windows.iter().cloned().map(Pictures::from).collect(),
    });
    let before = running.settled().batches;
    let answers = (running.engine)
        .classify_each(&permit, wanted.collect(), None)
        .await
        .unwrap();
    assert_eq!(running.settled().batches - before, 1);
    let together = answers
        .into_iter()
        .flat_map(|answer| answer.unwrap().logits);
    let together: Vec<Vec<u32>> = together.map(|logits| bits(&logits)).collect();
    let alone: Vec<Vec<u32>> = alone.iter().map(|logits| bits(logits)).collect();
    assert_eq!(together, alone);
}

#[test]
fn frames_in_common_change_no_bit_wherever_the_adapters_are() {
    let backbone = super::fixture::backbone();
    let [all, last, none] = shapes();
    let frames = frames(6);
    let windows = [0..4, 1..5, 2..6].map(|range| frames[range].to_vec());
    // A window whose last frame stands for those that are missing, and one that shares nothing.
    let padded: Vec<_> = [4, 5, 5, 5].map(|frame| frames[frame].clone()).to_vec();
    let other: Vec<_> = (0..4).map(|frame| clip(900 + frame, 1)).collect();
    let pictures: Vec<Vec<Arc<[f32]>>> = windows.into_iter().chain([padded, other]).collect();
    for shapes in [
        vec![last; 1],
        vec![all; 1],
        vec![none; 1],
        vec![all, upper(), last, none],
    ] {
        let count = pictures.len();
        let segments = shapes.iter().zip(0..).map(|(&shape, number)| Segment {
            set: set(number as u64, shape),
            clips: number * count..(number + 1) * count,
            num_frames: 4,
        });
        let segments: Vec<Segment> = segments.collect();
        let all = || shapes.iter().flat_map(|_| pictures.iter().cloned());
        let finish = |mut batch: Inference| {
            while batch.advance().unwrap() != Step::Done {}
            batch.into_logits().unwrap()
        };
        let shared: Vec<Pictures> = all().map(Pictures::from).collect();
        let shared = Inference::new(backbone.clone(), shared, segments.clone());
        let shared = finish(shared.unwrap().sharing());
        let copied: Vec<Arc<[f32]>> = all().map(|frames| planes(&frames)).collect();
        let copied = finish(Inference::new(backbone.clone(), copied, segments).unwrap());
        for (shared, copied) in shared.iter().zip(&copied) {
            assert_eq!(bits(shared), bits(copied), "{shapes:?}");
        }
        assert_eq!(shared.len(), copied.len());
    }
}

#[test]
fn tokens_that_are_kept_change_no_bit_and_spare_their_blocks() {
    let backbone = super::fixture::backbone();
    let [all, last, none] = shapes();
    let frames = frames(7);
    let blocks = backbone.config().layers;
    let waits = usize::from(!backbone.place().is_host());
    // The logits of a window, and the number of steps.
    let run = |pictures: Pictures, set: &Arc<AdapterSet>| {
        let segment = Segment {
            set: set.clone(),
            clips: 0..1,
            num_frames: 4,
        };
        let batch = Inference::new(backbone.clone(), vec![pictures], vec![segment]);
        let mut batch = batch.unwrap().sharing();
        let mut steps = 1;
        while batch.advance().unwrap() != Step::Done {
            steps += 1;
        }
        (bits(&batch.into_logits().unwrap()[0]), steps)
    };
    for shapes in [
        vec![last],
        vec![none],
        vec![all],
        vec![last, upper(), none, all],
    ] {
        let sets: Vec<_> = shapes
            .iter()
            .zip(0..)
            .map(|(&shape, seed)| set(seed, shape))
            .collect();
        let kept: Vec<(Arc<[f32]>, Kept)> = frames
            .iter()
            .map(|frame| (frame.clone(), Kept::default()))
            .collect();
        for range in [0..4, 1..5, 3..7, 0..4] {
            for set in &sets {
                let alone = run(Pictures::from(planes(&frames[range.clone()])), set).0;
                let window = || kept[range.clone()].iter().cloned().collect();
                assert_eq!(run(window(), set).0, alone, "{shapes:?} {range:?}");
                // Everything is known by now, where tokens are kept: the first step, the blocks above, and the head. On a device one more takes the result.
                let (again, steps) = run(window(), set);
                assert_eq!(again, alone);
                if shapes.len() == 1 {
                    let above = match shapes[0] {
                        shape if shape == all => blocks,
                        _ if backbone.keeps_tokens() => 1,
                        _ => blocks,
                    };
                    assert_eq!(steps, 2 + above + waits, "{shapes:?}");
                }
            }
        }
    }
}
