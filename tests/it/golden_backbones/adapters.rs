//! Adapters on a loaded backbone, trained for some steps as the official code trains: logits, losses, gradients and final weights.

use std::fs;
use std::num::NonZeroU32;
use std::sync::Arc;

use frameshift::model::adamw::{AdamW, Config};
use frameshift::model::load::{Float, Stored, serialize};
use frameshift::model::{
    AdapterSet, Backbone, Inference, Keep, Segment, Step, StepOutput, TrainableSet, TrainingStep,
};
use frameshift::spec::{AdapterConfig, Head};
use serde::Deserialize;

use super::case::{Case, read_json};
use super::golden::{Golden, distance};

#[derive(Deserialize)]
struct Run {
    num_classes: usize,
    adapter_width: u32,
    adapter_layers: NonZeroU32,
    adapter_kernel_size: [u32; 3],
    adapter_pre_attn: bool,
    adapter_pre_mlp: bool,
    num_frames: usize,
    batch: usize,
    optimizer: Optimizer,
    fp32_vs_fp64: Distances,
}

#[derive(Deserialize)]
struct Optimizer {
    name: String,
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    steps: usize,
    schedule: String,
}

#[derive(Deserialize)]
struct Distances {
    logits: f64,
    losses: f64,
    grad_max: f64,
}

/// Shares of limits, the worst first in the end.
struct Shares(Vec<(f64, String)>);

impl Shares {
    /// Compares a list with its golden one; the limit is max(4 d, 2e-6 m).
    fn close(&mut self, name: &str, got: &[f32], expected: &[f64], d: f64) {
        let m = largest(expected);
        let limit = (4.0 * d).max(2e-6 * m);
        self.0
            .push((distance(got, expected) / limit, name.to_owned()));
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, value| value.abs().max(most))
}

/// Checks every adapter run of a case; says how many there are.
pub(super) fn check(case: &Case, backbone: &Arc<Backbone>) -> usize {
    let mut runs: Vec<String> = fs::read_dir(&case.folder)
        .expect("the folder is readable")
        .map(|entry| entry.expect("the folder is readable").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("adapter_") && name.ends_with(".json"))
        .collect();
    runs.sort();
    for name in &runs {
        let run: Run = read_json(&case.folder.join(name));
        let golden = Golden::read(&case.folder.join(name.replace(".json", ".safetensors")));
        let mut shares = check_run(backbone, &run, &golden);
        shares.0.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (share, tensor) = &shares.0[0];
        println!(
            "{}/{name}: worst {share:.3} of the limit ({tensor}), {} tensors",
            case.name,
            shares.0.len()
        );
        assert!(*share <= 1.0, "{}/{name}: {tensor}: {share:.3}", case.name);
    }
    runs.len()
}

fn check_run(backbone: &Arc<Backbone>, run: &Run, golden: &Golden) -> Shares {
    assert_eq!(
        (run.optimizer.name.as_str(), run.optimizer.schedule.as_str()),
        ("AdamW", "constant")
    );
    let set = Arc::new(initial(backbone, run, golden));
    let mut shares = Shares(Vec::new());
    let (_, logits) = golden.get("logits_f64");
    let got = infer(backbone, &set, run, golden);
    shares.close("logits", &got, logits, run.fp32_vs_fp64.logits);

    let mut steps = Vec::new();
    for keep in [Keep::All, Keep::Recompute] {
        steps.push(train(backbone, &set, run, golden, keep));
    }
    let (losses, first, last) = &steps[0];
    assert_eq!(losses, &steps[1].0, "recomputing changes no bit");
    let (_, expected) = golden.get("losses_f64");
    let losses: Vec<f32> = losses.iter().map(|&loss| loss as f32).collect();
    shares.close("losses", &losses, expected, run.fp32_vs_fp64.losses);
    compare_tensors(&mut shares, run, golden, first, last);
    shares
}

/// The set that `weights.` describes.
fn initial(backbone: &Arc<Backbone>, run: &Run, golden: &Golden) -> AdapterSet {
    let stored: Vec<Stored> = golden
        .0
        .iter()
        .filter_map(|(name, (shape, values))| {
            let bytes = values
                .iter()
                .flat_map(|&value| (value as f32).to_le_bytes());
            Some(Stored {
                name: name.strip_prefix("weights.")?.to_owned(),
                dtype: Float::F32.dtype(),
                shape: shape.clone(),
                bytes: bytes.collect(),
            })
        })
        .collect();
    let config = AdapterConfig {
        adapter_width: run.adapter_width,
        adapter_layers: Some(run.adapter_layers),
        adapter_kernel_size: run.adapter_kernel_size,
        adapter_pre_attn: run.adapter_pre_attn,
        adapter_pre_mlp: run.adapter_pre_mlp,
        head: Head::Mean,
    };
    let bytes = serialize(&stored, &Default::default());
    AdapterSet::from_safetensors(&bytes, backbone.config(), config, run.num_classes)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn clips(run: &Run, golden: &Golden) -> Vec<Arc<[f32]>> {
    let input = golden.floats("input");
    assert_eq!(golden.get("input").0[0], run.batch);
    input
        .chunks(input.len() / run.batch)
        .map(Arc::from)
        .collect()
}

fn infer(backbone: &Arc<Backbone>, set: &Arc<AdapterSet>, run: &Run, golden: &Golden) -> Vec<f32> {
    let segment = Segment {
        set: set.clone(),
        clips: 0..run.batch,
        num_frames: run.num_frames,
    };
    let mut inference = Inference::new(backbone.clone(), clips(run, golden), vec![segment])
        .unwrap_or_else(|error| panic!("{error}"));
    while inference.advance().expect("the forward goes on") != Step::Done {}
    inference.into_logits().expect("logits").concat()
}

type Weights = Vec<(String, Vec<f32>)>;

/// Losses before and after each step, what the first step found, and the final weights.
fn train(
    backbone: &Arc<Backbone>,
    set: &AdapterSet,
    run: &Run,
    golden: &Golden,
    keep: Keep,
) -> (Vec<f64>, StepOutput, Weights) {
    let set = TrainableSet::new(set).unwrap_or_else(|error| panic!("{error}"));
    let labels: Vec<u32> = golden
        .get("labels")
        .1
        .iter()
        .map(|&label| label as u32)
        .collect();
    let config = Config {
        beta1: run.optimizer.betas[0],
        beta2: run.optimizer.betas[1],
        eps: run.optimizer.eps,
        weight_decay: run.optimizer.weight_decay,
        clip_norm: 0.0,
    };
    let mut optimizer = AdamW::new(set.parameters(), config).expect("an optimiser");
    let mut outputs = Vec::new();
    for step in 0..=run.optimizer.steps {
        let mut work = TrainingStep::new(
            backbone.clone(),
            &set,
            clips(run, golden),
            &labels,
            None,
            keep,
        )
        .unwrap_or_else(|error| panic!("{error}"));
        while work.advance().expect("the step goes on") != Step::Done {}
        let output = work.finish().expect("a loss");
        if step < run.optimizer.steps {
            optimizer
                .step(set.parameters(), &output.gradients, run.optimizer.lr)
                .expect("an update");
        }
        outputs.push(output);
    }
    let weights = set
        .parameters()
        .tensors()
        .expect("weights")
        .iter()
        .map(|(name, weight)| (name.clone(), flat(weight)))
        .collect();
    let losses = outputs.iter().map(|output| output.loss).collect();
    (losses, outputs.swap_remove(0), weights)
}

fn flat(tensor: &candle_core::Tensor) -> Vec<f32> {
    tensor
        .flatten_all()
        .and_then(|flat| flat.to_vec1())
        .expect("f32 values")
}

/// Gradients of the first step and weights after the last: as many as the golden file has, by name.
fn compare_tensors(
    shares: &mut Shares,
    run: &Run,
    golden: &Golden,
    first: &StepOutput,
    last: &Weights,
) {
    let golden_of = |prefix: &str| {
        golden
            .0
            .keys()
            .filter(|name| name.starts_with(prefix))
            .count()
    };
    assert_eq!(golden_of("final."), last.len(), "as many final weights");
    assert_eq!(
        golden_of("grad."),
        first.gradients.len(),
        "as many gradients"
    );
    for (name, gradient) in &first.gradients.tensors().expect("gradients") {
        let name = format!("grad.{name}");
        let (_, expected) = golden.get(&name);
        shares.close(&name, &flat(gradient), expected, run.fp32_vs_fp64.grad_max);
    }
    let Optimizer { lr, steps, .. } = run.optimizer;
    for (name, weight) in last {
        let (_, expected) = golden.get(&format!("final.{name}"));
        let gradient = golden.get(&format!("grad.{name}"));
        // Adam turns rounding noise into whole steps where the gradient is nothing else.
        let limit = if largest(&gradient.1) < 1e-7 {
            2.0 * lr * steps as f64
        } else {
            lr / 250.0 + 1e-6 * largest(expected)
        };
        let share = distance(weight, expected) / limit;
        shares.0.push((share, format!("final.{name}")));
    }
}
