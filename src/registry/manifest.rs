//! A version's manifest, as the metadata of its safetensors file: one entry for each field.
//!
//! Invariant: [`seal`] and [`check`] are the only places that know how it is spelled; the same manifest and tensors always give the same bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use safetensors::SafeTensors;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::metadata::VersionManifest;
use crate::spec::Digest;

/// How the entries are spelled.
const FORMAT: &str = "1";
const FORMAT_FIELD: &str = "format_version";

/// What is wrong with a file, in words.
type Problem = String;

/// A safetensors file, in its parts.
struct File<'a> {
    header: Map<String, Value>,
    tensors: &'a [u8],
}

impl<'a> File<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Problem> {
        SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let (length, rest) = bytes.split_first_chunk().ok_or("no header")?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| "no header")?;
        let (header, tensors) = rest.split_at_checked(length).ok_or("no header")?;
        let header = serde_json::from_slice(header).map_err(|error| error.to_string())?;
        Ok(Self { header, tensors })
    }
}

/// Replaces a file's metadata by a manifest, to which the digest of the tensors is added.
pub(super) fn seal(
    tensors: &[u8],
    mut manifest: VersionManifest,
) -> Result<(VersionManifest, Vec<u8>), Problem> {
    let mut file = File::read(tensors)?;
    manifest.tensors_sha256 = Digest(Sha256::digest(file.tensors).into());
    let entries = entries(&manifest)?
        .into_iter()
        .map(|(field, value)| (field, Value::String(spelled(value))))
        .collect();
    file.header
        .insert("__metadata__".into(), Value::Object(entries));
    let mut header = serde_json::to_vec(&file.header).map_err(|error| error.to_string())?;
    // Tensors begin at a multiple of 8, so that a mapped file can be read in place.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut sealed = Vec::with_capacity(8 + header.len() + file.tensors.len());
    sealed.extend_from_slice(&(header.len() as u64).to_le_bytes());
    sealed.extend_from_slice(&header);
    sealed.extend_from_slice(file.tensors);
    Ok((manifest, sealed))
}

/// Why a file does not fit its manifest.
pub(super) enum Mismatch {
    /// It is no safetensors file.
    Malformed(Problem),
    /// It says something else.
    Field(String),
}

/// Checks that a file says what its record says.
pub(super) fn check(bytes: &Bytes, manifest: &VersionManifest) -> Result<(), Mismatch> {
    let file = File::read(bytes).map_err(Mismatch::Malformed)?;
    let empty = Map::new();
    let found = match file.header.get("__metadata__") {
        Some(Value::Object(found)) => found,
        Some(_) | None => &empty,
    };
    for (field, expected) in entries(manifest).map_err(Mismatch::Malformed)? {
        let agrees = match (found.get(&field).and_then(Value::as_str), expected.as_str()) {
            (Some(text), Some(expected)) => text == expected,
            // Both were text and are read by the same reader, so that equal numbers are equal.
            (Some(text), None) => {
                serde_json::from_str::<Value>(text).is_ok_and(|value| value == expected)
            }
            (None, _) => false,
        };
        if !agrees {
            return Err(Mismatch::Field(field));
        }
    }
    Ok(())
}

fn entries(manifest: &VersionManifest) -> Result<BTreeMap<String, Value>, Problem> {
    let Ok(Value::Object(fields)) = serde_json::to_value(manifest) else {
        return Err("the manifest cannot be written".into());
    };
    let mut entries: BTreeMap<String, Value> = fields.into_iter().collect();
    entries.insert(FORMAT_FIELD.into(), Value::String(FORMAT.into()));
    Ok(entries)
}

fn spelled(value: Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    }
}
