//! Evaluations of versions as JSON.

use serde_json::{Value, json};

use super::{evaluation, single, typed};
use crate::proto::v1::{self, evaluate_version_response as response};

/// The result of an evaluation.
pub fn evaluated(version: &str, result: &response::Result) -> Value {
    json!({
        "version": version,
        "evaluation": evaluation(result.evaluation.as_ref()),
        "unreadable": result.unreadable,
        "unknown_labels": result.unknown_labels,
    })
}

/// A clip of an evaluation.
pub fn clip_evaluation(clip: &v1::ClipEvaluation) -> Value {
    let error = clip
        .error
        .as_ref()
        .map(|error| json!({ "reason": error.reason, "message": error.message }));
    let prediction = |own: &v1::ScoredLabel| json!({ "label": own.label, "label_index": own.label_index, "score": single(own.score), "selected": own.selected });
    let object = json!({
        "video": clip.video,
        "label": clip.label,
        "labels": clip.labels,
        "score": single(clip.score),
        "rank": clip.rank,
        "predictions": clip.predictions.iter().map(prediction).collect::<Value>(),
        "unknown_label": clip.unknown_label,
        "error": error,
    });
    typed("clip", object)
}
