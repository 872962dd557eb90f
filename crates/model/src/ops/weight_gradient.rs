//! Gradient of a linear layer's weight: dW = dyᵀ · x, over all tokens or some.
//!
//! Invariant: rows are added in their order, in blocks of a fixed depth, none of which contains rows of two clips.
#![allow(unsafe_code)]

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::buffers::{Out, each_unit, output, slice, unfilled};
use super::kernel::{self, Format, Kernel, Left, MR, NR, Tile};
use super::linear::{Grid, Rows};
use super::sum::{Onto, runs};

/// Number of rows that are added up in registers before the sums are added to memory.
pub(crate) const DEPTH: usize = 512;

/// Number of tiles of rows of dW that stay in the cache with one panel of x.
const TILES: usize = 8;

/// Computes the gradient `[n, k]` from some rows of x and as many rows of dy, added to that of earlier clips.
pub(crate) fn of(x: (&Tensor, Rows), dy: (&Tensor, Rows), onto: Onto<'_>) -> Result<Tensor> {
    onto.read(|earlier| {
        let gradient = WeightGradient {
            x: x.1,
            dy: dy.1,
            clip: onto.clip,
            earlier,
        };
        x.0.apply_op2_no_bwd(dy.0, &gradient)
    })
}

struct WeightGradient<'a> {
    x: Rows,
    dy: Rows,
    /// Number of rows of a clip.
    clip: usize,
    earlier: Option<&'a [f32]>,
}

impl CustomOp2 for WeightGradient<'_> {
    fn name(&self) -> &'static str {
        "weight-gradient"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, dy) = (slice(s1, l1)?, slice(s2, l2)?);
        let (of_x, of_dy) = (
            Grid::new(l1.shape(), self.x)?,
            Grid::new(l2.shape(), self.dy)?,
        );
        let (Some(&k), Some(&n)) = (l1.dims().last(), l2.dims().last()) else {
            candle_core::bail!("weight gradient of a scalar");
        };
        if of_x.count() != of_dy.count() {
            candle_core::bail!(
                "weight gradient of {:?} of {:?} and {:?} of {:?}",
                self.x,
                l1.shape(),
                self.dy,
                l2.shape()
            );
        }
        let kernel = Kernel::best(Format::F32);
        let mut sums = Sums {
            kernel,
            of_x,
            of_dy,
            n,
            k,
            left: vec![0.0; n.next_multiple_of(kernel.rows()) * DEPTH],
            right: unfilled(k.next_multiple_of(NR) * DEPTH),
        };
        let mut dw = match self.earlier {
            Some(earlier) if earlier.len() == n * k => earlier.to_vec(),
            Some(earlier) => candle_core::bail!("{} earlier sums for {n} × {k}", earlier.len()),
            None => vec![0.0; n * k],
        };
        let mut rest = runs(of_x.count(), self.clip, DEPTH).into_iter().peekable();
        while let Some(run) = rest.next() {
            let first = run.start;
            // Runs of short clips are packed together.
            let mut packed = Vec::new();
            packed.push(0..run.len());
            while let Some(next) = rest.next_if(|next| next.end - first <= DEPTH) {
                packed.push(next.start - first..next.end - first);
            }
            let depth = packed.last().map_or(0, |last| last.end);
            sums.pack(x, dy, first, depth);
            sums.add(&packed, &mut dw);
        }
        Ok(output(dw, (n, k)))
    }
}

struct Sums {
    kernel: Kernel,
    of_x: Grid,
    of_dy: Grid,
    n: usize,
    k: usize,
    /// Tiles of dyᵀ, `[depth][rows of a tile]`.
    left: Vec<f32>,
    /// Panels of x, `[depth][16]`.
    right: Vec<f32>,
}

impl Sums {
    fn pack(&mut self, x: &[f32], dy: &[f32], first: usize, depth: usize) {
        let (of_x, of_dy, n, k) = (self.of_x, self.of_dy, self.n, self.k);
        let rows = self.kernel.rows();
        self.right
            .par_chunks_mut(DEPTH * NR)
            .enumerate()
            .for_each(|(j, panel)| {
                let width = NR.min(k - j * NR);
                for (p, out) in panel
                    .as_chunks_mut::<NR>()
                    .0
                    .iter_mut()
                    .take(depth)
                    .enumerate()
                {
                    let at = of_x.nth(first + p) + j * NR;
                    kernel::copy(out, &x[at..], width);
                    out[width..].fill(0.0);
                }
            });
        self.left
            .par_chunks_mut(DEPTH * rows)
            .enumerate()
            .for_each(|(t, tile)| {
                let width = rows.min(n - t * rows);
                for (p, out) in tile.chunks_exact_mut(rows).take(depth).enumerate() {
                    let dy = &dy[of_dy.nth(first + p) + t * rows..][..width];
                    match width {
                        6 => copy_chunk::<6>(out, dy),
                        12 => copy_chunk::<12>(out, dy),
                        _ => out[..width].copy_from_slice(dy),
                    }
                }
            });
    }

    /// Adds the runs of packed rows to dW, one after the other.
    fn add(&self, runs: &[Range<usize>], dw: &mut [f32]) {
        let (panels, tiles) = (self.k.div_ceil(NR), self.n.div_ceil(self.kernel.rows()));
        let units = tiles.div_ceil(TILES);
        let parts = (4 * rayon::current_num_threads())
            .div_ceil(units)
            .clamp(1, panels);
        let per_part = panels.div_ceil(parts);
        let out = Out::new(dw);
        each_unit(units * parts, |unit| {
            let (part, unit) = (unit % parts, unit / parts);
            for j in part * per_part..panels.min((part + 1) * per_part) {
                for t in unit * TILES..tiles.min((unit + 1) * TILES) {
                    for run in runs {
                        self.add_tile(t, j, run, out);
                    }
                }
            }
        });
    }

    fn add_tile(&self, t: usize, j: usize, run: &Range<usize>, out: Out<f32>) {
        let mut tile: Tile = [[0.0; NR]; MR];
        let rows = self.kernel.rows();
        let left = &self.left[t * DEPTH * rows + run.start * rows..][..run.len() * rows];
        let left = Left::floats(left.as_ptr(), 1, rows);
        let panel = &self.right[j * DEPTH * NR + run.start * NR..][..run.len() * NR];
        // SAFETY: a packed tile has as many elements per row as the run has rows, from the run's start on; the panel has 16 times as many.
        unsafe {
            self.kernel
                .tile(rows, run.len(), left, panel.as_ptr(), &mut tile)
        };
        let width = NR.min(self.k - j * NR);
        for (i, sums) in tile.iter().enumerate().take(rows.min(self.n - t * rows)) {
            // SAFETY: the row is below n and the columns below k; no other unit has this tile.
            let dw = unsafe { out.slice((t * rows + i) * self.k + j * NR, width) };
            match dw.first_chunk_mut::<NR>() {
                Some(dw) if width == NR => kernel::add(dw, sums, NR),
                _ => dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += sum),
            }
        }
    }
}

/// Copies a constant number of values, without a call of a library function.
fn copy_chunk<const N: usize>(to: &mut [f32], from: &[f32]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
        *to = *from;
    }
}
