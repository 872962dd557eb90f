//! Where queries, keys, values and results lie, and how a head's rows become the kernel's panels.

use candle_core::{Result, Shape};

use crate::model::ops::kernel::{self, Left, NR};

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
        Matrix {
            values: &values[place.offset + frame * place.frame + head * self.width..],
            row: place.row,
        }
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

impl Matrix<'_> {
    pub(super) fn left(&self) -> Left {
        Left::floats(self.values.as_ptr(), self.row, 1)
    }

    /// The right operand of x · M: panels of M's columns, each `[rows][16]`.
    pub(super) fn pack(&self, rows: usize, columns: usize, panels: &mut Vec<f32>) {
        panels.resize(columns.next_multiple_of(NR) * rows, 0.0);
        for (j, panel) in panels.chunks_exact_mut((rows * NR).max(1)).enumerate() {
            let width = NR.min(columns - j * NR);
            for (row, out) in panel.as_chunks_mut::<NR>().0.iter_mut().enumerate() {
                kernel::copy(out, &self.values[row * self.row + j * NR..], width);
                out[width..].fill(0.0);
            }
        }
    }

    /// The right operand of x · Mᵀ: panels of M's rows, each `[columns][16]`.
    pub(super) fn pack_transposed(&self, rows: usize, columns: usize, panels: &mut Vec<f32>) {
        panels.resize(rows.next_multiple_of(NR) * columns, 0.0);
        for (j, panel) in panels.chunks_exact_mut((columns * NR).max(1)).enumerate() {
            let width = NR.min(rows - j * NR);
            if width < NR {
                panel.fill(0.0);
            }
            for i in 0..width {
                let row = &self.values[(j * NR + i) * self.row..][..columns];
                for (p, &value) in row.iter().enumerate() {
                    panel[p * NR + i] = value;
                }
            }
        }
    }
}
