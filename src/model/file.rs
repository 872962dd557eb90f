//! Safetensors files of named f32 tensors.
//!
//! Invariant: equal tensors and metadata give equal bytes (the library's own writer orders metadata at random).

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors};

use super::{Error, Tensors};

/// Number format of a file's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    F32,
    F16,
}

/// Writes the tensors in the order of their names.
pub(super) fn write(
    tensors: &Tensors,
    metadata: &BTreeMap<String, String>,
    format: Format,
) -> Vec<u8> {
    let (kind, size) = match format {
        Format::F32 => ("F32", 4),
        Format::F16 => ("F16", 2),
    };
    let mut entries = Vec::with_capacity(tensors.len() + 1);
    if !metadata.is_empty() {
        let pairs = metadata
            .iter()
            .map(|(k, v)| format!("{}:{}", text(k), text(v)));
        entries.push(format!("\"__metadata__\":{{{}}}", joined(pairs)));
    }
    let mut end = 0;
    for (name, (shape, values)) in tensors {
        let begin = end;
        end += values.len() * size;
        entries.push(format!(
            "{}:{{\"dtype\":\"{kind}\",\"shape\":[{}],\"data_offsets\":[{begin},{end}]}}",
            text(name),
            joined(shape.iter().map(ToString::to_string))
        ));
    }
    let mut header = format!("{{{}}}", joined(entries.into_iter()));
    while header.len() % 8 != 0 {
        header.push(' ');
    }
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend_from_slice(&(header.len() as u64).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    for (_, values) in tensors.values() {
        for &value in values {
            match format {
                Format::F32 => bytes.extend_from_slice(&value.to_le_bytes()),
                Format::F16 => {
                    bytes.extend_from_slice(&half::f16::from_f32(value).to_le_bytes());
                }
            }
        }
    }
    bytes
}

fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

/// Reads all tensors; f16 and bf16 are widened.
pub(super) fn read(bytes: &[u8]) -> Result<Tensors, Error> {
    let file = SafeTensors::deserialize(bytes).map_err(Error::Safetensors)?;
    let mut tensors = Tensors::new();
    for (name, view) in file.tensors() {
        let data = view.data();
        let halves = data.chunks_exact(2).map(|b| [b[0], b[1]]);
        // Other formats (integers, doubles, packed ones) are no weights of an adapter set.
        #[allow(clippy::wildcard_enum_match_arm)]
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Dtype::F16 => halves
                .map(|b| half::f16::from_le_bytes(b).to_f32())
                .collect(),
            Dtype::BF16 => halves
                .map(|b| half::bf16::from_le_bytes(b).to_f32())
                .collect(),
            other => {
                return Err(Error::WrongType {
                    name,
                    got: format!("{other:?}"),
                });
            }
        };
        tensors.insert(name, (view.shape().to_vec(), values));
    }
    Ok(tensors)
}
