//! Windows of videos as JSON.

use serde_json::{Value, json};

use super::{frames, predictions, seconds, single, views};
use crate::proto::v1;

/// Scores of one window of a video.
pub fn window(video: &str, window: &v1::ClassifiedWindow) -> Value {
    let result = |result: &v1::TaskPredictions| {
        json!({
            "task": result.task,
            "version": result.version,
            "predictions": predictions(&result.predictions),
            "views": views(&result.views),
        })
    };
    json!({
        "type": "window",
        "video": video,
        "start_seconds": seconds(window.start_time.as_ref()),
        "end_seconds": seconds(window.end_time.as_ref()),
        "frames": frames(&window.frames),
        "results": window.results.iter().map(result).collect::<Value>(),
    })
}

/// What the windows of a video showed.
pub fn windows_summary(video: &str, summary: &v1::WindowsSummary) -> Value {
    let segment = |segment: &v1::Segment| {
        json!({
            "label": segment.label,
            "label_index": segment.label_index,
            "start_seconds": seconds(segment.start_time.as_ref()),
            "end_seconds": seconds(segment.end_time.as_ref()),
            "peak_score": single(segment.peak_score),
            "peak_seconds": seconds(segment.peak_time.as_ref()),
            "mean_score": single(segment.mean_score),
            "windows": segment.windows,
        })
    };
    let task = |task: &v1::TaskSegments| {
        json!({
            "task": task.task,
            "version": task.version,
            "segments": task.segments.iter().map(segment).collect::<Value>(),
        })
    };
    json!({
        "type": "windows",
        "video": video,
        "windows": summary.windows,
        "video_frames": summary.video_frames,
        "video_seconds": seconds(summary.video_duration.as_ref()),
        "tasks": summary.tasks.iter().map(task).collect::<Value>(),
    })
}
