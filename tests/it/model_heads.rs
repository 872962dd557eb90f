//! Heads that read the frames of a clip: logits, gradients and three steps against a reference in double precision; order, batches and files.

mod demo;
mod peer;
mod reference;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use frameshift::model::adamw::{AdamW, Config};
use frameshift::model::{
    AdapterSet, Backbone, Dropout, Error, Features, Inference, Keep, Readout, Segment, Step,
    StepOutput, Tensors, TrainableSet, TrainingStep,
};
use frameshift::rng::Stream;
use frameshift::spec::{AdapterConfig, Head, Precision};

use crate::model::{adapters, alone, backbone_in, bits, clip, finish, lively, small};
use reference::{Reference, slopes};

/// Frames of every clip here.
const FRAMES: NonZeroU16 = NonZeroU16::new(4).unwrap();
const CLASSES: usize = 3;

/// Every head that reads frames.
fn heads() -> [Head; 3] {
    [Head::Frames(FRAMES), Head::Conv, Head::Attention(FRAMES)]
}

fn headed(config: AdapterConfig, head: Head) -> AdapterConfig {
    AdapterConfig { head, ..config }
}

fn probe(head: Head) -> AdapterConfig {
    headed(AdapterConfig::LINEAR_PROBE, head)
}

fn backbone() -> Arc<Backbone> {
    backbone_in(Precision::F32)
}

fn frozen(backbone: &Arc<Backbone>, clips: &[Arc<[f32]>], head: Head) -> Vec<Vec<f32>> {
    let features = Features::new(Arc::clone(backbone), clips.to_vec(), head);
    let mut features = features.expect("a batch");
    while features.advance().expect("a slice") != Step::Done {}
    features.into_features().expect("features")
}

fn end(mut step: TrainingStep) -> StepOutput {
    while step.advance().expect("a slice") != Step::Done {}
    step.finish().expect("a finished step")
}

/// The same frames in the opposite order.
fn reversed(clip: &[f32]) -> Arc<[f32]> {
    let plane = small().image_size * small().image_size;
    let channels = clip.chunks_exact(usize::from(FRAMES.get()) * plane);
    channels
        .flat_map(|channel| channel.chunks_exact(plane).rev().flatten().copied())
        .collect()
}

fn clips() -> Vec<Arc<[f32]>> {
    (0..3).map(|i| clip(4, 40 + i)).collect()
}

/// A step of a head alone on what the reference reads, too.
fn step(backbone: &Arc<Backbone>, set: &TrainableSet, features: &[Vec<f32>]) -> StepOutput {
    let labels = &reference::LABELS;
    let step = TrainingStep::from_features(Arc::clone(backbone), set, features, labels, None);
    end(step.expect("a step"))
}

fn flat(tensor: &candle_core::Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(what: &str, got: &[f32], want: &[f64], limit: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let most = want.iter().fold(1e-3, |most: f64, w| most.max(w.abs()));
    for (got, want) in got.iter().zip(want) {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= limit * most, "{what}: {got} for {want}");
    }
}

#[test]
fn logits_gradients_and_three_steps_are_those_of_a_reference_in_double_precision() {
    let backbone = backbone();
    for head in heads() {
        let set = lively(probe(head), CLASSES, 21);
        let features = frozen(&backbone, &clips(), head);
        let mut reference = Reference::new(head, &features, &set.tensors().expect("weights"));
        let set = TrainableSet::beside(&set, &backbone).expect("a set");
        let config = Config {
            // A step is not the gradient's sign alone, which is noise where the gradient is.
            eps: 1e-2,
            ..Config::default()
        };
        let mut optimizer = AdamW::new(set.parameters(), config).expect("an optimiser");
        for number in 1..=3 {
            let output = step(&backbone, &set, &features);
            let (logits, loss) = (reference.logits(), reference.loss());
            for (got, want) in output.logits.iter().zip(&logits) {
                assert_close("logits", got, want, 1e-5);
            }
            assert!((output.loss - loss).abs() < 1e-5, "{} {loss}", output.loss);
            let slopes = slopes(&mut reference);
            assert_eq!(slopes.len(), output.gradients.len());
            let tensors = output.gradients.tensors().expect("gradients");
            let mut gradients = reference::Values::new();
            for (name, slopes) in &slopes {
                let gradient = flat(&tensors[name]);
                let (got, want): (Vec<f32>, Vec<f64>) = slopes
                    .iter()
                    .map(|(at, slope)| (gradient[*at], *slope))
                    .unzip();
                let what = format!("{head:?}, step {number}, {name}");
                assert_close(&what, &got, &want, 2e-5);
                let wide = gradient.into_iter().map(f64::from).collect();
                gradients.insert(name.clone(), wide);
            }
            let step = optimizer.step(set.parameters(), &output.gradients, 1e-2);
            step.expect("an update");
            reference.update(&gradients, number, 1e-2, &config);
            for (name, own) in &set.parameters().tensors().expect("weights") {
                let what = format!("{head:?} after step {number}, {name}");
                let weights = &reference.weights[name];
                assert_close(&what, &flat(own), weights, 2e-5);
            }
        }
    }
}

#[test]
fn a_served_clip_has_the_logits_of_training_and_of_its_features() {
    let backbone = backbone();
    for head in heads() {
        let set = lively(probe(head), CLASSES, 22);
        let features = frozen(&backbone, &clips(), head);
        let trainable = TrainableSet::beside(&set, &backbone).expect("a set");
        let trained = step(&backbone, &trainable, &features);
        let set = Arc::new(set);
        for (clip, logits) in clips().iter().zip(&trained.logits) {
            assert_eq!(&alone(&backbone, &set, clip, 4), logits, "{head:?}");
        }
    }
}

#[test]
fn gradients_reach_the_adapters_below_a_head() {
    let backbone = backbone();
    for head in heads() {
        let config = headed(adapters(6, 2, [3, 3, 1], true, true), head);
        let set = lively(config, CLASSES, 23);
        let run = |tensors: Tensors| {
            let set = AdapterSet::from_tensors(tensors, &small(), config, CLASSES);
            let set = TrainableSet::beside(&set.expect("a set"), &backbone).expect("a set");
            let dropout = Dropout {
                rate: 0.5,
                stream: Stream::new(3, "dropout"),
            };
            let labels = &reference::LABELS;
            let backbone = Arc::clone(&backbone);
            let dropout = Some(dropout);
            end(
                TrainingStep::new(backbone, &set, clips(), labels, dropout, Keep::All)
                    .expect("a step"),
            )
        };
        let base = set.tensors().expect("weights");
        for (name, gradient) in run(base.clone()).gradients.tensors().expect("gradients") {
            let gradient = flat(&gradient);
            let steepest = (0..gradient.len())
                .max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()));
            let at = steepest.expect("an element");
            let moved = |delta: f32| {
                let mut tensors = base.clone();
                tensors.get_mut(&name).expect("a weight").1[at] += delta;
                run(tensors).loss
            };
            let slope = (moved(5e-3) - moved(-5e-3)) / 1e-2;
            let want = f64::from(gradient[at]);
            assert!(
                (slope - want).abs() <= 1e-3 + 0.02 * want.abs(),
                "{head:?}, {name}: slope {slope}, gradient {want}"
            );
            // Class tokens pass it by.
            let is_last = name.contains("resblocks.3.adapter_pre_mlp");
            let is_dead = is_last && !head.reads_patches();
            assert_eq!(want != 0.0, !is_dead, "{head:?}, {name}");
        }
    }
}

#[test]
fn how_a_step_is_divided_changes_no_bit_of_a_heads_gradients() {
    let backbone = backbone();
    for head in heads() {
        let sited = headed(adapters(6, 2, [3, 1, 1], true, true), head);
        for config in [sited, probe(head)] {
            let set = TrainableSet::beside(&lively(config, CLASSES, 24), &backbone).expect("a set");
            let run = |keep| {
                let labels = &reference::LABELS;
                let step =
                    TrainingStep::new(Arc::clone(&backbone), &set, clips(), labels, None, keep);
                let step = step.expect("a step");
                (
                    step.micro_batch(),
                    end(step).gradients.tensors().expect("gradients"),
                )
            };
            let (whole, gradients) = run(Keep::All);
            // No room at all: one clip at a time.
            let (single, divided) = run(Keep::Within(0));
            assert_eq!((whole, single), (3, 1));
            for (name, gradient) in &gradients {
                let other = flat(&divided[name]);
                assert_eq!(bits(&flat(gradient)), bits(&other), "{config:?}, {name}");
            }
        }
    }
}

#[test]
fn a_reversed_clip_is_another_clip_to_every_head_but_the_mean() {
    let backbone = backbone();
    let clip = clip(4, 60);
    let back = reversed(&clip);
    assert_eq!(*reversed(&back), *clip);
    for head in heads() {
        let set = Arc::new(lively(probe(head), CLASSES, 25));
        let (there, again) = (
            alone(&backbone, &set, &clip, 4),
            alone(&backbone, &set, &back, 4),
        );
        let apart = there.iter().zip(&again).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f32::max) > 1e-2, "{head:?}");
    }
    let set = Arc::new(lively(probe(Head::Mean), CLASSES, 25));
    let (there, again) = (
        alone(&backbone, &set, &clip, 4),
        alone(&backbone, &set, &back, 4),
    );
    for (a, b) in there.iter().zip(&again) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

/// Trains a head on clips and their reverses, and returns how many of unseen pairs it tells apart.
fn told_apart(head: Head) -> usize {
    let backbone = backbone();
    // A clip moves from what is common to all clips of its side to noise of its own.
    let common = clip(4, 1);
    let pairs = |from: u64, count: u64| {
        let mut all = Vec::new();
        for i in 0..count {
            let own = clip(4, from + i);
            let frame = small().frame_len() / 3;
            let mixed: Vec<f32> = (own.iter().zip(common.iter()).enumerate())
                .map(|(at, (own, common))| {
                    let along = (at / frame % 4) as f32 / 3.0;
                    own * along + common * (1.0 - along)
                })
                .collect();
            all.push(reversed(&mixed));
            all.push(mixed.into());
        }
        all
    };
    let (train, test) = (pairs(1000, 8), pairs(2000, 10));
    let features = frozen(&backbone, &train, head);
    let labels: Vec<u32> = (0..16).map(|i| i % 2).collect();
    let rng = Stream::new(9, "head");
    let set = AdapterSet::fresh(&small(), probe(head), 2, &rng).expect("a set");
    let set = TrainableSet::beside(&set, &backbone).expect("a set");
    let mut optimizer = AdamW::new(set.parameters(), Config::default()).expect("an optimiser");
    for _ in 0..100 {
        let backbone = Arc::clone(&backbone);
        let step = TrainingStep::from_features(backbone, &set, &features, &labels, None);
        let output = end(step.expect("a step"));
        let step = optimizer.step(set.parameters(), &output.gradients, 1e-2);
        step.expect("an update");
    }
    let set = Arc::new(set.snapshot().expect("a set"));
    let is_right = |(i, clip): (usize, &Arc<[f32]>)| {
        let logits = alone(&backbone, &set, clip, 4);
        usize::from(logits[i % 2] > logits[1 - i % 2])
    };
    test.iter().enumerate().map(is_right).sum()
}

#[test]
fn trained_heads_tell_unseen_clips_from_their_reverses_where_the_mean_guesses() {
    assert_eq!(told_apart(Head::Mean), 10, "of 20, one of each pair");
    for head in heads() {
        let right = told_apart(head);
        assert!(right >= 17, "{head:?}: {right} of 20");
    }
}

#[test]
fn a_clips_logits_have_the_same_bits_beside_every_other_head() {
    for precision in Precision::ALL.into_iter().filter(super::model::computes) {
        let backbone = backbone_in(precision);
        let (mut own, mut segments) = (Vec::new(), Vec::new());
        let shared = clip(4, 70);
        let heads = heads();
        let all = [
            Head::Mean,
            heads[2],
            heads[1],
            Head::Mean,
            heads[0],
            heads[2],
            Head::Mean,
        ];
        for (i, head) in (0..).zip(all) {
            let config = match i {
                1 => headed(adapters(12, 1, [3, 1, 1], true, true), head),
                3 | 5 => headed(adapters(5, 3, [3, 1, 1], false, true), head),
                _ => probe(head),
            };
            let first = own.len();
            own.extend([shared.clone(), clip(4, 70 + i)]);
            segments.push(Segment {
                set: Arc::new(lively(config, CLASSES, i)),
                clips: first..own.len(),
                num_frames: 4,
            });
        }
        let batch = || Inference::new(backbone.clone(), own.clone(), segments.clone()).unwrap();
        let (apart, together) = (finish(batch()), finish(batch().sharing()));
        for segment in &segments {
            for i in segment.clips.clone() {
                let single = alone(&backbone, &segment.set, &own[i], 4);
                assert_eq!(bits(&single), bits(&apart[i]), "{precision:?}, clip {i}");
                assert_eq!(bits(&single), bits(&together[i]), "{precision:?}, clip {i}");
            }
        }
    }
}

#[test]
fn clips_of_another_length_have_features_but_no_logits_of_a_head_on_frames() {
    let backbone = backbone();
    let set = Arc::new(lively(probe(Head::Frames(FRAMES)), CLASSES, 26));
    let segment = Segment {
        set: Arc::clone(&set),
        clips: 0..1,
        num_frames: 2,
    };
    let batch = || Inference::new(backbone.clone(), vec![clip(2, 1)], vec![segment.clone()]);
    let refused = batch().expect("a batch").advance();
    assert!(matches!(
        refused,
        Err(Error::HeadFrames {
            expected: 4,
            got: 2
        })
    ));
    let mut features = batch().expect("a batch").reading([Readout::Features]);
    while features.advance().expect("a slice") != Step::Done {}
    let rows = features.into_readouts().expect("features");
    assert_eq!(rows[0].len(), 3 * small().width);
    let set = TrainableSet::beside(&set, &backbone).expect("a set");
    let step = TrainingStep::new(backbone, &set, vec![clip(2, 1)], &[0], None, Keep::All);
    assert!(matches!(step.err(), Some(Error::HeadFrames { .. })));
}

#[test]
fn a_heads_tensors_have_names_of_their_own_and_come_back() {
    let names = |head| -> BTreeMap<String, Vec<usize>> {
        let set = lively(probe(head), CLASSES, 27);
        let file = set.to_safetensors(BTreeMap::new()).expect("bytes");
        let back = AdapterSet::from_safetensors(&file, &small(), probe(head), CLASSES);
        let weights = set.tensors().expect("weights");
        assert_eq!(back.expect("a set").tensors().expect("weights"), weights);
        let shape = |(name, (shape, _))| (name, shape);
        weights.into_iter().map(shape).collect()
    };
    let c = small().width;
    assert_eq!(
        names(Head::Frames(FRAMES)),
        [
            ("head.frames.fc.weight".to_owned(), vec![CLASSES, 4 * c]),
            ("head.frames.fc.bias".to_owned(), vec![CLASSES]),
        ]
        .into()
    );
    let attention = names(Head::Attention(FRAMES));
    assert_eq!(attention.len(), 9);
    assert_eq!(attention["head.attention.positions"], [4, c]);
    assert_eq!(attention["head.attention.key_value.weight"], [2 * c, c]);
    let conv = names(Head::Conv);
    assert_eq!(conv["head.conv.depthwise.weight"], [c, 1, 3, 1, 1]);
    assert_eq!(conv["head.conv.mix.weight"], [c / 2, c]);
    assert_eq!(conv["head.conv.fc.weight"], [CLASSES, c + c / 2]);
    let mean = lively(probe(Head::Mean), CLASSES, 27).to_safetensors(BTreeMap::new());
    let other = AdapterSet::from_safetensors(
        &mean.expect("bytes"),
        &small(),
        probe(Head::Frames(FRAMES)),
        CLASSES,
    );
    assert!(matches!(other, Err(Error::MissingTensor { name }) if name == "head.frames.fc.bias"));
}
