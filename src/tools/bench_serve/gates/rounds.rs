//! The gates that are measured on one server: throughput and latency with and without what each is about, in turns.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bed::{BUSY, Bed, lane, latency, tenant, throughputs};
use super::raw::Raw;
use super::{Args, Both, Pair};
use crate::blocking::blocking;
use crate::spec::Precision;
use crate::tools::bench_serve::beside::{Swaps, Training};
use crate::tools::bench_serve::live::{self, Cameras, Clocks};
use crate::tools::bench_serve::load::Pacing;
use crate::tools::bench_serve::material::{self, NUM_FRAMES, Tenant};
use crate::tools::bench_serve::{Arrivals, Error};

/// Share of the peak that is half load.
const HALF: f64 = 0.5;
/// Versions a second that are published and swapped in.
const SWAPS_PER_S: f64 = 20.0;

fn poisson(rate: f64) -> Pacing {
    Pacing::Open(Arrivals::Poisson, rate)
}

/// Throughput when each request is for another of this many tasks, and when all are for one.
pub(super) async fn tasks(args: &Args, bed: &mut Bed, tasks: usize) -> Result<Vec<Pair>, Error> {
    bed.have(tasks).await?;
    let mut pairs = Vec::new();
    for pair in args.turns() {
        let span = args.span(pair);
        let many = lane(&bed.many, tasks, Pacing::Closed(BUSY));
        let with = bed.load(vec![many], span).await?;
        let one = lane(&bed.many, 1, Pacing::Closed(BUSY));
        let without = bed.load(vec![one], span).await?;
        pairs.push(throughputs(&with, &without));
    }
    Ok(pairs)
}

/// Two tenants, and one with the callers of both.
pub(super) async fn two_tenants(args: &Args, bed: &Bed) -> Result<Vec<Pair>, Error> {
    let mut pairs = Vec::new();
    for pair in args.turns() {
        let span = args.span(pair);
        let half = |tenant| lane(tenant, 1, Pacing::Closed(BUSY / 2));
        let with = bed
            .load(vec![half(&bed.many), half(&bed.other)], span)
            .await?;
        let one = lane(&bed.many, 1, Pacing::Closed(BUSY));
        let without = bed.load(vec![one], span).await?;
        pairs.push(throughputs(&with, &without));
    }
    Ok(pairs)
}

/// Over gRPC, and the model alone.
pub(super) async fn over_grpc(args: &Args, bed: &Bed) -> Result<Vec<Pair>, Error> {
    let precision: Precision = bed.info.precision.parse().map_err(|_| Error::Incomplete {
        what: "the server's precision",
    })?;
    let cpus = bed.split.as_ref().map(|split| split.server.clone());
    let raw = Arc::new(Raw::new(precision, &bed.sets, cpus)?);
    let mut pairs = Vec::new();
    for pair in args.turns() {
        let one = lane(&bed.many, 1, Pacing::Closed(BUSY));
        let with = bed.load(vec![one], args.span(pair)).await?;
        let (raw, time) = (Arc::clone(&raw), args.span(pair).measured);
        let alone = blocking(move || raw.clips_per_s(time));
        pairs.push(Pair {
            a: with.all.clips_per_s,
            b: alone.await??,
            errors: with.all.errors,
        });
    }
    Ok(pairs)
}

/// Half load while versions of another task are swapped in all the time, and on a quiet server.
pub(super) async fn swaps(args: &Args, bed: &mut Bed) -> Result<Vec<Pair>, Error> {
    let rate = HALF * bed.peak().await?;
    let beside = bed.beside().await?;
    let mut pairs = Vec::new();
    for pair in args.turns() {
        let span = args.span(pair);
        let swaps = Swaps::start(&beside, &bed.sets, SWAPS_PER_S)?;
        let with = bed
            .load(vec![lane(&bed.many, 1, poisson(rate))], span)
            .await;
        let swapped = swaps.stop().await?;
        if swapped == 0 {
            return Err(Error::Incomplete { what: "a swap" });
        }
        let with = with?;
        let without = bed
            .load(vec![lane(&bed.many, 1, poisson(rate))], span)
            .await?;
        pairs.push(Pair {
            a: latency(&with.all, |times| times.p99)?,
            b: latency(&without.all, |times| times.p99)?,
            errors: with.all.errors + without.all.errors,
        });
    }
    Ok(pairs)
}

/// A quiet tenant beside one that floods a server whose device is the bottleneck, and alone.
pub(super) async fn flood(args: &Args, bed: &mut Bed) -> Result<Vec<Pair>, Error> {
    let peak = bed.peak().await?;
    flooded(args, bed, (&bed.other, &bed.many), peak).await
}

/// A quiet tenant beside one that floods a server whose decoders are the bottleneck, and alone. The clips are as long as that takes.
pub(super) async fn flood_decoding(args: &Args, bed: &mut Bed) -> Result<Vec<Pair>, Error> {
    /// Side of the clips' pictures in pixels, and their number.
    const LARGE: (usize, usize) = (960, 4);
    /// Fewest and most times that a clip shows what a synthetic one shows.
    const TIMES: (usize, usize) = (2, 32);
    let of_device = bed.peak().await?;
    let mut times = TIMES.0;
    while times <= TIMES.1 {
        let clips = material::drawn_again(args.seed, LARGE.1, LARGE.0, times)?;
        let quiet = format!("bench-large-quiet-{times}");
        let quiet = tenant(&bed.host, &quiet, &bed.sets, &clips, 1).await?;
        let busy = format!("bench-large-busy-{times}");
        let busy = tenant(&bed.host, &busy, &bed.sets, &clips, 1).await?;
        let lane = lane(&busy, 1, Pacing::Closed(BUSY));
        let peak = bed.load(vec![lane], bed.span()).await?.all.clips_per_s;
        if is_decoding(peak, of_device) {
            return flooded(args, bed, (&quiet, &busy), peak).await;
        }
        times *= 2;
    }
    Err(Error::Incomplete {
        what: "clips whose decoding takes much longer than the device",
    })
}

/// Whether decoding takes more than twice as long as the device, by the most clips a second of a server and of its device.
fn is_decoding(peak: f64, of_device: f64) -> bool {
    peak > 0.0 && peak <= of_device / 2.0
}

/// A quiet tenant beside one that sends ten times as much, which is twice what the server can take; and the quiet one alone.
async fn flooded(
    args: &Args,
    bed: &Bed,
    (quiet, busy): (&Tenant, &Tenant),
    peak: f64,
) -> Result<Vec<Pair>, Error> {
    const QUIET: f64 = 0.2;
    const FLOOD: f64 = 10.0;
    let rate = QUIET * peak;
    let mut pairs = Vec::new();
    for pair in args.turns() {
        let span = args.span(pair);
        let quiet = || lane(quiet, 1, poisson(rate));
        let flood = lane(busy, 1, poisson(FLOOD * rate));
        // The quiet lane is the first in both, and so has the same schedule.
        let with = bed.load(vec![quiet(), flood], span).await?;
        let without = bed.load(vec![quiet()], span).await?;
        let [with, without] = [&with, &without].map(|found| found.lanes.first());
        let (Some(with), Some(without)) = (with, without) else {
            return Err(Error::Incomplete { what: "a lane" });
        };
        pairs.push(Pair {
            a: latency(with, |times| times.p99)?,
            b: latency(without, |times| times.p99)?,
            errors: with.errors + without.errors,
        });
    }
    Ok(pairs)
}

/// Three times the peak, and the peak: answers a second, and how long refusals take.
pub(super) async fn overload(args: &Args, bed: &mut Bed) -> Result<Both, Error> {
    const OVERLOAD: f64 = 3.0;
    let rate = OVERLOAD * bed.peak().await?;
    let (mut goodput, mut refusals) = (Vec::new(), Vec::new());
    for pair in args.turns() {
        let span = args.span(pair);
        let with = bed
            .load(vec![lane(&bed.many, 1, poisson(rate))], span)
            .await?;
        let one = lane(&bed.many, 1, Pacing::Closed(BUSY));
        let without = bed.load(vec![one], span).await?;
        // Refusals are what an overloaded server should give; they are no failures here.
        goodput.push(Pair {
            errors: without.all.errors,
            ..throughputs(&with, &without)
        });
        let refused = with.all.refusal_ms.ok_or(Error::Incomplete {
            what: "a refusal at three times the peak",
        })?;
        refusals.push(Pair {
            a: refused.p99,
            b: 1.0,
            errors: 0,
        });
    }
    Ok((goodput, refusals))
}

/// Half load beside a job and without; and the job's speed beside half load and alone.
pub(super) async fn training(args: &Args, bed: &mut Bed) -> Result<Both, Error> {
    let rate = HALF * bed.peak().await?;
    let beside = bed.beside().await?;
    let (mut serving, mut kept) = (Vec::new(), Vec::new());
    for pair in args.turns() {
        let span = args.span(pair);
        let half = || vec![lane(&bed.many, 1, poisson(rate))];
        let job = Training::start(&beside).await?;
        let outcome = async {
            let alone = speed(&job, span.warmup, span.measured).await?;
            let with = bed.load(half(), span).await?;
            let shared = job.clips_per_s(&with.clock).ok_or_else(too_slow)?;
            Ok::<_, Error>((alone, with, shared))
        };
        let outcome = outcome.await;
        job.stop().await?;
        let (alone, with, shared) = outcome?;
        let without = bed.load(half(), span).await?;
        serving.push(Pair {
            a: latency(&with.all, |times| times.p99)?,
            b: latency(&without.all, |times| times.p99)?,
            errors: with.all.errors + without.all.errors,
        });
        kept.push(Pair {
            a: shared,
            b: alone * (1.0 - HALF),
            errors: 0,
        });
    }
    Ok((serving, kept))
}

/// Sixteen cameras of ten frames a second, whose windows are 80 % of the load that the server can take.
pub(super) async fn live(args: &Args, bed: &mut Bed) -> Result<Vec<Pair>, Error> {
    const STREAMS: usize = 16;
    const FRAMES_PER_S: f64 = 10.0;
    const LOAD: f64 = 0.8;
    let stride = Duration::from_secs_f64(STREAMS as f64 / (LOAD * bed.peak().await?));
    let clocks = Clocks::new(FRAMES_PER_S, stride, NUM_FRAMES);
    let mut pairs = Vec::new();
    for pair in args.turns() {
        let cameras = Cameras {
            name: bed.many.name.clone(),
            clients: bed.many.clients.clone(),
            tasks: bed.many.tasks.iter().take(1).cloned().collect(),
            pictures: material::pictures(args.seed)?,
            streams: STREAMS,
        };
        bed.host.place_decoders();
        let (found, streams) = live::run(vec![cameras], clocks, args.span(pair)).await?;
        pairs.push(Pair {
            a: streams.in_time as f64,
            b: streams.due as f64,
            errors: found.all.errors,
        });
    }
    Ok(pairs)
}

/// The error of a job that is too slow for the measurement.
fn too_slow() -> Error {
    Error::Incomplete {
        what: "a second burst of training steps in the time of a measurement (give more --seconds)",
    }
}

/// A job's speed while nobody asks, after some time that does not count.
async fn speed(job: &Training, warmup: Duration, measured: Duration) -> Result<f64, Error> {
    let start = Instant::now() + warmup;
    let end = start + measured;
    tokio::time::sleep_until(end).await;
    job.clips_per_s(&(start..end)).ok_or_else(too_slow)
}
