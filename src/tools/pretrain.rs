//! `frameshift pretrain`: trains the built-in backbone from a seed on drawn single images, and measures it on images that it has not seen.
//!
//! Invariant: what it writes follows from seed and steps alone; nothing but drawn images is learnt from, and no image has a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::jobs::schedule;
use crate::model::adamw;
use crate::model::pretrain::{StepReport, Trainer};
use crate::model::{self, Activation, BackboneConfig};
use crate::rng::Stream;
use crate::spec::{Digest, Normalization};
use crate::synth::scene;
use crate::tools::show;

/// Size of the model and length of its training.
struct Plan {
    architecture: BackboneConfig,
    /// Images of a step.
    batch: usize,
    /// Batches that are kept apart for the measurement.
    held_out: u64,
}

const PLAN: Plan = Plan {
    architecture: ARCHITECTURE,
    batch: 128,
    held_out: 16,
};

/// Peak of AdamW's learning rate.
const LEARNING_RATE: f64 = 1e-3;
/// Share of the steps over which it rises.
const WARMUP_SHARE: f64 = 0.1;
const OPTIMIZER: adamw::Config = adamw::Config {
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.05,
    clip_norm: 1.0,
};
/// Steps between two lines of progress, over which losses are averaged.
const REPORT_STEPS: u32 = 25;

/// The architecture of the built-in backbone: a small ViT with the block of OpenAI's CLIP.
pub const ARCHITECTURE: BackboneConfig = BackboneConfig {
    image_size: 64,
    patch_size: 8,
    width: 192,
    layers: 6,
    heads: 3,
    mlp_width: 768,
    activation: Activation::QuickGelu,
    eps: 1e-5,
    pre_norm: true,
    patch_bias: false,
    normalization: Normalization::CLIP,
};

/// Arguments of `frameshift pretrain`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Seed of the weights and of the images
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Optimiser steps, of 128 images each
    #[arg(long, default_value_t = 700, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// File to write the backbone to (safetensors); its metrics go beside it, with the ending .json
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Reasons why there is no backbone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The metrics would overwrite the backbone.
    #[error("--out {}: the ending .json is for the metrics; choose .safetensors", path.display())]
    Ending {
        /// The file.
        path: PathBuf,
    },
    /// The model refused a step or the file.
    #[error("pre-training failed: {0}")]
    Model(#[from] model::Error),
    /// Images could not be laid out.
    #[error("cannot lay out a batch of images: {0}")]
    Images(#[from] candle_core::Error),
    /// The loss is not a number.
    #[error("the loss is not finite after step {step}")]
    Diverged {
        /// Number of the step, from 1.
        step: u32,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The step that failed.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Ending { .. } => 64,
            Self::Model(_) | Self::Images(_) => 70,
            Self::Diverged { .. } => 1,
            Self::File { .. } => super::CANNOT_CREATE,
        }
    }
}

/// A point of the curve: means over the steps since the point before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// Last step, from 1.
    pub step: u32,
    /// Sum of the questions' cross entropies, in nats.
    pub loss: f64,
    /// Share of right answers, by question.
    pub accuracy: BTreeMap<&'static str, f64>,
}

/// Record beside the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    /// Seed as given.
    pub seed: u64,
    /// Number of steps as given.
    pub steps: u32,
    /// Images of a step.
    pub batch: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Weights of the backbone, without the heads that asked the questions.
    pub parameters: usize,
    /// Size of the file.
    pub bytes: u64,
    /// sha256 of the file.
    pub sha256: Digest,
    /// Number of images that the accuracies below were measured on.
    pub held_out_images: usize,
    /// Share of right answers on images from another stream, by question.
    pub held_out_accuracy: BTreeMap<&'static str, f64>,
    /// Sum of the questions' cross entropies on them, in nats.
    pub held_out_loss: f64,
    /// Curve of the training.
    pub curve: Vec<Point>,
}

/// Trains, measures and saves.
///
/// # Errors
/// When the loss diverges or a file cannot be written.
pub fn run(args: &Args) -> Result<(), Error> {
    PLAN.run(args)
}

impl Plan {
    fn run(&self, args: &Args) -> Result<(), Error> {
        let metrics_path = args.out.with_extension("json");
        if metrics_path == args.out {
            return Err(Error::Ending {
                path: args.out.clone(),
            });
        }
        if let Some(folder) = args.out.parent() {
            std::fs::create_dir_all(folder).map_err(failed("create", folder))?;
        }
        let classes: Vec<usize> = scene::QUESTIONS
            .iter()
            .map(|(_, classes)| *classes)
            .collect();
        let mut trainer = Trainer::new(self.architecture.clone(), &classes, args.seed, OPTIMIZER)?;
        let curve = self.train(&mut trainer, args)?;
        let held_out = self.measure(&trainer, args.seed)?;
        trainer.save(&args.out, &origin(args))?;
        let file = std::fs::read(&args.out).map_err(failed("read", &args.out))?;
        let metrics = Metrics {
            seed: args.seed,
            steps: args.steps,
            batch: self.batch,
            learning_rate: LEARNING_RATE,
            parameters: self.parameters(),
            bytes: file.len() as u64,
            sha256: Digest(Sha256::digest(&file).into()),
            held_out_images: self.batch * self.held_out as usize,
            held_out_accuracy: held_out.accuracy,
            held_out_loss: held_out.loss,
            curve,
        };
        let text = serde_json::to_string_pretty(&metrics).map_err(std::io::Error::from);
        text.and_then(|text| std::fs::write(&metrics_path, text + "\n"))
            .map_err(failed("write", &metrics_path))?;
        show(format_args!(
            "held out: loss {:.3}, {}\nwrote {} ({} bytes, sha256 {}) and {}",
            metrics.held_out_loss,
            answers(&metrics.held_out_accuracy),
            args.out.display(),
            metrics.bytes,
            metrics.sha256,
            metrics_path.display(),
        ));
        Ok(())
    }

    fn parameters(&self) -> usize {
        let shapes = self.architecture.tensors();
        let sizes = shapes.values().map(|shape| shape.iter().product::<usize>());
        sizes.sum()
    }

    fn train(&self, trainer: &mut Trainer, args: &Args) -> Result<Vec<Point>, Error> {
        let scenes = Stream::new(args.seed, "pretrain-scenes");
        let begin = Instant::now();
        let mut curve = Vec::new();
        let mut means = Means::default();
        show(format_args!(
            "pre-training {} weights: {} steps of {} images of {side} x {side}, seed {}",
            self.parameters(),
            args.steps,
            self.batch,
            args.seed,
            side = self.architecture.image_size,
        ));
        for step in 1..=args.steps {
            let (done, total) = (u64::from(step - 1), u64::from(args.steps));
            let rate = schedule::learning_rate(done, total, WARMUP_SHARE, LEARNING_RATE);
            let (images, labels) = self.images(&scenes.fork(u64::from(step)))?;
            let report = trainer.step(&images, &labels, rate)?;
            if !report.losses.iter().all(|loss| loss.is_finite()) {
                return Err(Error::Diverged { step });
            }
            means.add(&report);
            if step % REPORT_STEPS == 0 || step == args.steps {
                let Means { loss, accuracy, .. } = std::mem::take(&mut means);
                show(format_args!(
                    "step {step}/{}  loss {loss:.3}  {}  {:.2} s a step",
                    args.steps,
                    answers(&accuracy),
                    begin.elapsed().as_secs_f64() / f64::from(step),
                ));
                curve.push(Point {
                    step,
                    loss,
                    accuracy,
                });
            }
        }
        Ok(curve)
    }

    fn measure(&self, trainer: &Trainer, seed: u64) -> Result<Means, Error> {
        let scenes = Stream::new(seed, "pretrain-held-out");
        let mut means = Means::default();
        for part in 0..self.held_out {
            let (images, labels) = self.images(&scenes.fork(part))?;
            means.add(&trainer.evaluate(&images, &labels)?);
        }
        Ok(means)
    }

    /// Normalised images `[batch, 3, S, S]`, and the answers of each question.
    fn images(&self, stream: &Stream) -> Result<(Tensor, Vec<Vec<u32>>), Error> {
        let side = self.architecture.image_size;
        let scene::Batch { mut images, labels } = scene::batch(stream, self.batch, side);
        let Normalization { mean, std } = self.architecture.normalization;
        for (plane, values) in images.chunks_exact_mut(side * side).enumerate() {
            for value in values {
                *value = (*value - mean[plane % 3]) / std[plane % 3];
            }
        }
        let images = Tensor::from_vec(images, (self.batch, 3, side, side), &Device::Cpu)?;
        Ok((images, labels.to_vec()))
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Origin of the weights, for the file's metadata.
fn origin(args: &Args) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("origin".to_owned(), "frameshift pretrain".to_owned()),
        ("seed".to_owned(), args.seed.to_string()),
        ("steps".to_owned(), args.steps.to_string()),
    ])
}

fn answers(accuracy: &BTreeMap<&'static str, f64>) -> String {
    let shares = accuracy
        .iter()
        .map(|(question, share)| format!("{question} {share:.3}"));
    shares.collect::<Vec<_>>().join(", ")
}

/// Means over several batches.
#[derive(Default)]
struct Means {
    count: f64,
    loss: f64,
    accuracy: BTreeMap<&'static str, f64>,
}

impl Means {
    fn add(&mut self, report: &StepReport) {
        self.count += 1.0;
        let share = 1.0 / self.count;
        self.loss += (report.losses.iter().sum::<f64>() - self.loss) * share;
        for ((question, _), accuracy) in scene::QUESTIONS.iter().zip(&report.accuracies) {
            let mean = self.accuracy.entry(question).or_default();
            *mean += (accuracy - *mean) * share;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: Plan = Plan {
        architecture: BackboneConfig {
            image_size: 16,
            width: 32,
            layers: 1,
            heads: 2,
            mlp_width: 64,
            ..ARCHITECTURE
        },
        batch: 32,
        held_out: 2,
    };

    #[test]
    fn a_seed_makes_one_backbone_that_loads_and_has_learnt() {
        let folder = tempfile::tempdir().unwrap();
        let train = |name: &str, seed| {
            let out = folder.path().join(name);
            TINY.run(&Args {
                seed,
                steps: 60,
                out: out.clone(),
            })
            .unwrap();
            out
        };
        let [one, again, other] = [("one", 1), ("again", 1), ("other", 2)]
            .map(|(name, seed)| train(&format!("{name}.safetensors"), seed));
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&again).unwrap());
        assert_ne!(std::fs::read(&one).unwrap(), std::fs::read(&other).unwrap());
        assert_eq!(model::load::open(&one).unwrap().config, TINY.architecture);
        let text = std::fs::read_to_string(one.with_extension("json")).unwrap();
        let metrics: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(metrics["parameters"], TINY.parameters());
        let loss = |at: usize| metrics["curve"][at]["loss"].as_f64().unwrap();
        assert!(loss(2) < loss(0), "{text}");
    }

    #[test]
    fn the_built_in_backbone_is_what_its_metrics_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/backbone");
        let file = std::fs::read(folder.join("builtin.safetensors")).unwrap();
        let text = std::fs::read_to_string(folder.join("builtin.json")).unwrap();
        let metrics: serde_json::Value = serde_json::from_str(&text).unwrap();
        let sha256 = Digest(Sha256::digest(&file).into()).to_string();
        assert_eq!(metrics["sha256"], sha256.as_str());
        assert!(file.len() <= 6_000_000);
        let builtin = model::Backbone::builtin().unwrap();
        assert_eq!(*builtin.config(), ARCHITECTURE);
        assert_eq!(metrics["parameters"], builtin.parameters());
    }

    #[test]
    fn the_metrics_may_not_overwrite_the_backbone() {
        let args = Args {
            seed: 1,
            steps: 1,
            out: "backbone.json".into(),
        };
        assert!(matches!(TINY.run(&args), Err(Error::Ending { .. })));
    }
}
