//! Named f32 tensors as safetensors bytes, in memory.
//!
//! Invariant: equal tensors and metadata give equal bytes; reading validates the header as strictly as that of a checkpoint.

use std::collections::BTreeMap;

use super::adapter::missing;
use super::backbone::first_not_finite;
use super::load::{Entry, Float, Header, Stored, serialize};
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

/// Safetensors bytes whose header was validated. Tensors are decoded one at a time.
pub(super) struct Parsed<'a> {
    bytes: &'a [u8],
    /// Number format and place of each tensor.
    entries: BTreeMap<String, (Float, Entry)>,
}

impl<'a> Parsed<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// When the header is not one, or a tensor has a number format that is not read.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let header = Header::parse(bytes).map_err(Error::Safetensors)?;
        let mut entries = BTreeMap::new();
        for entry in header.entries {
            let Some(float) = Float::of(entry.dtype) else {
                return Err(Error::WrongType {
                    name: entry.name,
                    got: format!("{:?}", entry.dtype),
                });
            };
            entries.insert(entry.name.clone(), (float, entry));
        }
        Ok(Self { bytes, entries })
    }

    /// Returns the shape of each tensor.
    pub(super) fn shapes(&self) -> BTreeMap<&str, &[usize]> {
        let entries = self.entries.iter();
        let shapes = entries.map(|(name, (_, entry))| (name.as_str(), entry.shape.as_slice()));
        shapes.collect()
    }

    /// Returns the values of a tensor; f16 and bf16 are widened.
    ///
    /// # Errors
    /// When there is no tensor of this name, or a value is not finite.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>, Error> {
        let found = self.entries.get(name).ok_or_else(|| missing(name))?;
        let values = self.decoded(found);
        match first_not_finite(&values) {
            Some(index) => Err(Error::NotFinite {
                name: name.to_owned(),
                index,
            }),
            None => Ok(values),
        }
    }

    fn decoded(&self, (float, entry): &(Float, Entry)) -> Vec<f32> {
        let mut values = Vec::with_capacity(entry.elements());
        float.decode(&self.bytes[entry.range.clone()], &mut values);
        values
    }
}

/// Reads all tensors from safetensors bytes; f16 and bf16 are widened.
pub(super) fn read(bytes: &[u8]) -> Result<Tensors, Error> {
    let mut parsed = Parsed::new(bytes)?;
    let entries = std::mem::take(&mut parsed.entries);
    let tensors = entries.into_iter().map(|(name, found)| {
        let values = parsed.decoded(&found);
        (name, (found.1.shape, values))
    });
    Ok(tensors.collect())
}
