//! Sums over rows in a fixed order: blocks in parallel, then the blocks one after another.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::buffers::{output, slice};
use super::linear::{Grid, Rows};
use super::simd::wide;

/// Rows of a block; fixed, so that the number of threads changes no sum.
const BLOCK: usize = 256;

/// Column sums over some rows of x `[…, n]`: `[n]`.
pub(in crate::model) fn columns(x: &Tensor, rows: Rows) -> Result<Tensor> {
    x.apply_op1_no_bwd(&Columns(rows))
}

/// Adds up `width` sums over `rows` rows; `add` adds the rows of a block to zeros.
pub(super) fn add_blocks(
    rows: usize,
    width: usize,
    add: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    add_blocks_of(BLOCK, rows, width, add)
}

/// The same with blocks of `block` rows, which must not depend on the number of threads.
pub(super) fn add_blocks_of(
    block: usize,
    rows: usize,
    width: usize,
    add: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let blocks = rows.div_ceil(block).max(1);
    let mut partial = vec![0.0; blocks * width];
    partial
        .par_chunks_mut(width.max(1))
        .enumerate()
        .for_each(|(i, sums)| add(i * block..rows.min((i + 1) * block), sums));
    let mut sums = partial[..width].to_vec();
    for block in partial.chunks_exact(width.max(1)).skip(1) {
        add_to(&mut sums, block);
    }
    sums
}

wide! {
    fn add_to(sums: &mut [f32], values: &[f32]) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
    }
}

struct Columns(Rows);

impl CustomOp1 for Columns {
    fn name(&self) -> &'static str {
        "column-sums"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let n = layout.dims().last().copied().unwrap_or(0);
        if n == 0 {
            candle_core::bail!("column sums of an empty row");
        }
        let grid = Grid::new(layout.shape(), self.0)?;
        let sums = add_blocks(grid.count(), n, |rows, sums| {
            for row in rows {
                add_to(sums, &x[grid.nth(row)..][..n]);
            }
        });
        Ok(output(sums, n))
    }
}

/// The sum of squares, in double precision.
pub(in crate::model) fn squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0; 8];
    for chunk in values.chunks(8) {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value) * f64::from(value);
        }
    }
    lanes.iter().sum()
}
