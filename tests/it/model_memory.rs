//! What a training step keeps: as much as a budget allows, freed as the backward goes, and without any effect on its result; and what a forward takes.

use std::sync::Arc;

use frameshift::model::{
    AdapterSet, Backbone, BackboneConfig, Inference, Keep, Segment, Step, StepOutput, TrainableSet,
    TrainingStep,
};
use frameshift::rng::Stream;
use frameshift::spec::{AdapterConfig, Digest};

use super::allocation;
use super::model::{adapters, bits, random_tensors};

/// Wide enough that activations outweigh everything else.
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
    while step.advance().expect("a slice") == Step::More {}
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
            for (name, gradient) in &want.gradients {
                let values = |tensor: &candle_core::Tensor| super::golden_model::flat(tensor);
                let (got, want) = (values(&got.gradients[name]), values(gradient));
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
        // One MLP alone is as large again while the backward computes it.
        let is_deep = reached > 2;
        assert_eq!(recomputed.iter().any(only_mlps), is_deep, "{recomputed:?}");
        // Nothing is left when even that is too much, but to keep the least.
        let hopeless = step(&backbone, &set, Keep::Within(0));
        assert_eq!(hopeless.bytes(), fewest);
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
        let clip = vec![0.5; 8 * shape().frame_len()];
        let clips = vec![clip.clone().into(), clip.into()];
        let inference = Inference::new(Arc::clone(&backbone), clips, vec![segment]);
        let mut inference = inference.expect("a forward");
        let (_, held) = allocation::peak_of_one_thread(|| {
            while inference.advance().expect("a slice") == Step::More {}
        });
        let (says, held) = (backbone.bytes_of(16) as f64, held as f64);
        println!("says {says}, held {held}");
        assert!(held <= 1.1 * says, "says {says}, held {held}");
        assert!(held >= 0.3 * says, "says {says}, held {held}");
    }
}
