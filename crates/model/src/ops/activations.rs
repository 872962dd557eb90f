//! Activations passed between kernels: f32, or bfloat16 where only products read them.
//!
//! Invariant: a value written as bfloat16 is rounded as a bfloat16 product would have rounded the float, so no result of such a product depends on
//! the format.
#![allow(unsafe_code)]

use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Tensor};
use half::bf16;

use super::buffers::{Out, unfilled};
use super::kernel::unit::Target;
use super::kernel::{self, Format, NR};
use super::packed::rounded;
use super::simd::wide;

/// Number format of a tensor of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub(crate) enum Numbers {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
}

impl Numbers {
    /// Returns the number format that a product with weights in this format reads; 8-bit integers are rounded once, from floats.
    pub(crate) fn read_by(weights: Format) -> Self {
        match weights {
            Format::F32 | Format::Int8 => Self::F32,
            Format::Bf16 => Self::Bf16,
        }
    }

    /// Returns the number format that other products read beside frozen weights in this format.
    pub(crate) fn beside(weights: Format) -> Self {
        match weights.float() {
            Format::F32 => Self::F32,
            Format::Bf16 | Format::Int8 => Self::Bf16,
        }
    }

    /// Returns the number format as candle names it.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Returns the size of one number in bytes.
    pub(crate) fn bytes(self) -> usize {
        self.dtype().size_in_bytes()
    }
}

/// Values that a kernel reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> Values<'a> {
    /// Returns the values of a contiguous CPU operand.
    pub(crate) fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let Some((begin, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("expected a contiguous tensor, got {layout:?}");
        };
        Ok(if let CpuStorage::BF16(values) = storage {
            Self::Bf16(&values[begin..end])
        } else {
            Self::F32(&storage.as_slice::<f32>()?[begin..end])
        })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Returns the values from index `first` on.
    pub(super) fn skip(&self, first: usize) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[first..]),
            Self::Bf16(values) => Self::Bf16(&values[first..]),
        }
    }

    /// Returns the first `count` values.
    pub(super) fn take(&self, count: usize) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[..count]),
            Self::Bf16(values) => Self::Bf16(&values[..count]),
        }
    }

    /// Returns the values as floats; values in another format are widened into `own`.
    pub(super) fn floats<'b>(&self, own: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        match *self {
            Self::F32(values) => values,
            Self::Bf16(values) => {
                own.resize(values.len(), 0.0);
                widen(values, own);
                own
            }
        }
    }

    /// Returns the values as bfloat16; floats are rounded into `own`.
    pub(super) fn narrowed<'b>(&self, own: &'b mut Vec<bf16>) -> &'b [bf16]
    where
        'a: 'b,
    {
        match *self {
            Self::Bf16(values) => values,
            Self::F32(values) => {
                own.resize(values.len(), bf16::ZERO);
                narrow(values, own);
                own
            }
        }
    }

    /// Prefetches the values, because they are read soon.
    pub(super) fn expect(&self) {
        match self {
            Self::F32(values) => kernel::will_read(values),
            Self::Bf16(values) => kernel::will_read(values),
        }
    }
}

/// Values that a kernel writes.
pub(super) enum ValuesMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

impl<'a> ValuesMut<'a> {
    /// Splits the values at index `first`.
    pub(super) fn split(self, first: usize) -> (Self, Self) {
        match self {
            Self::F32(values) => {
                let (one, two) = values.split_at_mut(first);
                (Self::F32(one), Self::F32(two))
            }
            Self::Bf16(values) => {
                let (one, two) = values.split_at_mut(first);
                (Self::Bf16(one), Self::Bf16(two))
            }
        }
    }

    /// Splits the values into parts of `count` values, for the threads.
    pub(super) fn chunks(self, count: usize) -> Vec<ValuesMut<'a>> {
        match self {
            Self::F32(values) => values.chunks_mut(count).map(ValuesMut::F32).collect(),
            Self::Bf16(values) => values.chunks_mut(count).map(ValuesMut::Bf16).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Returns the values as a target that several threads write.
    pub(super) fn sink(self) -> Sink {
        match self {
            Self::F32(values) => Sink::F32(Out::new(values)),
            Self::Bf16(values) => Sink::Bf16(Out::new(values)),
        }
    }
}

/// Output buffer of a kernel, which writes every value before any is read.
pub(super) enum Buffer {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Buffer {
    pub(super) fn unfilled(numbers: Numbers, len: usize) -> Self {
        match numbers {
            Numbers::F32 => Self::F32(unfilled(len)),
            Numbers::Bf16 => Self::Bf16(unfilled(len)),
        }
    }

    pub(super) fn as_mut(&mut self) -> ValuesMut<'_> {
        match self {
            Self::F32(values) => ValuesMut::F32(values),
            Self::Bf16(values) => ValuesMut::Bf16(values),
        }
    }

    /// Returns a CPU tensor of these values.
    pub(super) fn tensor(self, shape: impl Into<Shape>) -> Result<Tensor> {
        match self {
            Self::F32(values) => Tensor::from_vec(values, shape.into(), &Device::Cpu),
            Self::Bf16(values) => Tensor::from_vec(values, shape.into(), &Device::Cpu),
        }
    }

    /// Returns the values as an operation's output.
    pub(super) fn output(self, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
        let storage = match self {
            Self::F32(values) => CpuStorage::F32(values),
            Self::Bf16(values) => CpuStorage::BF16(values),
        };
        (storage, shape.into())
    }
}

/// Buffer of which several threads write disjoint parts.
#[derive(Clone, Copy)]
pub(super) enum Sink {
    F32(Out<f32>),
    Bf16(Out<bf16>),
}

impl Sink {
    /// Prefetches the cache lines of `count` values from index `at` on, because they are written soon.
    pub(super) fn expect(self, at: usize, count: usize) {
        match self {
            Self::F32(out) => kernel::will_write(out.near(at), count),
            Self::Bf16(out) => kernel::will_write(out.near(at), count),
        }
    }

    /// Returns the address of element `at`.
    pub(super) fn target(self, at: usize) -> Target {
        match self {
            Self::F32(out) => Target::F32(out.place(at)),
            Self::Bf16(out) => Target::Bf16(out.place(at).cast()),
        }
    }

    /// Returns `rows` rows (at most 16) of `width` values each; the first begins at index `at`, and each begins `stride` after the one before.
    ///
    /// # Safety
    /// The rows lie inside the buffer, and no other thread touches them while these lines exist.
    pub(super) unsafe fn lines(
        self,
        (at, stride): (usize, usize),
        (rows, width): (usize, usize),
    ) -> Lines {
        Lines {
            sink: self,
            at,
            stride,
            rows,
            width,
        }
    }
}

/// Rows of a buffer that belong to one thread.
pub(super) struct Lines {
    sink: Sink,
    at: usize,
    stride: usize,
    rows: usize,
    width: usize,
}

impl Lines {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of values of a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Returns the index at which row i begins.
    #[inline(always)]
    pub(super) fn at(&self, i: usize) -> usize {
        self.at + i * self.stride
    }

    /// Writes the first `width` values of each row of a tile.
    #[inline(always)]
    pub(super) fn write(&self, tile: &[[f32; NR]]) {
        let (rows, width) = (tile[..self.rows].iter().enumerate(), self.width);
        match self.sink {
            Sink::F32(out) => {
                for (i, row) in rows {
                    // SAFETY: the creator of the lines promised it.
                    kernel::copy(unsafe { out.slice(self.at(i), width) }, row, width);
                }
            }
            Sink::Bf16(out) => {
                for (i, row) in rows {
                    let mut narrow = [bf16::ZERO; NR];
                    for (y, &x) in narrow.iter_mut().zip(row) {
                        *y = narrowed(x);
                    }
                    // SAFETY: the creator of the lines promised it.
                    kernel::copy(unsafe { out.slice(self.at(i), width) }, &narrow, width);
                }
            }
        }
    }
}

/// Returns a float as bfloat16, rounded to the nearest.
#[inline(always)]
fn narrowed(x: f32) -> bf16 {
    bf16::from_bits((rounded(x) >> 16) as u16)
}

wide! {
    /// Converts floats to bfloat16, rounded to the nearest.
    pub(super) fn narrow(x: &[f32], y: &mut [bf16]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = narrowed(x);
        }
    }

    /// Converts bfloat16 to floats, exactly.
    pub(super) fn widen(x: &[bf16], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were_or_rounded() {
        let x: Vec<f32> = (0..4001).map(|i| (i as f32 - 2000.0) / 7.0).collect();
        let mut y = vec![bf16::ZERO; x.len()];
        narrow(&x, &mut y);
        let mut own = Vec::new();
        assert_eq!(Values::F32(&x).floats(&mut own), x);
        let back = Values::Bf16(&y).skip(1).take(3999).floats(&mut own);
        for (&back, &x) in back.iter().zip(&x[1..]) {
            assert_eq!(back, bf16::from_f32(x).to_f32());
        }
        assert_eq!(back.len(), 3999);
    }
}
