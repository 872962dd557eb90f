//! Training: the same bits every time, the slopes of the loss, and what is pre-trained.

use super::*;

fn begin(backbone: &Arc<Backbone>, set: &TrainableSet, step: u64, keep: Keep) -> TrainingStep {
    let clips = (0..3).map(|i| clip(4, 10 * step + i)).collect();
    let dropout = Dropout {
        rate: 0.5,
        stream: Stream::new(3, "dropout").fork(step),
    };
    let labels: Vec<u32> = (0..3).map(|i| (step as u32 + i) % 4).collect();
    let made = TrainingStep::new(
        Arc::clone(backbone),
        set,
        clips,
        &labels,
        Some(dropout),
        keep,
    );
    made.expect("a step")
}

fn end(mut step: TrainingStep) -> StepOutput {
    while step.advance().expect("a slice") != Step::Done {}
    step.finish().expect("a finished step")
}

fn settings() -> Config {
    Config {
        clip_norm: 1.0,
        ..Config::default()
    }
}

/// Trains for some steps. Returns the bytes of the weights.
fn train(backbone: &Arc<Backbone>, set: &AdapterSet, steps: u64, keep: Keep) -> Vec<u8> {
    let set = TrainableSet::beside(set, backbone).expect("a set");
    let mut optimizer = AdamW::new(set.parameters(), settings()).expect("an optimiser");
    for step in 0..steps {
        let output = end(begin(backbone, &set, step, keep));
        optimizer
            .step(set.parameters(), &output.gradients, 1e-2)
            .expect("an update");
    }
    bytes(&set)
}

fn bytes(set: &TrainableSet) -> Vec<u8> {
    let snapshot = set.snapshot().expect("a snapshot");
    snapshot.to_safetensors(Default::default()).expect("bytes")
}

#[test]
fn training_repeats_itself_bit_for_bit_and_so_does_recomputing() {
    let backbone = backbone();
    for config in [
        adapters(12, 4, [3, 1, 1], false, true),
        adapters(12, 2, [3, 3, 3], true, true),
        adapters(9, 1, [3, 1, 1], true, false),
        adapters(9, 1, [3, 1, 1], false, true),
        AdapterConfig::LINEAR_PROBE,
    ] {
        let set = lively(config, 4, 7);
        let first = train(&backbone, &set, 3, Keep::All);
        assert_eq!(first, train(&backbone, &set, 3, Keep::All));
        assert_eq!(first, train(&backbone, &set, 3, Keep::Recompute));
        assert_ne!(first, train(&backbone, &set, 2, Keep::All));
    }
}

#[test]
fn a_restored_optimiser_continues_bit_for_bit() {
    let backbone = backbone();
    let set = lively(adapters(12, 4, [3, 1, 1], true, true), 4, 8);
    let whole = train(&backbone, &set, 4, Keep::All);

    let first = TrainableSet::beside(&set, &backbone).expect("a set");
    let mut optimizer = AdamW::new(first.parameters(), settings()).expect("an optimiser");
    for step in 0..2 {
        let output = end(begin(&backbone, &first, step, Keep::All));
        optimizer
            .step(first.parameters(), &output.gradients, 1e-2)
            .expect("an update");
    }
    let (steps, state) = optimizer.state().expect("a state");
    let file = bytes(&first);
    let stored = AdapterSet::from_safetensors(&file, &small(), set.config(), 4).expect("a set");
    let second = TrainableSet::beside(&stored, &backbone).expect("a set");
    let mut optimizer = AdamW::new(second.parameters(), settings()).expect("an optimiser");
    optimizer.restore(steps, state.clone()).expect("a state");
    for step in 2..4 {
        let output = end(begin(&backbone, &second, step, Keep::All));
        optimizer
            .step(second.parameters(), &output.gradients, 1e-2)
            .expect("an update");
    }
    assert_eq!(bytes(&second), whole);

    let mut short = state.clone();
    short.remove("fc.weight.m");
    let missing = optimizer.restore(steps, short);
    assert!(matches!(missing, Err(Error::MissingTensor { name }) if name == "fc.weight.m"));
    let mut long = state;
    long.insert("other".to_owned(), (vec![1], vec![0.0]));
    let extra = optimizer.restore(steps, long);
    assert!(matches!(extra, Err(Error::UnexpectedTensor { name }) if name == "other"));
}

#[test]
fn slices_of_other_work_in_between_change_no_bit() {
    let backbone = backbone();
    let set = TrainableSet::beside(
        &lively(adapters(12, 3, [3, 1, 1], true, true), 4, 9),
        &backbone,
    )
    .expect("a set");
    let (clips, segments) = mixed();
    let infer =
        || Inference::new(Arc::clone(&backbone), clips.clone(), segments.clone()).expect("a batch");
    let logits = finish(infer());
    let undisturbed = end(begin(&backbone, &set, 0, Keep::All));

    let (mut step, mut other) = (
        begin(&backbone, &set, 0, Keep::All),
        begin(&backbone, &set, 1, Keep::Recompute),
    );
    let (mut batch, mut answers) = (infer(), Vec::new());
    let mut other_runs = true;
    while step.advance().expect("a slice") == Step::More {
        other_runs = other_runs && other.advance().expect("a slice") == Step::More;
        if batch.advance().expect("a slice") == Step::Done {
            answers.push(
                std::mem::replace(&mut batch, infer())
                    .into_logits()
                    .expect("logits"),
            );
        }
    }
    assert!(!answers.is_empty());
    assert!(answers.iter().all(|answer| *answer == logits));
    let disturbed = step.finish().expect("a finished step");
    assert_eq!(disturbed.loss.to_bits(), undisturbed.loss.to_bits());
    let gradients = disturbed.gradients.tensors().expect("gradients");
    for (name, gradient) in &undisturbed.gradients.tensors().expect("gradients") {
        let flat = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(
            bits(&flat(gradient)),
            bits(&flat(&gradients[name])),
            "{name}"
        );
    }
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let backbone = backbone();
    let config = adapters(6, 2, [3, 3, 1], true, true);
    let set = lively(config, 4, 10);
    let loss = |tensors: Tensors| {
        let set = AdapterSet::from_tensors(tensors, &small(), config, 4).expect("a set");
        let set = TrainableSet::beside(&set, &backbone).expect("a set");
        end(begin(&backbone, &set, 0, Keep::All))
    };
    let base = set.tensors().expect("weights");
    let gradients = loss(base.clone()).gradients.tensors();
    for (name, gradient) in &gradients.expect("gradients") {
        let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        let steepest =
            (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()));
        let at = steepest.expect("an element");
        let moved = |delta: f32| {
            let mut tensors = base.clone();
            tensors.get_mut(name).expect("a weight").1[at] += delta;
            loss(tensors).loss
        };
        let slope = (moved(5e-3) - moved(-5e-3)) / 1e-2;
        let want = f64::from(gradient[at]);
        assert!(
            (slope - want).abs() <= 1e-3 + 0.02 * want.abs(),
            "{name}: slope {slope}, gradient {want}"
        );
    }
}

#[test]
fn a_probe_trains_from_features_as_from_frames() {
    let backbone = backbone();
    let set = TrainableSet::beside(&lively(AdapterConfig::LINEAR_PROBE, 4, 11), &backbone)
        .expect("a set");
    let clips: Vec<Arc<[f32]>> = (0..3).map(|i| clip(4, i)).collect();
    let mut features =
        Features::new(Arc::clone(&backbone), clips.clone(), Head::Mean).expect("a batch");
    while features.advance().expect("a slice") != Step::Done {}
    let features = features.into_features().expect("features");
    let labels = [0, 3, 1];
    let from_frames =
        TrainingStep::new(Arc::clone(&backbone), &set, clips, &labels, None, Keep::All);
    let from_frames = end(from_frames.expect("a step"));
    let from_features =
        TrainingStep::from_features(Arc::clone(&backbone), &set, &features, &labels, None);
    let from_features = end(from_features.expect("a step"));
    assert_eq!(from_frames.logits, from_features.logits);
    assert_eq!(from_frames.loss.to_bits(), from_features.loss.to_bits());

    let with_sites = TrainableSet::beside(
        &lively(adapters(4, 1, [3, 1, 1], true, false), 4, 1),
        &backbone,
    )
    .expect("a set");
    let refused = TrainingStep::from_features(backbone, &with_sites, &features, &labels, None);
    assert!(matches!(refused, Err(Error::Adapter(_))));
}

#[test]
fn a_batch_that_does_not_fit_is_refused() {
    let backbone = backbone();
    let (clips, segments) = mixed();
    let refuse = |clips: Vec<Arc<[f32]>>, segments: Vec<Segment>| {
        Inference::new(Arc::clone(&backbone), clips, segments)
            .err()
            .expect("it does not fit")
    };
    let mut short = clips.clone();
    short[4] = clip(1, 0);
    assert!(matches!(
        refuse(short, segments.clone()),
        Error::ClipSize { clip: 4, .. }
    ));
    let mut gap = segments.clone();
    gap[1].clips.start += 1;
    assert!(matches!(
        refuse(clips.clone(), gap),
        Error::Segments { index: 1, .. }
    ));
    let fewer = segments[..3].to_vec();
    assert!(matches!(
        refuse(clips, fewer),
        Error::Segments { index: 2, .. }
    ));
    assert!(matches!(
        refuse(Vec::new(), Vec::new()),
        Error::Segments { .. }
    ));

    let set =
        TrainableSet::beside(&lively(AdapterConfig::LINEAR_PROBE, 2, 1), &backbone).expect("a set");
    let step = |labels: &[u32]| {
        TrainingStep::new(
            Arc::clone(&backbone),
            &set,
            vec![clip(1, 0)],
            labels,
            None,
            Keep::All,
        )
    };
    assert!(matches!(
        step(&[2]).err(),
        Some(Error::Label { label: 2, .. })
    ));
    assert!(matches!(
        step(&[0, 1]).err(),
        Some(Error::LabelCount { .. })
    ));
}

#[test]
fn pre_training_learns_repeats_itself_and_its_file_is_a_backbone() {
    let config = BackboneConfig {
        image_size: 16,
        width: 24,
        layers: 2,
        ..small()
    };
    let run = || {
        let settings = adamw::Config {
            clip_norm: 1.0,
            ..adamw::Config::default()
        };
        let mut trainer =
            pretrain::Trainer::new(config.clone(), &[3, 2], 4, settings).expect("a trainer");
        let mut rng = Stream::new(2, "images");
        let images: Vec<f32> = (0..12 * config.frame_len()).map(|_| rng.normal()).collect();
        let images =
            candle_core::Tensor::from_vec(images, (12, 3, 16, 16), &candle_core::Device::Cpu)
                .unwrap();
        let labels = [
            (0..12).map(|i| i % 3).collect(),
            (0..12).map(|i| i / 6).collect(),
        ];
        let first = trainer.evaluate(&images, &labels).expect("a report");
        for _ in 0..40 {
            trainer.step(&images, &labels, 3e-3).expect("a step");
        }
        (
            first,
            trainer.evaluate(&images, &labels).expect("a report"),
            trainer,
        )
    };
    let (first, last, trainer) = run();
    assert!(
        last.losses
            .iter()
            .zip(&first.losses)
            .all(|(l, f)| *l < 0.1 * f),
        "{first:?} {last:?}"
    );
    assert_eq!(last.accuracies, [1.0, 1.0]);
    assert_eq!(
        trainer.tensors().expect("weights"),
        run().2.tensors().expect("weights")
    );

    let tensors = trainer.tensors().expect("weights");
    Backbone::from_tensors("trained", config, Digest([0; 32]), tensors).expect("a backbone");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("backbone.safetensors");
    trainer
        .save(&path, &[("seed".to_owned(), "4".to_owned())].into())
        .expect("a file");
    let file = std::fs::read(&path).expect("a file");
    let file = safetensors::SafeTensors::deserialize(&file).expect("a file of tensors");
    assert!(
        file.tensors()
            .iter()
            .all(|(_, view)| view.dtype() == safetensors::Dtype::F16)
    );
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let backbone = backbone();
    let set = lively(adapters(20, 3, [3, 3, 1], true, true), 4, 6);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads")
            .install(|| train(&backbone, &set, 2, Keep::All))
    };
    assert_eq!(run(1), run(3));
}

/// Trains for four steps on two batches in turns, each frame with one place for its tokens but for every fourth. Returns the bytes of the weights, and how
/// many frames went on from tokens that were kept.
fn train_keeping(
    backbone: &Arc<Backbone>,
    set: &AdapterSet,
    keep: Keep,
    places: &[Vec<Vec<Option<Kept>>>],
) -> (Vec<u8>, usize) {
    let set = TrainableSet::beside(set, backbone).expect("a set");
    let mut optimizer = AdamW::new(set.parameters(), settings()).expect("an optimiser");
    let mut resumed = 0;
    for step in 0..4 {
        let places = places.get(step as usize % 2).cloned().unwrap_or_default();
        let mut own = begin(backbone, &set, step % 2, keep).keeping(places);
        while own.advance().expect("a slice") != Step::Done {}
        resumed += own.resumed_frames();
        let output = own.finish().expect("a finished step");
        optimizer
            .step(set.parameters(), &output.gradients, 1e-2)
            .expect("an update");
    }
    (bytes(&set), resumed)
}

#[test]
fn frozen_blocks_run_once_for_frames_whose_tokens_are_kept_and_no_bit_changes() {
    let backbone = backbone();
    for (config, is_frozen) in [
        (adapters(12, 2, [3, 3, 3], true, true), true),
        (adapters(9, 1, [3, 1, 1], true, false), true),
        // In every block; and where nothing is trained but the head.
        (adapters(12, 4, [3, 1, 1], false, true), false),
        (adapters(9, 1, [3, 1, 1], false, true), false),
    ] {
        let set = lively(config, 4, 7);
        for keep in [Keep::All, Keep::Recompute, Keep::Within(0)] {
            let place = |t: usize| (t != 3).then(Kept::default);
            let clip = || (0..4).map(place).collect::<Vec<_>>();
            let places: Vec<Vec<_>> = (0..2).map(|_| (0..3).map(|_| clip()).collect()).collect();
            let (plain, none) = train_keeping(&backbone, &set, keep, &[]);
            let (kept, resumed) = train_keeping(&backbone, &set, keep, &places);
            assert_eq!(plain, kept, "{config:?} {keep:?}");
            // Three frames of each of three clips, in two of four steps.
            let is_able = is_frozen && backbone.place().is_host();
            let expected = if is_able { 18 } else { 0 };
            assert_eq!((none, resumed), (0, expected), "{config:?} {keep:?}");
        }
    }
}
