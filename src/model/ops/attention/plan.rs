//! Where queries, keys, values and results lie, and how a head's rows become the kernel's panels.

use std::ops::Range;

use candle_core::{Result, Shape};

use crate::model::ops::kernel::{self, Format, Kernel, Left, NR};
use crate::model::ops::packed::{encode_row, pair};
use crate::model::ops::share::floats_mut;
use crate::model::ops::simd::wide;

/// Rows of one operand: where frame 0 begins, between frames, between rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) offset: usize,
    pub(super) frame: usize,
    pub(super) row: usize,
}

/// Sizes and places, the same for forward and backward.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) frames: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) heads: usize,
    /// Of a head.
    pub(super) width: usize,
    pub(super) q: Place,
    pub(super) k: Place,
    pub(super) v: Place,
    /// The result.
    pub(super) y: Place,
}

impl Plan {
    pub(super) fn packed(shape: &Shape, heads: usize) -> Result<Self> {
        let (n, l, c3) = shape.dims3()?;
        let c = c3 / 3;
        if c == 0 || heads == 0 || c3 % 3 != 0 || c % heads != 0 {
            candle_core::bail!("{heads} heads do not divide {shape:?}");
        }
        let at = |offset| Place {
            offset,
            frame: l * c3,
            row: c3,
        };
        Ok(Self {
            frames: n,
            queries: l,
            keys: l,
            heads,
            width: c / heads,
            q: at(0),
            k: at(c),
            v: at(2 * c),
            y: Place {
                offset: 0,
                frame: l * c,
                row: c,
            },
        })
    }

    pub(super) fn class(q: &Shape, kv: &Shape, heads: usize) -> Result<Self> {
        let (n, c) = q.dims2()?;
        let (frames, l, c2) = kv.dims3()?;
        if c == 0 || heads == 0 || frames != n || c2 != 2 * c || c % heads != 0 {
            candle_core::bail!("{heads} heads, queries {q:?}, keys and values {kv:?}");
        }
        let at = |offset| Place {
            offset,
            frame: l * c2,
            row: c2,
        };
        let one = Place {
            offset: 0,
            frame: c,
            row: c,
        };
        Ok(Self {
            frames: n,
            queries: 1,
            keys: l,
            heads,
            width: c / heads,
            q: one,
            k: at(0),
            v: at(c),
            y: one,
        })
    }

    /// One head's rows of an operand.
    pub(super) fn head<'a>(
        &self,
        values: &'a [f32],
        place: Place,
        frame: usize,
        head: usize,
    ) -> Matrix<'a> {
        let first = place.offset + frame * place.frame + head * self.width;
        Matrix::new(&values[first..], place.row)
    }

    pub(super) fn at(&self, place: Place, frame: usize, head: usize) -> usize {
        place.offset + frame * place.frame + head * self.width
    }

    /// Length of a row of scores.
    pub(super) fn padded(&self) -> usize {
        self.keys.next_multiple_of(NR)
    }

    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

/// Rows in memory.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    row: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `row` values.
    pub(super) fn new(values: &'a [f32], row: usize) -> Self {
        Self { values, row }
    }

    /// The rows from `first` on.
    pub(super) fn rows_from(&self, first: usize) -> Self {
        Self::new(&self.values[first * self.row..], self.row)
    }

    /// Asks for `rows` rows of `columns` values, which are read soon: they lie pages apart.
    pub(super) fn expect(&self, (rows, columns): (usize, usize)) {
        for i in 0..rows {
            kernel::will_read(&self.values[i * self.row..][..columns]);
        }
    }

    /// The rows as they lie, the left operand of products of floats.
    pub(super) fn left(&self) -> Left {
        Left::floats(self.values.as_ptr(), self.row, 1)
    }

    /// `rows` rows of `columns` values as the kernel reads them; what has to be written goes to `words`.
    pub(super) fn encode(
        &self,
        kernel: Kernel,
        (rows, columns): (usize, usize),
        words: &mut Vec<u32>,
    ) -> Left {
        if kernel.format() == Format::F32 {
            return self.left();
        }
        let length = kernel.padded_words(columns);
        words.clear();
        words.resize(rows * length, 0);
        for (i, line) in words.chunks_exact_mut(length.max(1)).enumerate() {
            encode_row(
                kernel.format(),
                &self.values[i * self.row..][..columns],
                line,
            );
        }
        Left {
            at: words.as_ptr(),
            row_stride: length,
            step: 1,
        }
    }

    /// The right operand of x · M: panels of M's columns, each `[words of rows][16]`.
    pub(super) fn pack(
        &self,
        kernel: Kernel,
        (rows, columns): (usize, usize),
        panels: &mut Vec<u32>,
    ) {
        let words = kernel.padded_words(rows);
        panels.resize(columns.next_multiple_of(NR) * words, 0);
        for (j, panel) in panels.chunks_exact_mut((words * NR).max(1)).enumerate() {
            let columns = j * NR..columns.min((j + 1) * NR);
            let panel = panel.as_chunks_mut::<NR>().0;
            match kernel.format() {
                Format::F32 => pack_floats(self.values, self.row, columns, panel),
                Format::Bf16 | Format::Int8 => {
                    pack_pairs(self.values, (self.row, rows), columns, panel);
                }
            }
        }
    }

    /// The right operand of x · Mᵀ: panels of M's rows, each `[words of columns][16]`.
    pub(super) fn pack_transposed(
        &self,
        kernel: Kernel,
        (rows, columns): (usize, usize),
        panels: &mut Vec<u32>,
    ) {
        let words = kernel.padded_words(columns);
        let is_full = words == kernel.format().words(columns);
        panels.resize(rows.next_multiple_of(NR) * words, 0);
        for (j, panel) in panels.chunks_exact_mut((words * NR).max(1)).enumerate() {
            let width = NR.min(rows - j * NR);
            if width < NR || !is_full {
                panel.fill(0);
            }
            for i in 0..width {
                let row = &self.values[(j * NR + i) * self.row..][..columns];
                let panel = panel.as_chunks_mut::<NR>().0.iter_mut();
                match kernel.format() {
                    Format::F32 => {
                        for (out, value) in panel.zip(row) {
                            out[i] = value.to_bits();
                        }
                    }
                    Format::Bf16 | Format::Int8 => {
                        for (out, values) in panel.zip(row.chunks(2)) {
                            out[i] = pair(values[0], values.get(1).copied().unwrap_or(0.0));
                        }
                    }
                }
            }
        }
    }
}

/// Some columns of rows that lie `stride` apart; lanes beyond them become 0.
fn pack_floats(values: &[f32], stride: usize, columns: Range<usize>, panel: &mut [[u32; NR]]) {
    for (row, out) in panel.iter_mut().enumerate() {
        let values = &values[row * stride + columns.start..];
        let out = floats_mut(out);
        kernel::copy(out, values, columns.len());
        out[columns.len()..].fill(0.0);
    }
}

wide! {
    /// The same of pairs of rows; a row that is not there is one of zeros.
    fn pack_pairs(values: &[f32], place: (usize, usize), columns: Range<usize>, panel: &mut [[u32; NR]]) {
        let (stride, rows) = place;
        let mut pairs = [[0.0; NR]; 2];
        for (word, out) in panel.iter_mut().enumerate() {
            for (half, own) in pairs.iter_mut().enumerate() {
                let row = 2 * word + half;
                if row < rows {
                    kernel::copy(own, &values[row * stride + columns.start..], columns.len());
                } else {
                    own.fill(0.0);
                }
            }
            for ((out, low), high) in out.iter_mut().zip(pairs[0]).zip(pairs[1]) {
                *out = pair(low, high);
            }
        }
    }
}
