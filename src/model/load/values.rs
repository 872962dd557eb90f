//! Stored numbers become f32: exactly, whatever float format they are stored in.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;

/// Elements that are converted at a time; small enough for the stack, large enough for the vector instructions behind `half`.
const CHUNK: usize = 1024;

/// A float format that weights may be stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    /// IEEE half.
    F16,
    /// Brain float.
    BF16,
    /// IEEE single.
    F32,
}

impl Float {
    /// The float format of a stored number format, when it is one that is read.
    pub fn of(dtype: Dtype) -> Option<Self> {
        [Self::F16, Self::BF16, Self::F32]
            .into_iter()
            .find(|float| float.dtype() == dtype)
    }

    /// As a number format of safetensors.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
            Self::F32 => Dtype::F32,
        }
    }

    /// Appends the values of little-endian bytes; the bytes need no alignment.
    pub(in crate::model) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F32 => out.extend(words(bytes).map(f32::from_le_bytes)),
            Self::F16 => wide(bytes, out, f16::from_le_bytes),
            Self::BF16 => wide(bytes, out, bf16::from_le_bytes),
        }
    }

    /// Little-endian bytes of values, rounded to the format.
    pub(in crate::model) fn encode(self, values: &[f32]) -> Vec<u8> {
        let each = values.iter();
        match self {
            Self::F32 => each.flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => each
                .flat_map(|&value| f16::from_f32(value).to_le_bytes())
                .collect(),
            Self::BF16 => each
                .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                .collect(),
        }
    }
}

/// The first value that is not a number, with its place.
pub(super) fn non_finite(values: &[f32]) -> Option<(usize, f32)> {
    values
        .iter()
        .position(|value| !value.is_finite())
        .map(|at| (at, values[at]))
}

fn wide<T: Copy>(bytes: &[u8], out: &mut Vec<f32>, read: fn([u8; 2]) -> T)
where
    [T]: HalfFloatSliceExt,
{
    let mut narrow = Vec::with_capacity(CHUNK);
    let mut values = [0.0; CHUNK];
    for part in bytes.chunks(2 * CHUNK) {
        narrow.clear();
        narrow.extend(words(part).map(read));
        let values = &mut values[..narrow.len()];
        narrow.convert_to_f32_slice(values);
        out.extend_from_slice(values);
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_reads_as_its_own_value() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        type Read = fn(u16) -> f32;
        let expected: [(Float, Read); 2] = [
            (Float::F16, |bits| f16::from_bits(bits).to_f32()),
            (Float::BF16, |bits| bf16::from_bits(bits).to_f32()),
        ];
        for (float, expected) in expected {
            let mut values = Vec::new();
            float.decode(&bytes, &mut values);
            assert_eq!(values.len(), 1 << 16);
            for (bits, value) in (0..=u16::MAX).zip(values) {
                let expected = expected(bits);
                assert!(
                    value == expected || value.is_nan() && expected.is_nan(),
                    "{float:?} {bits:#06x}: {value} instead of {expected}"
                );
            }
        }
    }

    #[test]
    fn values_survive_being_written_where_the_format_holds_them() {
        let values = [0.0, -0.5, 1.25, 448.0];
        for float in [Float::F16, Float::BF16, Float::F32] {
            let mut back = Vec::new();
            float.decode(&float.encode(&values), &mut back);
            assert_eq!(back, values);
            assert_eq!(Float::of(float.dtype()), Some(float));
        }
        assert_eq!(Float::of(Dtype::F64), None);
    }
}
