//! What is suspicious about a data set as JSON.

use serde_json::{Value, json};

use super::hex;
use crate::proto::v1;

/// The answer of a check.
pub fn checked(name: &str, answer: &v1::CheckDatasetResponse) -> Value {
    let finding = |finding: &v1::Finding| {
        let kind = finding.kind().as_str_name();
        json!({
            "kind": kind.trim_start_matches("FINDING_KIND_").to_lowercase(),
            "text": finding.text,
            "count": finding.count,
            "labels": finding.labels,
            "videos": finding.videos,
        })
    };
    json!({
        "name": name,
        "examples": answer.examples,
        "unseen": answer.unseen,
        "dataset_digest": hex(&answer.dataset_digest),
        "findings": answer.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}
