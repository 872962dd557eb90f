//! Streams of windows of a long video as a load: each is read as fast as it comes, and asked for again at its end.
//!
//! Invariant: a window's latency begins when the stream was asked for or its window before came; every window that comes while the clock runs is counted, and
//! so is every stream that breaks off.

use std::ops::Range;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::Error;
use super::figures::{Call, End, Recorder};
use super::load::{LoadFigures, Span, spent};
use crate::client::Client;
use crate::proto::v1;
use crate::proto::v1::classify_windows_response::Event;
use crate::proto::v1::window_options::Stride;

/// Pause before a request for windows that failed is followed by the next one.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// The streams of one tenant.
#[derive(Debug, Clone)]
pub(super) struct Viewers {
    /// The tenant's name.
    pub(super) name: String,
    /// Connections, used in turns.
    pub(super) clients: Vec<Client>,
    /// Tasks, used in turns.
    pub(super) tasks: Vec<String>,
    /// Name of the video.
    pub(super) video: String,
    /// Number of streams.
    pub(super) streams: usize,
}

/// A request for windows of neighbouring frames, a frame apart.
pub(super) fn request(task: &str, video: &str) -> v1::ClassifyWindowsRequest {
    v1::ClassifyWindowsRequest {
        task: task.to_owned(),
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

/// Runs all streams at once until the clock stops.
///
/// # Errors
/// When a tenant has no connection or task.
pub(super) async fn run(lanes: Vec<Viewers>, span: Span) -> Result<LoadFigures, Error> {
    let start = Instant::now() + span.warmup;
    let clock = start..start + span.measured;
    let seconds = span.measured.as_secs_f64();
    let mut running = Vec::new();
    for lane in lanes {
        let mut loops = JoinSet::new();
        for stream in 0..lane.streams {
            let turn = |count: usize| stream % count.max(1);
            let (Some(client), Some(task)) = (
                lane.clients.get(turn(lane.clients.len())),
                lane.tasks.get(turn(lane.tasks.len())),
            ) else {
                let what = "a connection or a task";
                return Err(Error::Incomplete { what });
            };
            let wanted = request(task, &lane.video);
            loops.spawn(watch(client.clone(), wanted, clock.clone()));
        }
        running.push((lane.name, loops));
    }
    let mut all = Recorder::new()?;
    let mut found = Vec::new();
    for (name, mut loops) in running {
        let mut own = Recorder::new()?;
        while let Some(ended) = loops.join_next().await {
            own.add(&ended??);
        }
        all.add(&own);
        found.push(own.figures(&name, seconds));
    }
    Ok(LoadFigures {
        all: all.figures("all", seconds),
        lanes: found,
        clock,
    })
}

/// Reads a stream again and again.
async fn watch(
    client: Client,
    wanted: v1::ClassifyWindowsRequest,
    clock: Range<Instant>,
) -> Result<Recorder, Error> {
    let mut recorder = Recorder::new()?;
    while Instant::now() < clock.end {
        let reading = read(&client, &wanted, &clock, &mut recorder);
        let Ok(Err(status)) = timeout_at(clock.end, reading).await else {
            continue;
        };
        if clock.contains(&Instant::now()) {
            let details = status.get_error_details();
            let reason = details.error_info().map(|info| info.reason.clone());
            recorder.sent();
            recorder.ended(&Call {
                latency: Duration::ZERO,
                late: Duration::ZERO,
                end: End::Failed {
                    code: format!("{:?}", status.code()),
                    reason: reason.unwrap_or_default(),
                },
            });
        }
        sleep(PAUSE).await;
    }
    Ok(recorder)
}

/// Reads a stream to its end.
async fn read(
    client: &Client,
    wanted: &v1::ClassifyWindowsRequest,
    clock: &Range<Instant>,
    recorder: &mut Recorder,
) -> Result<(), Status> {
    let mut last = Instant::now();
    let mut calls = client.classification();
    let mut messages = calls.classify_windows(wanted.clone()).await?.into_inner();
    while let Some(message) = messages.message().await? {
        let Some(window) = window_of(message)? else {
            continue;
        };
        let now = Instant::now();
        let latency = now.duration_since(std::mem::replace(&mut last, now));
        if clock.contains(&now) {
            let result = window.results.into_iter().next().unwrap_or_default();
            recorder.sent();
            recorder.in_time();
            recorder.ended(&Call {
                latency,
                late: Duration::ZERO,
                end: End::Answered(result.timings.and_then(spent)),
            });
        }
    }
    Ok(())
}

/// The window of a message, if it has one.
///
/// # Errors
/// That of the only task, which gives no more answers.
pub(super) fn window_of(
    message: v1::ClassifyWindowsResponse,
) -> Result<Option<v1::ClassifiedWindow>, Status> {
    match message.event {
        Some(Event::Window(window)) => Ok(Some(window)),
        Some(Event::Failed(failed)) => {
            let error = failed.error.unwrap_or_default();
            Err(Status::new(Code::from(error.code), error.message))
        }
        Some(Event::Summary(_)) | None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_failed_ends_a_stream_with_its_error() {
        let of = |event| window_of(v1::ClassifyWindowsResponse { event: Some(event) });
        let window = of(Event::Window(v1::ClassifiedWindow::default()));
        assert!(window.unwrap().is_some());
        let summary = of(Event::Summary(v1::WindowsSummary::default()));
        assert!(summary.unwrap().is_none());
        let error = v1::TaskError {
            code: Code::Unavailable.into(),
            message: "no room".into(),
            ..Default::default()
        };
        let failed = v1::FailedTask {
            error: Some(error),
            ..Default::default()
        };
        let status = of(Event::Failed(failed)).unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "no room")
        );
    }
}
