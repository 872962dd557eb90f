//! Something-Something v2's lists: objects with `id` and `template` or `label`.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::table::{LABEL, SPLIT, VIDEO, split};
use super::{Fault, Row, Source};

/// The rows, and the ids of entries without a label. The brackets around what stands for an object are removed, as in the label list.
pub(super) fn rows(source: &Source, text: &str) -> Result<(Vec<Row>, Vec<String>), Fault> {
    if !text.trim_start().starts_with('[') {
        return Err(Fault::Shape("no list of objects".to_owned()));
    }
    let wrong = |error: serde_json::Error| Fault::Line(error.line() as u64, error.to_string());
    let values: Vec<Value> = serde_json::from_str(text).map_err(wrong)?;
    let is_entry = |value: &Value| VIDEO.iter().any(|name| value.get(name).is_some());
    if !values.is_empty() && !values.iter().any(is_entry) {
        return Err(Fault::Shape("no object has an id or a path".to_owned()));
    }
    let answers: HashMap<&str, &str> = source
        .answers
        .iter()
        .map(|(id, label)| (id.as_str(), label.as_str()))
        .collect();
    let lines = entry_lines(text);
    let mut rows = Vec::new();
    let mut unlabelled = Vec::new();
    for (at, value) in values.iter().enumerate() {
        let line = lines.get(at).copied().unwrap_or(1);
        let wrong = |problem| Fault::Line(line, problem);
        let Value::Object(entry) = value else {
            return Err(wrong(format!("expected an object, got {value}")));
        };
        let id = field(entry, VIDEO).map_err(wrong)?;
        let id = id.ok_or_else(|| wrong("missing field `id`".to_owned()))?;
        // The template is the class; beside it, the label says what was seen.
        let template = field(entry, &["template"]).map_err(wrong)?;
        let label = match template {
            Some(template) => Some(template),
            None => field(entry, LABEL).map_err(wrong)?,
        };
        let label = label.or_else(|| answers.get(id.as_str()).map(ToString::to_string));
        let word = field(entry, SPLIT).map_err(wrong)?;
        match label {
            Some(label) => rows.push(Row {
                line,
                names: vec![id],
                whole: None,
                label: label.replace(['[', ']'], ""),
                split: split(word.as_deref(), source.split, line)?,
            }),
            None => unlabelled.push(id),
        }
    }
    Ok((rows, unlabelled))
}

/// The first of several fields that an entry has; ids and classes are texts, and some tools write them as numbers.
fn field(entry: &Map<String, Value>, names: &[&str]) -> Result<Option<String>, String> {
    for name in names {
        match entry.get(*name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => return Ok(Some(text.clone())),
            Some(Value::Number(number)) => return Ok(Some(number.to_string())),
            Some(other @ (Value::Bool(_) | Value::Array(_) | Value::Object(_))) => {
                return Err(format!(
                    "field `{name}`: expected a text or a number, got {other}"
                ));
            }
        }
    }
    Ok(None)
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
