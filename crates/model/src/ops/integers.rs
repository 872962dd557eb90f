//! Rows of 8-bit integers as activations: what a product with integers makes of rows of floats, made once by what writes the rows.
//!
//! Invariant: a row's integers and its scale are those that the product would make of the same floats, so no result depends on who made them.

use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor};
use rayon::prelude::*;

use super::activations::{Numbers, Values};
use super::buffers::{read, unfilled};
use super::kernel::Format;
use super::packed::encode_row;

/// Words of a cache line.
const LINE: usize = 16;

/// Rows that one thread encodes at a time.
const ROWS: usize = 16;

/// Form in which a layer reads its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Numbers in this format.
    Numbers(Numbers),
    /// Rows of 8-bit integers with their scales; on the host alone.
    Integers,
}

impl From<Numbers> for Form {
    fn from(numbers: Numbers) -> Self {
        Self::Numbers(numbers)
    }
}

/// Returns the words between rows of k integers: whole cache lines of integers, and a line with the row's scale.
pub(super) fn stride(k: usize) -> usize {
    scale_at(k) + LINE
}

/// Returns the word of a row that has the bits of its scale.
fn scale_at(k: usize) -> usize {
    Format::Int8.words(k).next_multiple_of(LINE)
}

/// Returns the scale of a row of k integers: the value of the integer 1.
pub(super) fn scale(row: &[u32], k: usize) -> f32 {
    f32::from_bits(row[scale_at(k)])
}

/// Encodes a row of floats; `out` has the words of a row.
pub(super) fn encode(row: &[f32], out: &mut [u32]) {
    let (words, rest) = out.split_at_mut(Format::Int8.words(row.len()));
    rest.fill(0);
    let scale = encode_row(Format::Int8, Values::F32(row), words, &mut Vec::new());
    out[scale_at(row.len())] = scale.to_bits();
}

/// Encodes rows of k floats, which follow one another.
pub(super) fn encode_all(rows: &[f32], k: usize) -> Vec<u32> {
    let stride = stride(k);
    let mut words = unfilled(rows.len() / k.max(1) * stride);
    words
        .par_chunks_mut(stride * ROWS)
        .zip(rows.par_chunks((k * ROWS).max(1)))
        .for_each(|(words, rows)| {
            let words = words.chunks_exact_mut(stride);
            words
                .zip(rows.chunks_exact(k))
                .for_each(|(words, row)| encode(row, words));
        });
    words
}

/// Returns rows of floats `[…, k]` as rows of integers with their scales, `[…, stride]`.
pub(super) fn of(x: &Tensor) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let Some(k) = shape.last_mut().filter(|k| **k > 0) else {
        candle_core::bail!("no rows of integers in {:?}", x.shape());
    };
    let words = read(x, |x| encode_all(x, *k))?;
    *k = stride(*k);
    Tensor::from_vec(words, shape, &Device::Cpu)
}

/// Left operand of a product.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operand<'a> {
    /// Numbers, which the product encodes unless it reads them in place.
    Numbers(Values<'a>),
    /// Rows of 8-bit integers with their scales, which products with integers read in place.
    Integers(&'a [u32]),
}

impl<'a> From<Values<'a>> for Operand<'a> {
    fn from(values: Values<'a>) -> Self {
        Self::Numbers(values)
    }
}

impl<'a> Operand<'a> {
    /// Returns a contiguous CPU operand.
    pub(super) fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let CpuStorage::U32(words) = storage else {
            return Values::new(storage, layout).map(Self::Numbers);
        };
        match layout.contiguous_offsets() {
            Some((begin, end)) => Ok(Self::Integers(&words[begin..end])),
            None => candle_core::bail!("expected a contiguous tensor, got {layout:?}"),
        }
    }

    /// Calls `f` with a contiguous CPU tensor.
    pub(super) fn with<R>(tensor: &Tensor, f: impl FnOnce(Operand<'_>) -> Result<R>) -> Result<R> {
        let (storage, layout) = tensor.storage_and_layout();
        match &*storage {
            Storage::Cpu(cpu) => f(Operand::new(cpu, layout)?),
            Storage::Cuda(_) | Storage::Metal(_) => candle_core::bail!("expected a CPU tensor"),
        }
    }

    /// Returns the number of values, or of words of integers.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Numbers(values) => values.len(),
            Self::Integers(words) => words.len(),
        }
    }

    /// Returns the values, or words, of a row of k numbers.
    pub(super) fn row(&self, k: usize) -> usize {
        match self {
            Self::Numbers(_) => k,
            Self::Integers(_) => stride(k),
        }
    }

    /// Returns whether a product with weights in this format can read the operand.
    pub(super) fn is_read_by(&self, weights: Format) -> bool {
        match self {
            Self::Numbers(_) => true,
            Self::Integers(_) => weights == Format::Int8,
        }
    }
}
