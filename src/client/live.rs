//! `frameshift classify --live`: scores of a folder of pictures, a pipe or a camera, as windows fill.
//!
//! Invariant: the server's answers are shown in their order, and at the end what was left out.

mod distance;
mod pictures;
mod source;

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use super::classify::{Args, Template};
use super::output::Output;
use super::{Client, Error, json as api};
use crate::proto::v1::{self, classify_frames_request::Payload};
use distance::Distance;
use source::{Picture, Source};

/// Largest picture that is sent.
const PICTURE_BYTES: u32 = 2 << 20;

/// Arguments of `classify` for live streams.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Classifies one live stream: a folder of JPEGs, - for JPEGs one after another on standard input (`ffmpeg … -f image2pipe -c:v mjpeg -`), or
    /// anything that ffmpeg reads: a camera (/dev/video0), a URL (rtsp://…) or a file, which is read at its own pace
    #[arg(long)]
    pub live: bool,
    /// Distance from one frame of a window to the next: a number of frames, or a time such as 250ms; the tasks' own sampling rate when absent, required for tasks without one
    #[arg(long, requires = "live")]
    pub step: Option<Distance>,
    /// Distance from one window to the next, in the same unit as --step: a number of frames, or a time
    #[arg(long, requires = "live", default_value = "8")]
    pub stride: Distance,
    /// Windows start afresh after a longer time without a picture; only when --step is a time
    #[arg(long, requires = "live", value_parser = humantime::parse_duration)]
    pub max_gap: Option<Duration>,
    /// Pictures a second, from which their times follow [default: 10 for a folder; otherwise each has the time at which it comes]
    #[arg(long, requires = "live", value_parser = rate)]
    pub rate: Option<f64>,
    /// What is left out when pictures come too fast [default: wait for a folder, drop-oldest otherwise]
    #[arg(long, requires = "live", value_enum)]
    pub late: Option<Late>,
    /// Program that reads cameras, URLs and files
    #[arg(
        long,
        requires = "live",
        default_value = "ffmpeg",
        value_name = "PROGRAM"
    )]
    pub ffmpeg: std::path::PathBuf,
}

/// What is left out when pictures come too fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Late {
    /// The oldest waiting picture
    DropOldest,
    /// All waiting pictures except the newest
    SkipToLive,
    /// Nothing: pictures are sent as fast as the server takes them
    Wait,
}

impl Late {
    fn number(self) -> i32 {
        let policy = match self {
            Self::DropOldest => v1::LatePolicy::DropOldest,
            Self::SkipToLive => v1::LatePolicy::SkipToLive,
            Self::Wait => v1::LatePolicy::Wait,
        };
        policy.into()
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1000.0).contains(&rate) => Ok(rate),
        _ => Err("expected pictures a second, from 0.001 to 1000".to_owned()),
    }
}

/// `frameshift classify --live`.
///
/// # Errors
/// When there is not one source, it cannot be read, or the server refuses or ends the stream.
pub(super) async fn run(args: &Args, wanted: &Template) -> Result<(), Error> {
    let [source] = args.videos.as_slice() else {
        let problem = "--live: expected one folder, -, camera, URL or file";
        return Err(Error::Usage(problem.to_owned()));
    };
    let options = &args.live;
    let pace = distance::pace(options)?;
    let source = Source::of(source);
    let late = options.late.unwrap_or(match source {
        Source::Folder(_) => Late::Wait,
        Source::Stdin | Source::Program(_) => Late::DropOldest,
    });
    let (task, tasks) = wanted.task_or_tasks();
    let header = v1::ClassifyFramesHeader {
        task,
        tasks,
        options: Some(wanted.options.clone()),
        format: Some(v1::classify_frames_header::Format::Jpeg(v1::JpegFrames {
            max_bytes: PICTURE_BYTES,
        })),
        pace: Some(pace),
        late_policy: late.number(),
    };
    let task = wanted.tasks.first().map(String::as_str);
    let client = args.connection.client_toward(task).await?;
    let output = args.connection.output();
    let opened = source.open(options, PICTURE_BYTES as usize).await?;
    stream(&client, header, opened, output).await
}

/// Sends pictures and shows the answers until both have ended.
async fn stream(
    client: &Client,
    header: v1::ClassifyFramesHeader,
    opened: source::Opened,
    output: Output,
) -> Result<(), Error> {
    let (pictures, failure) = (opened.pictures, opened.failure);
    let frame = |picture: Picture| {
        Payload::Frame(v1::LiveFrame {
            // A time since the begin of this program is below 292 years.
            time: prost_types::Duration::try_from(picture.time).ok(),
            data: picture.bytes,
        })
    };
    let messages = futures::stream::once(async move { Payload::Header(header) })
        .chain(pictures.map(frame))
        .map(|payload| v1::ClassifyFramesRequest {
            payload: Some(payload),
        });
    let answers = client.classification().classify_frames(messages).await?;
    let mut answers = answers.into_inner();
    let mut last = v1::LiveCounts::default();
    while let Some(answer) = answers.message().await? {
        last = answer.counts.unwrap_or(last);
        show(&answer, output);
    }
    // Why the pictures ended, when it is not their end.
    match failure.take() {
        Some(error) => Err(error),
        None => {
            output.note(&summary(&last));
            Ok(())
        }
    }
}

/// Shows one answer.
fn show(answer: &v1::ClassifyFramesResponse, output: Output) {
    use v1::classify_frames_response::Event;
    match &answer.event {
        Some(Event::Window(window)) => {
            output.result(|| lines(window), || of_window(window));
        }
        Some(Event::Problem(problem)) if output.is_json() => {
            output.result(String::new, || of_problem(problem));
        }
        Some(Event::Problem(problem)) => {
            let v1::FrameProblem {
                frame,
                reason,
                message,
                ..
            } = problem;
            output.note(&format!("picture {frame}: {message} [{reason}]"));
        }
        None if output.is_json() => {
            let counts = answer.counts.unwrap_or_default();
            output.result(String::new, || of_counts(&counts));
        }
        None => {}
    }
}

/// A line for each task.
fn lines(window: &v1::LiveWindow) -> String {
    let seconds = |time: Option<&prost_types::Duration>| api::seconds(time).unwrap_or_default();
    let end = seconds(window.end.as_ref());
    let latency = seconds(window.latency.as_ref()) * 1e3;
    let line = |result: &v1::TaskPredictions| match &result.error {
        Some(error) => format!("{end:9.2} s  {}: {}", result.task, error.message),
        None => {
            let scores: Vec<String> = (result.predictions.iter())
                .map(|own| format!("{} {:.3}", own.label, own.score))
                .collect();
            let scores = scores.join("  ");
            format!(
                "{end:9.2} s  {scores}  [{}]  {latency:.0} ms",
                result.version
            )
        }
    };
    let lines: Vec<String> = window.results.iter().map(line).collect();
    lines.join("\n")
}

/// What was left out, for people.
fn summary(counts: &v1::LiveCounts) -> String {
    let parts = [
        ("dropped", counts.dropped),
        ("late", counts.late),
        ("duplicate", counts.duplicates),
        ("unreadable", counts.bad),
    ];
    let parts = parts.iter().filter(|(_, count)| *count > 0);
    let parts: Vec<String> = parts
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    let left_out = match parts.as_slice() {
        [] => String::new(),
        parts => format!(" ({})", parts.join(", ")),
    };
    let seen = format!(
        "{} pictures{left_out}, {} windows, {} left out",
        counts.received, counts.windows, counts.windows_skipped
    );
    match (counts.received, counts.windows + counts.windows_skipped) {
        (0, _) | (_, 1..) => seen,
        (_, 0) => format!(
            "{seen}: the pictures' times span less than one window. A picture from a pipe or a camera has the time at which it comes; \
             give --rate when they come faster than they were taken"
        ),
    }
}

fn of_window(window: &v1::LiveWindow) -> Value {
    let result = |result: &v1::TaskPredictions| {
        let mut value = api::task_predictions(result);
        if let Some(error) = &result.error {
            value["error"] = json!({ "reason": error.reason, "message": error.message });
        }
        value
    };
    let results: Vec<Value> = window.results.iter().map(result).collect();
    json!({
        "type": "window",
        "number": window.number,
        "start": api::seconds(window.start.as_ref()),
        "end": api::seconds(window.end.as_ref()),
        "latency": api::seconds(window.latency.as_ref()),
        "results": results,
    })
}

fn of_problem(problem: &v1::FrameProblem) -> Value {
    json!({
        "type": "problem",
        "frame": problem.frame,
        "time": api::seconds(problem.time.as_ref()),
        "reason": problem.reason,
        "message": problem.message,
    })
}

fn of_counts(counts: &v1::LiveCounts) -> Value {
    json!({
        "type": "counts",
        "received": counts.received,
        "used": counts.used,
        "dropped": counts.dropped,
        "late": counts.late,
        "duplicates": counts.duplicates,
        "bad": counts.bad,
        "gaps": counts.gaps,
        "clock_resets": counts.clock_resets,
        "size_changes": counts.size_changes,
        "windows": counts.windows,
        "windows_skipped": counts.windows_skipped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_that_fill_no_window_are_told_what_fills_one() {
        let counts = |received, windows, windows_skipped| v1::LiveCounts {
            received,
            windows,
            windows_skipped,
            ..Default::default()
        };
        let told = |counts| summary(&counts).contains("give --rate");
        assert!(told(counts(202, 0, 0)));
        assert!(!told(counts(0, 0, 0)));
        assert!(!told(counts(202, 1, 0)));
        assert!(!told(counts(202, 0, 3)));
    }
}
