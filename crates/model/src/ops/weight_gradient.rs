//! Gradient of a linear layer's weight: dW = dyᵀ · x, over all tokens or some, from floats, or from bfloat16 for weights in another format where the CPU
//! multiplies that faster.
//!
//! Invariant: rows are added in their order, in blocks of a fixed depth, none of which contains rows of two clips.
#![allow(unsafe_code)]

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::buffers::{Out, each_unit, floats_mut, output, slice, unfilled, zeroed};
use super::kernel::{self, Format, Kernel, Left, MR, NR, Tile};
use super::linear::{Grid, Rows};
use super::packed::pair;
use super::simd::wide;
use super::sum::{Onto, runs};

/// Number of rows that are added up in registers before the sums are added to memory.
pub(crate) const DEPTH: usize = 512;

/// Number of tiles of rows of dW that stay in the cache with one panel of x.
const TILES: usize = 8;

/// Most panels that a kernel multiplies at once, and most tiles of all of them.
const WIDE: usize = 2;
const TALLEST: usize = 6;

/// Computes the gradient `[n, k]` of a weight in this format from some rows of x and as many rows of dy, added to that of earlier clips.
pub(crate) fn of(
    x: (&Tensor, Rows),
    dy: (&Tensor, Rows),
    onto: Onto<'_>,
    format: Format,
) -> Result<Tensor> {
    onto.read(|earlier| {
        let gradient = WeightGradient {
            x: x.1,
            dy: dy.1,
            clip: onto.clip,
            earlier,
            kernel: kernel(format),
        };
        x.0.apply_op2_no_bwd(dy.0, &gradient)
    })
}

/// Returns the kernel that multiplies the gradients of weights in this format.
fn kernel(format: Format) -> Kernel {
    let narrow = Kernel::best(format.float());
    match narrow.format() {
        Format::Bf16 if narrow.beats_floats() => narrow,
        Format::F32 | Format::Bf16 | Format::Int8 => Kernel::best(Format::F32),
    }
}

struct WeightGradient<'a> {
    x: Rows,
    dy: Rows,
    /// Number of rows of a clip.
    clip: usize,
    earlier: Option<&'a [f32]>,
    kernel: Kernel,
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
        let (kernel, depth) = (self.kernel, self.kernel.padded_words(DEPTH));
        let mut sums = Sums {
            kernel,
            depth,
            of_x,
            of_dy,
            n,
            k,
            left: zeroed(n.next_multiple_of(kernel.rows()) * depth),
            right: unfilled(k.next_multiple_of(NR) * depth),
        };
        let mut dw = match self.earlier {
            Some(earlier) if earlier.len() == n * k => earlier.to_vec(),
            Some(earlier) => candle_core::bail!("{} earlier sums for {n} × {k}", earlier.len()),
            None => vec![0.0; n * k],
        };
        let mut rest = runs(of_x.count(), self.clip, DEPTH).into_iter().peekable();
        while let Some(run) = rest.next() {
            // Runs of short clips are packed together, each from a whole word on.
            let mut end = kernel.padded_words(run.len());
            let mut packed = vec![(run, 0..end)];
            let fits =
                |end: usize, run: &Range<usize>| end + kernel.padded_words(run.len()) <= depth;
            while let Some(next) = rest.next_if(|next| fits(end, next)) {
                let begin = end;
                end += kernel.padded_words(next.len());
                packed.push((next, begin..end));
            }
            sums.pack(x, dy, &packed);
            let words: Vec<_> = packed.into_iter().map(|(_, words)| words).collect();
            sums.add(&words, &mut dw);
        }
        Ok(output(dw, (n, k)))
    }
}

struct Sums {
    kernel: Kernel,
    /// Words of a block of rows.
    depth: usize,
    of_x: Grid,
    of_dy: Grid,
    n: usize,
    k: usize,
    /// Tiles of dyᵀ: `[depth][rows of a tile]` floats, or `[rows of a tile][depth]` pairs of bfloat16.
    left: Vec<u32>,
    /// Panels of x, `[depth][16]`.
    right: Vec<u32>,
}

/// Rows that are added up together, and the words that they take of a block.
type Run = (Range<usize>, Range<usize>);

impl Sums {
    fn pack(&mut self, x: &[f32], dy: &[f32], runs: &[Run]) {
        let (of_x, of_dy, n, k) = (self.of_x, self.of_dy, self.n, self.k);
        let (tall, depth, format) = (self.kernel.rows(), self.depth, self.kernel.format());
        let right = self.right.par_chunks_mut(depth * NR).enumerate();
        right.for_each(|(j, panel)| {
            let part = Part::new((x, of_x), j * NR..k.min((j + 1) * NR));
            for (rows, words) in runs {
                let out = &mut panel.as_chunks_mut::<NR>().0[words.clone()];
                match format {
                    Format::F32 => part.floats(rows, NR, out.as_flattened_mut()),
                    Format::Bf16 | Format::Int8 => {
                        part.pairs(rows, words.len(), |word, pairs| out[word] = pairs)
                    }
                }
            }
        });
        let left = self.left.par_chunks_mut(depth * tall).enumerate();
        left.for_each(|(t, tile)| {
            let columns = t * tall..n.min((t + 1) * tall);
            for (rows, words) in runs {
                if format == Format::F32 {
                    let part = Part::new((dy, of_dy), columns.clone());
                    part.floats(rows, tall, &mut tile[words.start * tall..words.end * tall]);
                    continue;
                }
                for first in columns.clone().step_by(NR) {
                    let part = Part::new((dy, of_dy), first..columns.end.min(first + NR));
                    let tile = &mut tile[(first - columns.start) * depth..];
                    let scatter = |word: usize, pairs: [u32; NR]| {
                        let own = tile.iter_mut().skip(words.start + word).step_by(depth);
                        own.zip(&pairs[..part.width])
                            .for_each(|(to, pair)| *to = *pair);
                    };
                    part.pairs(rows, words.len(), scatter);
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
        let wide = self.kernel.panels();
        let per_part = panels.div_ceil(parts).next_multiple_of(wide);
        let out = Out::new(dw);
        each_unit(units * parts, |unit| {
            let (part, unit) = (unit % parts, unit / parts);
            let end = panels.min((part + 1) * per_part);
            for first in (part * per_part..end).step_by(wide) {
                for t in unit * TILES..tiles.min((unit + 1) * TILES) {
                    for run in runs {
                        self.add_tiles(t, first..end.min(first + wide), run, out);
                    }
                }
            }
        });
    }

    /// Adds a run's products of a tile of rows with neighbouring panels.
    fn add_tiles(&self, t: usize, panels: Range<usize>, run: &Range<usize>, out: Out<f32>) {
        let (rows, depth, stacked) = (self.kernel.rows(), self.depth, self.kernel.stacked());
        let mut tiles: [Tile; TALLEST] = [[[0.0; NR]; MR]; TALLEST];
        let left = &self.left[t * depth * rows..][..depth * rows];
        let (row_stride, step) = match self.kernel.format() {
            Format::F32 => (1, rows),
            Format::Bf16 | Format::Int8 => (depth, 1),
        };
        let left = Left {
            at: left[run.start * step..].as_ptr(),
            row_stride,
            step,
        };
        let right: [*const u32; WIDE] = std::array::from_fn(|p| {
            let j = (panels.start + p).min(panels.end - 1);
            let panel = &self.right[j * depth * NR + run.start * NR..][..run.len() * NR];
            panel.as_ptr()
        });
        let taken = rows.min(self.n - t * rows);
        // SAFETY: a packed tile has as many words for each row as a block, of which the run's are some; the panels have 16 times as many.
        unsafe {
            let right = &right[..panels.len()];
            (self.kernel).tiles(taken, run.len(), left, right, &mut tiles, false);
        }
        for (j, tiles) in panels.zip(tiles.chunks(stacked)) {
            let width = NR.min(self.k - j * NR);
            for (i, sums) in tiles.as_flattened().iter().enumerate().take(taken) {
                // SAFETY: the row is below n and the columns below k; no other unit has this tile.
                let dw = unsafe { out.slice((t * rows + i) * self.k + j * NR, width) };
                match dw.first_chunk_mut::<NR>() {
                    Some(dw) if width == NR => kernel::add(dw, sums, NR),
                    _ => dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += sum),
                }
            }
        }
    }
}

/// Some columns of rows in memory.
#[derive(Clone, Copy)]
struct Part<'a> {
    values: &'a [f32],
    grid: Grid,
    column: usize,
    width: usize,
}

impl<'a> Part<'a> {
    fn new((values, grid): (&'a [f32], Grid), columns: Range<usize>) -> Self {
        Self {
            values,
            grid,
            column: columns.start,
            width: columns.len(),
        }
    }

    /// Returns the columns of a row of all groups.
    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[self.grid.nth(row) + self.column..][..self.width]
    }

    /// Copies the columns of some rows, each followed by zeros up to `length`.
    fn floats(&self, rows: &Range<usize>, length: usize, out: &mut [u32]) {
        for (out, row) in floats_mut(out).chunks_exact_mut(length).zip(rows.clone()) {
            let row = self.row(row);
            match (length, self.width) {
                (16, 16) => copy_chunk::<16>(out, row),
                (12, 12) => copy_chunk::<12>(out, row),
                (6, 6) => copy_chunk::<6>(out, row),
                _ => {
                    out[..row.len()].copy_from_slice(row);
                    out[row.len()..].fill(0.0);
                }
            }
        }
    }

    /// Calls `put` with `words` words of at most 16 columns: pairs of neighbouring rows as bfloat16, and zeros where there is no row.
    fn pairs(&self, rows: &Range<usize>, words: usize, mut put: impl FnMut(usize, [u32; NR])) {
        for word in 0..words {
            let both = [0, 1].map(|half| {
                let (row, mut values) = (rows.start + 2 * word + half, [0.0; NR]);
                if row < rows.end {
                    kernel::copy(&mut values, self.row(row), self.width);
                }
                values
            });
            put(word, join(&both));
        }
    }
}

wide! {
    fn join(both: &[[f32; NR]; 2]) -> [u32; NR] {
        std::array::from_fn(|i| pair(both[0][i], both[1][i]))
    }
}

/// Copies a constant number of values, without a call of a library function.
fn copy_chunk<const N: usize>(to: &mut [f32], from: &[f32]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
        *to = *from;
    }
}
