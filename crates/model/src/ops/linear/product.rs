//! One product with its bias, activation and residual, divided into units of parallel work.
//!
//! Invariant: each element is one sum in one order, however the product is divided.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use candle_core::Result;

use super::Grid;
use super::split::Split;
use crate::Activation;
use crate::ops::activations::{Sink, Values, ValuesMut};
use crate::ops::buffers::each_unit;
use crate::ops::epilogue::{Epilogue, Scale, end};
use crate::ops::integers::{self, Operand};
use crate::ops::kernel::unit::{Stays, Target, Unit, Units};
use crate::ops::kernel::{self, Format, Left, MR, NR, Tile};
use crate::ops::packed::{Packed, encode_row};

/// A product with its bias, activation and residual.
pub(super) struct Product<'a> {
    pub(super) weight: &'a Packed,
    pub(super) sections: Range<usize>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) activation: Option<Activation>,
    pub(super) x: Operand<'a>,
    pub(super) input: Grid,
    pub(super) output: Grid,
    /// Residual, laid out like the output.
    pub(super) residual: Option<&'a [f32]>,
}

/// Buffers that a product writes, all laid out like its output.
pub(super) struct Results<'a> {
    pub(super) y: ValuesMut<'a>,
    /// Values before the activation, if they are needed.
    pub(super) before: Option<ValuesMut<'a>>,
}

impl<'a> Results<'a> {
    /// Creates results without the values before the activation.
    pub(super) fn only(y: ValuesMut<'a>) -> Self {
        Self { y, before: None }
    }
}

/// Buffers of a product, as the threads share them.
#[derive(Clone, Copy)]
struct Sinks {
    y: Sink,
    before: Option<Sink>,
}

/// Runs several products as one parallel loop; each writes its own buffers.
pub(super) fn run_all(mut products: Vec<(Product<'_>, Results<'_>)>) -> Result<()> {
    for (product, results) in &products {
        product.check(results.y.len())?;
        if let Some(before) = &results.before {
            product.check(before.len())?;
        }
    }
    products.retain(|(product, _)| !product.is_empty());
    let splits: Vec<_> = products
        .iter()
        .map(|(product, _)| product.split())
        .collect();
    // Products with few rows are divided by columns as well.
    let blocks: usize = splits.iter().map(Split::blocks).sum();
    let parts = (4 * rayon::current_num_threads()).div_ceil(blocks.max(1));
    let (mut ends, mut total) = (Vec::with_capacity(products.len()), 0);
    let mut work = Vec::with_capacity(products.len());
    for ((product, results), split) in products.into_iter().zip(splits) {
        let split = split.parts_at_least(parts);
        total += split.units();
        ends.push(total);
        let sinks = Sinks {
            y: results.y.sink(),
            before: results.before.map(ValuesMut::sink),
        };
        work.push((product, split, sinks));
    }
    each_unit(total, |unit| {
        let at = ends.partition_point(|&end| end <= unit);
        let first = at.checked_sub(1).map_or(0, |before| ends[before]);
        let (product, split, sinks) = &work[at];
        ROWS.with_borrow_mut(|scratch| product.unit(split, unit - first, scratch, *sinks));
    });
    Ok(())
}

impl Product<'_> {
    /// Computes the product.
    pub(super) fn run(self, results: Results<'_>) -> Result<()> {
        run_all(vec![(self, results)])
    }

    pub(super) fn n(&self) -> usize {
        self.sections.len() * self.weight.section()
    }

    fn is_empty(&self) -> bool {
        self.input.count() == 0 || self.n() == 0
    }

    /// Returns an error unless all operands and a result of this length fit.
    pub(super) fn check(&self, len: usize) -> Result<()> {
        let (k, n) = (self.weight.k(), self.n());
        let fits = |grid: &Grid, len: usize, used: usize| {
            grid.count() == 0 || grid.at(grid.groups - 1, grid.rows - 1) + used <= len
        };
        let row = self.x.row(k);
        let ok = fits(&self.input, self.x.len(), row)
            && fits(&self.output, len, n)
            && self.input.stride >= row
            && self.x.is_read_by(self.weight.format())
            && self.output.stride >= n
            && self.input.count() == self.output.count()
            && self.sections.end <= self.weight.sections()
            && self.bias.is_none_or(|bias| bias.len() == self.weight.n())
            && self.residual.is_none_or(|residual| residual.len() == len);
        if !ok {
            candle_core::bail!(
                "linear layer of {k} to {n} does not fit {:?} and {:?}",
                self.input,
                self.output
            );
        }
        Ok(())
    }

    /// Returns the address of the rows, if the kernel can read them in place.
    fn in_place(&self) -> Option<*const u32> {
        let at: *const u32 = match (self.weight.format(), self.x) {
            (Format::Int8, Operand::Integers(x)) => x.as_ptr(),
            (Format::F32, Operand::Numbers(Values::F32(x))) => x.as_ptr().cast(),
            // Two adjacent values already form a word in memory.
            (Format::Bf16, Operand::Numbers(Values::Bf16(x)))
                if cfg!(target_endian = "little")
                    && self.weight.k().is_multiple_of(2)
                    && self.input.is_even() =>
            {
                x.as_ptr().cast()
            }
            _ => return None,
        };
        at.is_aligned().then_some(at)
    }

    fn split(&self) -> Split {
        let words = self.weight.format().words(self.weight.k());
        let panels = self.sections.len() * self.weight.per_section();
        Split::new(
            self.in_place().is_some(),
            self.weight.kernel(),
            words,
            self.input,
            panels,
        )
    }

    /// Returns a unit's rows in the format that the kernel reads.
    fn left(&self, group: usize, rows: &Range<usize>, scratch: &mut Scratch) -> Left {
        let (format, k) = (self.weight.format(), self.weight.k());
        let row = |row| self.input.at(group, row);
        scratch.scales.clear();
        let x = match self.x {
            Operand::Numbers(x) => x,
            Operand::Integers(x) => {
                let scales = rows.clone().map(|i| integers::scale(&x[row(i)..], k));
                scratch.scales.extend(scales);
                return Left {
                    at: x[row(rows.start)..].as_ptr(),
                    row_stride: self.input.stride,
                    step: 1,
                };
            }
        };
        if let Some(at) = self.in_place() {
            return Left {
                at: at.wrapping_add(row(rows.start) / format.group()),
                row_stride: self.input.stride / format.group(),
                step: 1,
            };
        }
        let words = format.words(k);
        scratch.words.resize(rows.len() * words, 0);
        for (out, i) in scratch
            .words
            .chunks_exact_mut(words.max(1))
            .zip(rows.clone())
        {
            let row = x.skip(row(i)).take(k);
            let scale = encode_row(format, row, out, &mut scratch.row);
            scratch.scales.push(scale);
        }
        Left {
            at: scratch.words.as_ptr(),
            row_stride: words,
            step: 1,
        }
    }

    /// Returns what computes units of whole rows, and their division; `None` when the instruction set has no units, or there are too few rows. A unit's
    /// results are at most `values` values.
    pub(super) fn whole_rows(&self, values: usize) -> Option<(&'static dyn Units, Split)> {
        let (words, panels) = (
            self.weight.format().words(self.weight.k()),
            self.sections.len() * self.weight.per_section(),
        );
        if self.is_empty() {
            return None;
        }
        let kernel = self.weight.kernel();
        let units = kernel.units(words)?;
        let (order, threads) = (kernel.order(words, false).0, rayon::current_num_threads());
        let most = values / self.n();
        let split = Split::whole_rows((order, threads), most, self.input, panels)?;
        Some((units, split))
    }

    /// Computes whole rows of the result as floats, which `f` reads.
    ///
    /// # Safety
    /// [`Product::check`] succeeded, the result has no gaps, and no other thread touches these rows of `before`.
    pub(super) unsafe fn floats(
        &self,
        units: &dyn Units,
        (group, rows): (usize, Range<usize>),
        panels: Range<usize>,
        before: Option<Sink>,
        f: impl FnOnce(&[f32]),
    ) {
        ROWS.with_borrow_mut(|scratch| {
            let left = self.left(group, &rows, scratch);
            let mut values = std::mem::take(&mut scratch.values);
            values.resize(rows.len() * self.n(), 0.0);
            let first = self.sections.start * self.weight.per_section();
            let panels = first + panels.start..first + panels.end;
            let y = Target::F32(values.as_mut_ptr());
            let at = self.output.at(group, rows.start);
            let before = before.map(|before| before.target(at));
            let place = (group, rows);
            let unit = self.whole(
                Stays::Rows,
                place,
                panels,
                left,
                &scratch.scales,
                (y, before),
            );
            // SAFETY: promised by the caller; the floats are this thread's own.
            unsafe { units.unit(&unit, &mut scratch.spare) };
            f(&values);
            scratch.values = values;
        });
    }

    fn unit(&self, split: &Split, unit: usize, scratch: &mut Scratch, out: Sinks) {
        let (group, rows, panels) = split.unit(unit);
        let kernel = self.weight.kernel();
        let words = self.weight.format().words(self.weight.k());
        let first_row = rows.start;
        let left = self.left(group, &rows, scratch);
        let first_panel = self.sections.start * self.weight.per_section();
        if let Some(units) = kernel.units(words) {
            let panels = first_panel + panels.start..first_panel + panels.end;
            let (stays, scales) = (split.stays(), &scratch.scales);
            let at = self.output.at(group, rows.start);
            let out = (out.y.target(at), out.before.map(|before| before.target(at)));
            let unit = self.whole(stays, (group, rows), panels, left, scales, out);
            // SAFETY: `check` verified that the input has these rows of k elements, and `left` gave their words, which are neighbours; no other unit
            // writes these rows and columns.
            unsafe { units.unit(&unit, &mut scratch.spare) };
            return;
        }
        let (tall, wide, stacked) = (kernel.rows(), kernel.panels(), kernel.stacked());
        let tiles = rows.len().div_ceil(tall);
        let strips = panels.len().div_ceil(wide);
        // Long sums are divided, so that a panel's part stays in the first-level cache while all tiles of the unit use it.
        let chunk = kernel.chunk();
        let chunk = if words > chunk + chunk / 3 {
            chunk
        } else {
            words.max(1)
        };
        let kept = if words > chunk { strips * tiles } else { 1 };
        scratch.tiles.resize(kept * wide * stacked, [[0.0; NR]; MR]);
        for begin in (0..words.max(1)).step_by(chunk) {
            let (count, is_last) = (chunk.min(words - begin), begin + chunk >= words);
            for (strip, t) in split.tiles(strips, tiles) {
                let (j, row) = (panels.start + strip * wide, rows.start + t * tall);
                let (last, taken) = (panels.end.min(j + wide), tall.min(rows.end - row));
                let right = [j, last - 1].map(|j| {
                    let panel = self.weight.panel(first_panel + j);
                    panel[begin * NR..].as_ptr()
                });
                let at = if kept > 1 { strip * tiles + t } else { 0 };
                let sums = &mut scratch.tiles[at * wide * stacked..][..wide * stacked];
                if is_last {
                    let panels = first_panel + j..first_panel + last;
                    self.expect(group, row..row + taken, panels, out);
                }
                // SAFETY: `check` verified that the input has these rows of k elements, and `left` gave their words; panels have as many words for
                // each of 16 columns.
                unsafe {
                    let left = left.rows_from(row - first_row).skip(begin);
                    kernel.tiles(taken, count, left, &right[..last - j], sums, begin > 0);
                }
                if !is_last {
                    continue;
                }
                let scales = scratch.scales.get(row - first_row..).unwrap_or_default();
                for (tiles, j) in sums.chunks_mut(stacked).zip(j..last) {
                    let epilogue =
                        self.epilogue(group, row..row + taken, first_panel + j, scales, out);
                    end(tiles.as_flattened_mut(), &epilogue);
                }
            }
        }
    }

    /// Returns a unit that the kernel computes as a whole.
    fn whole<'e>(
        &'e self,
        stays: Stays,
        (group, rows): (usize, Range<usize>),
        panels: Range<usize>,
        left: Left,
        scales: &'e [f32],
        (y, before): (Target, Option<Target>),
    ) -> Unit<'e> {
        let at = self.output.at(group, rows.start);
        let (words, columns, places) = self.weight.strips(panels);
        Unit {
            stays,
            words: self.weight.format().words(self.weight.k()),
            left,
            rows: rows.len(),
            panels: words,
            places,
            columns,
            scales,
            bias: self.bias,
            activation: self.activation,
            first_column: self.sections.start * self.weight.section(),
            residual: self.residual.map(|residual| residual[at..].as_ptr()),
            before,
            y,
            stride: self.output.stride,
        }
    }

    /// Prefetches the memory that the epilogue of a tile will access, while the products are computed.
    fn expect(&self, group: usize, rows: Range<usize>, panels: Range<usize>, out: Sinks) {
        let (first, last) = (
            self.weight.place(panels.start),
            self.weight.place(panels.end - 1),
        );
        let columns = last.column + last.width - first.column;
        let column = first.column - self.sections.start * self.weight.section();
        for row in rows {
            let at = self.output.at(group, row) + column;
            out.y.expect(at, columns);
            if let Some(before) = out.before {
                before.expect(at, columns);
            }
            if let Some(residual) = self.residual {
                kernel::will_read(&residual[at..][..columns]);
            }
        }
    }

    /// Returns the epilogue of a panel's tile; `scales` are those of these rows.
    fn epilogue<'e>(
        &'e self,
        group: usize,
        rows: Range<usize>,
        panel: usize,
        scales: &'e [f32],
        out: Sinks,
    ) -> Epilogue<'e> {
        let place = self.weight.place(panel);
        let column = place.column - self.sections.start * self.weight.section();
        let at = (
            self.output.at(group, rows.start) + column,
            self.output.stride,
        );
        let size = (rows.len(), place.width);
        // SAFETY: `check` verified the range; no other unit writes these rows and columns.
        let lines = |sink: Sink| unsafe { sink.lines(at, size) };
        Epilogue {
            scale: match self.weight.columns(panel) {
                Some(columns) => Scale::Integers(scales, columns),
                None => Scale::By(1.0),
            },
            bias: self.bias.map(|bias| &bias[place.column..][..place.width]),
            residual: self.residual,
            before: out.before.map(lines),
            activation: self.activation,
            y: lines(out.y),
        }
    }
}

/// Rows of a unit in the weight's format; each thread keeps its own buffers.
#[derive(Default)]
struct Scratch {
    words: Vec<u32>,
    /// One row as floats, where it is stored in another format.
    row: Vec<f32>,
    /// Scale of each row: the value of the integer 1.
    scales: Vec<f32>,
    /// Sums that are not complete yet.
    tiles: Vec<Tile>,
    /// Rows of a tile that is not whole.
    spare: Vec<u32>,
    /// Results of a unit of whole rows.
    values: Vec<f32>,
}

thread_local! {
    static ROWS: RefCell<Scratch> = RefCell::new(Scratch::default());
}
