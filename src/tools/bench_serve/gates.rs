//! `frameshift bench gates`: measures in turns, with and without what each ratio is about, and prints the ratios beside their goals.
//!
//! Invariant: both halves of a pair have the same seed, and so the same times of sending and the same choice of tasks.

mod bed;
mod flood;
mod memory;
mod raw;
mod rounds;
mod table;
mod windows;

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Serialize;

use self::bed::Bed;
pub use self::table::Gate;
use self::table::{Bound, LEFT_OUT, Line, Pair};
use super::Error;
use super::affinity::{self, Split};
use super::args::{Cpus, seconds};
use super::load::Span;
use super::system;
use crate::model::compute_threads;
use crate::report::Table;
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
    /// Pairs of measurements, whose ratios' median counts
    #[arg(long, default_value = "3")]
    pub pairs: NonZeroUsize,
    /// Seed of the clips, the sets, the schedules and the choice of tasks
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// CPUs
    #[command(flatten)]
    pub cpus: Cpus,
    /// Prints one JSON line in place of a table
    #[arg(long)]
    pub json: bool,
    /// Fails with exit code 1 when a goal is missed
    #[arg(long)]
    pub require: bool,
}

impl Args {
    /// Whether a gate is to be measured.
    fn wants(&self, gate: Gate) -> bool {
        self.only.is_empty() || self.only.contains(&gate)
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

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    version: String,
    backbone: String,
    precision: String,
    /// CPUs of the server and of the generator; absent when the system chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<Split>,
    seconds: f64,
    gates: Vec<Line>,
    left_out: Vec<LeftOut>,
}

#[derive(Debug, Clone, Serialize)]
struct LeftOut {
    name: &'static str,
    why: &'static str,
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
    let mut bed = Bed::start(args, split.clone()).await?;
    let outcome = measure(args, &mut bed).await;
    let (info, backbone) = (bed.info.clone(), bed.backbone.name.clone());
    let stopped = bed.stop().await;
    let gates = outcome?;
    stopped?;
    let report = Report {
        version: info.version,
        backbone,
        precision: info.precision,
        cpus: split,
        seconds: args.seconds,
        gates,
        left_out: LEFT_OUT.map(|(name, why)| LeftOut { name, why }).to_vec(),
    };
    print(args, &report);
    let missed = report.gates.iter().filter(|line| !line.met);
    let missed: Vec<String> = missed.map(|line| line.name.name()).collect();
    match args.require && !missed.is_empty() {
        true => Err(Error::Missed(missed)),
        false => Ok(()),
    }
}

/// Measures every gate that is wanted. One that cannot be measured says why, and the others are measured all the same.
async fn measure(args: &Args, bed: &mut Bed) -> Result<Vec<Line>, Error> {
    let mut lines = Lines(Vec::new());
    if args.wants(Gate::ResidentMemory) {
        lines.add(Gate::ResidentMemory, memory::resident(bed).await);
    }
    if args.wants(Gate::FloodMemory) {
        lines.add(Gate::FloodMemory, flood::memory(args, bed).await);
    }
    let tasks = [(Gate::Tasks1000, 1000), (Gate::Tasks64, 64)];
    let most = tasks.iter().find(|(gate, _)| args.wants(*gate));
    if let Some((_, tasks)) = most {
        bed.have(*tasks).await?;
    }
    for (gate, tasks) in [(Gate::Tasks64, 64), (Gate::Tasks1000, 1000)] {
        if args.wants(gate) {
            lines.add(gate, rounds::tasks(args, bed, tasks).await);
        }
    }
    if args.wants(Gate::TwoTenants) {
        lines.add(Gate::TwoTenants, rounds::two_tenants(args, bed).await);
    }
    if args.wants(Gate::OverGrpc) {
        lines.add(Gate::OverGrpc, rounds::over_grpc(args, bed).await);
    }
    if args.wants(Gate::WorkingSet) {
        lines.add(Gate::WorkingSet, memory::working_set(args, bed).await);
    }
    if args.wants(Gate::Swaps) {
        lines.add(Gate::Swaps, rounds::swaps(args, bed).await);
    }
    if args.wants(Gate::Flood) {
        lines.add(Gate::Flood, rounds::flood(args, bed).await);
    }
    let both = [Gate::OverloadGoodput, Gate::OverloadRefusals];
    lines
        .add_both(args, both, async || rounds::overload(args, bed).await)
        .await;
    let both = [Gate::BesideTraining, Gate::TrainingKept];
    lines
        .add_both(args, both, async || rounds::training(args, bed).await)
        .await;
    if args.wants(Gate::WindowsDecoding) {
        lines.add(Gate::WindowsDecoding, windows::decoding(args, bed).await);
    }
    if args.wants(Gate::WindowsComputing) {
        lines.add(Gate::WindowsComputing, windows::computing(args, bed).await);
    }
    if args.wants(Gate::Live) {
        lines.add(Gate::Live, rounds::live(args, bed).await);
    }
    if args.wants(Gate::Swap14Mb) {
        lines.add(Gate::Swap14Mb, memory::swap(args, bed).await);
    }
    Ok(lines.0)
}

/// Pairs of two gates that the same measurements are for.
type Both = (Vec<Pair>, Vec<Pair>);

/// Lines that were measured so far; each is also printed at once, since all of them take minutes.
struct Lines(Vec<Line>);

impl Lines {
    fn add(&mut self, gate: Gate, measured: Result<Vec<Pair>, Error>) {
        let line = Line::new(gate, measured.map_err(|error| error.to_string()));
        let found = match (&line.ratio, &line.problem) {
            (Some(ratio), _) => line.number(*ratio),
            (None, Some(problem)) => problem.clone(),
            (None, None) => "nothing measured".to_owned(),
        };
        eprintln!("{}: {found}", gate.name());
        self.0.push(line);
    }

    async fn add_both(
        &mut self,
        args: &Args,
        [first, second]: [Gate; 2],
        measured: impl AsyncFnOnce() -> Result<Both, Error>,
    ) {
        if !args.wants(first) && !args.wants(second) {
            return;
        }
        let (one, other) = match measured().await {
            Ok((one, other)) => (Ok(one), Ok(other)),
            Err(error) => {
                let problem = error.to_string();
                (
                    Err(Error::Usage(problem.clone())),
                    Err(Error::Usage(problem)),
                )
            }
        };
        for (gate, measured) in [(first, one), (second, other)] {
            if args.wants(gate) {
                self.add(gate, measured);
            }
        }
    }
}

fn print(args: &Args, report: &Report) {
    if args.json {
        // Numbers and names only: serde_json has no way to fail on them.
        show(serde_json::to_string(report).unwrap_or_default());
        return;
    }
    let mut table = Table::new(&["", "ratio", "goal", "met", "pairs", "failed requests"]);
    for line in &report.gates {
        let bound = match line.bound {
            Bound::AtLeast => "≥",
            Bound::AtMost => "≤",
        };
        let pairs = line.pairs.iter().map(|pair| line.number(pair.a / pair.b));
        let errors: u64 = line.pairs.iter().map(|pair| pair.errors).sum();
        table.row(vec![
            line.name.name(),
            line.ratio
                .map_or_else(|| "–".to_owned(), |ratio| line.number(ratio)),
            format!("{bound} {}", line.number(line.goal)),
            if line.met { "yes" } else { "no" }.to_owned(),
            pairs.collect::<Vec<_>>().join(" "),
            errors.to_string(),
        ]);
    }
    let Report {
        version,
        backbone,
        precision,
        ..
    } = report;
    show(format_args!(
        "frameshift {version}, {backbone} in {precision}, {} s each",
        report.seconds
    ));
    show(table.to_text().trim_end());
    for LeftOut { name, why } in &report.left_out {
        show(format_args!("not measured: {name}: {why}"));
    }
}
