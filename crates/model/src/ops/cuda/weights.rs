//! Weights of linear layers on the device.
//!
//! Invariant: a weight lies as it was given, row by row; forward and backward are two ways to read it. It is rounded on the host as a product would round it.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Result;
use half::bf16;

use super::gpu::Gpu;
use super::tensor::Tensor;
use crate::ops::{Format, Numbers};

/// Weight `[n, k]` of a product; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    /// Rows as they lie in memory: `[n, k]`, or `[k, n]` of a transposed view.
    values: Tensor,
    is_transposed: bool,
    /// Equal parts of n that can be used separately.
    sections: usize,
}

impl Matrix {
    /// Uploads W `[n, k]`; `sections` divides n.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        format: Format,
        weight: &[f32],
        k: usize,
        sections: usize,
    ) -> Result<Self> {
        let n = weight.len().checked_div(k).unwrap_or_default();
        let (buffer, numbers) = match format {
            Format::F32 => (gpu.upload(weight)?, Numbers::F32),
            Format::Bf16 => (gpu.upload(&rounded(weight))?, Numbers::Bf16),
            Format::Int8 => candle_core::bail!("a GPU computes no 8-bit integers"),
        };
        Self::of(Tensor::around(buffer, &[n, k], numbers)?, k, sections)
    }

    /// Returns a view of a tensor of n · k numbers.
    pub(crate) fn of(values: Tensor, k: usize, sections: usize) -> Result<Self> {
        let count = values.elem_count();
        let n = count.checked_div(k).unwrap_or_default();
        if n * k != count || sections == 0 || !n.is_multiple_of(sections) {
            candle_core::bail!("{count} weights are not {sections} sections of rows of {k}");
        }
        Ok(Self {
            values: values.reshape(&[n, k])?,
            is_transposed: false,
            sections,
        })
    }

    /// Returns a view of Wᵀ `[k, n']`, where n' are the rows of W of some sections, as far as it has them.
    pub(crate) fn transposed(&self, sections: Range<usize>) -> Self {
        let section = self.section();
        let rows = sections.start * section..sections.end * section;
        Self {
            values: self.values.part(rows),
            is_transposed: !self.is_transposed,
            sections: 1,
        }
    }

    /// Returns the columns of the product, and rows of W, of some sections.
    pub(super) fn rows(&self, sections: &Range<usize>) -> Result<Range<usize>> {
        if sections.start > sections.end || sections.end > self.sections {
            candle_core::bail!("sections {sections:?} of {}", self.sections);
        }
        if self.is_transposed && *sections != (0..1) {
            candle_core::bail!("sections {sections:?} of a transposed weight");
        }
        let section = self.section();
        Ok(sections.start * section..sections.end * section)
    }

    /// Returns n, the number of columns of the product.
    pub(crate) fn n(&self) -> usize {
        self.values.dims()[usize::from(self.is_transposed)]
    }

    /// Returns k, the number of columns of the product's input.
    pub(crate) fn k(&self) -> usize {
        self.values.dims()[usize::from(!self.is_transposed)]
    }

    /// Returns the number of sections.
    pub(crate) fn sections(&self) -> usize {
        self.sections
    }

    /// Returns the number of columns of a section.
    pub(crate) fn section(&self) -> usize {
        self.n() / self.sections
    }

    /// Returns whether this is a view of Wᵀ.
    pub(crate) fn is_transposed(&self) -> bool {
        self.is_transposed
    }

    /// Returns the number format.
    pub(crate) fn numbers(&self) -> Numbers {
        self.values.numbers()
    }

    /// Returns the number format, as weights name it.
    pub(crate) fn format(&self) -> Format {
        match self.values.numbers() {
            Numbers::F32 => Format::F32,
            Numbers::Bf16 => Format::Bf16,
        }
    }

    /// Returns the size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.values.bytes() as u64
    }

    /// Returns the address of the first number.
    pub(crate) fn pointer(&self) -> u64 {
        self.values.pointer()
    }

    /// Returns the numbers as they lie in memory.
    pub(crate) fn values(&self) -> &Tensor {
        &self.values
    }

    /// Returns W `[n, k]`, row by row, as floats.
    pub(crate) fn unpacked(&self) -> Result<Vec<f32>> {
        let host = self.values.host()?.to_dtype(candle_core::DType::F32)?;
        let host = match self.is_transposed {
            true => host.t()?,
            false => host,
        };
        host.flatten_all()?.to_vec1()
    }
}

/// Rounds floats to bfloat16, to nearest with ties to even.
fn rounded(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}
