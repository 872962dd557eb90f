//! `frameshift bench compute`: times the very functions that the engine and the jobs call, from normalised planes to logits or to an optimiser step.
//!
//! Invariant: nothing is timed that a server would not do, and nothing is left out that it would do on the device thread.

mod agreement;
mod kernels;
mod loading;
mod measure;
mod subject;

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use serde::Serialize;

pub(in crate::tools) use self::loading::random_tensors;
use self::subject::{Preset, Subject};
pub(in crate::tools) use self::subject::{Size, random_classes};
use crate::model::{self, BackboneConfig, Place, compute_threads};
use crate::spec::Precision;
use crate::tools::show;

/// `frameshift bench`.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Times the model on this machine: one JSON line
    Compute(Box<Args>),
    /// Times each kernel on this machine, beside the upper bounds that were measured in the same run: JSON lines
    Kernels(kernels::Args),
    /// Trains the demo's tasks and reports how the precisions agree on unseen clips: JSON lines
    Agreement(agreement::Args),
}

/// Arguments of `frameshift bench compute`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to time
    #[arg(value_enum)]
    pub what: What,
    /// Adapters of the set: none, before the MLP, or before attention and MLP
    #[arg(long, value_enum, default_value = "12x384")]
    pub preset: Preset,
    /// Adapters in so many of the last blocks only
    #[arg(long, value_name = "BLOCKS")]
    pub last_blocks: Option<NonZeroU32>,
    /// Backbone of random weights
    #[arg(long, value_enum, default_value = "vit_b16")]
    pub size: Size,
    /// Backbone from a checkpoint instead
    #[arg(long, value_name = "PATH")]
    pub backbone: Option<PathBuf>,
    /// Adapter set (safetensors under the reference's names) instead of one with random weights; its shape is that of --preset
    #[arg(long, value_name = "FILE")]
    pub set: Option<PathBuf>,
    /// Clips instead of random ones: f32, little-endian, `[batch, 3, frames, side, side]`
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// File to write the logits to: f32, little-endian, `[batch, classes]`
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
    /// Frames of a clip
    #[arg(long, default_value = "8")]
    pub frames: NonZeroUsize,
    /// Clips of a batch
    #[arg(long, default_value = "1")]
    pub batch: NonZeroUsize,
    /// Adapter sets among the clips of a batch; divides it. More than one is also compared with one, in turns
    #[arg(long, default_value = "1")]
    pub sets: NonZeroUsize,
    /// f32, bf16, int8, or auto: the fastest of the first two on this CPU
    #[arg(long, default_value = "f32")]
    pub precision: String,
    /// Device that computes: cpu, or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Threads; as many as there are physical cores when not set
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    /// Training only: recomputes activations instead of keeping them
    #[arg(long)]
    pub recompute: bool,
    /// Training only: keeps as many activations as fit into this many MiB, and recomputes the others
    #[arg(long, value_name = "MIB", conflicts_with = "recompute")]
    pub keep_mib: Option<u64>,
    /// Training only: frames' tokens before the lowest adapter are kept from the run that is not counted, as a job keeps them from one epoch to the next; the
    /// GFLOP are those of a step that computes everything
    #[arg(long)]
    pub kept_tokens: bool,
    /// Seconds to measure, after one run that is not counted
    #[arg(long, default_value_t = 20.0)]
    pub seconds: f64,
    /// Measures this many runs instead, whatever they take
    #[arg(long)]
    pub runs: Option<NonZeroUsize>,
}

/// What to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The forward pass, as the engine runs it.
    Infer,
    /// The forward and backward passes and the optimiser's step, as a job runs them.
    Train,
    /// The way from a checkpoint's files to packed weights, as at the server's start; needs `--backbone`.
    Load,
}

/// Reasons why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backbone does not load.
    #[error("the backbone {path} does not load")]
    Backbone {
        /// Path of the backbone.
        path: PathBuf,
        /// The loader's error.
        #[source]
        source: model::load::Error,
    },
    /// The model refused.
    #[error("the model cannot run this")]
    Model(#[from] model::Error),
    /// An input file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// An output file cannot be written.
    #[error("cannot write {}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The device cannot be used.
    #[error("cannot compute on {device}: {source}")]
    Device {
        /// Device, as it was asked for.
        device: String,
        /// The reason.
        source: model::Unusable,
    },
    /// An argument does not fit the others.
    #[error("--{0}")]
    Argument(crate::spec::Invalid),
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Backbone { source, .. } => super::load_code(source),
            Self::Model(_) => 65,
            Self::Device { .. } => 69,
            Self::File { .. } => 66,
            Self::Output { .. } => super::CANNOT_CREATE,
            Self::Argument(_) => 64,
        }
    }
}

/// The line that is printed.
#[derive(Debug, Serialize)]
struct Line<'a> {
    what: What,
    preset: Preset,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_blocks: Option<NonZeroU32>,
    kept_tokens: bool,
    backbone: &'a str,
    frames: usize,
    batch: usize,
    sets: usize,
    precision: String,
    device: String,
    instructions: &'static str,
    threads: usize,
    #[serde(flatten)]
    timing: measure::Timing,
    #[serde(flatten)]
    mixed: Option<measure::Mixed>,
    #[serde(flatten)]
    memory: Option<measure::Memory>,
    gflop_per_clip: f64,
    gflop_per_s: f64,
    peak_mib: u64,
    load_ms: f64,
    /// Cost of loading a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    loading: Option<loading::Loading>,
    /// How each kind of product is computed on a GPU.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    plans: Vec<String>,
}

/// What computes, and in which number format.
#[derive(Debug, Clone)]
struct On {
    /// Device, as it was asked for.
    device: String,
    precision: Precision,
    place: Place,
}

impl On {
    fn new(device: &str, precision: &str) -> Result<Self, Error> {
        let place = match device {
            "cpu" => Place::Host,
            other => {
                let digits = other.strip_prefix("cuda").unwrap_or("?");
                let digits = digits.strip_prefix(':').unwrap_or(digits);
                let ordinal = if digits.is_empty() { "0" } else { digits };
                let ordinal = ordinal.parse::<u16>().map_err(|_| {
                    let problem = format!("{other:?} is neither cpu nor cuda:N");
                    Error::Argument(crate::spec::Invalid::new("device", problem))
                })?;
                Place::cuda(ordinal.into()).map_err(|source| Error::Device {
                    device: device.to_owned(),
                    source,
                })?
            }
        };
        let precision = match precision {
            "auto" if place.is_host() => model::fastest(),
            "auto" => Precision::Bf16,
            named => named.parse().map_err(Error::Argument)?,
        };
        Ok(Self {
            device: device.to_owned(),
            precision,
            place,
        })
    }

    /// Compares the device with the processor, for a backbone of this shape.
    fn check(&self, shape: &BackboneConfig) -> Result<(), Error> {
        let checked = self.place.check(shape, self.precision);
        checked.map_err(|source| Error::Device {
            device: self.device.clone(),
            source,
        })
    }
}

/// Measures and prints.
///
/// # Errors
/// When arguments or files do not fit.
pub fn run(command: &Command) -> Result<(), Error> {
    match command {
        Command::Compute(args) => report(args),
        Command::Kernels(args) => kernels::run(args),
        Command::Agreement(args) => {
            compute_threads(None);
            agreement::run(args)
        }
    }
}

fn report(args: &Args) -> Result<(), Error> {
    let on = On::new(&args.device, &args.precision)?;
    let threads = compute_threads(args.threads);
    let line = match args.what {
        What::Load => loading::line(args, &on, threads)?,
        What::Infer | What::Train => compute(args, &on, threads)?,
    };
    show(line);
    Ok(())
}

/// Measures forwards or steps.
fn compute(args: &Args, on: &On, threads: usize) -> Result<String, Error> {
    let subject = Subject::new(args, on)?;
    let measured = match args.what {
        What::Train => measure::train(&subject, args)?,
        What::Infer | What::Load => measure::infer(&subject, args)?,
    };
    if let Some(path) = &args.logits {
        let rows = measured.logits.iter().flatten();
        let bytes: Vec<u8> = rows.flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(path, bytes).map_err(|source| Error::Output {
            path: path.clone(),
            source,
        })?;
    }
    let gflop = subject.gflop_per_clip(args.what);
    let report = Line {
        what: args.what,
        preset: args.preset,
        last_blocks: args.last_blocks,
        kept_tokens: args.kept_tokens,
        backbone: subject.backbone.name(),
        frames: args.frames.get(),
        batch: args.batch.get(),
        sets: args.sets.get(),
        precision: on.precision.to_string(),
        device: on.place.name(),
        instructions: match on.place.is_host() {
            true => model::instructions(on.precision),
            false => "cuda",
        },
        threads,
        gflop_per_clip: round(gflop, 1.0),
        gflop_per_s: round(gflop * measured.timing.clips_per_s, 1.0),
        timing: measured.timing,
        mixed: measured.mixed,
        memory: measured.memory,
        peak_mib: model::usage().peak_bytes >> 20,
        load_ms: subject.load_ms,
        loading: subject.loading.clone(),
        plans: on.place.plans(),
    };
    // Numbers and names only: serde_json has no way to fail on them.
    Ok(serde_json::to_string(&report).unwrap_or_default())
}

/// Rounds to this many decimal places.
fn round(value: f64, places: f64) -> f64 {
    let scale = 10_f64.powf(places);
    (value * scale).round() / scale
}
