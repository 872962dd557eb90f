//! Memory of a training step: it keeps as much as a budget allows, frees activations as the backward pass proceeds, and the result does not depend on
//! it; and memory of a forward pass.

use std::sync::Arc;

use frameshift::model::{
    AdapterSet, Backbone, BackboneConfig, Dropout, Inference, Keep, Segment, Step, StepOutput,
    StepShape, TrainableSet, TrainingStep, aside,
};
use frameshift::rng::Stream;
use frameshift::spec::{AdapterConfig, Digest, Precision};

use super::allocation;
use super::model::{adapters, bits, random_tensors};

/// A configuration that is wide enough for activations to outweigh everything else.
fn shape() -> BackboneConfig {
    BackboneConfig {
        image_size: 40,
        layers: 6,
        mlp_width: 160,
        ..super::model::small()
    }
}

fn backbone() -> Arc<Backbone> {
    let tensors = random_tensors(&shape(), 3);
    let built = Backbone::from_tensors("test", shape(), Digest([1; 32]), tensors);
    Arc::new(built.expect("a backbone"))
}

fn set(config: AdapterConfig) -> TrainableSet {
    let fresh = AdapterSet::fresh(&shape(), config, 3, &Stream::new(4, "set")).expect("a set");
    TrainableSet::new(&fresh).expect("a trainable set")
}

fn step(backbone: &Arc<Backbone>, set: &TrainableSet, keep: Keep) -> TrainingStep {
    let len = 8 * shape().frame_len();
    let clip = |seed| {
        let mut rng = Stream::new(seed, "clip");
        (0..len).map(|_| rng.normal()).collect()
    };
    let clips = vec![clip(1), clip(2)];
    let made = TrainingStep::new(Arc::clone(backbone), set, clips, &[0, 2], None, keep);
    made.expect("a step")
}

fn finish(mut step: TrainingStep) -> StepOutput {
    while step.advance().expect("a slice") != Step::Done {}
    step.finish().expect("a finished step")
}

#[test]
fn a_step_keeps_what_its_budget_allows_and_gives_the_same_bits() {
    let backbone = backbone();
    for config in [
        adapters(16, 6, [3, 1, 1], false, true),
        adapters(16, 4, [3, 1, 1], true, true),
        adapters(16, 2, [3, 3, 3], true, false),
    ] {
        let reached = config
            .adapter_layers
            .map_or(6, |layers| layers.get() as usize);
        let set = set(config);
        let (all, least) = (
            step(&backbone, &set, Keep::All),
            step(&backbone, &set, Keep::Recompute),
        );
        assert_eq!(all.recomputed_blocks(), 0);
        assert_eq!(least.recomputed_blocks(), reached);
        let (most, fewest) = (all.bytes(), least.bytes());
        assert!(fewest < most);
        let want = finish(all);
        let mut recomputed = Vec::new();
        for part in 0..=8 {
            let budget = fewest + (most - fewest) * part / 8;
            let within = step(&backbone, &set, Keep::Within(budget));
            assert!(within.bytes() <= budget, "{} of {budget}", within.bytes());
            let again = (within.recomputed_blocks(), within.recomputed_mlps());
            recomputed.push(again);
            let got = finish(within);
            assert_eq!(got.loss.to_bits(), want.loss.to_bits());
            let gradients = got.gradients.tensors().expect("gradients");
            for (name, gradient) in &want.gradients.tensors().expect("gradients") {
                let values = |tensor: &candle_core::Tensor| super::golden_model::flat(tensor);
                let (got, want) = (values(&gradients[name]), values(gradient));
                assert_eq!(bits(&got), bits(&want), "{name}");
            }
        }
        assert_eq!(recomputed.last(), Some(&(0, 0)));
        let together = |&(blocks, mlps): &(usize, usize)| (blocks, blocks + mlps);
        assert!(
            recomputed.is_sorted_by_key(|again| std::cmp::Reverse(together(again))),
            "{recomputed:?}"
        );
        assert!(recomputed[0].0 > 0, "{recomputed:?}");
        let only_mlps = |&(blocks, mlps): &(usize, usize)| blocks == 0 && mlps > 0;
        // One MLP alone takes as much again while the backward pass recomputes it.
        let is_deep = reached > 2;
        assert_eq!(recomputed.iter().any(only_mlps), is_deep, "{recomputed:?}");
        // When even that is too much, the step keeps the least, of one clip at a time.
        let hopeless = step(&backbone, &set, Keep::Within(0));
        assert_eq!((hopeless.bytes(), hopeless.micro_batch()), (fewest / 2, 1));
    }
}

/// Returns a step of 64 clips of 16 frames, on weights in this precision.
fn large(backbone: &Arc<Backbone>, set: &TrainableSet, keep: Keep) -> TrainingStep {
    let len = 16 * shape().frame_len();
    let clip = |seed| {
        let mut rng = Stream::new(seed, "clip");
        (0..len).map(|_| rng.normal()).collect()
    };
    let clips = (0..64).map(clip).collect();
    let labels: Vec<u32> = (0..64).map(|clip| clip % 3).collect();
    let dropout = Dropout {
        rate: 0.3,
        stream: Stream::new(9, "dropout"),
    };
    let backbone = Arc::clone(backbone);
    TrainingStep::new(backbone, set, clips, &labels, Some(dropout), keep).expect("a step")
}

/// Clips of 16 frames that fill the threads of the host: 512 tokens each.
fn filling() -> usize {
    let tokens = 16 * shape().tokens();
    (512 * rayon::current_num_threads())
        .div_ceil(tokens)
        .min(64)
}

#[test]
fn a_step_is_divided_as_far_as_its_micro_batches_fill_the_threads_so_that_its_slices_are_short() {
    let backbone = backbone();
    let set = set(adapters(16, 6, [3, 1, 1], true, true));
    let mut last = 0;
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let (clips, expected) = pool.expect("threads").install(|| {
            let step = large(&backbone, &set, Keep::Within(u64::MAX));
            assert_eq!(step.recomputed_blocks(), 0);
            // Jobs begin their steps aside, on another thread than their slices run on.
            let begun = aside(|| large(&backbone, &set, Keep::Within(u64::MAX)).micro_batch());
            assert_eq!(begun, step.micro_batch(), "{threads} threads");
            (step.micro_batch(), filling())
        });
        assert_eq!(clips, expected, "{threads} threads");
        assert!(clips > last, "{threads} threads");
        last = clips;
    }
}

#[test]
fn a_block_goes_back_in_two_slices_and_what_is_computed_again_is_one_of_its_own() {
    let backbone = backbone();
    let slices = |config, keep| {
        let mut step = step(&backbone, &set(config), keep);
        let mut slices = 1;
        while step.advance().expect("a slice") != Step::Done {
            slices += 1;
        }
        slices
    };
    // Embedding, six blocks, the head, and back: both halves of each block, but for the lowest one, which ends at its adapter.
    let everywhere = adapters(16, 6, [3, 1, 1], false, true);
    assert_eq!(slices(everywhere, Keep::All), 8 + 11);
    assert_eq!(slices(everywhere, Keep::Recompute), 8 + 11 + 6);
    let upper = adapters(16, 2, [3, 1, 1], true, true);
    assert_eq!(slices(upper, Keep::All), 8 + 4);
    assert_eq!(slices(upper, Keep::Recompute), 8 + 4 + 2);
}

#[test]
fn micro_batches_give_the_bits_of_the_whole_step() {
    for (precision, config) in [
        (Precision::F32, adapters(16, 6, [3, 1, 1], true, true)),
        (Precision::Bf16, adapters(24, 2, [3, 3, 3], true, true)),
    ] {
        let tensors = random_tensors(&shape(), 3);
        let digest = Digest([1; 32]);
        let made = Backbone::from_tensors_in("test", shape(), digest, tensors, precision);
        let backbone = Arc::new(made.expect("a backbone"));
        let set = set(config);
        let whole = large(&backbone, &set, Keep::All);
        assert_eq!(whole.micro_batch(), 64);
        let most = whole.bytes();
        let want = finish(whole);
        let mut sizes = Vec::new();
        for part in [2, 3, 12, 40, u64::MAX] {
            let budget = most / part;
            let divided = large(&backbone, &set, Keep::Within(budget));
            sizes.push((divided.micro_batch(), divided.recomputed_blocks()));
            assert!(divided.bytes() <= budget || part == u64::MAX);
            let got = finish(divided);
            assert_eq!(got.loss.to_bits(), want.loss.to_bits());
            assert_eq!(got.correct, want.correct);
            for (got, want) in got.logits.iter().zip(&want.logits) {
                assert_eq!(bits(got), bits(want));
            }
            let gradients = got.gradients.tensors().expect("gradients");
            for (name, gradient) in &want.gradients.tensors().expect("gradients") {
                let values = |tensor: &candle_core::Tensor| super::golden_model::flat(tensor);
                let (got, want) = (values(&gradients[name]), values(gradient));
                assert_eq!(bits(&got), bits(&want), "{name}");
            }
        }
        println!("{sizes:?}");
        assert_eq!(sizes[0].0, filling(), "{sizes:?}");
        assert!(sizes[..2].iter().all(|size| size.1 == 0), "{sizes:?}");
        assert_eq!(sizes.last().map(|size| size.0), Some(1));
        assert!(sizes.is_sorted_by_key(|size| std::cmp::Reverse(size.0)));
    }
}

#[test]
fn a_large_step_stays_within_the_memory_that_the_sizes_say() {
    let backbone = backbone();
    let config = adapters(16, 6, [3, 1, 1], true, true);
    let of = (backbone.config(), backbone.precision());
    let sizes = StepShape::new(of, config, 3, 16).expect("sizes");
    let set = set(config);
    let whole = large(&backbone, &set, Keep::All).bytes();
    for part in [1, 2, 8, u64::MAX] {
        let room = (whole / part).max(sizes.least_bytes());
        let step = large(&backbone, &set, Keep::Within(room));
        let says = sizes.weights_work_bytes() + sizes.head_bytes(64) + step.bytes();
        assert!(step.bytes() <= room);
        let (_, held) = allocation::peak_of_one_thread(|| finish(step));
        println!("1/{part}: says {says}, held {held}");
        assert!(held as u64 <= says, "1/{part}: says {says}, held {held}");
    }
}

#[test]
fn a_step_holds_about_as_much_as_it_says() {
    let backbone = backbone();
    let set = set(adapters(16, 6, [3, 1, 1], true, true));
    let measure = |keep| {
        let step = step(&backbone, &set, keep);
        let says = step.bytes();
        let (_, held) = allocation::peak_of_one_thread(|| finish(step));
        println!("{keep:?}: says {says}, held {held}");
        (says as f64, held as f64)
    };
    let all = measure(Keep::All);
    let least = measure(Keep::Recompute);
    let half = measure(Keep::Within(((all.0 + least.0) / 2.0) as u64));
    for (says, held) in [all, half, least] {
        assert!(held <= 1.3 * says, "says {says}, held {held}");
        assert!(held >= 0.5 * says, "says {says}, held {held}");
    }
    assert!(least.1 < half.1 && half.1 < all.1);
}

#[test]
fn a_forward_holds_about_as_much_as_it_says() {
    let backbone = backbone();
    for sites in [
        adapters(16, 6, [3, 1, 1], false, true),
        adapters(16, 6, [3, 3, 3], true, true),
        AdapterConfig::LINEAR_PROBE,
    ] {
        let set = AdapterSet::fresh(&shape(), sites, 3, &Stream::new(4, "set")).expect("a set");
        let segment = Segment {
            set: Arc::new(set),
            clips: 0..2,
            num_frames: 8,
        };
        let clip: Arc<[f32]> = vec![0.5; 8 * shape().frame_len()].into();
        let other: Arc<[f32]> = clip.to_vec().into();
        let clips = vec![clip, other];
        let inference = Inference::new(Arc::clone(&backbone), clips, vec![segment]);
        let mut inference = inference.expect("a forward");
        let (_, held) = allocation::peak_of_one_thread(|| {
            while inference.advance().expect("a slice") != Step::Done {}
        });
        let (says, held) = (backbone.bytes_of(16) as f64, held as f64);
        println!("says {says}, held {held}");
        assert!(held <= 1.1 * says, "says {says}, held {held}");
        assert!(held >= 0.3 * says, "says {says}, held {held}");
    }
}
