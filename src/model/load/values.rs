//! Stored numbers become f32: exactly, whatever float format they are stored in.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;

/// Elements that are converted at a time; small enough for the stack, large enough for the vector instructions behind `half`.
const CHUNK: usize = 1024;

/// Whether weights may be stored so.
pub fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32)
}

/// Appends the values of little-endian bytes; the bytes need no alignment. Does nothing for a format that [`is_float`] denies.
pub(super) fn decode(dtype: Dtype, bytes: &[u8], out: &mut Vec<f32>) {
    match dtype {
        Dtype::F32 => out.extend(words(bytes).map(f32::from_le_bytes)),
        Dtype::F16 => wide(bytes, out, f16::from_le_bytes),
        Dtype::BF16 => wide(bytes, out, bf16::from_le_bytes),
        _ => {}
    }
}

/// Little-endian bytes of values, rounded to the format; empty for a format that [`is_float`] denies.
pub(super) fn encode(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let each = values.iter();
    match dtype {
        Dtype::F32 => each.flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::F16 => each
            .flat_map(|&value| f16::from_f32(value).to_le_bytes())
            .collect(),
        Dtype::BF16 => each
            .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
            .collect(),
        _ => Vec::new(),
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
        for dtype in [Dtype::F16, Dtype::BF16] {
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let mut values = Vec::new();
            decode(dtype, &bytes, &mut values);
            assert_eq!(values.len(), 1 << 16);
            for (bits, value) in (0..=u16::MAX).zip(values) {
                let expected = match dtype {
                    Dtype::F16 => f16::from_bits(bits).to_f32(),
                    _ => bf16::from_bits(bits).to_f32(),
                };
                assert!(
                    value == expected || value.is_nan() && expected.is_nan(),
                    "{dtype:?} {bits:#06x}: {value} instead of {expected}"
                );
            }
        }
    }

    #[test]
    fn values_survive_being_written_where_the_format_holds_them() {
        let values = [0.0, -0.5, 1.25, 448.0];
        for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32] {
            let mut back = Vec::new();
            decode(dtype, &encode(dtype, &values), &mut back);
            assert_eq!(back, values);
        }
    }
}
