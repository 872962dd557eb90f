//! Large products: x · Wᵀ + b, r + x · Wᵀ + b, and the same with Wᵀ in place of W.
//!
//! Invariant: a result of a row depends on that row alone. Sizes that the library does not take are computed by a plain kernel.

use std::ops::Range;

use candle_core::Result;

use super::plan::{Kind, Operands, Reads};
use super::tensor::Tensor;
use super::weights::Matrix;
use crate::ops::Numbers;
use crate::ops::linear::Rows;

/// Rows that the plain kernel computes in a launch.
const PLAIN_ROWS: usize = 32_768;

/// Rows of a tensor `[…, L, C]` that a product reads or writes.
struct Spread {
    /// Number of rows.
    rows: usize,
    /// Rows of a frame.
    frame: usize,
    /// Numbers from one row to the next.
    pitch: usize,
}

impl Spread {
    fn new(dims: &[usize], rows: Rows) -> Result<Self> {
        let [lead @ .., c] = dims else {
            candle_core::bail!("a linear layer needs at least one dimension");
        };
        let (rows, frame, pitch) = match (rows, lead) {
            (Rows::All, []) => (1, 1, *c),
            (Rows::All, [.., l]) => (lead.iter().product(), *l, *c),
            (Rows::Class, [n, l]) => (*n, 1, l * c),
            (Rows::Class | Rows::Patches, _) => {
                candle_core::bail!("a product over {rows:?} of {dims:?}")
            }
        };
        Ok(Self { rows, frame, pitch })
    }
}

/// A weight and what of it is used.
struct Use<'a> {
    weight: &'a Matrix,
    /// Columns of the product.
    columns: Range<usize>,
    /// Bias of these columns.
    bias: Option<Tensor>,
}

impl<'a> Use<'a> {
    fn new(weight: &'a Matrix, sections: &Range<usize>, bias: Option<&Tensor>) -> Result<Self> {
        let columns = weight.rows(sections)?;
        let bias = bias.map(|bias: &Tensor| -> Result<Tensor> {
            let own = bias.narrow(columns.start, columns.len())?;
            // The library reads a bias from a multiple of 16 bytes on.
            match own.pointer().is_multiple_of(16) {
                true => Ok(own),
                false => own.copy(),
            }
        });
        Ok(Self {
            weight,
            columns,
            bias: bias.transpose()?,
        })
    }

    /// Returns the kind of a product without gaps between its rows.
    fn kind(&self, output: Numbers) -> Kind {
        let (columns, inner) = (self.columns.len(), self.weight.k());
        let (reads, weight_pitch) = match self.weight.is_transposed() {
            true => (Reads::Columns, columns),
            false => (Reads::Rows, inner),
        };
        Kind {
            reads,
            columns,
            inner,
            weight_pitch,
            input_pitch: inner,
            output_pitch: columns,
            input: self.weight.numbers(),
            output,
            has_bias: self.bias.is_some(),
            adds: false,
        }
    }

    /// Returns the address of the first weight that is used.
    fn pointer(&self) -> u64 {
        let numbers = self.weight.numbers();
        let first = self.columns.start * self.weight.k() * numbers.bytes();
        self.weight.pointer() + first as u64
    }

    /// Enqueues a product through the library. Returns false when the library refuses it, so that the plain kernel has to compute it.
    fn run(
        &self,
        kind: &Kind,
        x: &Tensor,
        rows: &Spread,
        add: Option<&Tensor>,
        y: &mut Tensor,
    ) -> Result<bool> {
        let bias = match (&self.bias, kind.output) {
            (Some(bias), Numbers::Bf16) => Some(bias.rounded()?),
            (bias, _) => bias.clone(),
        };
        let Some(output) = y.pointer_mut() else {
            candle_core::bail!("the result of a product is shared");
        };
        let operands = Operands {
            weight: self.pointer(),
            input: x.pointer(),
            bias: bias.as_ref().map_or(0, Tensor::pointer),
            residual: add.map_or(output, Tensor::pointer),
            output,
        };
        let gpu = x.gpu();
        gpu.products()
            .run(gpu, kind, (rows.rows, rows.frame), operands)
    }

    /// Computes a product without gaps between the rows of its result with the plain kernel.
    fn run_plain(
        &self,
        kind: &Kind,
        x: &Tensor,
        rows: usize,
        add: Option<&Tensor>,
        y: &mut Tensor,
    ) -> Result<()> {
        let kernel = match (kind.input, kind.output) {
            (Numbers::F32, Numbers::F32) => "plain_f32_f32",
            (Numbers::Bf16, Numbers::F32) => "plain_bf16_f32",
            (Numbers::Bf16, Numbers::Bf16) => "plain_bf16_bf16",
            (Numbers::F32, Numbers::Bf16) => {
                candle_core::bail!("a product of floats that is rounded: {kind:?}")
            }
        };
        // W[j, p] lies at j · row + p · step.
        let (row, step) = kind.steps();
        // The grid's y has a limit.
        for begin in (0..rows).step_by(PLAIN_ROWS) {
            let own = PLAIN_ROWS.min(rows - begin);
            let gpu = x.gpu();
            gpu.launch(kernel)
                .grid([kind.columns.div_ceil(256), own, 1])
                .threads(256)
                .read_from(x, begin * kind.input_pitch)
                .read_from(self.weight.values(), self.columns.start * row)
                .update_from(y, begin * kind.columns)
                .read_or_null(self.bias.as_ref())
                .read_from_or_null(add, begin * kind.columns)
                .int(kind.columns)
                .int(kind.inner)
                .long(kind.input_pitch)
                .long(1)
                .long(row)
                .long(step)
                .run()?;
        }
        Ok(())
    }
}

/// Multiplies `rows` of x `[…, L, k]` by some sections of Wᵀ, and adds their bias. Returns `[…, L, n]` or, of class tokens, `[N, n]`.
///
/// # Errors
/// When the sizes do not fit, or the device fails.
pub(crate) fn project(
    x: &Tensor,
    rows: Rows,
    weight: &Matrix,
    (sections, bias): (Range<usize>, Option<&Tensor>),
    numbers: Numbers,
) -> Result<Tensor> {
    let own = Use::new(weight, &sections, bias)?;
    let x = fitting(x, weight)?;
    let spread = Spread::new(x.dims(), rows)?;
    let mut dims = x.dims().to_vec();
    if rows == Rows::Class {
        dims.remove(1);
    }
    if let Some(last) = dims.last_mut() {
        *last = own.columns.len();
    }
    // Floats are multiplied as floats, and rounded afterwards.
    let computed = match (weight.numbers(), numbers) {
        (Numbers::F32, _) => Numbers::F32,
        (Numbers::Bf16, numbers) => numbers,
    };
    let mut y = Tensor::unfilled(x.gpu(), computed, &dims)?;
    let kind = Kind {
        input_pitch: spread.pitch,
        ..own.kind(computed)
    };
    let is_done = kind.is_for_library() && own.run(&kind, &x, &spread, None, &mut y)?;
    if !is_done {
        own.run_plain(&kind, &x, spread.rows, None, &mut y)?;
    }
    y.cast(numbers)
}

/// Returns the residual `[…, L, n]` with x · Wᵀ + b added to `rows`; x has no other rows.
///
/// # Errors
/// When the sizes do not fit, or the device fails.
pub(crate) fn project_add(
    x: &Tensor,
    residual: &Tensor,
    weight: &Matrix,
    rows: Rows,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let own = Use::new(weight, &(0..weight.sections()), bias)?;
    let x = fitting(x, weight)?;
    let spread = Spread::new(residual.dims(), rows)?;
    let width = residual.dims().last().copied().unwrap_or_default();
    if residual.numbers() != Numbers::F32
        || width != weight.n()
        || spread.rows * weight.k() != x.elem_count()
    {
        candle_core::bail!("{x:?} is added to {rows:?} rows of {residual:?}");
    }
    let kind = Kind {
        output_pitch: spread.pitch,
        adds: true,
        ..own.kind(Numbers::F32)
    };
    if !kind.is_for_library() {
        return own.add_plain(&kind, &x, (residual, rows), spread.rows);
    }
    // Rows that are not added to come from the residual.
    let mut y = match rows {
        Rows::All => Tensor::unfilled(x.gpu(), Numbers::F32, residual.dims())?,
        Rows::Class | Rows::Patches => residual.copy()?,
    };
    match own.run(&kind, &x, &spread, Some(residual), &mut y)? {
        true => Ok(y),
        false => own.add_plain(&kind, &x, (residual, rows), spread.rows),
    }
}

impl Use<'_> {
    fn add_plain(
        &self,
        kind: &Kind,
        x: &Tensor,
        (residual, rows): (&Tensor, Rows),
        count: usize,
    ) -> Result<Tensor> {
        let gpu = x.gpu();
        if rows == Rows::All {
            let mut y = Tensor::unfilled(gpu, Numbers::F32, residual.dims())?;
            self.run_plain(kind, x, count, Some(residual), &mut y)?;
            return Ok(y);
        }
        let mut added = Tensor::unfilled(gpu, Numbers::F32, &[count, kind.columns])?;
        self.run_plain(kind, x, count, None, &mut added)?;
        let mut y = residual.copy()?;
        let tokens = kind.output_pitch / kind.columns;
        gpu.launch("add_class_rows")
            .grid([(count * kind.columns).div_ceil(256), 1, 1])
            .threads(256)
            .counts(residual.elem_count())
            .read(&added)
            .write(&mut y)
            .int(count)
            .int(tokens)
            .int(kind.columns)
            .run()?;
        Ok(y)
    }
}

/// Returns x in the number format of the weight, whose input it is.
fn fitting(x: &Tensor, weight: &Matrix) -> Result<Tensor> {
    if x.dims().last() != Some(&weight.k()) {
        candle_core::bail!("{x:?} is multiplied by {weight:?}");
    }
    x.cast(weight.numbers())
}
