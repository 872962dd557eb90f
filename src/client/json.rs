//! The API's answers as JSON for scripts: the proto's field names, times as RFC 3339, digests as hexadecimal.
//!
//! Invariant: a number that needs more than 53 bits, such as a seed, is a text, as in protobuf's own JSON.

mod hyper;
mod windows;

use serde_json::{Value, json};

pub use windows::{window, windows_summary};

use crate::proto::v1;

mod evaluation;
mod finding;
mod job;
mod split;

pub use evaluation::{clip_evaluation, evaluated};
pub use finding::checked;
pub use job::{event, job};

use split::split;
pub(super) use split::{milliseconds, serving_state_name};

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn time(time: Option<&prost_types::Timestamp>) -> Option<String> {
    time.map(ToString::to_string)
}

/// A duration in seconds.
pub fn seconds(duration: Option<&prost_types::Duration>) -> Option<f64> {
    // One division, so that what is printed has the nanoseconds' digits and no more.
    duration.map(|duration| (duration.seconds as f64 * 1e9 + f64::from(duration.nanos)) / 1e9)
}

/// An object with its kind, for output whose lines are of several kinds.
pub fn typed(kind: &str, mut object: Value) -> Value {
    object["type"] = kind.into();
    object
}

/// A deletion, by the name of what was deleted.
pub fn deleted(name: &str) -> Value {
    json!({ "deleted": name })
}

/// A 32-bit float with its own digits, not with those of the nearest 64-bit one.
fn single(value: f32) -> Value {
    value.to_string().parse::<f64>().ok().into()
}

/// The policy's name without its prefix, in lower case; `display` when it is not given.
pub fn rotation_name(policy: v1::RotationPolicy) -> &'static str {
    match policy {
        v1::RotationPolicy::Unspecified | v1::RotationPolicy::Display => "display",
        v1::RotationPolicy::Stored => "stored",
    }
}

/// What a head reads, as the command line spells it.
pub fn head_name(head: v1::Head) -> &'static str {
    match head {
        v1::Head::Unspecified | v1::Head::Mean => "mean",
        v1::Head::Frames => "frames",
        v1::Head::Conv => "conv",
        v1::Head::Attention => "attention",
        v1::Head::Auto => "auto",
    }
}

/// The state's name without its prefix, for example `RUNNING`.
pub fn state_name(state: v1::JobState) -> &'static str {
    state
        .as_str_name()
        .strip_prefix("JOB_STATE_")
        .unwrap_or("UNKNOWN")
}

/// A video.
pub fn video(video: &v1::Video) -> Value {
    let probe = video.probe.as_ref().map(|probe| {
        json!({
            "container": probe.container,
            "codec": probe.codec,
            "width": probe.width,
            "height": probe.height,
            "frames": probe.frames,
            "duration_seconds": seconds(probe.duration.as_ref()),
            "frame_rate": probe.frame_rate,
            "rotation_degrees": probe.rotation_degrees,
            "mirrored": probe.mirrored,
            "reference_frames": probe.reference_frames,
            "warnings": probe.warnings,
        })
    });
    json!({
        "name": video.name,
        "display_name": video.display_name,
        "size_bytes": video.size_bytes,
        "sha256": hex(&video.sha256),
        "probe": probe,
        "create_time": time(video.create_time.as_ref()),
    })
}

/// An upload.
pub fn upload(upload: &v1::Upload) -> Value {
    json!({
        "name": upload.name,
        "display_name": upload.display_name,
        "committed_bytes": upload.committed_bytes,
        "create_time": time(upload.create_time.as_ref()),
        "expire_time": time(upload.expire_time.as_ref()),
    })
}

/// A data set.
pub fn dataset(dataset: &v1::Dataset) -> Value {
    let counts: Vec<Value> = dataset
        .counts
        .iter()
        .map(|count| {
            json!({
                "label": count.label,
                "split": split_name(count.split()),
                "examples": count.examples,
            })
        })
        .collect();
    json!({
        "name": dataset.name,
        "display_name": dataset.display_name,
        "examples": dataset.examples,
        "labels": dataset.labels,
        "label_kind": label_kind_name(dataset.label_kind()),
        "counts": counts,
        "create_time": time(dataset.create_time.as_ref()),
    })
}

/// An example of a data set.
pub fn example(example: &v1::Example) -> Value {
    json!({
        "video": example.video,
        "label": example.label,
        "labels": example.labels,
        "split": split_name(example.split()),
    })
}

/// The kind's name without its prefix, in lower case.
pub fn label_kind_name(kind: v1::LabelKind) -> &'static str {
    match kind {
        v1::LabelKind::Unspecified | v1::LabelKind::Single => "single",
        v1::LabelKind::Multi => "multi",
    }
}

/// The split's name without its prefix, in lower case.
pub fn split_name(split: v1::Split) -> &'static str {
    match split {
        v1::Split::Unspecified => "unspecified",
        v1::Split::Train => "train",
        v1::Split::Validation => "validation",
        v1::Split::Test => "test",
    }
}

fn adapter(adapter: Option<&v1::AdapterConfig>) -> Option<Value> {
    adapter.map(|adapter| {
        json!({
            "adapter_width": adapter.adapter_width,
            "adapter_layers": adapter.adapter_layers,
            "adapter_kernel_t": adapter.adapter_kernel_t,
            "adapter_kernel_h": adapter.adapter_kernel_h,
            "adapter_kernel_w": adapter.adapter_kernel_w,
            "adapter_pre_attn": adapter.adapter_pre_attn,
            "adapter_pre_mlp": adapter.adapter_pre_mlp,
        })
    })
}

/// A task.
pub fn task(task: &v1::Task) -> Value {
    let sampling = task.sampling.as_ref().map(|sampling| {
        json!({
            "num_frames": sampling.num_frames,
            "sampling_rate": sampling.sampling_rate,
            "num_temporal_views": sampling.num_temporal_views,
            "num_spatial_views": sampling.num_spatial_views,
            "rotation": rotation_name(sampling.rotation()),
            "order": match sampling.order() {
                v1::FrameOrder::Reference => "reference",
                v1::FrameOrder::Unspecified | v1::FrameOrder::Display => "display",
            },
        })
    });
    json!({
        "name": task.name,
        "display_name": task.display_name,
        "adapter": adapter(task.adapter.as_ref()),
        "head": head_name(task.head()),
        "sampling": sampling,
        "auto_serve": task.auto_serve,
        "serving_version": task.serving_version,
        "desired_version": task.desired_version,
        "serving_error": task.serving_error,
        "split": task.split.as_ref().map(split),
        "previous": task.previous.as_ref().map(split),
        "pinned": task.pinned,
        "etag": task.etag,
        "create_time": time(task.create_time.as_ref()),
    })
}

fn evaluation(evaluation: Option<&v1::Evaluation>) -> Option<Value> {
    evaluation
        .filter(|evaluation| evaluation.examples > 0 || !evaluation.problem.is_empty())
        .map(|evaluation| {
            let labels: Vec<Value> = evaluation
                .labels
                .iter()
                .map(|label| {
                    json!({
                        "label": label.label,
                        "precision": label.precision,
                        "recall": label.recall,
                        "examples": label.examples,
                        "average_precision": label.average_precision,
                        "f1": label.f1,
                        "threshold": label.threshold,
                    })
                })
                .collect();
            json!({
                "examples": evaluation.examples,
                "top1": evaluation.top1,
                "top5": evaluation.top5,
                "loss": evaluation.loss,
                "top1_low": evaluation.top1_low,
                "top1_high": evaluation.top1_high,
                "mean_class_accuracy": evaluation.mean_class_accuracy,
                "macro_f1": evaluation.macro_f1,
                "mean_average_precision": evaluation.mean_average_precision,
                "confusion": evaluation.confusion,
                "confusion_cells": evaluation.confusion_cells.iter()
                    .map(|cell| json!([cell.label, cell.predicted, cell.examples]))
                    .collect::<Vec<_>>(),
                "confusion_cells_left_out": evaluation.confusion_cells_left_out,
                "problem": evaluation.problem,
                "labels": labels,
            })
        })
}

/// An adapter version.
pub fn version(version: &v1::AdapterVersion) -> Value {
    json!({
        "name": version.name,
        "labels": version.labels,
        "label_kind": label_kind_name(version.label_kind()),
        "adapter": adapter(version.adapter.as_ref()),
        "head": head_name(version.head()),
        "backbone_digest": hex(&version.backbone_digest),
        "sha256": hex(&version.sha256),
        "size_bytes": version.size_bytes,
        "parameters": version.parameters,
        "precision": version.precision,
        "job": version.job,
        "dataset_digest": hex(&version.dataset_digest),
        "parent": version.parent,
        "evaluation": evaluation(version.evaluation.as_ref()),
        "test_evaluation": evaluation(version.test_evaluation.as_ref()),
        "calibration": version.calibration.as_ref().map(calibration),
        "create_time": time(version.create_time.as_ref()),
        "passed_over": version.passed_over,
    })
}

fn calibration(own: &v1::Calibration) -> Value {
    let bin = |bin: &v1::ReliabilityBin| json!({ "examples": bin.examples, "confidence": bin.confidence, "accuracy": bin.accuracy });
    json!({
        "temperature": own.temperature,
        "examples": own.examples,
        "raw_error": own.raw_error,
        "error": own.error,
        "bins": own.bins.iter().map(bin).collect::<Vec<_>>(),
        "unknown_below": own.unknown_below,
    })
}

/// Scores of a video.
pub fn classification(video: &str, answer: &v1::ClassifyResponse) -> Value {
    json!({
        "type": "classification",
        "video": video,
        "version": answer.version,
        "predictions": predictions(&answer.predictions),
        "views": views(&answer.views),
        "frames": frames(&answer.frames),
        "timings": timings(answer.timings.as_ref()),
        "confidence": answer.confidence,
        "unknown": answer.unknown,
    })
}

/// Scores of a video by several tasks.
pub fn classifications(video: &str, results: &[v1::TaskPredictions]) -> Value {
    let results: Vec<Value> = results.iter().map(task_predictions).collect();
    json!({ "type": "classifications", "video": video, "results": results })
}

/// Scores of one of several tasks.
pub fn task_predictions(result: &v1::TaskPredictions) -> Value {
    json!({
        "task": result.task,
        "version": result.version,
        "predictions": predictions(&result.predictions),
        "views": views(&result.views),
        "frames": frames(&result.frames),
        "timings": timings(result.timings.as_ref()),
        "confidence": result.confidence,
        "unknown": result.unknown,
    })
}

fn predictions(predictions: &[v1::Prediction]) -> Value {
    let prediction = |prediction: &v1::Prediction| {
        json!({
            "label": prediction.label,
            "label_index": prediction.label_index,
            "score": single(prediction.score),
            "selected": prediction.selected,
        })
    };
    predictions.iter().map(prediction).collect()
}

fn views(views: &[v1::ViewScores]) -> Value {
    let scores = |view: &v1::ViewScores| view.scores.iter().copied().map(single).collect::<Value>();
    views.iter().map(scores).collect()
}

/// Frames that were sampled.
pub fn frames(frames: &[v1::SampledFrame]) -> Value {
    let frame = |frame: &v1::SampledFrame| json!({ "index": frame.index, "time_seconds": seconds(frame.time.as_ref()) });
    frames.iter().map(frame).collect()
}

/// Where the time of a request went.
pub fn timings(timings: Option<&v1::Timings>) -> Option<Value> {
    timings.map(|timings| {
        json!({
            "decode_seconds": seconds(timings.decode.as_ref()),
            "queue_seconds": seconds(timings.queue.as_ref()),
            "device_seconds": seconds(timings.device.as_ref()),
        })
    })
}

/// The server.
pub fn server_info(info: &v1::ServerInfo) -> Value {
    let backbone = info.backbone.as_ref().map(|backbone| {
        let decisions: Vec<Value> = backbone
            .decisions
            .iter()
            .map(|decision| {
                json!({
                    "field": decision.field,
                    "value": decision.value,
                    "source": decision.source,
                })
            })
            .collect();
        json!({
            "name": backbone.name,
            "digest": hex(&backbone.digest),
            "image_size": backbone.image_size,
            "patch_size": backbone.patch_size,
            "width": backbone.width,
            "layers": backbone.layers,
            "heads": backbone.heads,
            "parameters": backbone.parameters,
            "mlp_width": backbone.mlp_width,
            "activation": backbone.activation,
            "layer_norm_eps": backbone.layer_norm_eps,
            "family": backbone.family,
            "format": backbone.format,
            "stored_as": backbone.stored_as,
            "decisions": decisions,
        })
    });
    let limits = info.limits.as_ref().map(|limits| {
        json!({
            "upload_bytes": limits.upload_bytes,
            "message_bytes": limits.message_bytes,
            "chunk_bytes": limits.chunk_bytes,
            "queue_clips": limits.queue_clips,
            "adapter_bytes": limits.adapter_bytes,
            "jobs_per_tenant": limits.jobs_per_tenant,
        })
    });
    let (in_use, memory_budgets, throughput) = super::info::state(info);
    json!({
        "version": info.version,
        "tenant": info.tenant,
        "device": info.device,
        "precision": info.precision,
        "backbone": backbone,
        "limits": limits,
        "video_isolation": info.video_isolation,
        "in_use": in_use,
        "memory_budgets": memory_budgets,
        "throughput": throughput,
        "accelerator": info.accelerator.as_ref().map(accelerator),
    })
}

/// A GPU at a moment.
fn accelerator(now: &v1::Accelerator) -> Value {
    json!({
        "name": now.name,
        "memory_bytes": now.memory_bytes,
        "reserved_bytes": now.reserved_bytes,
        "used_bytes": now.used_bytes,
        "slices": now.slices,
        "upload_us": now.upload_us,
        "uploaded_bytes": now.uploaded_bytes,
        "plans": now.plans,
    })
}

/// A set on the device of a process.
pub fn residency(set: &v1::Residency, replica: &str) -> Value {
    json!({
        "replica": replica,
        "version": set.version,
        "size_bytes": set.size_bytes,
        "last_used_time": time(set.last_used_time.as_ref()),
        "quarantine_reason": set.quarantine_reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_own_digits() {
        assert_eq!(single(0.1).to_string(), "0.1");
        assert_eq!(single(0.952_104_3).to_string(), "0.9521043");
        assert!(single(f32::NAN).is_null());
        let third = prost_types::Duration {
            seconds: 0,
            nanos: 83_333_333,
        };
        assert_eq!(json!(seconds(Some(&third))).to_string(), "0.083333333");
        let long = prost_types::Duration {
            seconds: 12,
            nanos: 83_333_333,
        };
        assert_eq!(json!(seconds(Some(&long))).to_string(), "12.083333333");
    }

    #[test]
    fn a_seed_keeps_all_of_its_digits() {
        let job = v1::Job {
            hyper_parameters: Some(v1::HyperParameters {
                seed: Some(12_683_985_358_147_536_292),
                ..Default::default()
            }),
            ..Default::default()
        };
        let value = typed("job", super::job(&job));
        assert_eq!(value["type"], "job");
        assert_eq!(value["hyper_parameters"]["seed"], "12683985358147536292");
    }
}
