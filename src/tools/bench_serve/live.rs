//! Live streams as a load: cameras that send pictures by their clocks, whatever the server does.
//!
//! Invariant: a window's latency begins when its last picture should have been sent; a window that was due and is not answered counts as left out.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::figures::{Call, End, Recorder};
use super::load::{LoadFigures, Span, spent};
use super::{Error, during};
use crate::client::Client;
use crate::proto::v1::{self, classify_frames_header, classify_frames_request::Payload};

/// Strides after which a window's answer is late.
const IN_TIME: f64 = 1.5;
/// How long the last windows of a stream are still waited for.
const GRACE: Duration = Duration::from_secs(5);

/// The streams of one tenant.
#[derive(Debug, Clone)]
pub(super) struct Cameras {
    /// The tenant's name.
    pub(super) name: String,
    /// Connections, used in turns.
    pub(super) clients: Vec<Client>,
    /// Tasks, used in turns.
    pub(super) tasks: Vec<String>,
    /// Pictures that every stream shows again and again.
    pub(super) pictures: Vec<Bytes>,
    /// Number of streams.
    pub(super) streams: usize,
}

/// When cameras send, and windows end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clocks {
    /// Time from one picture to the next.
    pub(super) interval: Duration,
    /// Time from the end of a window to that of the next, at least the interval.
    pub(super) stride: Duration,
    /// Frames of a window.
    pub(super) frames: u32,
}

impl Clocks {
    /// Cameras of this rate; a window each stride, whose frames are neighbours.
    pub(super) fn new(per_second: f64, stride: Duration, frames: u32) -> Self {
        let interval = Duration::from_secs_f64(1.0 / per_second.max(1e-3)).min(stride);
        Self {
            interval,
            stride,
            frames,
        }
    }

    /// Time of a picture since its stream's begin.
    fn picture(self, number: u32) -> Duration {
        self.interval.saturating_mul(number)
    }

    /// Time at which the last picture of a window should be sent since its stream's begin.
    fn window(self, number: u32) -> Duration {
        let span = self.interval.saturating_mul(self.frames.saturating_sub(1));
        let end = span.saturating_add(self.stride.saturating_mul(number));
        let pictures = end.as_nanos().div_ceil(self.interval.as_nanos().max(1));
        self.picture(u32::try_from(pictures).unwrap_or(u32::MAX))
    }

    fn pace(self) -> Option<classify_frames_header::Pace> {
        Some(classify_frames_header::Pace::Time(v1::TimePace {
            step: of(self.interval),
            stride: of(self.stride),
            max_gap: None,
        }))
    }
}

fn of(time: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(time).ok()
}

/// What streams found beside the figures of their windows.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Streams {
    pub(super) streams: usize,
    pub(super) frames_per_s: f64,
    pub(super) stride_ms: f64,
    /// Windows that were due while the clock ran.
    pub(super) due: u64,
    /// Windows that were answered within one and a half strides.
    pub(super) in_time: u64,
    /// In time over due.
    pub(super) share: f64,
    /// Frames that the server left out, in all.
    pub(super) frames_dropped: u64,
    /// Windows that the server left out, in all.
    pub(super) windows_skipped: u64,
}

/// A stream while it runs.
struct Camera {
    client: Client,
    task: String,
    pictures: Vec<Bytes>,
    clocks: Clocks,
    /// Begin of the stream's clock.
    begin: Instant,
    clock: Range<Instant>,
}

/// What one stream found.
struct Seen {
    recorder: Recorder,
    in_time: u64,
    counts: v1::LiveCounts,
}

/// Runs all streams at once and waits for their last windows.
///
/// # Errors
/// When a tenant has no connection, task or picture, or the server refuses or ends a stream.
pub(super) async fn run(
    lanes: Vec<Cameras>,
    clocks: Clocks,
    span: Span,
) -> Result<(LoadFigures, Streams), Error> {
    let start = Instant::now();
    let clock = start + span.warmup..start + span.warmup + span.measured;
    let mut loops = JoinSet::new();
    let mut found = Streams {
        frames_per_s: 1.0 / clocks.interval.as_secs_f64(),
        stride_ms: clocks.stride.as_secs_f64() * 1e3,
        ..Streams::default()
    };
    found.streams = lanes.iter().map(|lane| lane.streams).sum();
    let names: Vec<String> = lanes.iter().map(|lane| lane.name.clone()).collect();
    let mut place = 0;
    for (number, lane) in lanes.into_iter().enumerate() {
        for stream in 0..lane.streams {
            let turn = |count: usize| stream % count.max(1);
            let (Some(client), Some(task), false) = (
                lane.clients.get(turn(lane.clients.len())),
                lane.tasks.get(turn(lane.tasks.len())),
                lane.pictures.is_empty(),
            ) else {
                let what = "a connection, a task or a picture to send";
                return Err(Error::Incomplete { what });
            };
            // Cameras are not in step with one another.
            let phase = clocks
                .stride
                .mul_f64(place as f64 / found.streams.max(1) as f64);
            place += 1;
            let camera = Camera {
                client: client.clone(),
                task: task.clone(),
                pictures: lane.pictures.clone(),
                clocks,
                begin: start + phase,
                clock: clock.clone(),
            };
            loops.spawn(async move { (number, camera.run().await) });
        }
    }
    let mut recorders: BTreeMap<usize, Recorder> = BTreeMap::new();
    let mut all = Recorder::new()?;
    while let Some(ended) = loops.join_next().await {
        let (number, seen) = ended?;
        let seen = seen?;
        all.add(&seen.recorder);
        found.in_time += seen.in_time;
        found.frames_dropped += seen.counts.dropped;
        found.windows_skipped += seen.counts.windows_skipped;
        match recorders.get_mut(&number) {
            Some(recorder) => recorder.add(&seen.recorder),
            None => drop(recorders.insert(number, seen.recorder)),
        }
    }
    let seconds = span.measured.as_secs_f64();
    let all = all.figures("all", seconds);
    found.due = all.sent;
    found.share = found.in_time as f64 / (all.sent as f64).max(1.0);
    let of_tenant =
        |(number, name): (usize, &String)| Some(recorders.get(&number)?.figures(name, seconds));
    let lanes = names.iter().enumerate().filter_map(of_tenant).collect();
    Ok((LoadFigures { all, lanes, clock }, found))
}

impl Camera {
    /// Sends until the clock stops, and reads what comes.
    async fn run(self) -> Result<Seen, Error> {
        let (feed, messages) = mpsc::channel(2);
        let header = v1::ClassifyFramesHeader {
            task: self.task.clone(),
            format: Some(classify_frames_header::Format::Jpeg(
                v1::JpegFrames::default(),
            )),
            pace: self.clocks.pace(),
            late_policy: v1::LatePolicy::SkipToLive.into(),
            ..Default::default()
        };
        let sending = tokio::spawn(send(
            feed,
            header,
            (self.begin, self.clock.end),
            (self.clocks, self.pictures.clone()),
        ));
        let messages = stream::unfold(messages, |mut messages| async move {
            let message = messages.recv().await?;
            Some((message, messages))
        });
        let mut service = self.client.classification();
        let answers = service.classify_frames(messages).await;
        let mut answers = answers.map_err(during("open a live stream"))?.into_inner();
        let mut due = self.due();
        let mut seen = Seen {
            recorder: Recorder::new()?,
            in_time: 0,
            counts: v1::LiveCounts::default(),
        };
        due.values().for_each(|_| seen.recorder.sent());
        let last = self.clock.end + GRACE;
        loop {
            let left = last.saturating_duration_since(Instant::now());
            let Ok(answer) = timeout(left, answers.message()).await else {
                break;
            };
            let Some(answer) = answer.map_err(during("read a live stream"))? else {
                break;
            };
            seen.counts = answer.counts.unwrap_or(seen.counts);
            if let Some(v1::classify_frames_response::Event::Window(window)) = answer.event
                && let Some(intended) = due.remove(&window.number)
            {
                self.answered(&mut seen, intended, window);
            }
        }
        for _ in due {
            seen.recorder.ended(&Call {
                latency: GRACE,
                late: Duration::ZERO,
                end: End::Failed {
                    code: "LeftOut".to_owned(),
                    reason: String::new(),
                },
            });
        }
        // It ends by itself at the clock's end.
        sending.abort();
        Ok(seen)
    }

    /// The windows whose last picture is due while the clock runs, by their numbers.
    fn due(&self) -> BTreeMap<u64, Instant> {
        let at = |number: u32| self.begin + self.clocks.window(number);
        let numbered = (0_u32..).map(|number| (u64::from(number), at(number)));
        numbered
            .skip_while(|(_, at)| *at < self.clock.start)
            .take_while(|(_, at)| *at < self.clock.end)
            .collect()
    }

    /// Notes the answer of a window.
    fn answered(&self, seen: &mut Seen, intended: Instant, window: v1::LiveWindow) {
        let now = Instant::now();
        let latency = now.duration_since(intended);
        let result = window.results.into_iter().next().unwrap_or_default();
        let end = match result.error {
            None => End::Answered(result.timings.and_then(spent)),
            Some(error) => End::Failed {
                code: format!("{:?}", tonic::Code::from_i32(error.code)),
                reason: error.reason,
            },
        };
        if matches!(end, End::Answered(_)) {
            seen.in_time += u64::from(latency <= self.clocks.stride.mul_f64(IN_TIME));
            if self.clock.contains(&now) {
                seen.recorder.in_time();
            }
        }
        seen.recorder.ended(&Call {
            latency,
            late: Duration::ZERO,
            end,
        });
    }
}

/// Sends the header and then pictures by the clock.
async fn send(
    feed: mpsc::Sender<v1::ClassifyFramesRequest>,
    header: v1::ClassifyFramesHeader,
    (begin, end): (Instant, Instant),
    (clocks, pictures): (Clocks, Vec<Bytes>),
) {
    let message = |payload| v1::ClassifyFramesRequest {
        payload: Some(payload),
    };
    if feed.send(message(Payload::Header(header))).await.is_err() {
        return;
    }
    for (number, data) in (0_u32..).zip(pictures.iter().cycle()) {
        let time = clocks.picture(number);
        if begin + time >= end {
            return;
        }
        sleep_until(begin + time).await;
        let frame = v1::LiveFrame {
            time: of(time),
            data: data.clone(),
        };
        // The stream's end is seen where its answers are read.
        if feed.send(message(Payload::Frame(frame))).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_with_the_first_picture_that_is_not_before_its_end() {
        let clocks = Clocks::new(10.0, Duration::from_millis(130), 8);
        assert_eq!(clocks.interval, Duration::from_millis(100));
        // Ends at 700, 830, 960, 1090 ms.
        let ends: Vec<u128> = (0..4).map(|own| clocks.window(own).as_millis()).collect();
        assert_eq!(ends, [700, 900, 1000, 1100]);
        // Pictures are not sent more slowly than windows end.
        let fast = Clocks::new(10.0, Duration::from_millis(50), 8);
        assert_eq!(fast.interval, Duration::from_millis(50));
    }
}
