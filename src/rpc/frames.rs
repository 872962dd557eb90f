//! ClassifyFrames: a live stream of frames in, scores of windows out.
//!
//! Invariant: conversion only; [`crate::serving::frames`] defines what a live stream is. Reading goes on whether or not the answers are read.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Status, Streaming};

use super::auth::Allowed;
use super::classify::{Chosen, caller, deadline, predictions, request_key, told};
use super::convert::spec::of_duration;
use super::uploads::next;
use super::{Api, status};
use crate::proto::v1;
use crate::proto::v1::classify_frames_request::Payload;
use crate::serving::frames::{Counts, End, Event, Frame, LiveSpec, Pace, Policy, Problem, Window};
use crate::serving::{self, Answer, Caller};
use crate::telemetry::Metrics;
use crate::video::{Coding, Range};

/// Answers that wait for a caller that reads slowly; then windows are left out. A second of a fast stream.
const ANSWERS: usize = 16;
/// Largest JPEG in bytes when the header does not say.
const JPEG_BYTES: u32 = 1 << 20;
/// Range of the largest JPEG, in bytes, that a header may state.
const JPEG_SIZES: std::ops::RangeInclusive<u32> = 1 << 10..=8 << 20;
/// Latest time of a frame: as nanoseconds it fits into 63 bits.
const LATEST: Duration = Duration::from_secs(1 << 33);

/// Stream of the answers of a live stream.
pub(super) type Answers =
    Pin<Box<dyn Stream<Item = Result<v1::ClassifyFramesResponse, Status>> + Send>>;

/// Answers ClassifyFrames.
pub(super) async fn classify_frames(
    api: &Api,
    request: Request<Streaming<v1::ClassifyFramesRequest>>,
) -> Result<Answers, Status> {
    let (deadline, allowed) = (deadline(&request), Allowed::of(&request));
    let key = request_key(&request)?;
    let (parts, tenant, mut stream) = api.enter(request)?;
    let first = next(&mut stream).await?.and_then(|first| first.payload);
    let Some(Payload::Header(header)) = first else {
        return Err(status::stream("the first message has to be the header"));
    };
    let in_header = status::below("header");
    let options = header.options.clone().unwrap_or_default();
    let caller = Caller {
        key,
        ..caller(tenant, deadline, options.priority).map_err(&in_header)?
    };
    let chosen = Chosen::new(&caller, &header.task, &header.tasks, &options).map_err(&in_header)?;
    chosen.check(&allowed)?;
    let spec = spec(&header, &chosen).map_err(&in_header)?;
    let live = parts.serving.open_live(&caller, spec).await;
    let live = live.map_err(|error| in_header(error.into()))?;
    let live_memory = &parts.pools.live;
    // Tokens are welcome and not needed: they take no room that another stream, or the tenant's next one, would be refused for.
    let with_tokens = live.bytes().saturating_add(live.token_bytes());
    let is_free = live.token_bytes() > 0 && live_memory.leaves_half(&caller.tenant, with_tokens);
    let room = is_free.then(|| live_memory.try_take_of(&caller.tenant, with_tokens).ok());
    let (live, room) = match room.flatten() {
        Some(room) => (live.keeping(), room),
        None => {
            let room = live_memory.try_take_of(&caller.tenant, live.bytes())?;
            (live, room)
        }
    };
    let shown = Shown {
        tasks: (chosen.choices.iter())
            .map(|choice| format!("tasks/{}", choice.task))
            .collect(),
        options,
        metrics: parts.metrics.clone(),
    };
    let (events, received) = mpsc::channel(ANSWERS);
    // A loop of its own, so that reading does not depend on how fast the answers are read. It ends with the answers' stream at the latest.
    let reading = tokio::spawn(async move {
        let _room = room;
        live.run(frames(stream), events).await
    });
    let going = Going {
        received,
        reading: AbortOnDropHandle::new(reading),
        shown,
    };
    Ok(Box::pin(stream::unfold(Some(going), Going::next)))
}

/// What the header asks for.
fn spec(header: &v1::ClassifyFramesHeader, chosen: &Chosen) -> Result<LiveSpec, Status> {
    let (coding, largest) = coding(header.format.as_ref())?;
    let policy = match v1::LatePolicy::try_from(header.late_policy) {
        Ok(v1::LatePolicy::Unspecified | v1::LatePolicy::DropOldest) => Policy::DropOldest,
        Ok(v1::LatePolicy::SkipToLive) => Policy::SkipToLive,
        Ok(v1::LatePolicy::Wait) => Policy::Wait,
        Err(_) => return Err(status::invalid("late_policy", "unknown")),
    };
    Ok(LiveSpec {
        choices: chosen.choices.clone(),
        coding,
        largest,
        pace: pace(header.pace.as_ref())?,
        policy,
    })
}

/// Returns how frames are coded, and the bytes of the largest.
fn coding(format: Option<&v1::classify_frames_header::Format>) -> Result<(Coding, usize), Status> {
    use v1::classify_frames_header::Format;
    let raw = match format {
        None => return Err(status::invalid("format", "required: jpeg or raw")),
        Some(Format::Jpeg(jpeg)) => {
            let bytes = match jpeg.max_bytes {
                0 => JPEG_BYTES,
                bytes => bytes,
            };
            if !JPEG_SIZES.contains(&bytes) {
                let (least, most) = JPEG_SIZES.into_inner();
                let problem = format!("expected {least} to {most}, got {bytes}");
                return Err(status::invalid("jpeg.max_bytes", problem));
            }
            return Ok((Coding::Jpeg, bytes as usize));
        }
        Some(Format::Raw(raw)) => raw,
    };
    let side = |field: &str, side: u32| {
        let problem = || format!("expected at most {}, got {side}", u16::MAX);
        u16::try_from(side).map_err(|_| status::invalid(field, problem()))
    };
    let (width, height) = (
        side("raw.width", raw.width)?,
        side("raw.height", raw.height)?,
    );
    let range = match v1::ColorRange::try_from(raw.range) {
        Ok(v1::ColorRange::Unspecified | v1::ColorRange::Limited) => Range::Limited,
        Ok(v1::ColorRange::Full) => Range::Full,
        Err(_) => return Err(status::invalid("raw.range", "unknown")),
    };
    let coding = match v1::PixelLayout::try_from(raw.layout) {
        Ok(v1::PixelLayout::Rgb24) => Coding::Rgb24 { width, height },
        Ok(v1::PixelLayout::Nv12) => Coding::Nv12 {
            width,
            height,
            range,
        },
        Ok(v1::PixelLayout::Unspecified) => {
            return Err(status::invalid("raw.layout", "required"));
        }
        Err(_) => return Err(status::invalid("raw.layout", "unknown")),
    };
    Ok((coding, coding.bytes().unwrap_or_default()))
}

/// Distances of frames and windows.
fn pace(pace: Option<&v1::classify_frames_header::Pace>) -> Result<Pace, Status> {
    use v1::classify_frames_header;
    match pace {
        None => Err(status::invalid("pace", "required: frames or time")),
        Some(classify_frames_header::Pace::Frames(frames)) => Ok(Pace::Frames {
            step: Some(frames.step).filter(|step| *step > 0),
            stride: frames.stride,
        }),
        Some(classify_frames_header::Pace::Time(time)) => {
            let gap = time.max_gap.map(|gap| duration("time.max_gap", Some(gap)));
            Ok(Pace::Time {
                step: duration("time.step", time.step)?,
                stride: duration("time.stride", time.stride)?,
                longest_gap: gap.transpose()?,
            })
        }
    }
}

/// Converts a duration that has to be there and not negative.
fn duration(field: &str, given: Option<prost_types::Duration>) -> Result<Duration, Status> {
    let given = given.ok_or_else(|| status::invalid(field, "required"))?;
    Duration::try_from(given).map_err(|_| status::invalid(field, "expected 0 s or more"))
}

/// The frames of a stream whose header was read.
fn frames(
    stream: Streaming<v1::ClassifyFramesRequest>,
) -> impl Stream<Item = Result<Frame, Status>> + Send {
    stream.map(|message| {
        let message = message.map_err(status::broken_stream)?;
        let Some(Payload::Frame(frame)) = message.payload else {
            return Err(status::stream("frames have to follow the header"));
        };
        let time = duration("frame.time", frame.time)?;
        if time > LATEST {
            let problem = format!("expected at most {} s", LATEST.as_secs());
            return Err(status::invalid("frame.time", problem));
        }
        // A copy: the message's own bytes lie in a buffer of the connection, whose budget is given back when the next message is read.
        let bytes = Bytes::copy_from_slice(&frame.data);
        Ok(Frame { time, bytes })
    })
}

/// How the answers of a live stream are shown.
struct Shown {
    tasks: Vec<String>,
    options: v1::ClassifyOptions,
    metrics: Metrics,
}

impl Shown {
    fn event(&self, event: Event) -> v1::ClassifyFramesResponse {
        use v1::classify_frames_response;
        let (event, counts) = match event {
            Event::Window(window, counts) => {
                let window = self.window(*window);
                (classify_frames_response::Event::Window(window), counts)
            }
            Event::Problem(problem, counts) => {
                let problem = of_problem(&problem);
                (classify_frames_response::Event::Problem(problem), counts)
            }
        };
        v1::ClassifyFramesResponse {
            event: Some(event),
            counts: Some(of_counts(counts)),
        }
    }

    fn window(&self, window: Window) -> v1::LiveWindow {
        let answers = self.tasks.iter().zip(window.answers);
        let result = |(task, answer): (&String, Result<Answer, serving::Error>)| match answer {
            Ok(answer) => {
                let took = answer.queue + answer.device;
                self.metrics.classified(&answer.version, took);
                predictions(task.clone(), answer, &self.options)
            }
            Err(error) => {
                let status = Status::from(error);
                v1::TaskPredictions {
                    task: task.clone(),
                    error: Some(told(&status)),
                    ..Default::default()
                }
            }
        };
        v1::LiveWindow {
            number: window.number,
            start: Some(of_duration(window.start)),
            end: Some(of_duration(window.end)),
            results: answers.map(result).collect(),
            latency: Some(of_duration(window.latency)),
        }
    }
}

fn of_problem(problem: &Problem) -> v1::FrameProblem {
    v1::FrameProblem {
        frame: problem.frame,
        time: Some(of_duration(problem.time)),
        reason: status::of_flaw(&problem.flaw).name().to_owned(),
        message: problem.flaw.to_string(),
    }
}

fn of_counts(counts: Counts) -> v1::LiveCounts {
    v1::LiveCounts {
        received: counts.received,
        used: counts.used,
        dropped: counts.dropped,
        late: counts.late,
        duplicates: counts.duplicates,
        bad: counts.bad,
        gaps: counts.gaps,
        clock_resets: counts.clock_resets,
        size_changes: counts.size_changes,
        windows: counts.windows,
        windows_skipped: counts.windows_skipped,
    }
}

/// State of a live stream whose answers are being sent.
struct Going {
    received: mpsc::Receiver<Event>,
    reading: AbortOnDropHandle<Result<Counts, End<Status>>>,
    shown: Shown,
}

impl Going {
    /// Returns the next answer and the state after it; after the last window, the counts alone, or why the stream ended.
    async fn next(
        going: Option<Self>,
    ) -> Option<(Result<v1::ClassifyFramesResponse, Status>, Option<Self>)> {
        let mut going = going?;
        if let Some(event) = going.received.recv().await {
            let answer = going.shown.event(event);
            return Some((Ok(answer), Some(going)));
        }
        let last = match going.reading.await {
            Ok(Ok(counts)) => Ok(v1::ClassifyFramesResponse {
                event: None,
                counts: Some(of_counts(counts)),
            }),
            Ok(Err(End::Input(status))) => Err(status),
            Ok(Err(End::Serving(error))) => Err(Status::from(*error)),
            Ok(Err(End::Unreadable(flaw))) => Err(status::frames_unreadable(&flaw)),
            // The caller has left.
            Ok(Err(End::Left)) => return None,
            Err(error) => Err(status::internal(error)),
        };
        Some((last, None))
    }
}
