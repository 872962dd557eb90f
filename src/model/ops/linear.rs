//! Linear layers on packed weights: y = act(x · Wᵀ + b), over all tokens or some, and r + x · Wᵀ + b.
//!
//! Invariant: one row's result depends on that row alone.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::gelu::activate_tile;
use super::kernel::{self, Format, Left, MR, NR, Tile};
use super::packed::{Packed, SHIFT, encode_row};
use super::share::{Out, output, slice, unfilled};
use crate::model::Activation;

/// Which tokens of `[N, L, C]` take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Rows {
    /// All.
    All,
    /// All but the class token.
    Patches,
    /// The class token.
    Class,
}

/// What a linear layer adds to the product.
#[derive(Debug, Clone, Default)]
pub(in crate::model) struct Options<'a> {
    /// `[n]`, of all sections.
    pub(in crate::model) bias: Option<&'a [f32]>,
    /// After the bias.
    pub(in crate::model) activation: Option<Activation>,
    /// Sections of the weight to use; all when `None`.
    pub(in crate::model) sections: Option<Range<usize>>,
}

/// `rows` of x `[…, L, k]` times Wᵀ: `[…, L, n]`, `[N, L - 1, n]` or `[N, n]`.
pub(in crate::model) fn project(
    x: &Tensor,
    weight: &Packed,
    rows: Rows,
    options: Options<'_>,
) -> Result<Tensor> {
    x.apply_op1_no_bwd(&Project {
        weight,
        rows,
        options,
    })
}

/// r `[…, L, n]` with `rows` of it increased by x · Wᵀ + b; x has the shape that `project` gives for these rows.
pub(in crate::model) fn project_add(
    x: &Tensor,
    residual: &Tensor,
    weight: &Packed,
    rows: Rows,
    bias: Option<&[f32]>,
) -> Result<Tensor> {
    x.apply_op2_no_bwd(residual, &ProjectAdd { weight, rows, bias })
}

/// Rows of a matrix in memory: groups of evenly spaced rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    offset: usize,
    pub(super) groups: usize,
    group_stride: usize,
    pub(super) rows: usize,
    pub(super) stride: usize,
}

impl Grid {
    /// `rows` of a tensor.
    pub(super) fn new(shape: &Shape, rows: Rows) -> Result<Self> {
        let (lead, c) = match shape.dims() {
            [lead @ .., c] => (lead, *c),
            [] => candle_core::bail!("a linear layer needs at least one dimension"),
        };
        let all: usize = lead.iter().product();
        if rows == Rows::All {
            return Ok(Self::dense(all, c));
        }
        let (n, l, c) = shape.dims3()?;
        Ok(match rows {
            Rows::Patches => Self {
                offset: c,
                groups: n,
                group_stride: l * c,
                rows: l - 1,
                stride: c,
            },
            Rows::Class | Rows::All => Self {
                offset: 0,
                groups: 1,
                group_stride: 0,
                rows: n,
                stride: l * c,
            },
        })
    }

    /// Rows without gaps.
    pub(super) fn dense(rows: usize, stride: usize) -> Self {
        Self {
            offset: 0,
            groups: 1,
            group_stride: 0,
            rows,
            stride,
        }
    }

    /// The same rows without gaps, `stride` values each.
    fn packed(self, stride: usize) -> Self {
        Self {
            offset: 0,
            groups: self.groups,
            group_stride: self.rows * stride,
            rows: self.rows,
            stride,
        }
    }

    pub(super) fn at(&self, group: usize, row: usize) -> usize {
        self.offset + group * self.group_stride + row * self.stride
    }

    /// Where row `row` of all groups begins.
    pub(super) fn nth(&self, row: usize) -> usize {
        self.at(row / self.rows, row % self.rows)
    }

    pub(super) fn count(&self) -> usize {
        self.groups * self.rows
    }
}

struct Project<'a> {
    weight: &'a Packed,
    rows: Rows,
    options: Options<'a>,
}

impl CustomOp1 for Project<'_> {
    fn name(&self) -> &'static str {
        "project"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let input = Grid::new(layout.shape(), self.rows)?;
        let sections = self
            .options
            .sections
            .clone()
            .unwrap_or(0..self.weight.sections());
        let n = sections.len() * self.weight.section();
        let mut shape = layout.dims().to_vec();
        match (self.rows, shape.as_mut_slice()) {
            (Rows::All, [.., last]) => *last = n,
            (Rows::Patches, [_, tokens, last]) => (*tokens, *last) = (*tokens - 1, n),
            _ => shape = vec![input.rows, n],
        }
        let mut y = unfilled(input.count() * n);
        let product = Product {
            weight: self.weight,
            sections,
            bias: self.options.bias,
            activation: self.options.activation,
            x,
            input,
            output: input.packed(n),
            residual: None,
        };
        product.run(&mut y)?;
        Ok(output(y, shape))
    }
}

struct ProjectAdd<'a> {
    weight: &'a Packed,
    rows: Rows,
    bias: Option<&'a [f32]>,
}

impl CustomOp2 for ProjectAdd<'_> {
    fn name(&self) -> &'static str {
        "project-add"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, residual) = (slice(s1, l1)?, slice(s2, l2)?);
        let grid = Grid::new(l2.shape(), self.rows)?;
        let mut y = unfilled(residual.len());
        // Rows that take no part are copied; the others are written once, by the product.
        let (l, c) = match *l2.dims() {
            [_, l, c] => (l, c),
            _ => (1, residual.len()),
        };
        match self.rows {
            Rows::All => {}
            Rows::Patches => {
                for (y, r) in y.chunks_exact_mut(l * c).zip(residual.chunks_exact(l * c)) {
                    y[..c].copy_from_slice(&r[..c]);
                }
            }
            Rows::Class => y
                .par_chunks_mut(l * c)
                .zip(residual.par_chunks(l * c))
                .for_each(|(y, r)| y[c..].copy_from_slice(&r[c..])),
        }
        let product = Product {
            weight: self.weight,
            sections: 0..self.weight.sections(),
            bias: self.bias,
            activation: None,
            x,
            input: grid.packed(self.weight.k()),
            output: grid,
            residual: Some(residual),
        };
        product.run(&mut y)?;
        Ok(output(y, l2.shape()))
    }
}

/// One product with what goes with it.
struct Product<'a> {
    weight: &'a Packed,
    sections: Range<usize>,
    bias: Option<&'a [f32]>,
    activation: Option<Activation>,
    x: &'a [f32],
    input: Grid,
    output: Grid,
    /// Laid out as the output.
    residual: Option<&'a [f32]>,
}

impl Product<'_> {
    fn run(&self, y: &mut [f32]) -> Result<()> {
        let (k, rows) = (self.weight.k(), self.input.rows);
        let fits = |grid: &Grid, len: usize, used: usize| {
            grid.count() == 0 || grid.at(grid.groups - 1, grid.rows - 1) + used <= len
        };
        let n = self.sections.len() * self.weight.section();
        let ok = fits(&self.input, self.x.len(), k)
            && fits(&self.output, y.len(), n)
            && self.input.stride >= k
            && self.output.stride >= n
            && self.input.count() == self.output.count()
            && self.sections.end <= self.weight.sections()
            && self.bias.is_none_or(|bias| bias.len() == self.weight.n())
            && self
                .residual
                .is_none_or(|residual| residual.len() == y.len());
        if !ok {
            candle_core::bail!(
                "linear layer of {k} to {n} does not fit {:?} and {:?}",
                self.input,
                self.output
            );
        }
        if self.input.count() == 0 || n == 0 {
            return Ok(());
        }
        let kernel = self.weight.kernel();
        // A block of rows and a panel stay in the second-level cache (half a megabyte where this was measured).
        let words = self.weight.format().words(k);
        let most = (65_536 / words.max(1)).clamp(24, 96);
        let blocks = rows.div_ceil(most);
        let block = rows.div_ceil(blocks).next_multiple_of(kernel.rows());
        let blocks = rows.div_ceil(block);
        let panels = self.sections.len() * self.weight.per_section();
        // Few rows are shared out by columns as well. How they are split changes no result.
        let units = self.input.groups * blocks;
        let parts = (4 * rayon::current_num_threads())
            .div_ceil(units)
            .clamp(1, panels);
        let per_part = panels.div_ceil(parts).next_multiple_of(kernel.panels());
        let out = Out::new(y);
        (0..units * parts).into_par_iter().for_each(|unit| {
            let (part, unit) = (unit % parts, unit / parts);
            let (group, first) = (unit / blocks, unit % blocks * block);
            let taken = first..rows.min(first + block);
            let panels = panels.min(part * per_part)..panels.min((part + 1) * per_part);
            ROWS.with_borrow_mut(|scratch| self.block(group, taken, panels, scratch, out));
        });
        Ok(())
    }

    /// The block's rows as the kernel reads them.
    fn left(&self, group: usize, rows: &Range<usize>, scratch: &mut Scratch) -> Left {
        let (format, k) = (self.weight.format(), self.weight.k());
        let row = |row| self.input.at(group, row);
        if format == Format::F32 {
            return Left::floats(self.x[row(rows.start)..].as_ptr(), self.input.stride, 1);
        }
        let words = format.words(k);
        scratch.words.resize(rows.len() * words, 0);
        scratch.scales.clear();
        for (out, i) in scratch
            .words
            .chunks_exact_mut(words.max(1))
            .zip(rows.clone())
        {
            let scale = encode_row(format, &self.x[row(i)..][..k], out);
            scratch.scales.push(scale);
        }
        Left {
            at: scratch.words.as_ptr(),
            row_stride: words,
            step: 1,
        }
    }

    fn block(
        &self,
        group: usize,
        rows: Range<usize>,
        panels: Range<usize>,
        scratch: &mut Scratch,
        out: Out,
    ) {
        let mut tiles: [Tile; 2] = [[[0.0; NR]; MR]; 2];
        let kernel = self.weight.kernel();
        let words = self.weight.format().words(self.weight.k());
        let left = self.left(group, &rows, scratch);
        let first_panel = self.sections.start * self.weight.per_section();
        for j in panels.clone().step_by(kernel.panels()) {
            let last = panels.end.min(j + kernel.panels());
            let right = [j, last - 1].map(|j| self.weight.panel(first_panel + j).as_ptr());
            for row in rows.clone().step_by(kernel.rows()) {
                let taken = kernel.rows().min(rows.end - row);
                // SAFETY: `run` checked that the input has these rows of k elements, and `left` gave their words; panels have as many words for each
                // of 16 columns.
                unsafe {
                    let left = left.rows_from(row - rows.start);
                    kernel.tiles(taken, words, left, &right[..last - j], &mut tiles);
                }
                for (tile, j) in tiles.iter_mut().zip(j..last) {
                    let scales = scratch.scales.get(row - rows.start..).unwrap_or_default();
                    self.widen(&mut tile[..taken], scales, first_panel + j);
                    self.finish(tile, (group, row..row + taken), first_panel + j, out);
                }
            }
        }
    }

    /// Makes floats of sums of integers.
    fn widen(&self, tile: &mut [[f32; NR]], scales: &[f32], panel: usize) {
        if self.weight.format() != Format::Int8 {
            return;
        }
        let columns = self.weight.columns(panel);
        for (row, &scale) in tile.iter_mut().zip(scales) {
            for (value, column) in row.iter_mut().zip(columns) {
                // The left operand was shifted to be unsigned.
                let sum = value.to_bits() as i32 - SHIFT * column.sum;
                *value = sum as f32 * (scale * column.scale);
            }
        }
    }

    /// Adds bias and residual, activates, and writes a tile's rows.
    fn finish(
        &self,
        tile: &mut Tile,
        (group, rows): (usize, Range<usize>),
        panel: usize,
        out: Out,
    ) {
        let place = self.weight.place(panel);
        let bias = self.bias.map(|bias| &bias[place.column..][..place.width]);
        let column = place.column - self.sections.start * self.weight.section();
        let at = |row| self.output.at(group, row) + column;
        for (sums, row) in tile.iter_mut().zip(rows.clone()) {
            if let Some(bias) = bias {
                kernel::add(sums, bias, place.width);
            }
            if let Some(residual) = self.residual {
                kernel::add(sums, &residual[at(row)..], place.width);
            }
        }
        if let Some(activation) = self.activation {
            activate_tile(tile, rows.len(), activation);
        }
        for (sums, row) in tile.iter().zip(rows) {
            // SAFETY: `run` checked the range; no other unit has this row and these columns.
            let y = unsafe { out.slice(at(row), place.width) };
            kernel::copy(y, sums, place.width);
        }
    }
}

/// A block's rows in the weight's format; each thread keeps its own.
#[derive(Default)]
struct Scratch {
    words: Vec<u32>,
    /// What 1 stands for in each row.
    scales: Vec<f32>,
}

thread_local! {
    static ROWS: RefCell<Scratch> = RefCell::new(Scratch::default());
}
