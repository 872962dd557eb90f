//! `frameshift bench kernels`: times each operation of the model's walk at the sizes of a backbone, on the host or on a device.
//!
//! Invariant: a kernel's share is of a bound that was measured in the same run, on the same device.

use std::num::NonZeroUsize;

use serde::Serialize;

use super::subject::Size;
use super::{Error, On, round};
use crate::model::bench::{self, Limits, Measured, Sizes, Work};
use crate::model::compute_threads;
use crate::tools::show;

/// Arguments of `frameshift bench kernels`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Backbone whose sizes the operands have
    #[arg(long, value_enum, default_value = "vit_b16")]
    pub size: Size,
    /// Frames of a clip
    #[arg(long, default_value = "8")]
    pub frames: NonZeroUsize,
    /// Clips of a batch
    #[arg(long, default_value = "1")]
    pub batch: NonZeroUsize,
    /// f32, bf16, int8, or auto: the fastest of the first two on this CPU
    #[arg(long, default_value = "auto")]
    pub precision: String,
    /// Device that computes: cpu, or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Threads; as many as there are physical cores when not set
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    /// Only kernels whose name contains this
    #[arg(long, default_value = "")]
    pub only: String,
    /// Timed calls of a kernel, after one that is not counted
    #[arg(long, default_value = "10")]
    pub runs: NonZeroUsize,
    /// Side of the square product that a device's limit is measured with
    #[arg(long, default_value = "8192")]
    pub limit_side: NonZeroUsize,
    /// MiB of the copy that a device's limit is measured with
    #[arg(long, default_value = "2048")]
    pub limit_mib: NonZeroUsize,
}

/// The first line: the device and its limits.
#[derive(Debug, Serialize)]
struct Device {
    device: String,
    precision: String,
    backbone: String,
    frames: usize,
    batch: usize,
    threads: usize,
    limit_gflop_per_s: f64,
    limit_gb_per_s: f64,
}

/// The line of a kernel.
#[derive(Debug, Serialize)]
struct Line<'a> {
    kernel: &'a str,
    micros: f64,
    /// Rate in GFLOP/s, or GB/s of what must be read and written.
    rate: f64,
    unit: &'static str,
    /// Rate over the limit; above 1 where a limit's operands are in a slower memory.
    of_limit: f64,
}

/// The last line of a GPU: how its products are computed.
#[derive(Debug, Serialize)]
struct Plans {
    plans: Vec<String>,
}

/// Measures and prints a line for each kernel.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let on = On::new(&args.device, &args.precision)?;
    let threads = compute_threads(args.threads);
    let config = args.size.config();
    let measured = Measured {
        side: args.limit_side.get(),
        bytes: args.limit_mib.get() << 20,
    };
    let limits = bench::limits(&on.place, on.precision, measured)?;
    print(&Device {
        device: on.place.name(),
        precision: on.precision.to_string(),
        backbone: args.size.name(),
        frames: args.frames.get(),
        batch: args.batch.get(),
        threads,
        limit_gflop_per_s: round(limits.operations / 1e9, 1.0),
        limit_gb_per_s: round(limits.bytes / 1e9, 1.0),
    });
    let sizes = Sizes {
        config: &config,
        frames: args.frames.get(),
        clips: args.batch.get(),
        precision: on.precision,
    };
    for case in bench::cases(&on.place, sizes)? {
        if !case.name.contains(&args.only) {
            continue;
        }
        let seconds = case.seconds(args.runs.get())?;
        print(&line(&case.name, case.work, seconds, limits));
    }
    let plans = on.place.plans();
    if !plans.is_empty() {
        print(&Plans { plans });
    }
    Ok(())
}

fn line(kernel: &str, work: Work, seconds: f64, limits: Limits) -> Line<'_> {
    let (amount, limit, unit) = match work {
        Work::Operations(count) => (count, limits.operations, "GFLOP/s"),
        Work::Bytes(count) => (count, limits.bytes, "GB/s"),
    };
    let rate = amount as f64 / seconds;
    Line {
        kernel,
        micros: round(seconds * 1e6, 2.0),
        rate: round(rate / 1e9, 1.0),
        unit,
        of_limit: round(rate / limit, 3.0),
    }
}

/// Prints a line. Numbers and names only: serde_json has no way to fail on them.
fn print(line: &impl Serialize) {
    show(serde_json::to_string(line).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_share_is_of_the_limit_of_its_kind() {
        let limits = Limits {
            operations: 2e12,
            bytes: 1e11,
        };
        let of = |work| {
            let line = line("x", work, 1e-3, limits);
            (line.micros, line.rate, line.unit, line.of_limit)
        };
        let product = of(Work::Operations(1_000_000_000));
        assert_eq!(product, (1000.0, 1000.0, "GFLOP/s", 0.5));
        let copy = of(Work::Bytes(25_000_000));
        assert_eq!(copy, (1000.0, 25.0, "GB/s", 0.25));
    }
}
