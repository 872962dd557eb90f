//! Jobs and their events as JSON.

use serde_json::{Value, json};

use super::{evaluation, head_name, hex, hyper, seconds, split_name, state_name, time};
use crate::proto::v1;

/// A job.
pub fn job(job: &v1::Job) -> Value {
    let result = job.result.as_ref().map(|result| {
        json!({
            "version": result.version,
            "evaluation": evaluation(result.evaluation.as_ref()),
            "test_evaluation": evaluation(result.test_evaluation.as_ref()),
            "loss_curve": result.loss_curve,
            "validation_curve": result.validation_curve.iter().map(point).collect::<Vec<_>>(),
            "step": result.step,
            "dataset_digest": hex(&result.dataset_digest),
            "backbone_digest": hex(&result.backbone_digest),
            "seed": result.seed.to_string(),
            "parameters": result.parameters,
            "training_seconds": seconds(result.training_time.as_ref()),
            "times": result.times.as_ref().map(times),
            "skipped_clips": result.skipped_clips,
        })
    });
    json!({
        "name": job.name,
        "task": job.task,
        "dataset": job.dataset,
        "hyper_parameters": job.hyper_parameters.as_ref().map(hyper::parameters),
        "state": state_name(job.state()),
        "reason": job.reason,
        "message": job.message,
        "step": job.step,
        "total_steps": job.total_steps,
        "attempts": job.attempts,
        "paused": job.paused,
        "priority": job.priority,
        "checkpoints": job.checkpoints.iter().map(checkpoint).collect::<Vec<_>>(),
        "result": result,
        "create_time": time(job.create_time.as_ref()),
        "end_time": time(job.end_time.as_ref()),
    })
}

fn times(own: &v1::JobTimes) -> Value {
    json!({
        "checks_seconds": seconds(own.checks.as_ref()),
        "features_seconds": seconds(own.features.as_ref()),
        "clips_seconds": seconds(own.clips.as_ref()),
        "evaluations_seconds": seconds(own.evaluations.as_ref()),
    })
}

fn checkpoint(own: &v1::JobCheckpoint) -> Value {
    json!({ "step": own.step, "best": own.best })
}

fn point(point: &v1::EvaluationPoint) -> Value {
    json!({
        "step": point.step,
        "epoch": point.epoch,
        "loss": point.loss,
        "top1": point.top1,
        "mean_average_precision": point.mean_average_precision,
    })
}

fn compared(own: &v1::job_event::ComparedHead) -> Value {
    json!({
        "head": head_name(own.head()),
        "has_adapters": own.has_adapters,
        "parameters": own.parameters,
        "step": own.step,
        "loss": own.loss,
        "top1": own.top1,
        "mean_average_precision": own.mean_average_precision,
        "published": own.published,
    })
}

/// An event of a job.
pub fn event(event: &v1::JobEvent) -> Value {
    use v1::job_event::Event;
    let what = match &event.event {
        Some(Event::State(change)) => json!({ "state": {
            "state": state_name(change.state()),
            "reason": change.reason,
            "message": change.message,
        }}),
        Some(Event::Step(step)) => json!({ "step": {
            "step": step.step,
            "total_steps": step.total_steps,
            "epoch": step.epoch,
            "loss": step.loss,
            "accuracy": step.accuracy,
            "learning_rate": step.learning_rate,
            "clips_per_second": step.clips_per_second,
            "eta_seconds": seconds(step.eta.as_ref()),
            "device_bytes": step.device_bytes,
        }}),
        Some(Event::Evaluation(own)) => json!({ "evaluation": {
            "split": split_name(own.split()),
            "step": own.step,
            "epoch": own.epoch,
            "examples": own.examples,
            "loss": own.loss,
            "top1": own.top1,
            "top1_low": own.top1_low,
            "top1_high": own.top1_high,
            "best": own.best,
            "training_loss": own.training_loss,
            "training_accuracy": own.training_accuracy,
            "mean_class_accuracy": own.mean_class_accuracy,
            "macro_f1": own.macro_f1,
            "mean_average_precision": own.mean_average_precision,
        }}),
        Some(Event::Comparison(own)) => json!({ "comparison": {
            "heads": own.heads.iter().map(compared).collect::<Vec<_>>(),
        }}),
        Some(Event::Message(message)) => json!({ "message": {
            "warning": message.warning,
            "text": message.text,
        }}),
        Some(Event::Serving(serving)) => json!({ "serving": {
            "version": serving.version,
            "serves": serving.serves,
            "reason": serving.reason,
            "message": serving.message,
        }}),
        None => Value::Null,
    };
    json!({
        "sequence": event.sequence,
        "time": time(event.time.as_ref()),
        "event": what,
    })
}
