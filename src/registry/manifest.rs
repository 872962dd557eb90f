//! A version's manifest, as the metadata of its safetensors file: one entry for each field.
//!
//! Invariant: only [`seal`] and [`check`] know how it is encoded; the same manifest and tensors always give the same bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use safetensors::SafeTensors;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::metadata::VersionManifest;
use crate::spec::{ClipSampling, Digest, Evaluation};

/// Version of the entries' encoding.
const FORMAT: &str = "1";
const FORMAT_FIELD: &str = "format_version";

/// Fault in a file, in words.
type Problem = String;

/// The parts of a safetensors file.
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

/// Replaces a file's metadata with a manifest, and adds the digest of the tensors.
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

/// Name of the field with the metrics.
const EVALUATION: &str = "evaluation";
/// Name of the field with the sampling.
const SAMPLING: &str = "sampling";

/// Fields that are text, and so written without quotes.
const TEXTS: [&str; 5] = [
    "backbone_digest",
    "tensors_sha256",
    "precision",
    "job",
    "dataset_digest",
];

/// The manifest that [`seal`] wrote into a file's metadata; `None` when there is none.
pub(super) fn parse(
    metadata: &BTreeMap<String, String>,
) -> Option<Result<VersionManifest, Problem>> {
    let format = metadata.get(FORMAT_FIELD)?;
    if format != FORMAT {
        return Some(Err(format!(
            "format_version {format:?} is unknown, expected {FORMAT:?}"
        )));
    }
    let read = |(field, text): (&String, &String)| {
        let value = match TEXTS.contains(&field.as_str()) {
            true => Value::String(text.clone()),
            false => serde_json::from_str(text).map_err(|error| format!("{field}: {error}"))?,
        };
        Ok((field.clone(), value))
    };
    let fields = metadata.iter().filter(|(field, _)| *field != FORMAT_FIELD);
    let fields: Result<Map<String, Value>, Problem> = fields.map(read).collect();
    let parse =
        |fields| serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string());
    Some(fields.and_then(parse))
}

/// Why a file does not fit its manifest.
pub(super) enum Mismatch {
    /// The file is not a safetensors file.
    Malformed(Problem),
    /// A field of the file differs from the record.
    Field(String),
}

/// Checks that a file agrees with its record.
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
            // Release 0.1 encoded the metrics differently.
            (Some(text), None) if field == EVALUATION => serde_json::from_str::<Evaluation>(text)
                .is_ok_and(|said| said == manifest.evaluation),
            // Release 0.1 had no order of frames.
            (Some(text), None) if field == SAMPLING => serde_json::from_str::<ClipSampling>(text)
                .is_ok_and(|said| said == manifest.sampling),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_as_they_were_written() {
        for number in [0.1_f64, 2.0 / 3.0, 1e-300, 0.123_456_789_012_345_67, 1.0] {
            for next in 0..64 {
                let metric = f64::from_bits(number.to_bits() + next);
                let written = Evaluation {
                    examples: 3,
                    top1: metric,
                    top5: metric,
                    loss: metric,
                    confusion: crate::spec::Confusion::default(),
                    problem: None,
                    independent: None,
                };
                let text = serde_json::to_string(&written).expect("json");
                let value: Value = serde_json::from_str(&text).expect("json");
                let read: Evaluation = serde_json::from_value(value).expect("an evaluation");
                assert_eq!(read, written, "{text}");
            }
        }
    }

    #[test]
    fn a_file_of_release_0_1_agrees_with_its_record() {
        let zeros = [0; 8];
        let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &zeros);
        let tensors = safetensors::serialize([("fc.bias", tensor.unwrap())], None).unwrap();
        let manifest = VersionManifest {
            labels: crate::spec::LabelSet::new(vec!["a".into(), "b".into()]).unwrap(),
            adapter: crate::spec::AdapterConfig::LINEAR_PROBE,
            sampling: crate::spec::ClipSampling {
                num_frames: 8.try_into().unwrap(),
                sampling: crate::spec::Sampling::Uniform,
                temporal_views: 1.try_into().unwrap(),
                spatial_views: crate::spec::SpatialViews::Center,
                rotation: crate::spec::RotationPolicy::Display,
                order: crate::spec::FrameOrder::Reference,
            },
            backbone_digest: Digest([1; 32]),
            tensors_sha256: Digest([2; 32]),
            parameters: 2,
            precision: crate::spec::Precision::F32,
            job: String::new(),
            dataset_digest: Digest([0; 32]),
            parent: None,
            evaluation: Evaluation {
                examples: 3,
                top1: 2.0 / 3.0,
                top5: 1.0,
                loss: 0.25,
                confusion: crate::spec::Confusion::from_rows(&[1, 0, 1, 1]).unwrap(),
                problem: None,
                independent: None,
            },
            calibration: None,
        };
        let (manifest, sealed) = seal(&tensors, manifest).unwrap();
        let rewritten = |confusion: &str| {
            let file = File::read(&sealed).unwrap();
            let mut header = file.header;
            let loss = format!(
                r#"{{"examples":3,"top1":{},"top5":1.0,"loss":0.25,"confusion":{confusion}}}"#,
                2.0_f64 / 3.0
            );
            header["__metadata__"][EVALUATION] = loss.into();
            let mut sampling = serde_json::to_value(manifest.sampling).unwrap();
            sampling.as_object_mut().unwrap().remove("order").unwrap();
            header["__metadata__"][SAMPLING] = sampling.to_string().into();
            let header = serde_json::to_vec(&header).unwrap();
            let length = (header.len() as u64).to_le_bytes();
            Bytes::from([&length[..], &header, file.tensors].concat())
        };
        assert!(check(&rewritten("[1,0,1,1]"), &manifest).is_ok());
        let other = check(&rewritten("[1,1,0,1]"), &manifest);
        assert!(matches!(other, Err(Mismatch::Field(field)) if field == EVALUATION));
        let mut display = manifest.clone();
        display.sampling.order = crate::spec::FrameOrder::Display;
        let other = check(&rewritten("[1,0,1,1]"), &display);
        assert!(matches!(other, Err(Mismatch::Field(field)) if field == SAMPLING));
    }
}
