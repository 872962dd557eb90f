//! Something-Something v2's lists: objects with `id` and `template` or `label`.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::Value;

use super::{Fault, Row, Source, text};

#[derive(Deserialize)]
struct Entry {
    #[serde(deserialize_with = "id")]
    id: String,
    template: Option<String>,
    label: Option<String>,
}

/// Ids are texts; some tools write them as numbers.
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(id) => Ok(id),
        Value::Number(id) => Ok(id.to_string()),
        other @ (Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            Err(D::Error::custom(format!(
                "field `id`: expected a text or a number, got {other}"
            )))
        }
    }
}

/// The rows, and the ids of entries without a label. The brackets around what stands for an object are removed, as in the label list.
pub(super) fn rows(source: &Source) -> Result<(Vec<Row>, Vec<String>), Fault> {
    let text = text(source.bytes)?;
    if !text.trim_start().starts_with('[') {
        return Err(Fault::Shape("no list of objects".to_owned()));
    }
    let wrong = |error: serde_json::Error| Fault::Line(error.line() as u64, error.to_string());
    let values: Vec<Value> = serde_json::from_str(text).map_err(wrong)?;
    if !values.is_empty() && values.iter().all(|value| value.get("id").is_none()) {
        return Err(Fault::Shape("no object has an id".to_owned()));
    }
    let answers: HashMap<&str, &str> = source
        .answers
        .iter()
        .map(|(id, label)| (id.as_str(), label.as_str()))
        .collect();
    let lines = entry_lines(text);
    let entries: Vec<Entry> = serde_json::from_str(text).map_err(wrong)?;
    let mut rows = Vec::new();
    let mut unlabelled = Vec::new();
    for (at, entry) in entries.into_iter().enumerate() {
        let label = entry
            .template
            .or(entry.label)
            .or_else(|| answers.get(entry.id.as_str()).map(ToString::to_string));
        match label {
            Some(label) => rows.push(Row {
                line: lines.get(at).copied().unwrap_or(1),
                names: vec![entry.id],
                label: label.replace(['[', ']'], ""),
                split: source.split,
            }),
            None => unlabelled.push(entry.id),
        }
    }
    Ok((rows, unlabelled))
}

/// The line on which each object of the outer list begins.
fn entry_lines(text: &str) -> Vec<u64> {
    let mut lines = Vec::new();
    let (mut line, mut depth, mut quoted, mut escaped) = (1, 0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            b'\n' => line += 1,
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => {
                if depth == 1 {
                    lines.push(line);
                }
                depth += 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    lines
}
