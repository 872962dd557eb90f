//! Linear layers on packed weights: y = act(x · Wᵀ + b) over all tokens or some, and r + x · Wᵀ + b.
//!
//! Invariant: the result of one row depends on that row alone.
mod grouped;
mod integers;
mod product;
mod split;

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
pub(super) use self::grouped::check as check_segments;
pub(crate) use self::grouped::{Each, project_add_each, project_each};
pub(crate) use self::integers::project_integers;
use self::product::{Product, Results};
use super::activations::{Buffer, Numbers, ValuesMut};
use super::buffers::{output, slice, unfilled};
use super::integers::Operand;
use super::packed::Packed;
use crate::Activation;

/// Tokens of `[N, L, C]` that a layer applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// All tokens.
    All,
    /// All tokens except the class token.
    Patches,
    /// The class token only.
    Class,
}

/// Options of a product with packed weights.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options<'a> {
    /// Bias `[n]` of all sections.
    pub(crate) bias: Option<&'a [f32]>,
    /// Activation that is applied after the bias.
    pub(crate) activation: Option<Activation>,
    /// Sections of the weight to use; all when `None`.
    pub(crate) sections: Option<Range<usize>>,
    /// Number format of the result.
    pub(crate) numbers: Numbers,
}

impl<'a> Options<'a> {
    fn sections(&self, weight: &Packed) -> Range<usize> {
        self.sections.clone().unwrap_or(0..weight.sections())
    }

    /// Returns the number of columns of the result.
    fn columns(&self, weight: &Packed) -> usize {
        self.sections(weight).len() * weight.section()
    }

    /// Returns the product of these rows, with a result without gaps.
    fn product(&self, weight: &'a Packed, x: Operand<'a>, input: Grid) -> Product<'a> {
        Product {
            weight,
            sections: self.sections(weight),
            bias: self.bias,
            activation: self.activation,
            x,
            input,
            output: input.packed(self.columns(weight)),
            residual: None,
        }
    }
}

/// Multiplies `rows` of x `[…, L, k]`, or of as many rows of integers, by Wᵀ. Returns `[…, L, n]`, `[N, L - 1, n]` or `[N, n]`.
pub(crate) fn project(
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

/// Multiplies like [`project`] over all rows. Returns the values before the activation, in the format `before`, and those after it.
pub(crate) fn project_both(
    x: &Tensor,
    weight: &Packed,
    options: Options<'_>,
    before: Numbers,
) -> Result<(Tensor, Tensor)> {
    let input = Grid::new(x.shape(), Rows::All)?;
    let n = options.columns(weight);
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    let mut both = [before, options.numbers].map(|of| Buffer::unfilled(of, input.count() * n));
    let [first, y] = &mut both;
    Operand::with(x, |x| {
        options.product(weight, x, input).run(Results {
            y: y.as_mut(),
            before: Some(first.as_mut()),
        })
    })?;
    let [first, y] = both;
    Ok((first.tensor(shape.clone())?, y.tensor(shape)?))
}

/// Returns r `[…, L, n]` with x · Wᵀ + b added to `rows`; x has the shape that [`project`] returns for these rows.
pub(crate) fn project_add(
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
    /// Returns the grid of `rows` of a tensor.
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

    /// Returns a grid of rows without gaps.
    pub(super) fn dense(rows: usize, stride: usize) -> Self {
        Self {
            offset: 0,
            groups: 1,
            group_stride: 0,
            rows,
            stride,
        }
    }

    /// Returns a grid of as many rows without gaps, `stride` values each.
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

    /// Returns whether each row begins at an even index.
    fn is_even(&self) -> bool {
        [self.offset, self.group_stride, self.stride]
            .iter()
            .all(|distance| distance.is_multiple_of(2))
    }

    /// Returns the index at which row `row` of all groups begins.
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
        let x = Operand::new(storage, layout)?;
        let input = Grid::new(layout.shape(), self.rows)?;
        let n = self.options.columns(self.weight);
        let mut shape = layout.dims().to_vec();
        match (self.rows, shape.as_mut_slice()) {
            (Rows::All, [.., last]) => *last = n,
            (Rows::Patches, [_, tokens, last]) => (*tokens, *last) = (*tokens - 1, n),
            _ => shape = vec![input.rows, n],
        }
        let mut y = Buffer::unfilled(self.options.numbers, input.count() * n);
        let product = self.options.product(self.weight, x, input);
        product.run(Results::only(y.as_mut()))?;
        Ok(y.output(shape))
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
        let (x, residual) = (Operand::new(s1, l1)?, slice(s2, l2)?);
        let grid = Grid::new(l2.shape(), self.rows)?;
        let mut y = unfilled(residual.len());
        // Rows that the layer does not apply to are copied; the others are written once, by the product.
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
            input: grid.packed(x.row(self.weight.k())),
            output: grid,
            residual: Some(residual),
        };
        product.run(Results::only(ValuesMut::F32(&mut y)))?;
        Ok(output(y, l2.shape()))
    }
}
