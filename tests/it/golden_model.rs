//! The model against vectors of the official reference: logits, losses, gradients, weights after training, hidden states.
//!
//! Walks every case in the folder; a file that it does not understand is a failure. The limits are those of `golden/README.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use frameshift::model::adamw::{AdamW, Config};
use frameshift::model::{
    Activation, AdapterSet, Backbone, BackboneConfig, Gradients, Inference, Keep, Segment, Step,
    Tensors, TrainableSet, TrainingStep,
};
use frameshift::rng::splitmix64;
use frameshift::spec::{AdapterConfig, Digest, Head, Normalization, Precision};
use serde_json::Value;

/// A tensor of a case, widened.
pub(crate) struct Golden {
    shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

/// The largest error as a share of its limit, and where.
#[derive(Default)]
pub(crate) struct Worst {
    pub(crate) share: f64,
    pub(crate) name: String,
}

impl Worst {
    /// Compares with the limit max(`absolute`, `relative` · max |want|).
    pub(crate) fn compare(
        &mut self,
        name: &str,
        got: &[f32],
        want: &[f64],
        limit: impl Fn(f64) -> f64,
    ) {
        assert_eq!(got.len(), want.len(), "{name}: number of values");
        let most = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
        let error = got.iter().zip(want).fold(0.0, |m: f64, (g, w)| {
            let e = (f64::from(*g) - w).abs();
            if e.is_nan() { f64::INFINITY } else { m.max(e) }
        });
        let share = error / limit(most);
        if share > self.share {
            *self = Self {
                share,
                name: format!("{name} (error {error:.2e})"),
            };
        }
    }
}

// Any other type is a file that this test does not understand.
#[allow(clippy::wildcard_enum_match_arm)]
pub(crate) fn read(path: &Path) -> BTreeMap<String, Golden> {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let data = view.data();
        let wide = |size: usize, f: fn(&[u8]) -> f64| data.chunks_exact(size).map(f).collect();
        let values = match view.dtype() {
            safetensors::Dtype::F32 => {
                wide(4, |b| f32::from_le_bytes(b.try_into().unwrap()).into())
            }
            safetensors::Dtype::F64 => wide(8, |b| f64::from_le_bytes(b.try_into().unwrap())),
            safetensors::Dtype::I64 => {
                wide(8, |b| i64::from_le_bytes(b.try_into().unwrap()) as f64)
            }
            other => panic!("{}: {name} is {other:?}", path.display()),
        };
        let shape = view.shape().to_vec();
        tensors.insert(name, Golden { shape, values });
    }
    tensors
}

fn number(case: &Value, field: &str) -> usize {
    case[field]
        .as_u64()
        .unwrap_or_else(|| panic!("the case has no number {field}")) as usize
}

pub(crate) fn adapter_config(case: &Value) -> AdapterConfig {
    let kernel: Vec<u32> = case["adapter_kernel_size"]
        .as_array()
        .expect("a kernel size")
        .iter()
        .map(|size| size.as_u64().expect("a number") as u32)
        .collect();
    AdapterConfig {
        adapter_width: number(case, "adapter_width") as u32,
        adapter_layers: (number(case, "adapter_layers") as u32).try_into().ok(),
        adapter_kernel_size: kernel.try_into().expect("three sizes"),
        adapter_pre_attn: case["adapter_pre_attn"].as_bool().expect("a truth value"),
        adapter_pre_mlp: case["adapter_pre_mlp"].as_bool().expect("a truth value"),
        head: Head::Mean,
    }
}

fn backbone_config(case: &Value) -> BackboneConfig {
    let width = number(case, "width");
    BackboneConfig {
        image_size: number(case, "input_resolution"),
        patch_size: number(case, "patch_size"),
        width,
        layers: number(case, "layers"),
        heads: number(case, "heads"),
        mlp_width: 4 * width,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        pre_norm: true,
        patch_bias: false,
        normalization: Normalization::CLIP,
    }
}

/// The counter generator that the full-size cases spell out.
fn generate(seed: u64, name: &str, recipe: &Value) -> (Vec<usize>, Vec<f32>) {
    let shape: Vec<usize> = recipe["shape"]
        .as_array()
        .expect("a shape")
        .iter()
        .map(|d| d.as_u64().expect("a size") as usize)
        .collect();
    let field = |field: &str| recipe[field].as_f64().expect("a number") as f32;
    let (mean, a) = (field("mean"), field("a"));
    let base = format!("{seed}:{name}")
        .bytes()
        .fold(14_695_981_039_346_656_037_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(1_099_511_628_211)
        });
    let values = (0..shape.iter().product::<usize>() as u64).map(|i| {
        let s = (splitmix64(base.wrapping_add(i)) >> 40) as f32 * (1.0 / 8_388_608.0) - 1.0;
        mean + s * a
    });
    let values = values.collect();
    (shape, values)
}

/// A case, ready to run.
pub(crate) struct Case {
    pub(crate) backbone: Arc<Backbone>,
    pub(crate) set: AdapterSet,
    pub(crate) clips: Vec<Arc<[f32]>>,
    pub(crate) labels: Vec<u32>,
    pub(crate) num_frames: usize,
    pub(crate) lr: f64,
    pub(crate) steps: usize,
    /// Distances between the reference in f32 and in f64: logits, losses, gradients.
    pub(crate) distances: [f64; 3],
}

pub(crate) fn split_clips(input: &[f32], batch: usize) -> Vec<Arc<[f32]>> {
    input
        .chunks_exact(input.len() / batch)
        .map(Arc::from)
        .collect()
}

pub(crate) fn single(golden: &Golden) -> (Vec<usize>, Vec<f32>) {
    let values = golden.values.iter().map(|&v| v as f32).collect();
    (golden.shape.clone(), values)
}

pub(crate) fn distances(case: &Value, names: [&str; 3]) -> [f64; 3] {
    names.map(|name| {
        case["fp32_vs_fp64"][name]
            .as_f64()
            .unwrap_or_else(|| panic!("the case has no distance {name}"))
    })
}

pub(crate) fn prepare(
    case: &Value,
    golden: &BTreeMap<String, Golden>,
    precision: Precision,
) -> Case {
    let (config, adapters) = (backbone_config(case), adapter_config(case));
    let classes = number(case, "num_classes");
    let (mut weights, input) = (Tensors::new(), case.get("seed"));
    let input = if let Some(seed) = input {
        let seed = seed.as_u64().expect("a seed");
        for (name, recipe) in case["weights"].as_object().expect("recipes") {
            weights.insert(name.clone(), generate(seed, name, recipe));
        }
        for (name, want) in golden {
            if let Some(name) = name.strip_prefix("gen_check.") {
                let got = match weights.get(name) {
                    Some(weight) => weight.1.clone(),
                    None => generate(seed, name, &case[name]).1,
                };
                let want: Vec<f32> = want.values.iter().map(|&v| v as f32).collect();
                assert_eq!(got[..want.len()], want, "generated {name}");
            }
        }
        generate(seed, "input", &case["input"]).1
    } else {
        for (name, value) in golden {
            if let Some(name) = name.strip_prefix("weights.") {
                weights.insert(name.to_owned(), single(value));
            }
        }
        single(&golden["input"]).1
    };
    let full_size = case.get("seed").is_some();
    let own = config.tensors();
    let (frozen, trained) = weights
        .into_iter()
        .partition(|(name, _)| own.contains_key(name));
    let batch = number(case, "batch");
    Case {
        set: AdapterSet::from_tensors(trained, &config, adapters, classes).expect("an adapter set"),
        backbone: Arc::new(
            Backbone::from_tensors_on(
                "golden",
                (config, Digest([0; 32])),
                frozen,
                precision,
                &super::model::place(),
            )
            .expect("a backbone"),
        ),
        clips: split_clips(&input, batch),
        labels: golden["labels"].values.iter().map(|&l| l as u32).collect(),
        num_frames: number(case, "num_frames"),
        lr: if full_size {
            2e-5
        } else {
            case["optimizer"]["lr"].as_f64().expect("a rate")
        },
        steps: golden["losses"].values.len() - 1,
        distances: if full_size {
            distances(case, ["logits", "loss", "grad"])
        } else {
            distances(case, ["logits", "losses", "grad_max"])
        },
    }
}

pub(crate) fn gradients_of(case: &Case, set: &TrainableSet) -> (f64, Gradients) {
    let (backbone, clips) = (Arc::clone(&case.backbone), case.clips.clone());
    let mut step = TrainingStep::new(backbone, set, clips, &case.labels, None, Keep::All)
        .expect("a step that fits");
    while step.advance().expect("a slice") != Step::Done {}
    let output = step.finish().expect("a finished step");
    (output.loss, output.gradients)
}

pub(crate) fn flat(tensor: &candle_core::Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn inference(case: &Case, set: &Arc<AdapterSet>) -> Inference {
    let segment = Segment {
        set: Arc::clone(set),
        clips: 0..case.clips.len(),
        num_frames: case.num_frames,
    };
    let (backbone, clips) = (Arc::clone(&case.backbone), case.clips.clone());
    Inference::new(backbone, clips, vec![segment]).expect("a batch that fits")
}

/// Runs a case against its vectors.
pub(crate) fn check(case: &Case, golden: &BTreeMap<String, Golden>) -> Worst {
    let mut worst = Worst::default();
    let [d_logits, d_losses, d_gradients] = case.distances;
    let near = |d: f64| move |most: f64| (4.0 * d).max(2e-6 * most);
    let set = Arc::new(
        AdapterSet::from_tensors(
            case.set.tensors().expect("weights"),
            case.backbone.config(),
            case.set.config(),
            case.set.classes(),
        )
        .expect("the same set"),
    );
    let logits = golden.get("logits_f64").unwrap_or(&golden["logits"]);
    let mut short = inference(case, &set);
    while short.advance().expect("a slice") != Step::Done {}
    let short = short.into_logits().expect("logits").concat();
    worst.compare("logits", &short, &logits.values, near(d_logits));
    check_hidden(case, &set, golden, &mut worst, &short);

    let trained = TrainableSet::beside(&case.set, &case.backbone).expect("a trainable set");
    let mut optimizer = AdamW::new(trained.parameters(), Config::default()).expect("an optimiser");
    let mut losses = Vec::new();
    for step in 0..=case.steps {
        let (loss, gradients) = gradients_of(case, &trained);
        losses.push(loss as f32);
        if step == 0 {
            check_gradients(golden, &gradients, &mut worst, near(d_gradients));
        }
        if step < case.steps {
            optimizer
                .step(trained.parameters(), &gradients, case.lr)
                .expect("an update");
        }
    }
    let want = golden.get("losses_f64").unwrap_or(&golden["losses"]);
    worst.compare("losses", &losses, &want.values, near(d_losses));
    check_final(case, golden, &trained, &mut worst);
    worst
}

fn check_hidden(
    case: &Case,
    set: &Arc<AdapterSet>,
    golden: &BTreeMap<String, Golden>,
    worst: &mut Worst,
    short: &[f32],
) {
    let mut full = inference(case, set).with_hidden_states();
    while full.advance().expect("a slice") != Step::Done {}
    let (tokens, width) = (
        case.backbone.config().tokens(),
        case.backbone.config().width,
    );
    for (i, state) in full.hidden_states().iter().enumerate() {
        let got = flat(state);
        let limit = |most: f64| 1e-5 * most + 1e-6;
        if let Some(want) = golden.get(&format!("hidden.{i}")) {
            worst.compare(&format!("hidden.{i}"), &got, &want.values, limit);
        }
        if let Some(want) = golden.get("cls_hidden") {
            let rows: Vec<f32> = got
                .chunks_exact(tokens * width)
                .flat_map(|frame| frame[..width].to_vec())
                .collect();
            let want = &want.values[i * rows.len()..][..rows.len()];
            worst.compare(&format!("cls_hidden.{i}"), &rows, want, limit);
        }
    }
    let full = full.into_logits().expect("logits").concat();
    assert_eq!(full, short, "the last block's shortcut changes the logits");
}

fn check_gradients(
    golden: &BTreeMap<String, Golden>,
    gradients: &Gradients,
    worst: &mut Worst,
    limit: impl Fn(f64) -> f64 + Copy,
) {
    let mut seen = 0;
    for (name, gradient) in &gradients.tensors().expect("gradients") {
        let got = flat(gradient);
        if let Some(want) = golden.get(&format!("grad.{name}")) {
            worst.compare(&format!("grad.{name}"), &got, &want.values, limit);
            seen += 1;
        }
        if let Some(want) = golden.get(&format!("grad_norm.{name}")) {
            let norm = got
                .iter()
                .map(|&g| f64::from(g).powi(2))
                .sum::<f64>()
                .sqrt();
            worst.compare(
                &format!("grad_norm.{name}"),
                &[norm as f32],
                &want.values,
                limit,
            );
            let want = &golden[&format!("grad_pick.{name}")].values;
            let stride = (got.len() / 48).max(1);
            let picked: Vec<f32> = (0..want.len()).map(|i| got[i * stride]).collect();
            worst.compare(&format!("grad_pick.{name}"), &picked, want, limit);
            seen += 1;
        }
    }
    let all = golden
        .keys()
        .filter(|k| k.starts_with("grad.") || k.starts_with("grad_norm."))
        .count();
    assert_eq!(seen, all, "every golden gradient has one of ours");
    assert_eq!(
        seen,
        gradients.len(),
        "every gradient of ours has a golden one"
    );
}

fn check_final(
    case: &Case,
    golden: &BTreeMap<String, Golden>,
    trained: &TrainableSet,
    worst: &mut Worst,
) {
    for (name, own) in &trained.parameters().tensors().expect("weights") {
        let Some(want) = golden.get(&format!("final.{name}")) else {
            continue;
        };
        let gradient = &golden[&format!("grad.{name}")].values;
        let noise = gradient.iter().all(|g| g.abs() < 1e-7);
        let limit = |most: f64| {
            if noise {
                2.0 * case.lr * case.steps as f64
            } else {
                case.lr / 250.0 + 1e-6 * most
            }
        };
        let got = flat(own);
        worst.compare(&format!("final.{name}"), &got, &want.values, limit);
    }
}

pub(crate) fn cases(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("a folder that can be read").path();
        let known = ["json", "safetensors"]
            .iter()
            .any(|end| path.extension().is_some_and(|e| e == *end));
        let pair =
            path.with_extension("json").is_file() && path.with_extension("safetensors").is_file();
        assert!(known && pair, "{}: not understood", path.display());
        if path.extension().is_some_and(|end| end == "json") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn the_model_matches_the_reference_in_small() {
    check_all(|name| !name.starts_with(FULL_SIZE));
}

#[test]
fn the_model_matches_the_reference_at_full_size() {
    check_all(|name| name.starts_with(FULL_SIZE));
}

/// How the names of the cases with a whole ViT-B/16 begin: minutes of work on a CPU without wide vectors.
const FULL_SIZE: &str = "fullsize_";

/// Checks the cases that are picked by their name.
fn check_all(is_picked: impl Fn(&str) -> bool) {
    let folder = super::shared::root().join("golden/model");
    let mut cases = cases(&folder);
    cases.retain(|path| {
        let name = path.file_stem().and_then(|stem| stem.to_str());
        name.is_some_and(&is_picked)
    });
    assert!(!cases.is_empty(), "{}: no case", folder.display());
    let mut failed = Vec::new();
    for path in &cases {
        let text = fs::read_to_string(path).expect("a text");
        let case: Value = serde_json::from_str(&text).expect("a case's json");
        let golden = read(&path.with_extension("safetensors"));
        let worst = check(&prepare(&case, &golden, Precision::F32), &golden);
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        println!("{name}: {:.3} of the limit, {}", worst.share, worst.name);
        if worst.share > 1.0 {
            failed.push(format!(
                "{name}: {:.3} of the limit, {}",
                worst.share, worst.name
            ));
        }
    }
    println!("{} cases", cases.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
