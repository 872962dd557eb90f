//! How a task's requests are shared out, as JSON.

use serde_json::{Value, json};

use crate::proto::v1;

/// A split of a task's requests.
pub(super) fn split(split: &v1::ServingSplit) -> Value {
    let member = |own: &v1::ServingMember| {
        json!({
            "version": own.version,
            "per_mille": own.per_mille,
            "state": serving_state_name(own.state()),
            "error": own.error,
        })
    };
    let shadow = |own: &v1::ServingShadow| {
        json!({
            "version": own.version,
            "per_mille": own.per_mille,
            "state": serving_state_name(own.state()),
            "error": own.error,
            "compared": own.compared,
            "agreed": own.agreed,
            "failed": own.failed,
            "dropped": own.dropped,
            "mean_device_ms": own.mean_device_time.as_ref().map(milliseconds),
            "mean_answer_device_ms": own.mean_answer_device_time.as_ref().map(milliseconds),
        })
    };
    json!({
        "version": split.version,
        "members": split.members.iter().map(member).collect::<Vec<_>>(),
        "shadows": split.shadows.iter().map(shadow).collect::<Vec<_>>(),
    })
}

/// A duration in milliseconds.
pub(in crate::client) fn milliseconds(duration: &prost_types::Duration) -> f64 {
    duration.seconds as f64 * 1e3 + f64::from(duration.nanos) / 1e6
}

/// The name of a version's state in a split.
pub(in crate::client) fn serving_state_name(state: v1::ServingState) -> &'static str {
    match state {
        v1::ServingState::Unspecified => "unknown",
        v1::ServingState::Loading => "loading",
        v1::ServingState::Ready => "ready",
        v1::ServingState::Failed => "failed",
    }
}
