//! bfloat16 and 8-bit integers: agreement with the reference on the full-size cases, gradients, and independence of batch neighbours and slices.

use std::fs;
use std::sync::Arc;

use frameshift::model::{AdapterSet, Inference, Keep, Segment, Step, TrainableSet, TrainingStep};
use frameshift::spec::Precision;
use serde_json::Value;

use super::golden_model::{cases, flat, gradients_of, inference, prepare, read};
use super::model::{adapters, alone, backbone_in, bits, clip, computes, finish, lively, mixed};

const NARROW: [Precision; 2] = [Precision::Bf16, Precision::Int8];

/// Returns the cosine of two vectors.
fn cosine(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let sum = |f: fn((f64, f64)) -> f64| pairs.clone().map(f).sum::<f64>();
    sum(|(a, b)| a * b) / (sum(|(a, _)| a * a) * sum(|(_, b)| b * b)).sqrt()
}

fn top(row: &[f64]) -> usize {
    let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("a class").0
}

#[test]
fn narrow_numbers_agree_with_the_reference_at_full_size() {
    let folder = super::shared::root().join("golden/model");
    let (mut clips, mut hits) = ([0, 0], [0, 0]);
    for path in cases(&folder) {
        let text = fs::read_to_string(&path).expect("a text");
        let case: Value = serde_json::from_str(&text).expect("a case's json");
        if case.get("seed").is_none() {
            continue;
        }
        let golden = read(&path.with_extension("safetensors"));
        let want = &golden.get("logits_f64").unwrap_or(&golden["logits"]).values;
        for (i, precision) in NARROW.into_iter().enumerate() {
            let prepared = prepare(&case, &golden, precision);
            let set = Arc::new(prepared.set.beside(&prepared.backbone).expect("a set"));
            let rows = finish(inference(&prepared, &set));
            for (row, want) in rows.iter().zip(want.chunks_exact(set.classes())) {
                let row: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
                let cosine = cosine(row.iter().copied().zip(want.iter().copied()));
                println!("{}: {precision} cosine {cosine:.6}", path.display());
                assert!(cosine >= 0.999, "{}: {precision}, {cosine}", path.display());
                clips[i] += 1;
                hits[i] += usize::from(top(&row) == top(want));
            }
        }
    }
    for (clips, hits) in clips.into_iter().zip(hits) {
        assert!(clips > 0, "{}: no case of full size", folder.display());
        assert!(hits * 100 >= clips * 99, "{hits} of {clips} classes agree");
    }
}

#[test]
fn gradients_in_bfloat16_point_where_the_references_do() {
    let folder = super::shared::root().join("golden/model");
    for path in cases(&folder) {
        let text = fs::read_to_string(&path).expect("a text");
        let case: Value = serde_json::from_str(&text).expect("a case's json");
        if case.get("seed").is_some() {
            continue;
        }
        let golden = read(&path.with_extension("safetensors"));
        let prepared = prepare(&case, &golden, Precision::Bf16);
        let set = TrainableSet::beside(&prepared.set, &prepared.backbone).expect("a trainable set");
        let (loss, gradients) = gradients_of(&prepared, &set);
        let want = golden["losses"].values[0];
        assert!((loss - want).abs() <= 0.01 * want, "{loss}, not {want}");
        let mut pairs = Vec::new();
        for (name, gradient) in &gradients.tensors().expect("gradients") {
            let got = flat(gradient).into_iter().map(f64::from);
            let want = &golden[&format!("grad.{name}")].values;
            pairs.extend(got.zip(want.iter().copied()));
        }
        let cosine = cosine(pairs.into_iter());
        println!("{}: cosine {cosine:.6}", path.display());
        assert!(cosine >= 0.999, "{}: {cosine}", path.display());
    }
}

#[test]
fn a_clips_logits_are_bit_equal_whatever_its_neighbours_in_narrow_numbers() {
    for precision in NARROW.into_iter().filter(computes) {
        let backbone = backbone_in(precision);
        let (clips, segments) = mixed();
        let rounded = |segment: &Segment| Segment {
            set: Arc::new(segment.set.beside(&backbone).expect("a set")),
            ..segment.clone()
        };
        let segments: Vec<Segment> = segments.iter().map(rounded).collect();
        let batch = Inference::new(Arc::clone(&backbone), clips.clone(), segments.clone());
        let together = finish(batch.expect("a batch"));
        for segment in &segments {
            for clip in segment.clips.clone() {
                let one = alone(&backbone, &segment.set, &clips[clip], segment.num_frames);
                assert_eq!(
                    bits(&one),
                    bits(&together[clip]),
                    "{precision}, clip {clip}"
                );
            }
        }
    }
}

#[test]
fn training_in_narrow_numbers_repeats_itself_and_keeps_exact_weights() {
    for precision in NARROW.into_iter().filter(computes) {
        let backbone = backbone_in(precision);
        let set = lively(adapters(12, 4, [3, 1, 1], true, true), 5, 1);
        let trained = TrainableSet::beside(&set, &backbone).expect("a trainable set");
        let clips = vec![clip(4, 1), clip(4, 2)];
        let run = |keep: Keep| {
            let backbone = Arc::clone(&backbone);
            let step = TrainingStep::new(backbone, &trained, clips.clone(), &[0, 3], None, keep);
            let mut step = step.expect("a step that fits");
            while step.advance().expect("a slice") != Step::Done {}
            step.finish().expect("a finished step")
        };
        let (kept, again) = (run(Keep::All), run(Keep::Recompute));
        assert_eq!(kept.loss.to_bits(), again.loss.to_bits());
        let gradients = again.gradients.tensors().expect("gradients");
        for (name, gradient) in &kept.gradients.tensors().expect("gradients") {
            assert_eq!(
                bits(&flat(gradient)),
                bits(&flat(&gradients[name])),
                "{name}"
            );
        }
        let snapshot = trained.snapshot().expect("a set");
        let weights = |set: &AdapterSet| set.tensors().expect("weights");
        assert_eq!(weights(&snapshot), weights(&set));
    }
}
