//! `frameshift bench gates`: measures in turns, with and without what each ratio is about, and prints the ratios beside their goals.
//!
//! Invariant: both halves of a pair have the same seed, and so the same times of sending and the same choice of tasks. No gate finds the tasks of a gate
//! before it, so that a run that goes on with the figures of another measures the rest as that one would have.

mod bare;
mod bed;
mod callers;
mod flood;
mod many;
mod memory;
mod raw;
mod record;
mod rounds;
mod shown;
mod table;
mod turns;
mod windows;

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use self::bed::Bed;
use self::record::{Conditions, Record};
pub use self::table::Gate;
use self::table::Pair;
use self::turns::Turns;
use super::Error;
use super::affinity::{self, Split};
use super::args::{Cpus, seconds};
use super::load::Span;
use super::system;
use crate::model::compute_threads;
use crate::tools::show;

/// Arguments of `frameshift bench gates`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Measures only these; may be given again
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<Gate>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 8.0, value_parser = seconds)]
    pub seconds: f64,
    /// Seconds of load before the clock of each measurement runs
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub warmup: f64,
    /// Most pairs of measurements, whose ratios' median counts
    #[arg(long, default_value = "3")]
    pub pairs: NonZeroUsize,
    /// Time for all of it (20m, 90s): gates have fewer pairs where another one would take too long, and the last ones are left out when it is over
    #[arg(long, default_value = "25m", value_parser = humantime::parse_duration)]
    pub budget: Duration,
    /// File for the figures, written after each gate; gates whose figures are in it are not measured again
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Checkpoint for set_over_bare in place of a ViT-B/16 of random weights
    #[arg(long, value_name = "FILE")]
    pub full_size: Option<PathBuf>,
    /// Seed of the clips, the sets, the schedules and the choice of tasks
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// CPUs
    #[command(flatten)]
    pub cpus: Cpus,
    /// Prints one JSON line in place of a table
    #[arg(long)]
    pub json: bool,
    /// Prints a Markdown table with machine and date, for a README, in place of a table for a terminal; with --out and all figures there, nothing is measured
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// Fails with exit code 1 when a goal is missed
    #[arg(long)]
    pub require: bool,
    /// When the gate that is measured should be over
    #[arg(skip)]
    until: Option<std::time::Instant>,
}

impl Args {
    /// Whether a gate is to be measured.
    fn wants(&self, gate: Gate) -> bool {
        self.only.is_empty() || self.only.contains(&gate)
    }

    /// The pairs that are measured of a gate.
    fn turns(&self) -> Turns {
        Turns::new(self.pairs.get(), self.until.map(Instant::from_std))
    }

    /// How long a measurement lasts; the seed differs from pair to pair.
    fn span(&self, pair: usize) -> Span {
        /// Deadline of a request: longer than a full queue takes.
        const TIMEOUT: Duration = Duration::from_secs(30);
        Span {
            warmup: Duration::from_secs_f64(self.warmup),
            measured: Duration::from_secs_f64(self.seconds),
            timeout: TIMEOUT,
            seed: self.seed.wrapping_add(pair as u64),
        }
    }
}

/// Measures and prints.
///
/// # Errors
/// When no server runs, or with `--require` a goal is missed.
pub(super) async fn run(args: &Args, split: Option<Split>) -> Result<(), Error> {
    if args.seconds <= 0.0 {
        return Err(Error::Usage("--seconds: expected more than 0".to_owned()));
    }
    // The threads of the loop that only runs the model are where the server's are.
    match &split {
        Some(split) => {
            let threads = NonZeroUsize::new(split.server.len());
            let pool = affinity::on(&split.server, || compute_threads(threads));
            pool.map_err(system("choose CPUs"))?;
        }
        None => {
            compute_threads(None);
        }
    }
    let end = Instant::now() + args.budget;
    let mut bed = Bed::start(args, split.clone()).await?;
    let conditions = Conditions {
        version: bed.info.version.clone(),
        backbone: bed.backbone.name.clone(),
        precision: bed.info.precision.clone(),
        cpus: split,
        full_size: args.full_size.clone(),
        seconds: args.seconds,
        warmup: args.warmup,
        pairs: args.pairs.get(),
        seed: args.seed,
    };
    let record = match Record::open(args.out.as_deref(), conditions) {
        Ok(mut record) => {
            let outcome = measure(args, &mut bed, &mut record, end).await;
            outcome.map(|()| record)
        }
        Err(error) => Err(error),
    };
    let stopped = bed.stop().await;
    let record = record?;
    stopped?;
    match (args.json, args.markdown) {
        (true, _) => show(record.json()),
        (false, true) => show(shown::markdown(&record.report)),
        (false, false) => show(shown::text(&record.report)),
    }
    let missed = record.report.gates.iter().filter(|line| !line.met);
    let missed: Vec<String> = missed.map(|line| line.name.name()).collect();
    match args.require && !missed.is_empty() {
        true => Err(Error::Missed(missed)),
        false => Ok(()),
    }
}

/// The gates in their order; those of one line are about the same measurements.
const STEPS: [&[Gate]; 21] = [
    &[Gate::ResidentMemory],
    &[Gate::FloodMemory],
    &[Gate::Tasks64],
    &[Gate::Tasks1000],
    &[Gate::TwoTenants],
    &[Gate::OverGrpc],
    &[Gate::WorkingSet],
    &[Gate::Swaps],
    &[Gate::Flood],
    &[Gate::FloodDecoding],
    &[Gate::OverloadGoodput, Gate::OverloadRefusals],
    &[Gate::BesideTraining, Gate::TrainingKept],
    &[Gate::WindowsDecoding],
    &[Gate::WindowsComputing],
    &[Gate::ManyTasksHalf],
    &[Gate::ManyTasksAll],
    &[Gate::Live],
    &[Gate::ForeignNames],
    &[Gate::CredentialFlood],
    &[Gate::Swap14Mb],
    &[Gate::SetOverBare],
];

/// Measures every gate that is wanted and not in the record yet. One that cannot be measured says why, and the others are measured all the same.
async fn measure(
    args: &Args,
    bed: &mut Bed,
    record: &mut Record,
    end: Instant,
) -> Result<(), Error> {
    let is_due = |gate: &&Gate| args.wants(**gate) && !record.has(**gate);
    let steps = STEPS.iter();
    let steps = steps.map(|step| step.iter().filter(is_due).copied().collect::<Vec<Gate>>());
    let mut steps: VecDeque<Vec<Gate>> = steps.filter(|own| !own.is_empty()).collect();
    while let Some(step) = steps.pop_front() {
        let now = Instant::now();
        if now >= end {
            for gate in step {
                record.add(gate, Err(OVER.to_owned()))?;
            }
            continue;
        }
        // Each has an equal part of what is left; what one does not need is for the others.
        let share = (end - now) / (steps.len() as u32 + 1);
        let args = Args {
            until: Some((now + share).into_std()),
            ..args.clone()
        };
        let mut measured: Vec<_> = match pairs(&args, bed, step[0]).await {
            Ok((first, second)) => vec![Ok(first), Ok(second)],
            Err(error) => vec![Err(error.to_string()); 2],
        };
        let fills = step.iter().any(|gate| gate.leaves_tasks());
        for gate in step {
            let place = usize::from(matches!(gate, Gate::OverloadRefusals | Gate::TrainingKept));
            let own = std::mem::replace(&mut measured[place], Ok(Vec::new()));
            record.add(gate, own)?;
        }
        if fills && !steps.is_empty() {
            bed.renew(&args).await?;
        }
    }
    Ok(())
}

/// Why a gate was not measured in time.
const OVER: &str = "the time of --budget was over; run it again with --out, which goes on";

/// Pairs of two gates that the same measurements are for; of a gate that is alone the second ones are missing.
type Both = (Vec<Pair>, Vec<Pair>);

/// Measures a gate, and the other one of its step.
async fn pairs(args: &Args, bed: &mut Bed, gate: Gate) -> Result<Both, Error> {
    let pairs = match gate {
        Gate::OverloadGoodput | Gate::OverloadRefusals => return rounds::overload(args, bed).await,
        Gate::BesideTraining | Gate::TrainingKept => return rounds::training(args, bed).await,
        Gate::ResidentMemory => memory::resident(bed).await,
        Gate::FloodMemory => flood::memory(args, bed).await,
        Gate::Tasks64 => rounds::tasks(args, bed, 64).await,
        Gate::Tasks1000 => rounds::tasks(args, bed, 1000).await,
        Gate::TwoTenants => rounds::two_tenants(args, bed).await,
        Gate::OverGrpc => rounds::over_grpc(args, bed).await,
        Gate::WorkingSet => memory::working_set(args, bed).await,
        Gate::Swaps => rounds::swaps(args, bed).await,
        Gate::Flood => rounds::flood(args, bed).await,
        Gate::FloodDecoding => rounds::flood_decoding(args, bed).await,
        Gate::WindowsDecoding => windows::decoding(args, bed).await,
        Gate::WindowsComputing => windows::computing(args, bed).await,
        Gate::ManyTasksHalf => many::of_one_clip(args, bed, &bed.sets.in_last_half()).await,
        Gate::ManyTasksAll => many::of_one_clip(args, bed, &bed.sets).await,
        Gate::Live => rounds::live(args, bed).await,
        Gate::ForeignNames => callers::foreign_names(bed).await,
        Gate::CredentialFlood => callers::credential_flood(args, bed).await,
        Gate::Swap14Mb => memory::swap(args, bed).await,
        Gate::SetOverBare => bare::set(args, bed).await,
    };
    Ok((pairs?, Vec::new()))
}
