//! Heads against PyTorch: `tests/peer/heads.py` draws the same features and weights, and writes what comes of three steps on them.

use std::path::Path;
use std::sync::Arc;

use frameshift::model::adamw::{AdamW, Config};
use frameshift::model::{AdapterSet, Backbone, TrainableSet};
use frameshift::rng::Stream;
use frameshift::spec::{Digest, Head, Precision};
use safetensors::SafeTensors;

use super::{CLASSES, FRAMES, assert_close, flat, probe, step};
use crate::model::{place, random_tensors, small};

/// Tokens of a frame.
const TOKENS: usize = 10;

fn drawn(purpose: &str, count: usize, low: f32, high: f32) -> Vec<f32> {
    let mut stream = Stream::new(33, purpose);
    (0..count).map(|_| stream.range(low, high)).collect()
}

/// A backbone whose final norm is that of the script; heads read nothing else of it.
fn backbone() -> Arc<Backbone> {
    let mut tensors = random_tensors(&small(), 1);
    for (name, low, high) in [("ln_post.weight", 0.7, 1.3), ("ln_post.bias", -0.2, 0.2)] {
        let (_, values) = tensors.get_mut(name).expect("a norm");
        *values = drawn(name, small().width, low, high);
    }
    let of = (small(), Digest([8; 32]));
    let made = Backbone::from_tensors_on("peer", of, tensors, Precision::F32, &place());
    Arc::new(made.expect("a backbone"))
}

#[test]
fn three_steps_of_each_head_are_those_of_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/peer/heads.safetensors");
    let bytes = std::fs::read(path).expect("vectors");
    let file = SafeTensors::deserialize(&bytes).expect("a file of tensors");
    let wanted = |name: &str| -> Vec<f64> {
        let tensor = file.tensor(name).expect(name);
        let (quads, _) = tensor.data().as_chunks();
        let values = quads.iter().map(|quad| f32::from_le_bytes(*quad).into());
        values.collect()
    };
    let backbone = backbone();
    for (name, head, tokens) in [
        ("frames", Head::Frames(FRAMES), 1),
        ("conv", Head::Conv, 1),
        ("attention", Head::Attention(FRAMES), TOKENS),
    ] {
        let config = probe(head);
        let fresh = AdapterSet::fresh(&small(), config, CLASSES, &Stream::new(1, "set"));
        let shapes = fresh
            .expect("a set")
            .tensors()
            .expect("weights")
            .into_iter();
        let weights = shapes.map(|(name, (shape, values))| {
            let values = drawn(&name, values.len(), -0.4, 0.4);
            (name, (shape, values))
        });
        let set = AdapterSet::from_tensors(weights.collect(), &small(), config, CLASSES);
        let set = TrainableSet::beside(&set.expect("a set"), &backbone).expect("a set");
        let each = usize::from(FRAMES.get()) * tokens * small().width;
        let features = drawn(&format!("{name}/features"), 3 * each, -2.0, 2.0);
        let features: Vec<Vec<f32>> = features.chunks_exact(each).map(<[f32]>::to_vec).collect();
        let config = Config {
            eps: 1e-2,
            ..Config::default()
        };
        let mut optimizer = AdamW::new(set.parameters(), config).expect("an optimiser");
        let (mut logits, mut losses) = (Vec::new(), Vec::new());
        for number in 0..3 {
            let output = step(&backbone, &set, &features);
            logits.extend(output.logits.concat());
            losses.push(output.loss as f32);
            if number == 0 {
                for (name, gradient) in output.gradients.tensors().expect("gradients") {
                    let wanted = wanted(&format!("gradient/{name}"));
                    assert_close(&name, &flat(&gradient), &wanted, 2e-5);
                }
            }
            let step = optimizer.step(set.parameters(), &output.gradients, 1e-2);
            step.expect("an update");
        }
        assert_close(name, &logits, &wanted(&format!("logits/{name}")), 2e-5);
        assert_close(name, &losses, &wanted(&format!("losses/{name}")), 2e-5);
        for (name, own) in set.parameters().tensors().expect("weights") {
            let wanted = wanted(&format!("weight/{name}"));
            assert_close(&name, &flat(&own), &wanted, 2e-5);
        }
    }
}
