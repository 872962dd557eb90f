//! Named f32 tensors as safetensors bytes, in memory.
//!
//! Invariant: equal tensors and metadata give equal bytes; reading validates the header as strictly as that of a checkpoint.

use std::collections::BTreeMap;

use super::load::{Float, Header, Stored, serialize};
use super::{Error, Tensors};

/// Returns the tensors as safetensors bytes, in the order of their names, rounded to a float format.
pub(super) fn write(
    tensors: &Tensors,
    metadata: &BTreeMap<String, String>,
    float: Float,
) -> Vec<u8> {
    let stored: Vec<Stored> = tensors
        .iter()
        .map(|(name, (shape, values))| Stored {
            name: name.clone(),
            dtype: float.dtype(),
            shape: shape.clone(),
            bytes: float.encode(values),
        })
        .collect();
    serialize(&stored, metadata)
}

/// Reads all tensors from safetensors bytes; f16 and bf16 are widened.
pub(super) fn read(bytes: &[u8]) -> Result<Tensors, Error> {
    let header = Header::parse(bytes).map_err(Error::Safetensors)?;
    let mut tensors = Tensors::new();
    for entry in header.entries {
        let Some(float) = Float::of(entry.dtype) else {
            return Err(Error::WrongType {
                name: entry.name,
                got: format!("{:?}", entry.dtype),
            });
        };
        let mut values = Vec::with_capacity(entry.elements());
        float.decode(&bytes[entry.range.clone()], &mut values);
        tensors.insert(entry.name, (entry.shape, values));
    }
    Ok(tensors)
}
