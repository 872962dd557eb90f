//! ClassifyWindows and ClassifyWindowsUpload: the scores of windows that slide over a video, as they come, and a summary.
//!
//! Invariant: conversion only; [`crate::serving`] defines what a window is. A client that does not read holds its stream for a minute at most.

use std::num::NonZeroU32;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use super::auth::Allowed;
use super::classify::{Chosen, caller, deadline, frame, predictions, request_key, spooled, told};
use super::convert::names;
use super::convert::spec::of_duration;
use super::spool::Room;
use super::uploads::next;
use super::{Api, Parts, status};
use crate::proto::v1;
use crate::proto::v1::classify_windows_response::Event;
use crate::serving::windows::{
    SegmentOptions, Summary, TaskSegments, Window, WindowEvent, WindowOptions, WindowStride,
};
use crate::serving::{Caller, Video, Windows};
use crate::spec::MAX_SAMPLING_RATE;
use crate::video::Input;

/// Messages that wait for a client to read them.
const WAITING: usize = 8;
/// Longest time in which a client reads nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Score with which a segment begins, when the caller does not say.
const ENTER: f64 = 0.5;
/// Share of the score with which a segment begins at which it goes on, when the caller does not say.
const LEAVE: f64 = 0.8;
/// Segments of a task, when the caller does not say, and the most that it may want.
const SEGMENTS: u32 = 10;
const MOST_SEGMENTS: u32 = 1000;

type Message = Result<v1::ClassifyWindowsResponse, Status>;
/// Stream of the messages of an answer.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Message> + Send>>;

/// Answers ClassifyWindows.
pub(super) async fn classify_windows(
    api: &Api,
    request: Request<v1::ClassifyWindowsRequest>,
) -> Result<Response<Messages>, Status> {
    use v1::classify_windows_request::Source;
    let (deadline, allowed) = (deadline(&request), Allowed::of(&request));
    let key = request_key(&request)?;
    let (parts, tenant, asked) = api.enter(request)?;
    let options = asked.options.unwrap_or_default();
    let caller = Caller {
        key,
        ..caller(tenant, deadline, options.priority)?
    };
    let chosen = Chosen::new(&caller, &asked.task, &asked.tasks, &options)?;
    chosen.check(&allowed)?;
    let windows = wanted(asked.windows.as_ref(), asked.segments.as_ref())?;
    let video = match asked.source {
        Some(Source::Video(name)) => Video::Stored(names::video(&name, "video")?),
        Some(Source::Content(bytes)) => Video::Given(Input::Bytes(bytes)),
        None => return Err(status::invalid("source", "required: video or content")),
    };
    let form = Form { chosen, options };
    form.check(parts, &caller).await?;
    let opened = (parts.serving).windows(&caller, &form.chosen.choices, video, &windows);
    Ok(messages(opened.await?, form, None))
}

/// ClassifyWindowsUpload.
pub(super) async fn classify_windows_upload(
    api: &Api,
    request: Request<Streaming<v1::ClassifyWindowsUploadRequest>>,
) -> Result<Response<Messages>, Status> {
    use v1::classify_windows_upload_request::Payload;
    let (deadline, allowed) = (deadline(&request), Allowed::of(&request));
    let key = request_key(&request)?;
    let (parts, tenant, mut stream) = api.enter(request)?;
    let first = next(&mut stream).await?.and_then(|first| first.payload);
    let Some(Payload::Header(header)) = first else {
        return Err(status::stream("the first message has to be the header"));
    };
    let in_header = status::below("header");
    let options = header.options.unwrap_or_default();
    let caller = Caller {
        key,
        ..caller(tenant, deadline, options.priority).map_err(&in_header)?
    };
    let chosen = Chosen::new(&caller, &header.task, &header.tasks, &options).map_err(&in_header)?;
    chosen.check(&allowed)?;
    let windows = wanted(header.windows.as_ref(), header.segments.as_ref());
    let windows = windows.map_err(&in_header)?;
    let form = Form { chosen, options };
    // What cannot be answered is said before the video is sent.
    form.check(parts, &caller).await?;
    let chunk = |message: v1::ClassifyWindowsUploadRequest| match message.payload {
        Some(Payload::Chunk(chunk)) => Some(chunk),
        Some(Payload::Header(_)) | None => None,
    };
    let (input, room) = spooled(parts, &mut stream, chunk).await?;
    let video = Video::Given(input);
    let opened = (parts.serving).windows(&caller, &form.chosen.choices, video, &windows);
    let opened = opened.await.map_err(|error| in_header(error.into()))?;
    Ok(messages(opened, form, Some(room)))
}

/// The messages of a stream of windows, whose video takes this room until the last one.
fn messages(windows: Windows, form: Form, room: Option<Room>) -> Response<Messages> {
    let (sender, receiver) = mpsc::channel(WAITING);
    // It ends with the windows, when nobody reads them, or with the answer's stream.
    let running = tokio::spawn(async move {
        let ran = forward(windows, form, sender).await;
        drop(room);
        ran
    });
    let running = AbortOnDropHandle::new(running);
    let end = stream::once(running).filter_map(|ran| async move {
        match ran {
            Ok(Ok(())) => None,
            Ok(Err(Late)) => Some(Err(status::reader_idle(PATIENCE))),
            Err(error) => Some(Err(status::internal(error))),
        }
    });
    let messages = stream::unfold(receiver, |mut receiver| async move {
        let message = receiver.recv().await?;
        Some((message, receiver))
    });
    Response::new(Box::pin(messages.chain(end)))
}

/// Error of a client that read nothing for too long.
struct Late;

/// Passes the windows on as fast as the client reads, to the end or the first error.
async fn forward(
    mut windows: Windows,
    form: Form,
    sender: mpsc::Sender<Message>,
) -> Result<(), Late> {
    loop {
        let event = tokio::select! {
            event = windows.next() => event,
            () = sender.closed() => return Ok(()),
        };
        let Some(event) = event else {
            return Ok(());
        };
        let message = event
            .map_err(Status::from)
            .and_then(|event| form.message(event));
        let is_last = message.is_err();
        match sender.send_timeout(message, PATIENCE).await {
            Ok(()) if !is_last => {}
            Ok(()) | Err(SendTimeoutError::Closed(_)) => return Ok(()),
            Err(SendTimeoutError::Timeout(_)) => return Err(Late),
        }
    }
}

/// Options on which the form of the messages depends.
struct Form {
    chosen: Chosen,
    options: v1::ClassifyOptions,
}

impl Form {
    /// Refuses a call whose only task cannot be answered: its error is the call's.
    async fn check(&self, parts: &Parts, caller: &Caller) -> Result<(), Status> {
        if !self.chosen.are_many {
            for checked in parts.serving.check(caller, &self.chosen.choices).await {
                checked?;
            }
        }
        Ok(())
    }

    fn message(&self, event: WindowEvent) -> Message {
        let event = match event {
            WindowEvent::Window(window) => Event::Window(self.window(window)),
            WindowEvent::Failed(_, error) if !self.chosen.are_many => return Err(error.into()),
            WindowEvent::Failed(choice, error) => Event::Failed(v1::FailedTask {
                task: self.task(choice),
                error: Some(told(&error.into())),
            }),
            WindowEvent::Summary(summary) => Event::Summary(self.summary(summary)),
        };
        Ok(v1::ClassifyWindowsResponse { event: Some(event) })
    }

    fn task(&self, choice: usize) -> String {
        let choice = self.chosen.choices.get(choice);
        choice.map_or_else(String::new, |choice| format!("tasks/{}", choice.task))
    }

    fn window(&self, window: Window) -> v1::ClassifiedWindow {
        let time = |frame: Option<&crate::serving::SampledFrame>| {
            frame.map(|frame| of_duration(frame.time))
        };
        let result = |(choice, answer)| v1::TaskPredictions {
            frames: Vec::new(),
            ..predictions(self.task(choice), answer, &self.options)
        };
        v1::ClassifiedWindow {
            start_time: time(window.frames.first()),
            end_time: time(window.frames.last()),
            frames: window.frames.iter().copied().map(frame).collect(),
            results: window.answers.into_iter().map(result).collect(),
        }
    }

    fn summary(&self, summary: Summary) -> v1::WindowsSummary {
        let tasks = summary.segments.into_iter();
        let tasks = tasks.map(|(choice, own)| of_segments(self.task(choice), own));
        v1::WindowsSummary {
            windows: summary.windows,
            video_frames: summary.frames,
            video_duration: Some(of_duration(summary.duration)),
            tasks: tasks.collect(),
        }
    }
}

fn of_segments(task: String, own: TaskSegments) -> v1::TaskSegments {
    let labels = own.answer.labels.as_slice();
    let segments = own.segments.iter().map(|segment| v1::Segment {
        label: labels[segment.label].clone(),
        label_index: segment.label as u32,
        start_time: Some(of_duration(segment.start)),
        end_time: Some(of_duration(segment.end)),
        peak_score: segment.peak as f32,
        peak_time: Some(of_duration(segment.peak_at)),
        mean_score: segment.mean as f32,
        windows: segment.windows,
    });
    v1::TaskSegments {
        task,
        version: own.answer.version.to_string(),
        segments: segments.collect(),
    }
}

/// The windows that a request wants.
fn wanted(
    options: Option<&v1::WindowOptions>,
    of_summary: Option<&v1::SegmentOptions>,
) -> Result<WindowOptions, Status> {
    use v1::window_options::Stride;
    let segments = segments(&of_summary.copied().unwrap_or_default())?;
    let options = &options.copied().unwrap_or_default();
    if options.frame_step > MAX_SAMPLING_RATE {
        let problem = format!(
            "expected at most {MAX_SAMPLING_RATE}, got {}",
            options.frame_step
        );
        return Err(status::invalid("windows.frame_step", problem));
    }
    let stride = match &options.stride {
        Some(Stride::StrideSteps(steps)) => Some(WindowStride::Steps(
            NonZeroU32::new(*steps)
                .ok_or_else(|| status::invalid("windows.stride_steps", "expected 1 or more"))?,
        )),
        Some(Stride::StrideTime(stride)) => {
            let stride = time(Some(stride), "windows.stride_time")?;
            stride.map(WindowStride::Time)
        }
        None => None,
    };
    let start = time(options.start_time.as_ref(), "windows.start_time")?;
    Ok(WindowOptions {
        frame_step: NonZeroU32::new(options.frame_step),
        stride,
        start: start.unwrap_or_default(),
        end: time(options.end_time.as_ref(), "windows.end_time")?,
        after: time(options.after_time.as_ref(), "windows.after_time")?,
        segments,
    })
}

/// How the segments of the summary are found.
fn segments(options: &v1::SegmentOptions) -> Result<SegmentOptions, Status> {
    let score = |value: f32, field: &str, default: f64, most: f64| match f64::from(value) {
        0.0 => Ok(default),
        value if value > 0.0 && value <= most => Ok(value),
        value => {
            let problem = format!("expected more than 0 and at most {most}, got {value}");
            Err(status::invalid(field, problem))
        }
    };
    let enter = score(options.enter_score, "segments.enter_score", ENTER, 1.0)?;
    let leave = options.leave_score;
    let leave = score(leave, "segments.leave_score", LEAVE * enter, enter)?;
    let count = match options.max_segments {
        0 => SEGMENTS,
        count if count <= MOST_SEGMENTS => count,
        count => {
            let problem = format!("expected at most {MOST_SEGMENTS}, got {count}");
            return Err(status::invalid("segments.max_segments", problem));
        }
    };
    let min_duration = time(options.min_duration.as_ref(), "segments.min_duration")?;
    Ok(SegmentOptions {
        enter,
        leave,
        min_duration: min_duration.unwrap_or_default(),
        count: count as usize,
    })
}

/// Converts a time that must not be negative.
fn time(time: Option<&prost_types::Duration>, field: &str) -> Result<Option<Duration>, Status> {
    let time = time.map(|time| Duration::try_from(*time));
    (time.transpose()).map_err(|_| status::invalid(field, "expected a time of 0 or more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    #[test]
    fn what_is_not_said_has_the_documented_defaults() {
        let found = segments(&v1::SegmentOptions::default()).unwrap();
        assert_eq!((found.enter, found.leave, found.count), (0.5, 0.4, 10));
        let options = wanted(None, None).unwrap();
        assert_eq!(options.segments, found);
        assert_eq!((options.frame_step, options.stride), (None, None));
        assert_eq!(
            (options.start, options.end, options.after),
            (Duration::ZERO, None, None)
        );
    }

    #[test]
    fn options_out_of_range_are_refused() {
        use v1::window_options::Stride;
        for options in [
            v1::SegmentOptions {
                enter_score: 1.5,
                ..Default::default()
            },
            v1::SegmentOptions {
                enter_score: f32::NAN,
                ..Default::default()
            },
            v1::SegmentOptions {
                leave_score: 0.6,
                ..Default::default()
            },
            v1::SegmentOptions {
                leave_score: -0.1,
                ..Default::default()
            },
            v1::SegmentOptions {
                max_segments: 1001,
                ..Default::default()
            },
            v1::SegmentOptions {
                min_duration: seconds(-1),
                ..Default::default()
            },
        ] {
            assert!(segments(&options).is_err(), "{options:?}");
        }
        for options in [
            v1::WindowOptions {
                frame_step: MAX_SAMPLING_RATE + 1,
                ..Default::default()
            },
            v1::WindowOptions {
                stride: Some(Stride::StrideSteps(0)),
                ..Default::default()
            },
            v1::WindowOptions {
                start_time: seconds(-1),
                ..Default::default()
            },
        ] {
            assert!(wanted(Some(&options), None).is_err(), "{options:?}");
        }
    }
}
