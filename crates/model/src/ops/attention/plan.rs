//! Layout of queries, keys, values and results, and the packing of a head's rows into the kernel's panels.

use std::ops::Range;

use candle_core::{Result, Shape};
use half::bf16;

use super::kernel::Operands;
use crate::ops::activations::{Sink, Values, widen};
use crate::ops::buffers::floats_mut;
use crate::ops::kernel::unit::{Back, Head, Source};
use crate::ops::kernel::{self, Format, Kernel, Left, NR};
use crate::ops::packed::{encode_row, join, pair};
use crate::ops::simd::wide;

/// Position of an operand's rows: offset of frame 0, distance between frames, distance between rows, all in values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) offset: usize,
    pub(super) frame: usize,
    pub(super) row: usize,
}

/// Sizes and positions of an attention, the same for forward and backward.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) frames: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) heads: usize,
    /// Width of a head.
    pub(super) width: usize,
    pub(super) q: Place,
    pub(super) k: Place,
    pub(super) v: Place,
    /// Position of the result.
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

    /// Returns one head's rows of an operand.
    pub(super) fn head<'a>(
        &self,
        values: Values<'a>,
        place: Place,
        frame: usize,
        head: usize,
    ) -> Matrix<'a> {
        let first = place.offset + frame * place.frame + head * self.width;
        Matrix::new(values.skip(first), place.row)
    }

    /// Returns one head as a kernel computes it by itself.
    pub(super) fn whole(
        &self,
        (q, kv): (Values<'_>, Values<'_>),
        (frame, head): (usize, usize),
        out: Sink,
    ) -> Head {
        let matrix = |values: Values<'_>, place: Place| {
            let (at, row) = match values.skip(self.at(place, frame, head)) {
                Values::F32(values) => (values.as_ptr().cast(), place.row),
                // Rows of whole strips have even lengths.
                Values::Bf16(values) => (values.as_ptr().cast(), place.row / 2),
            };
            kernel::unit::Matrix { at, row }
        };
        Head {
            queries: self.queries,
            keys: self.keys,
            width: self.width,
            scale: self.scale(),
            q: matrix(q, self.q),
            k: matrix(kv, self.k),
            v: matrix(kv, self.v),
            y: out.target(self.at(self.y, frame, head)),
            stride: self.y.row,
        }
    }

    /// Returns the backward pass of one head as a kernel computes it by itself; the gradients are laid out like the operands.
    pub(super) fn back(
        &self,
        operands: Operands<'_>,
        (frame, head): (usize, usize),
        (dq, dkv): (Sink, Sink),
    ) -> Back {
        let at = |place| self.at(place, frame, head);
        let whole = self.whole((operands.q, operands.kv), (frame, head), dq);
        Back {
            head: Head {
                y: dq.target(at(self.q)),
                stride: self.q.row,
                ..whole
            },
            dy: match operands.dy.skip(at(self.y)) {
                Values::F32(dy) => Source::F32(dy.as_ptr()),
                Values::Bf16(dy) => Source::Bf16(dy.as_ptr().cast()),
            },
            dy_row: self.y.row,
            dk: dkv.target(at(self.k)),
            dv: dkv.target(at(self.v)),
            stride: self.k.row,
        }
    }

    pub(super) fn at(&self, place: Place, frame: usize, head: usize) -> usize {
        place.offset + frame * place.frame + head * self.width
    }

    /// Returns the length of a row of scores, padded to whole panels.
    pub(super) fn padded(&self) -> usize {
        self.keys.next_multiple_of(NR)
    }

    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

/// Matrix of evenly spaced rows in memory.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: Values<'a>,
    row: usize,
}

impl<'a> Matrix<'a> {
    /// Creates a matrix whose rows are `row` values apart.
    pub(super) fn new(values: Values<'a>, row: usize) -> Self {
        Self { values, row }
    }

    /// Returns the rows from `first` on.
    pub(super) fn rows_from(&self, first: usize) -> Self {
        Self::new(self.values.skip(first * self.row), self.row)
    }

    /// Prefetches `rows` rows of `columns` values, because they are read soon and lie pages apart.
    pub(super) fn expect(&self, (rows, columns): (usize, usize)) {
        for i in 0..rows {
            self.line(i, columns).expect();
        }
    }

    /// Returns the first `columns` values of a row.
    fn line(&self, row: usize, columns: usize) -> Values<'a> {
        self.values.skip(row * self.row).take(columns)
    }

    /// Encodes `rows` rows of `columns` values in the kernel's format; rows that cannot be read in place are written to `words`.
    pub(super) fn encode(
        &self,
        kernel: Kernel,
        (rows, columns): (usize, usize),
        words: &mut Vec<u32>,
        own: &mut Vec<f32>,
    ) -> Left {
        if let (Format::F32, Values::F32(values)) = (kernel.format(), self.values) {
            return Left::floats(values.as_ptr(), self.row, 1);
        }
        let length = kernel.padded_words(columns);
        words.clear();
        words.resize(rows * length, 0);
        for (i, line) in words.chunks_exact_mut(length.max(1)).enumerate() {
            encode_row(kernel.format(), self.line(i, columns), line, own);
        }
        Left {
            at: words.as_ptr(),
            row_stride: length,
            step: 1,
        }
    }

    /// Packs M as the right operand of x · M: panels of M's columns, each `[words of rows][16]`.
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
            match (kernel.format(), self.values) {
                (Format::F32, values) => pack_floats(values, self.row, columns, panel),
                (Format::Bf16 | Format::Int8, Values::F32(values)) => {
                    pack_pairs(values, (self.row, rows), columns, panel);
                }
                (Format::Bf16 | Format::Int8, Values::Bf16(values)) => {
                    pack_narrow(values, (self.row, rows), columns, panel);
                }
            }
        }
    }

    /// Packs M as the right operand of x · Mᵀ: panels of M's rows, each `[words of columns][16]`.
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
                let row = self.line(j * NR + i, columns);
                let panel = panel.as_chunks_mut::<NR>().0.iter_mut();
                match (kernel.format(), row) {
                    (Format::F32, Values::F32(row)) => {
                        for (out, value) in panel.zip(row) {
                            out[i] = value.to_bits();
                        }
                    }
                    (Format::F32, Values::Bf16(row)) => {
                        for (out, value) in panel.zip(row) {
                            out[i] = u32::from(value.to_bits()) << 16;
                        }
                    }
                    (Format::Bf16 | Format::Int8, Values::F32(row)) => {
                        for (out, values) in panel.zip(row.chunks(2)) {
                            out[i] = pair(values[0], values.get(1).copied().unwrap_or(0.0));
                        }
                    }
                    (Format::Bf16 | Format::Int8, Values::Bf16(row)) => {
                        for (out, values) in panel.zip(row.chunks(2)) {
                            out[i] = join(values[0], values.get(1).copied().unwrap_or(bf16::ZERO));
                        }
                    }
                }
            }
        }
    }
}

/// Packs some columns of rows that are `stride` apart; lanes beyond these columns become 0.
fn pack_floats(values: Values<'_>, stride: usize, columns: Range<usize>, panel: &mut [[u32; NR]]) {
    for (row, out) in panel.iter_mut().enumerate() {
        let first = row * stride + columns.start;
        let out = floats_mut(out);
        match values {
            Values::F32(values) => kernel::copy(out, &values[first..], columns.len()),
            Values::Bf16(values) => widen(&values[first..][..columns.len()], out),
        }
        out[columns.len()..].fill(0.0);
    }
}

/// Packs columns of pairs of rows, joined to words; a missing row counts as zeros.
#[inline(always)]
fn pack_joined<T: Copy + Default>(
    values: &[T],
    (stride, rows): (usize, usize),
    columns: Range<usize>,
    panel: &mut [[u32; NR]],
    join: impl Fn(T, T) -> u32,
) {
    let mut pairs = [[T::default(); NR]; 2];
    for (word, out) in panel.iter_mut().enumerate() {
        for (half, own) in pairs.iter_mut().enumerate() {
            let row = 2 * word + half;
            if row < rows {
                kernel::copy(own, &values[row * stride + columns.start..], columns.len());
            } else {
                own.fill(T::default());
            }
        }
        for ((out, low), high) in out.iter_mut().zip(pairs[0]).zip(pairs[1]) {
            *out = join(low, high);
        }
    }
}

wide! {
    fn pack_pairs(values: &[f32], place: (usize, usize), columns: Range<usize>, panel: &mut [[u32; NR]]) {
        pack_joined(values, place, columns, panel, pair);
    }

    fn pack_narrow(values: &[bf16], place: (usize, usize), columns: Range<usize>, panel: &mut [[u32; NR]]) {
        pack_joined(values, place, columns, panel, join);
    }
}
