//! Stored numbers become f32: exactly, whichever float format they are stored in.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;

/// Elements that are converted at a time; small enough for the stack, large enough for the vector instructions that `half` uses.
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
    /// IEEE double; rounded to single when it is read.
    F64,
}

impl Float {
    /// The float format of a stored number format, when it is one that is read.
    pub fn of(dtype: Dtype) -> Option<Self> {
        [Self::F16, Self::BF16, Self::F32, Self::F64]
            .into_iter()
            .find(|float| float.dtype() == dtype)
    }

    /// The format as safetensors names it.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
            Self::F32 => Dtype::F32,
            Self::F64 => Dtype::F64,
        }
    }

    /// Appends the values of little-endian bytes; the bytes need no alignment.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F32 => out.extend(words(bytes).map(f32::from_le_bytes)),
            Self::F16 => wide(bytes, out, f16::from_le_bytes),
            Self::BF16 => wide(bytes, out, bf16::from_le_bytes),
            Self::F64 => out.extend(words(bytes).map(|word| f64::from_le_bytes(word) as f32)),
        }
    }

    /// Appends, row-major, the values of a tensor whose elements lie `strides` apart (counted in elements). The caller has checked that they lie in
    /// `bytes`.
    pub(crate) fn gather(
        self,
        bytes: &[u8],
        shape: &[usize],
        strides: &[usize],
        out: &mut Vec<f32>,
    ) {
        let size = self.dtype().bitsize() / 8;
        let (Some((&side, outer)), Some((&step, _))) = (shape.split_last(), strides.split_last())
        else {
            return self.decode(bytes, out);
        };
        let mut index = vec![0; outer.len()];
        let mut row = Vec::with_capacity(side * size);
        for _ in 0..outer.iter().product::<usize>() {
            let begin: usize = index
                .iter()
                .zip(strides)
                .map(|(i, stride)| i * stride)
                .sum();
            row.clear();
            for i in 0..side {
                row.extend_from_slice(&bytes[(begin + i * step) * size..][..size]);
            }
            self.decode(&row, out);
            for (axis, &side) in outer.iter().enumerate().rev() {
                index[axis] += 1;
                if index[axis] < side {
                    break;
                }
                index[axis] = 0;
            }
        }
    }

    /// Whether the format represents each of these values exactly.
    pub fn holds(self, values: &[f32]) -> bool {
        values.chunks(CHUNK).all(|part| {
            let mut back = Vec::with_capacity(part.len());
            self.decode(&self.encode(part), &mut back);
            let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
            part.iter().zip(&back).all(same)
        })
    }

    /// Name of the format.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Little-endian bytes of values, rounded to the format.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        let each = values.iter();
        match self {
            // Weights are written in this format, and `flat_map` would go byte by byte.
            Self::F32 => {
                let mut bytes = vec![0; size_of_val(values)];
                for (word, value) in bytes.as_chunks_mut().0.iter_mut().zip(each) {
                    *word = value.to_le_bytes();
                }
                bytes
            }
            Self::F16 => each
                .flat_map(|&value| f16::from_f32(value).to_le_bytes())
                .collect(),
            Self::BF16 => each
                .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                .collect(),
            Self::F64 => each
                .flat_map(|&value| f64::from(value).to_le_bytes())
                .collect(),
        }
    }
}

/// The first value that is not finite, with its index.
pub(super) fn non_finite(values: &[f32]) -> Option<(usize, f32)> {
    // Counts exponents that are all ones without a branch, so that a whole tensor is scanned with vector instructions.
    const EXPONENT: u32 = 0x7f80_0000;
    let bad: u32 = values
        .iter()
        .map(|value| u32::from(value.to_bits() & EXPONENT == EXPONENT))
        .fold(0, u32::wrapping_add);
    if bad == 0 && values.len() < u32::MAX as usize {
        return None;
    }
    values
        .iter()
        .position(|value| !value.is_finite())
        .map(|at| (at, values[at]))
}

/// The bytes as singles without a copy, when they are aligned and the machine is little-endian.
#[allow(unsafe_code)]
pub(super) fn aligned(bytes: &[u8]) -> Option<&[f32]> {
    if cfg!(target_endian = "big") {
        return None;
    }
    // SAFETY: every pattern of 32 bits is an f32, and `align_to` keeps to the slice and to the alignment.
    let (before, values, after) = unsafe { bytes.align_to::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(values)
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
        for float in [Float::F16, Float::BF16, Float::F32, Float::F64] {
            let mut back = Vec::new();
            float.decode(&float.encode(&values), &mut back);
            assert_eq!(back, values);
            assert_eq!(Float::of(float.dtype()), Some(float));
        }
        assert_eq!(Float::of(Dtype::I8), None);
    }
}
