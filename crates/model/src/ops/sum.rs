//! Sums over rows in a fixed order: blocks in parallel, then the blocks one after another.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::buffers::{output, read, slice};
use super::linear::{Grid, Rows};
use super::simd::wide;

/// Number of rows of a block; fixed, so that the number of threads changes no sum.
const BLOCK: usize = 256;

/// Most bytes of partial sums that are in memory at a time.
const PARTIAL: usize = 16 << 20;

/// Starting point of a sum over rows. Rows of two clips are never added up in one block, so that a sum over some clips that is continued with others
/// has the same bits as one sum over all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Onto<'a> {
    /// Number of rows of a clip.
    pub(crate) clip: usize,
    /// Sum over the earlier clips; zeros when `None`.
    pub(crate) earlier: Option<&'a Tensor>,
}

impl Onto<'_> {
    /// Starting point without earlier clips, with all rows as one clip.
    #[cfg(test)]
    pub(crate) const NOTHING: Self = Self {
        clip: usize::MAX,
        earlier: None,
    };

    /// Calls `with` with the values of the earlier sum.
    pub(super) fn read<T>(&self, with: impl FnOnce(Option<&[f32]>) -> Result<T>) -> Result<T> {
        match self.earlier {
            Some(earlier) => read(earlier, |values| with(Some(values)))?,
            None => with(None),
        }
    }
}

/// Divides rows into runs that are added up together: at most `most` rows, all of one clip.
pub(super) fn runs(rows: usize, clip: usize, most: usize) -> Vec<Range<usize>> {
    let clips = (0..rows).step_by(clip.max(1));
    let runs = clips.flat_map(|begin| {
        let end = begin.saturating_add(clip).min(rows);
        let run = move |first: usize| first..end.min(first + most);
        (begin..end).step_by(most).map(run)
    });
    runs.collect()
}

/// Returns the column sums `[n]` over some rows of x `[…, n]`.
pub(crate) fn columns(x: &Tensor, rows: Rows, onto: Onto<'_>) -> Result<Tensor> {
    onto.read(|earlier| {
        x.apply_op1_no_bwd(&Columns {
            rows,
            clip: onto.clip,
            earlier,
        })
    })
}

/// Computes `width` sums over `rows` rows; `add` adds the rows of a block to zeros.
pub(super) fn add_blocks(
    rows: usize,
    width: usize,
    add: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    add_runs(&runs(rows, usize::MAX, BLOCK), width, None, add)
}

/// Computes `width` sums over runs of rows, which must not depend on the number of threads, added to earlier sums.
pub(super) fn add_runs(
    runs: &[Range<usize>],
    width: usize,
    earlier: Option<&[f32]>,
    add: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let mut sums = earlier.map_or_else(|| vec![0.0; width], <[f32]>::to_vec);
    let at_once = (PARTIAL / size_of::<f32>() / width.max(1)).max(1);
    let mut is_first = earlier.is_none();
    for runs in runs.chunks(at_once) {
        let mut partial = vec![0.0; runs.len() * width];
        partial
            .par_chunks_mut(width.max(1))
            .zip(runs)
            .for_each(|(sums, run)| add(run.clone(), sums));
        for block in partial.chunks_exact(width.max(1)) {
            if std::mem::take(&mut is_first) {
                sums.copy_from_slice(block);
            } else {
                add_to(&mut sums, block);
            }
        }
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

struct Columns<'a> {
    rows: Rows,
    clip: usize,
    earlier: Option<&'a [f32]>,
}

impl CustomOp1 for Columns<'_> {
    fn name(&self) -> &'static str {
        "column-sums"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let n = layout.dims().last().copied().unwrap_or(0);
        if n == 0 {
            candle_core::bail!("column sums of an empty row");
        }
        let grid = Grid::new(layout.shape(), self.rows)?;
        let runs = runs(grid.count(), self.clip, BLOCK);
        let sums = add_runs(&runs, n, self.earlier, |rows, sums| {
            for row in rows {
                add_to(sums, &x[grid.nth(row)..][..n]);
            }
        });
        Ok(output(sums, n))
    }
}

/// Returns the sum of squares, in double precision.
pub(crate) fn squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0; 8];
    for chunk in values.chunks(8) {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value) * f64::from(value);
        }
    }
    lanes.iter().sum()
}
