//! Windows of a long video in one stream, and the same windows as requests of their own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::bed::{BUSY, Bed, lane, tenant};
use super::{Args, Pair};
use crate::proto::v1;
use crate::proto::v1::classify_windows_response::Event;
use crate::proto::v1::window_options::Stride;
use crate::rng::Stream;
use crate::synth::motion::{self, Variety};
use crate::tools::bench_serve::calls::upload;
use crate::tools::bench_serve::load::{Pacing, Span};
use crate::tools::bench_serve::material::{MOTION, NUM_FRAMES, Tenant};
use crate::tools::bench_serve::{Error, during};
use crate::video::encode::{Encoder, Format};

/// Seconds of the long video.
const SECONDS: u32 = 300;
/// Frames of the long video.
const FRAMES: u32 = SECONDS * motion::RATE;
/// Sides of its pictures in pixels: where decoding takes most of a request, and where the model does.
const LARGE: usize = 480;
const SMALL: usize = 96;

/// A stream of windows, and requests that each open the video for one window: decoding decides.
pub(super) async fn decoding(args: &Args, bed: &Bed) -> Result<Vec<Pair>, Error> {
    let (tenant, video) = prepared(args, bed, LARGE).await?;
    let mut pairs = Vec::new();
    for pair in 0..args.pairs.get() {
        let span = args.span(pair);
        bed.host.place_decoders();
        let with = streamed(&tenant, &video, span).await?;
        let (without, errors) = one_by_one(&tenant, &video, span).await?;
        pairs.push(Pair {
            a: with,
            b: without,
            errors,
        });
    }
    Ok(pairs)
}

/// A stream of windows of a task with adapters in the last half of the blocks, and requests for short clips: the model decides.
pub(super) async fn computing(args: &Args, bed: &Bed) -> Result<Vec<Pair>, Error> {
    let (tenant, video) = prepared(args, bed, SMALL).await?;
    let mut pairs = Vec::new();
    for pair in 0..args.pairs.get() {
        let span = args.span(pair);
        bed.host.place_decoders();
        let with = streamed(&tenant, &video, span).await?;
        let one = lane(&tenant, 1, Pacing::Closed(BUSY));
        let without = bed.load(vec![one], span).await?;
        pairs.push(Pair {
            a: with,
            b: without.all.clips_per_s,
            errors: without.all.errors,
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
    let long = film(args.seed, side)?;
    let video = upload(tenant.client()?, &long).await?;
    Ok((tenant, video))
}

/// Synthetic clips one after the other, again and again.
fn film(seed: u64, side: usize) -> Result<Bytes, Error> {
    const CLIPS: usize = 8;
    let stream = Stream::new(seed, "bench/windows");
    let clips = motion::clips(MOTION, Variety::Training, CLIPS, side, &stream);
    let frames = clips.iter().flat_map(|clip| &clip.frames).cycle();
    let mut encoder = Encoder::new(Format::Mp4, side as u32, side as u32, motion::RATE)?;
    for frame in frames.take(FRAMES as usize) {
        encoder.push(frame)?;
    }
    Ok(encoder.finish()?.into())
}

/// A request for windows of neighbouring frames.
fn request(tenant: &Tenant, video: &str) -> v1::ClassifyWindowsRequest {
    v1::ClassifyWindowsRequest {
        task: tenant.tasks.first().cloned().unwrap_or_default(),
        source: Some(v1::classify_windows_request::Source::Video(
            video.to_owned(),
        )),
        windows: Some(v1::WindowOptions {
            frame_step: 1,
            stride: Some(Stride::StrideSteps(1)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Windows a second of one stream.
async fn streamed(tenant: &Tenant, video: &str, span: Span) -> Result<f64, Error> {
    let client = tenant.client()?;
    let start = Instant::now() + span.warmup;
    let end = start + span.measured;
    let mut count = 0_u64;
    loop {
        let mut calls = client.classification();
        let asked = calls.classify_windows(request(tenant, video)).await;
        let mut messages = asked.map_err(during("classify windows"))?.into_inner();
        loop {
            let Ok(message) = timeout_at(end, messages.message()).await else {
                return Ok(count as f64 / span.measured.as_secs_f64());
            };
            match message.map_err(during("classify windows"))? {
                Some(message) => {
                    let is_window = matches!(message.event, Some(Event::Window(_)));
                    count += u64::from(is_window && Instant::now() >= start);
                }
                // From the beginning again.
                None => break,
            }
        }
    }
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
                    windows += u64::from(matches!(message.event, Some(Event::Window(_))));
                }
                Ok::<_, tonic::Status>(windows)
            };
            match timeout_at(end, answered).await {
                Ok(Ok(windows)) if Instant::now() >= start => {
                    counted.fetch_add(windows, Ordering::Relaxed);
                }
                Ok(Err(_)) => {
                    failed.fetch_add(1, Ordering::Relaxed);
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
