//! Heads on the demo's clips, of which only the order of the frames tells the label, above the built-in backbone.

use std::num::NonZeroU16;
use std::sync::Arc;

use frameshift::model::adamw::{AdamW, Config};
use frameshift::model::{AdapterSet, Backbone, TrainableSet, TrainingStep};
use frameshift::rng::Stream;
use frameshift::spec::Head;
use frameshift::synth::motion::{self, Motion, Variety};

use super::{end, frozen, probe};
use crate::model::alone;

/// Frames that a task of the demo samples of a clip.
const EIGHT: NonZeroU16 = NonZeroU16::new(8).unwrap();
/// Clips of each label to learn from, and unseen ones, of the head on frames.
const OF_FRAMES: (usize, usize) = (24, 20);
/// The same of the mean, which cannot tell what it has learnt from.
const OF_MEAN: (usize, usize) = (8, 6);

/// The frames 1, 3, 5 … 15 of a clip as a backbone reads them: `[3, 8, S, S]`.
fn planes(backbone: &Backbone, clip: &motion::Clip) -> Arc<[f32]> {
    let of = backbone.config().normalization;
    let sampled = || clip.frames.iter().skip(1).step_by(2).take(8);
    (0..3)
        .flat_map(|channel| {
            sampled().flat_map(move |frame| {
                let values = frame.iter().skip(channel).step_by(3);
                values.map(move |value| {
                    (f32::from(*value) / 255.0 - of.mean[channel]) / of.std[channel]
                })
            })
        })
        .collect()
}

/// Trains a head without adapters and returns, of each pair of labels that are each other's reversal, how many unseen clips it tells from the reversal.
fn told_apart(
    backbone: &Arc<Backbone>,
    motion: Motion,
    head: Head,
    (training, unseen): (usize, usize),
) -> Vec<usize> {
    let labels = motion.labels().len();
    let side = backbone.config().image_size;
    let made = |variety, count, purpose| {
        let stream = Stream::new(5, purpose);
        motion::clips(motion, variety, count * labels, side, &stream)
    };
    let train = made(Variety::Training, training, "demo-training");
    let test = made(Variety::Unseen, unseen, "demo-unseen");
    let clips: Vec<Arc<[f32]>> = train.iter().map(|clip| planes(backbone, clip)).collect();
    let features = frozen(backbone, &clips, head);
    let rows: Vec<u32> = train.iter().map(|clip| clip.label as u32).collect();
    let rng = Stream::new(9, "head");
    let set = AdapterSet::fresh(backbone.config(), probe(head), labels, &rng).expect("a set");
    let set = TrainableSet::beside(&set, backbone).expect("a set");
    let mut optimizer = AdamW::new(set.parameters(), Config::default()).expect("an optimiser");
    for _ in 0..150 {
        let own = Arc::clone(backbone);
        let step = TrainingStep::from_features(own, &set, &features, &rows, None);
        let output = end(step.expect("a step"));
        let step = optimizer.step(set.parameters(), &output.gradients, 1e-3);
        step.expect("an update");
    }
    let set = Arc::new(set.snapshot().expect("a set"));
    let of_pair = |pair: (usize, usize)| {
        let own = test
            .iter()
            .filter(|clip| [pair.0, pair.1].contains(&clip.label));
        let is_right = |clip: &&motion::Clip| {
            let logits = alone(backbone, &set, &planes(backbone, clip), 8);
            // Each label's reversal is its neighbour.
            logits[clip.label] > logits[clip.label ^ 1]
        };
        own.filter(is_right).count()
    };
    motion.reversed_pairs().map(of_pair).collect()
}

#[test]
fn a_head_on_frames_is_at_chance_on_no_reversed_pair_of_the_demo_and_the_mean_on_each() {
    let backbone = Arc::new(Backbone::builtin().expect("the backbone"));
    for motion in [Motion::Direction, Motion::Growth] {
        for right in told_apart(&backbone, motion, Head::Mean, OF_MEAN) {
            assert_eq!(right, OF_MEAN.1, "{motion:?}: one of each pair");
        }
        for right in told_apart(&backbone, motion, Head::Frames(EIGHT), OF_FRAMES) {
            // By chance, 30 or more of 40 in one of a thousand times.
            assert!(right >= 30, "{motion:?}: {right} of {}", 2 * OF_FRAMES.1);
        }
    }
}
