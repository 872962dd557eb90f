//! Windows of a long video in one stream, and the same windows as requests of their own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout_at};

use super::bed::{BUSY, Bed, lane, tenant};
use super::{Args, Pair};
use crate::proto::v1;
use crate::synth::motion;
use crate::tools::bench_serve::Error;
use crate::tools::bench_serve::calls::upload;
use crate::tools::bench_serve::load::{Pacing, Span};
use crate::tools::bench_serve::material::{self, FRAMES, NUM_FRAMES, Tenant};
use crate::tools::bench_serve::windows::{self, PAUSE, Viewers, window_of};

/// Sides of its pictures in pixels: where decoding takes most of a request, and where the model does.
const LARGE: usize = 480;
const SMALL: usize = 96;

/// A stream of windows, and requests that each open the video for one window: decoding decides.
pub(super) async fn decoding(args: &Args, bed: &Bed) -> Result<Vec<Pair>, Error> {
    let (tenant, video) = prepared(args, bed, LARGE).await?;
    let mut pairs = Vec::new();
    for pair in args.turns() {
        let span = args.span(pair);
        bed.host.place_decoders();
        let (with, broken) = streamed(&tenant, &video, span).await?;
        let (without, failed) = one_by_one(&tenant, &video, span).await?;
        pairs.push(Pair {
            a: with,
            b: without,
            errors: broken + failed,
        });
    }
    Ok(pairs)
}

/// A stream of windows of a task with adapters in the last half of the blocks, and requests for short clips: the model decides.
pub(super) async fn computing(args: &Args, bed: &Bed) -> Result<Vec<Pair>, Error> {
    let (tenant, video) = prepared(args, bed, SMALL).await?;
    let mut pairs = Vec::new();
    for pair in args.turns() {
        let span = args.span(pair);
        bed.host.place_decoders();
        let (with, broken) = streamed(&tenant, &video, span).await?;
        let one = lane(&tenant, 1, Pacing::Closed(BUSY));
        let without = bed.load(vec![one], span).await?;
        pairs.push(Pair {
            a: with,
            b: without.all.clips_per_s,
            errors: broken + without.all.errors,
        });
    }
    Ok(pairs)
}

/// A tenant with such a task, and a long video of its own.
async fn prepared(args: &Args, bed: &Bed, side: usize) -> Result<(Tenant, String), Error> {
    let sets = bed.sets.in_last_half();
    let name = format!("bench-windows-{side}");
    let tenant = tenant(&bed.host, &name, &sets, &bed.clips, 1).await?;
    tenant.ask_all().await?;
    let long = material::film(args.seed, side)?;
    let video = upload(tenant.client()?, &long).await?;
    Ok((tenant, video))
}

/// A request for windows of neighbouring frames.
fn request(tenant: &Tenant, video: &str) -> v1::ClassifyWindowsRequest {
    let task = tenant.tasks.first().map_or("", String::as_str);
    windows::request(task, video)
}

/// Windows a second of one stream, and how many times it broke off.
async fn streamed(tenant: &Tenant, video: &str, span: Span) -> Result<(f64, u64), Error> {
    let viewers = Viewers {
        name: tenant.name.clone(),
        clients: tenant.clients.clone(),
        tasks: tenant.tasks.iter().take(1).cloned().collect(),
        video: video.to_owned(),
        streams: 1,
    };
    let found = windows::run(vec![viewers], span).await?;
    Ok((found.all.clips_per_s, found.all.errors))
}

/// Windows a second of callers that each ask for one window at a time, and how many requests failed.
async fn one_by_one(tenant: &Tenant, video: &str, span: Span) -> Result<(f64, u64), Error> {
    let client = tenant.client()?;
    let start = Instant::now() + span.warmup;
    let end = start + span.measured;
    let (next, counted, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let caller = || async {
        while Instant::now() < end {
            // A step that shares no factor with their number, so that all come before one comes again.
            let begin = next.fetch_add(1, Ordering::Relaxed) * 977 % u64::from(FRAMES - NUM_FRAMES);
            let mut asked = request(tenant, video);
            let windows = asked.windows.get_or_insert_default();
            windows.start_time = Some(before(begin));
            windows.end_time = Some(before(begin + u64::from(NUM_FRAMES)));
            let answered = async {
                let asked = client.classification().classify_windows(asked).await?;
                let mut messages = asked.into_inner();
                let mut windows = 0;
                while let Some(message) = messages.message().await? {
                    windows += u64::from(window_of(message)?.is_some());
                }
                Ok::<_, tonic::Status>(windows)
            };
            match timeout_at(end, answered).await {
                Ok(Ok(windows)) if Instant::now() >= start => {
                    counted.fetch_add(windows, Ordering::Relaxed);
                }
                Ok(Err(_)) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    sleep(PAUSE).await;
                }
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    };
    join_all((0..BUSY).map(|_| caller())).await;
    let counted = counted.load(Ordering::Relaxed) as f64;
    let seconds = span.measured.as_secs_f64();
    Ok((counted / seconds, failed.load(Ordering::Relaxed)))
}

/// A time between a frame and the one before it.
fn before(frame: u64) -> prost_types::Duration {
    let seconds = (frame as f64 - 0.5).max(0.0) / f64::from(motion::RATE);
    let time = Duration::from_secs_f64(seconds);
    prost_types::Duration {
        seconds: time.as_secs() as i64,
        nanos: time.subsec_nanos() as i32,
    }
}
