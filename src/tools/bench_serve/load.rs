//! Puts load on a server: open loops that send by their schedule whatever the server does, and closed loops of callers that wait for their answers.
//!
//! Invariant: an open loop never sends later because an answer is late, and a latency begins at the intended time of sending.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Request, Response, Status};
use tonic_types::StatusExt;

use super::Error;
use super::arrivals::{Arrivals, Schedule};
use super::figures::{Call, End, Figures, Recorder, Spent};
use super::popularity::{Choice, Popularity};
use crate::client::Client;
use crate::proto::v1::{self, classify_request::Source};
use crate::rng::Stream;

/// How long an answer that the server should have given up on is still waited for.
const GRACE: Duration = Duration::from_secs(2);

/// What a request carries.
#[derive(Debug, Clone)]
pub(super) enum Clips {
    /// Names of stored videos.
    Stored(Vec<String>),
    /// Container files.
    Inline(Vec<Bytes>),
}

impl Clips {
    /// The source of a request, in turns.
    fn source(&self, number: u64) -> Option<Source> {
        match self {
            Self::Stored(names) => turn(names, number).cloned().map(Source::Video),
            Self::Inline(files) => turn(files, number).cloned().map(Source::Content),
        }
    }
}

fn turn<T>(items: &[T], number: u64) -> Option<&T> {
    let count = items.len().max(1) as u64;
    items.get((number % count) as usize)
}

/// When a tenant sends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pacing {
    /// By a schedule of this many requests a second.
    Open(Arrivals, f64),
    /// This many callers, each of which sends when it has its answer.
    Closed(usize),
}

/// The load of one tenant.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    /// The tenant's name.
    pub(super) name: String,
    /// Connections, used in turns.
    pub(super) clients: Vec<Client>,
    /// Tasks that requests are for, `tasks/…`.
    pub(super) tasks: Vec<String>,
    pub(super) popularity: Popularity,
    pub(super) clips: Clips,
    pub(super) pacing: Pacing,
}

/// How long a load lasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// Time before the clock runs.
    pub(super) warmup: Duration,
    /// Time in which requests count.
    pub(super) measured: Duration,
    /// Deadline of each request.
    pub(super) timeout: Duration,
    /// Seed of the schedules and of the choice of tasks.
    pub(super) seed: u64,
}

/// What a load found.
#[derive(Debug, Clone)]
pub(super) struct LoadFigures {
    /// All tenants together.
    pub(super) all: Figures,
    /// Each tenant, in the order of the lanes.
    pub(super) lanes: Vec<Figures>,
    /// When the clock ran.
    pub(super) clock: Range<Instant>,
}

/// A lane while its load runs.
struct Running {
    lane: Lane,
    choice: Choice,
    random: Stream,
    start: Instant,
    clock: Range<Instant>,
    timeout: Duration,
    /// Requests so far, for the turns of clips and connections.
    requests: AtomicU64,
    /// A plain mutex: held for counting, never across an await.
    recorder: Mutex<Recorder>,
}

/// Runs the load of all lanes at once and waits for the last answer.
///
/// # Errors
/// When a lane has no connection, task or clip; requests that fail are figures.
pub(super) async fn run(lanes: Vec<Lane>, span: Span) -> Result<LoadFigures, Error> {
    let start = Instant::now();
    let clock = start + span.warmup..start + span.warmup + span.measured;
    let mut loops = JoinSet::new();
    let mut all = Vec::new();
    for (number, lane) in lanes.into_iter().enumerate() {
        if lane.clients.is_empty() || lane.tasks.is_empty() || lane.clips.source(0).is_none() {
            return Err(Error::Incomplete {
                what: "a connection, a task or a clip to send",
            });
        }
        let running = Arc::new(Running {
            choice: Choice::new(lane.popularity, lane.tasks.len()),
            random: Stream::new(span.seed, "bench/load").fork(number as u64),
            start,
            clock: clock.clone(),
            timeout: span.timeout,
            requests: AtomicU64::new(0),
            recorder: Mutex::new(Recorder::new()?),
            lane,
        });
        all.push(Arc::clone(&running));
        match running.lane.pacing {
            Pacing::Open(arrivals, rate) => {
                loops.spawn(open(running, arrivals, rate));
            }
            Pacing::Closed(callers) => {
                for caller in 0..callers {
                    loops.spawn(closed(Arc::clone(&running), caller as u64));
                }
            }
        }
    }
    while let Some(ended) = loops.join_next().await {
        ended??;
    }
    let seconds = span.measured.as_secs_f64();
    let mut sum = Recorder::new()?;
    let mut lanes = Vec::new();
    for running in &all {
        let recorder = running.recorder();
        sum.add(&recorder);
        lanes.push(recorder.figures(&running.lane.name, seconds));
    }
    Ok(LoadFigures {
        all: sum.figures("all", seconds),
        lanes,
        clock,
    })
}

/// Sends by a schedule until the clock stops, then waits for the answers.
async fn open(running: Arc<Running>, arrivals: Arrivals, rate: f64) -> Result<(), JoinError> {
    let mut calls = JoinSet::new();
    let mut choices = running.random.fork(0);
    for time in Schedule::new(arrivals, rate, running.random.fork(1)) {
        let due = running.start + time;
        if due >= running.clock.end {
            break;
        }
        sleep_until(due).await;
        while let Some(ended) = calls.try_join_next() {
            ended?;
        }
        let task = running.choice.pick(&mut choices);
        calls.spawn(call(Arc::clone(&running), task, due));
    }
    while let Some(ended) = calls.join_next().await {
        ended?;
    }
    Ok(())
}

/// Asks again and again until the clock stops.
async fn closed(running: Arc<Running>, caller: u64) -> Result<(), JoinError> {
    let mut choices = running.random.fork(2 + caller);
    loop {
        let due = Instant::now();
        if due >= running.clock.end {
            return Ok(());
        }
        let task = running.choice.pick(&mut choices);
        call(Arc::clone(&running), task, due).await;
    }
}

/// One request, from the time at which it should be sent to its end.
async fn call(running: Arc<Running>, task: usize, due: Instant) {
    let counts = running.clock.contains(&due);
    let number = running.requests.fetch_add(1, Ordering::Relaxed);
    let lane = &running.lane;
    let (Some(client), Some(task)) = (turn(&lane.clients, number), lane.tasks.get(task)) else {
        return;
    };
    let mut request = Request::new(v1::ClassifyRequest {
        task: task.clone(),
        source: lane.clips.source(number),
        ..Default::default()
    });
    request.set_timeout(running.timeout);
    if counts {
        running.recorder().sent();
    }
    let sent = Instant::now();
    let mut service = client.classification();
    let asked = timeout(running.timeout + GRACE, service.classify(request));
    let answer = asked.await.ok();
    let now = Instant::now();
    let end = end(answer);
    let in_time = matches!(end, End::Answered(_)) && running.clock.contains(&now);
    let mut recorder = running.recorder();
    if in_time {
        recorder.in_time();
    }
    if counts {
        recorder.ended(&Call {
            latency: now.duration_since(due),
            late: sent.duration_since(due),
            end,
        });
    }
}

/// An answer, an error, or none at all in the time of the deadline and some more.
type Answer = Option<Result<Response<v1::ClassifyResponse>, Status>>;

fn end(answer: Answer) -> End {
    match answer {
        Some(Ok(answer)) => End::Answered(answer.into_inner().timings.and_then(spent)),
        Some(Err(status)) => {
            let details = status.get_error_details();
            let reason = details.error_info().map(|info| info.reason.clone());
            End::Failed {
                code: format!("{:?}", status.code()),
                reason: reason.unwrap_or_default(),
            }
        }
        None => End::Failed {
            code: "NoAnswer".to_owned(),
            reason: String::new(),
        },
    }
}

/// Where the server says an answer's time went.
pub(super) fn spent(timings: v1::Timings) -> Option<Spent> {
    let time = |time: Option<prost_types::Duration>| Duration::try_from(time?).ok();
    Some(Spent {
        decode: time(timings.decode)?,
        queue: time(timings.queue)?,
        device: time(timings.device)?,
    })
}

impl Running {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        // A panic while counting leaves figures that are still figures.
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
