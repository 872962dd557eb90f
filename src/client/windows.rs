//! `frameshift classify --windows`: scores of windows that slide over videos, as they come.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use tonic::Streaming;
use tonic_types::StatusExt;

use super::classify::{INLINE, Source, Template, line, source};
use super::failures::Failures;
use super::output::Output;
use super::upload::chunks_of;
use super::{Client, Error, json};
use crate::proto::v1;
use crate::proto::v1::classify_windows_response::Event;
use crate::proto::v1::classify_windows_upload_request::Payload;
use crate::proto::v1::window_options::Stride;

/// Arguments of `classify` about windows.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Classifies windows that slide over each video, and shows the segments in which a label's score is high
    #[arg(long)]
    pub windows: bool,
    /// Frames of the video from one frame of a window to the next [default: the task's sampling rate; 4 when a task has none]
    #[arg(long, value_name = "FRAMES", requires = "windows")]
    pub frame_step: Option<u32>,
    /// Distance from one window to the next: a number of frame steps (1), or a time (500ms, 2s); half a window when absent
    #[arg(long, value_name = "STEPS|TIME", value_parser = stride, requires = "windows")]
    pub window_stride: Option<Stride>,
    /// Begins at this time of the video (90s, 1m30s, 12.48)
    #[arg(long, value_name = "TIME", value_parser = time, requires = "windows")]
    pub start: Option<Duration>,
    /// Ends before this time of the video
    #[arg(long, value_name = "TIME", value_parser = time, requires = "windows")]
    pub end: Option<Duration>,
    /// Resumes after the window that began at this time; give all other options as before
    #[arg(long, value_name = "TIME", value_parser = time, requires = "windows")]
    pub resume_after: Option<Duration>,
    /// Score at which a segment begins [default: 0.5]
    #[arg(long, value_name = "SCORE", requires = "windows")]
    pub enter: Option<f32>,
    /// Score below which a segment ends [default: four fifths of --enter]
    #[arg(long, value_name = "SCORE", requires = "windows")]
    pub leave: Option<f32>,
    /// Leaves out shorter segments
    #[arg(long, value_name = "TIME", value_parser = time, requires = "windows")]
    pub min_duration: Option<Duration>,
    /// Most segments of a task [default: 10]
    #[arg(long, value_name = "N", requires = "windows")]
    pub max_segments: Option<u32>,
}

/// A time: seconds as a number, or with units.
fn time(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    match number.parse::<f64>() {
        // Nanoseconds, so that a time that was printed reads back as it was.
        Ok(seconds) if (0.0..1e9).contains(&seconds) => {
            Ok(Duration::from_nanos((seconds * 1e9).round() as u64))
        }
        Ok(_) => Err("expected a time of 0 or more".to_owned()),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

/// A number of steps, or a time with a unit.
fn stride(text: &str) -> Result<Stride, String> {
    match text.parse() {
        Ok(steps) => Ok(Stride::StrideSteps(steps)),
        Err(_) => Ok(Stride::StrideTime(of(time(text)?))),
    }
}

fn of(time: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        nanos: time.subsec_nanos() as i32,
    }
}

/// Frames from one frame of a window to the next where neither the caller nor the task says it: a second of 8 frames at 30/s.
const FRAME_STEP: u32 = 4;

impl Args {
    fn windows(&self, frame_step: u32) -> v1::WindowOptions {
        v1::WindowOptions {
            frame_step,
            stride: self.window_stride,
            start_time: self.start.map(of),
            end_time: self.end.map(of),
            after_time: self.resume_after.map(of),
        }
    }

    fn segments(&self) -> v1::SegmentOptions {
        v1::SegmentOptions {
            enter_score: self.enter.unwrap_or(0.0),
            leave_score: self.leave.unwrap_or(0.0),
            min_duration: self.min_duration.map(of),
            max_segments: self.max_segments.unwrap_or(0),
        }
    }
}

/// Classifies the windows of every video.
pub(super) async fn run(
    client: &Client,
    (args, wanted): (&Args, &Template),
    videos: &[String],
    output: Output,
) -> Result<(), Error> {
    if args.resume_after.is_some() && videos.len() > 1 {
        let problem = "--resume-after: for one video only";
        return Err(Error::Usage(problem.into()));
    }
    let total = videos.len() * wanted.tasks.len();
    let mut failures = Failures::new(total, output);
    for video in videos {
        let shown = one(client, (args, wanted), (video, output), &mut failures);
        if let Err(error) = shown.await {
            failures.add(video, error)?;
        }
    }
    failures.end()
}

async fn one(
    client: &Client,
    (args, wanted): (&Args, &Template),
    (video, output): (&str, Output),
    failures: &mut Failures,
) -> Result<(), Error> {
    let mut events = begin(client, (args, wanted), (video, output)).await?;
    let mut last = None;
    loop {
        let event = match events.message().await {
            Ok(Some(message)) => message.event,
            Ok(None) => return Ok(()),
            Err(status) => {
                if let Some(last) = last {
                    let last = json::seconds(Some(&last)).unwrap_or_default();
                    output.note(&format!("{video}: --resume-after {last} goes on from here"));
                }
                return Err(status.into());
            }
        };
        match event {
            Some(Event::Window(window)) => {
                output.result(|| of_window(&window), || json::window(video, &window));
                last = window.start_time;
            }
            Some(Event::Failed(failed)) => {
                let error = Error::of_task(failed.error.unwrap_or_default());
                failures.add(&format!("{video}, {}", failed.task), error)?;
            }
            Some(Event::Summary(summary)) => output.result(
                || of_summary(video, &summary),
                || json::windows_summary(video, &summary),
            ),
            None => {}
        }
    }
}

/// Begins the stream; for a task without a sampling rate with a frame step of the command's own, which is said.
async fn begin(
    client: &Client,
    (args, wanted): (&Args, &Template),
    (video, output): (&str, Output),
) -> Result<Windows, Error> {
    let own = args.windows(args.frame_step.unwrap_or(0));
    match ask(client, (args, wanted), video, own).await {
        Err(Error::Rpc(status)) if args.frame_step.is_none() && asks_for_a_step(&status) => {
            output.note(&format!(
                "{video}: the task has no sampling rate, so windows take one of every {FRAME_STEP} frames (--frame-step)"
            ));
            ask(client, (args, wanted), video, args.windows(FRAME_STEP)).await
        }
        begun => begun,
    }
}

/// The messages of a stream.
type Windows = Streaming<v1::ClassifyWindowsResponse>;

/// Asks for the windows of a video; a file that is larger than a message is sent in chunks.
async fn ask(
    client: &Client,
    (args, wanted): (&Args, &Template),
    video: &str,
    windows: v1::WindowOptions,
) -> Result<Windows, Error> {
    use v1::classify_windows_request::Source as Of;
    let size = tokio::fs::metadata(video).await.map_or(0, |own| own.len());
    if size > INLINE as u64 {
        return send(client, (args, wanted), (video, size), windows).await;
    }
    let source = match source(video).await? {
        Source::Video(name) => Of::Video(name),
        // Such as a pipe, whose size nobody knows before its end.
        Source::Content(content) if content.len() > INLINE => {
            let problem = format!(
                "{video} is larger than a message and no regular file: write it to a file, or upload it and name the video (videos/…)"
            );
            return Err(Error::Usage(problem));
        }
        Source::Content(content) => Of::Content(content),
    };
    let (task, tasks) = wanted.task_or_tasks();
    let request = v1::ClassifyWindowsRequest {
        task,
        tasks,
        source: Some(source),
        options: Some(wanted.options.clone()),
        windows: Some(windows),
        segments: Some(args.segments()),
    };
    let mut calls = client.classification();
    let begun = calls.classify_windows(wanted.request(request)).await;
    Ok(begun?.into_inner())
}

/// Asks for the windows of a file that is sent in chunks, as it is read.
async fn send(
    client: &Client,
    (args, wanted): (&Args, &Template),
    (video, size): (&str, u64),
    windows: v1::WindowOptions,
) -> Result<Windows, Error> {
    let unreadable = |source| Error::Read {
        path: PathBuf::from(video),
        source,
    };
    let file = tokio::fs::File::open(video).await.map_err(unreadable)?;
    let file = Arc::new(file.into_std().await);
    let (task, tasks) = wanted.task_or_tasks();
    let header = Payload::Header(v1::ClassifyWindowsUploadHeader {
        task,
        tasks,
        options: Some(wanted.options.clone()),
        windows: Some(windows),
        segments: Some(args.segments()),
    });
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let chunks = chunks_of(file, 0).map(move |chunk| {
        count.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        Payload::Chunk(chunk)
    });
    let messages = stream::once(async { header }).chain(chunks);
    let messages = messages.map(|payload| v1::ClassifyWindowsUploadRequest {
        payload: Some(payload),
    });
    let mut calls = client.classification();
    let begun = calls.classify_windows_upload(wanted.request(messages));
    let begun = begun.await?.into_inner();
    // The windows come when all has arrived: of a file that could not be read to its end they would be those of a part.
    if sent.load(Ordering::Relaxed) != size {
        let problem = "it changed while it was sent, or could not be read to its end";
        return Err(unreadable(std::io::Error::other(problem)));
    }
    Ok(begun)
}

/// Whether a server refuses a call for want of a frame step.
fn asks_for_a_step(status: &tonic::Status) -> bool {
    const FIELDS: [&str; 2] = ["windows.frame_step", "header.windows.frame_step"];
    let details = status.get_error_details();
    let bad = details.bad_request();
    let mut fields = bad.iter().flat_map(|bad| &bad.field_violations);
    status.code() == tonic::Code::InvalidArgument
        && fields.any(|violation| {
            let is_missing = violation.description.starts_with("required");
            FIELDS.contains(&&*violation.field) && is_missing
        })
}

/// Begin and end in seconds, in a column of their own.
fn span(start: Option<&prost_types::Duration>, end: Option<&prost_types::Duration>) -> String {
    let seconds = |time| json::seconds(time).unwrap_or_default();
    format!("{:9.3} – {:9.3}", seconds(start), seconds(end))
}

fn of_window(window: &v1::ClassifiedWindow) -> String {
    let span = span(window.start_time.as_ref(), window.end_time.as_ref());
    let lines = window.results.iter();
    let lines = lines.map(|result| line(&span, &result.predictions, &result.version));
    lines.collect::<Vec<_>>().join("\n")
}

fn of_summary(video: &str, summary: &v1::WindowsSummary) -> String {
    let seconds = json::seconds(summary.video_duration.as_ref()).unwrap_or_default();
    let mut lines = vec![format!(
        "{video}: {} windows of {} frames, {seconds:.3} s",
        summary.windows, summary.video_frames
    )];
    for task in &summary.tasks {
        if task.segments.is_empty() {
            lines.push(format!("no segment  [{}]", task.version));
        }
        for segment in &task.segments {
            lines.push(format!(
                "{}  {}  peak {:.3} at {:.3}  mean {:.3}  {} windows  [{}]",
                span(segment.start_time.as_ref(), segment.end_time.as_ref()),
                segment.label,
                segment.peak_score,
                json::seconds(segment.peak_time.as_ref()).unwrap_or_default(),
                segment.mean_score,
                segment.windows,
                task.version,
            ));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_have_units() {
        let millis = |millis| Ok(Duration::from_millis(millis));
        for (text, expected) in [("12.48", 12_480), ("12.48s", 12_480), ("90", 90_000)] {
            assert_eq!(time(text), millis(expected), "{text}");
        }
        assert_eq!(time("500ms"), millis(500));
        assert_eq!(time("1m 30s"), millis(90_000));
        assert_eq!(
            time("10799.999999999"),
            Ok(Duration::new(10_799, 999_999_999))
        );
        for text in ["-1", "inf", "soon", ""] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_stride_without_a_unit_is_a_number_of_steps() {
        assert_eq!(stride("4"), Ok(Stride::StrideSteps(4)));
        let half = of(Duration::from_millis(500));
        assert_eq!(stride("500ms"), Ok(Stride::StrideTime(half)));
        assert_eq!(stride("0.5s"), Ok(Stride::StrideTime(half)));
        assert!(stride("far").is_err());
    }
}
