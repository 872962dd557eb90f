//! `frameshift bench agreement`: trains the demo's tasks on the built-in backbone and compares what each precision answers to clips that it has not seen.
//!
//! Invariant: of one line to another only the precision differs: same weights, same clips, same steps.

use std::num::NonZeroUsize;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;

use super::{Error, round};
use crate::jobs::schedule;
use crate::model::adamw::{self, AdamW};
use crate::model::load::{self, Overrides};
use crate::model::{
    AdapterSet, Backbone, BackboneConfig, Inference, Keep, Segment, Step, TrainableSet,
    TrainingStep,
};
use crate::rng::Stream;
use crate::spec::{AdapterConfig, Head, Precision};
use crate::synth::motion::{self, Clip, Motion, Variety};
use crate::tools::show;
use crate::video::Views;
use crate::video::transform::{self, Planes, Rgb};

/// Frames that the model sees, as many as the demo's tasks take, and their places among the drawn ones when they are sampled uniformly.
const FRAMES: [usize; 8] = [1, 3, 5, 7, 9, 11, 13, 15];
/// Side of a drawn picture.
const SIDE: usize = 96;
/// Clips of a step, and of a forward.
const BATCH: usize = 8;
const LEARNING_RATE: f64 = 2e-3;
const WARMUP_SHARE: f64 = 0.1;

/// Arguments of `frameshift bench agreement`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Clips to learn from, of each task
    #[arg(long, default_value = "160")]
    pub training: NonZeroUsize,
    /// Clips on which the precisions are compared, of each task
    #[arg(long, default_value = "320")]
    pub unseen: NonZeroUsize,
    /// Passes over the training clips; as many as in the demo when not set
    #[arg(long)]
    pub epochs: Option<NonZeroUsize>,
    /// Seed of clips and training
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Agreement of a serving precision with f32.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Line {
    task: &'static str,
    trained_in: String,
    served_in: String,
    clips: usize,
    /// Share of clips that were right.
    accuracy: f64,
    /// Share of clips whose largest logit is that of f32.
    top1_agreement: f64,
    /// Between the logits and those of f32, over the clips.
    least_cosine: f64,
    mean_cosine: f64,
}

/// A task of the demo, drawn.
struct Task {
    name: &'static str,
    motion: Motion,
    epochs: usize,
    training: Vec<(Arc<[f32]>, u32)>,
    unseen: Vec<(Arc<[f32]>, u32)>,
}

/// Trains, compares and prints one line of JSON for each task, precision of training and precision of serving.
///
/// # Errors
/// When the model refuses.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    for line in measure(args)? {
        // Numbers and names only: serde_json has no way to fail on them.
        show(serde_json::to_string(&line).unwrap_or_default());
    }
    Ok(())
}

fn measure(args: &Args) -> Result<Vec<Line>, Error> {
    let backbones = Precision::ALL
        .iter()
        .map(|&precision| Ok(Arc::new(builtin(precision)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    let mut lines = Vec::new();
    for (name, motion, epochs) in [
        ("direction", Motion::Direction, 9),
        ("growth", Motion::Growth, 6),
    ] {
        let shape = backbones[0].config();
        let draw = |variety, count: NonZeroUsize, purpose: &str| {
            let stream = Stream::new(args.seed, purpose);
            let clips = motion::clips(motion, variety, count.get(), SIDE, &stream);
            clips.par_iter().map(|clip| planes(clip, shape)).collect()
        };
        let task = Task {
            name,
            motion,
            epochs: args.epochs.map_or(epochs, NonZeroUsize::get),
            training: draw(Variety::Training, args.training, "demo-training"),
            unseen: draw(Variety::Unseen, args.unseen, "demo-unseen"),
        };
        for trained_in in &backbones {
            let set = train(trained_in, &task, args.seed)?;
            compare(&backbones, trained_in.precision(), &set, &task, &mut lines)?;
        }
    }
    Ok(lines)
}

fn builtin(precision: Precision) -> Result<Backbone, Error> {
    let failed = |source| Error::Backbone {
        path: "builtin".into(),
        source,
    };
    let plan = load::builtin(&Overrides::default()).map_err(failed)?;
    Backbone::from_plan(&plan, precision).map_err(failed)
}

/// The planes `[3, T, S, S]` that a server would make of a clip, and its label.
fn planes(clip: &Clip, shape: &BackboneConfig) -> (Arc<[f32]>, u32) {
    let (side, size) = (clip.side, shape.image_size);
    let mut values = vec![0.0; FRAMES.len() * shape.frame_len()];
    let mut row = Vec::new();
    for view in transform::plan(&Views::Center, (side, side), size) {
        for (frame, &drawn) in FRAMES.iter().enumerate() {
            let picture = Rgb {
                bytes: &clip.frames[drawn],
                stride: 3 * side,
                width: side,
                height: side,
            };
            let target = Planes {
                values: &mut values,
                frames: FRAMES.len(),
                frame,
            };
            view.write(picture, &shape.normalization, target, &mut row);
        }
    }
    (values.into(), clip.label as u32)
}

/// Trains as a job of the demo does.
fn train(backbone: &Arc<Backbone>, task: &Task, seed: u64) -> Result<AdapterSet, Error> {
    let config = AdapterConfig {
        adapter_width: 48,
        adapter_layers: None,
        adapter_kernel_size: [3, 1, 1],
        adapter_pre_attn: false,
        adapter_pre_mlp: true,
        head: Head::Mean,
    };
    let classes = task.motion.labels().len();
    let rng = Stream::new(seed, "agreement/weights");
    let fresh = AdapterSet::fresh(backbone.config(), config, classes, &rng)?;
    let set = TrainableSet::beside(&fresh, backbone)?;
    let mut optimizer = AdamW::new(set.parameters(), adamw::Config::default())?;
    let steps = task.training.len().div_ceil(BATCH) * task.epochs;
    let (mut order, mut step): (Vec<usize>, u64) = ((0..task.training.len()).collect(), 0);
    for epoch in 0..task.epochs {
        let mut rng = Stream::new(seed, "agreement/order").fork(epoch as u64);
        rng.shuffle(&mut order);
        for picked in order.chunks(BATCH) {
            let examples = picked.iter().map(|&i| task.training[i].clone());
            let (clips, labels): (Vec<_>, Vec<_>) = examples.unzip();
            let backbone = Arc::clone(backbone);
            let mut run = TrainingStep::new(backbone, &set, clips, &labels, None, Keep::All)?;
            while run.advance()? != Step::Done {}
            let found = run.finish()?.gradients;
            let rate = schedule::learning_rate(step, steps as u64, WARMUP_SHARE, LEARNING_RATE);
            optimizer.step(set.parameters(), &found, rate)?;
            step += 1;
        }
    }
    Ok(set.snapshot()?)
}

fn compare(
    backbones: &[Arc<Backbone>],
    trained_in: Precision,
    set: &AdapterSet,
    task: &Task,
    lines: &mut Vec<Line>,
) -> Result<(), Error> {
    let mut answers = Vec::with_capacity(backbones.len());
    for backbone in backbones {
        answers.push((backbone.precision(), serve(backbone, set, &task.unseen)?));
    }
    let exact = answers
        .iter()
        .find(|(precision, _)| *precision == Precision::F32)
        .map_or(Vec::new(), |(_, rows)| rows.clone());
    for (precision, rows) in answers {
        let count = rows.len().max(1) as f64;
        let hits = rows.iter().zip(&task.unseen);
        let hits = hits.filter(|(row, (_, label))| top(row) == *label as usize);
        let pairs = || rows.iter().zip(&exact);
        let same = pairs().filter(|(row, exact)| top(row) == top(exact));
        let cosines: Vec<f64> = pairs().map(|(row, exact)| cosine(row, exact)).collect();
        lines.push(Line {
            task: task.name,
            trained_in: trained_in.to_string(),
            served_in: precision.to_string(),
            clips: rows.len(),
            accuracy: round(hits.count() as f64 / count, 4.0),
            top1_agreement: round(same.count() as f64 / count, 4.0),
            least_cosine: round(cosines.iter().copied().fold(1.0, f64::min), 6.0),
            mean_cosine: round(cosines.iter().sum::<f64>() / count, 6.0),
        });
    }
    Ok(())
}

fn serve(
    backbone: &Arc<Backbone>,
    set: &AdapterSet,
    clips: &[(Arc<[f32]>, u32)],
) -> Result<Vec<Vec<f32>>, Error> {
    let set = Arc::new(set.beside(backbone)?);
    let mut rows = Vec::with_capacity(clips.len());
    for batch in clips.chunks(BATCH) {
        let segment = Segment {
            set: Arc::clone(&set),
            clips: 0..batch.len(),
            num_frames: FRAMES.len(),
        };
        let frames = batch.iter().map(|(planes, _)| Arc::clone(planes));
        let backbone = Arc::clone(backbone);
        let mut batch = Inference::new(backbone, frames.collect(), vec![segment])?;
        while batch.advance()? != Step::Done {}
        rows.extend(batch.into_logits()?);
    }
    Ok(rows)
}

fn top(row: &[f32]) -> usize {
    let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(class, _)| class)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_numbers_answer_as_f32_does_to_a_demo_task() {
        let count = |count| NonZeroUsize::new(count).unwrap();
        let args = Args {
            training: count(32),
            unseen: count(16),
            epochs: Some(count(3)),
            seed: 1,
        };
        let lines = measure(&args).unwrap();
        assert_eq!(lines.len(), 2 * Precision::ALL.len() * Precision::ALL.len());
        for line in lines {
            println!("{line:?}");
            assert_eq!(line.clips, 16);
            assert!(line.least_cosine >= 0.999, "{line:?}");
            assert!(line.top1_agreement >= 0.99, "{line:?}");
        }
    }
}
