//! Linear layers on the device: over all rows or class rows through the product library, over patch rows through the grouped kernels.
//!
//! Invariant: a layer reads its input in the number format of its weight, as the host's does.

use std::ops::Range;

use candle_core::Result;

use super::{Matrix, Tensor, activation, fused, grouped, products};
use crate::Activation;
use crate::ops::Numbers;
use crate::ops::linear::Rows;

pub(crate) use super::grouped::{Each, project_add_each, project_each};
pub(crate) use super::sums::{Onto, columns, weight_gradient};

/// Options of a product.
pub(crate) struct Options<'a> {
    /// Bias `[n]` of all sections.
    pub(crate) bias: Option<&'a Tensor>,
    /// Activation that is applied after the bias.
    pub(crate) activation: Option<Activation>,
    /// Sections of the weight to use.
    pub(crate) sections: Range<usize>,
    /// Number format of the result.
    pub(crate) numbers: Numbers,
    /// Whether the activation is a pass of its own, so that the result has the bits that [`project_both`] gives.
    pub(crate) apart: bool,
}

/// Multiplies `rows` of x by some sections of the weight. Returns `[…, L, n]`, `[N, L - 1, n]` or `[N, n]`.
pub(crate) fn project(
    x: &Tensor,
    weight: &Matrix,
    rows: Rows,
    options: Options<'_>,
) -> Result<Tensor> {
    let numbers = options.numbers;
    if let Some(y) = fused(x, weight, rows, &options)? {
        return Ok(y);
    }
    let y = match rows {
        Rows::Patches => grouped::project_patches(x, weight, options.bias, numbers)?,
        Rows::All | Rows::Class => {
            let columns = (options.sections, options.bias);
            products::project(x, rows, weight, columns, numbers)?
        }
    };
    match options.activation {
        Some(activation) => activation::forward(&y, activation, numbers),
        None => Ok(y),
    }
}

/// Computes a product that ends with its activation in one kernel, where that is the better way.
fn fused(x: &Tensor, weight: &Matrix, rows: Rows, options: &Options<'_>) -> Result<Option<Tensor>> {
    let (Some(activation), Some(bias)) = (options.activation, options.bias) else {
        return Ok(None);
    };
    let is_whole = options.sections == (0..weight.sections()) && !options.apart;
    match (rows, options.numbers) {
        (Rows::All, Numbers::Bf16) if is_whole => fused::project(x, weight, bias, activation),
        (Rows::All | Rows::Class | Rows::Patches, _) => Ok(None),
    }
}

/// Multiplies all rows of dy by Wᵀ of a transposed view, and the result by the activation's slope at `before`. Returns `[…, L, n]`.
pub(crate) fn project_slope(
    dy: &Tensor,
    weight: &Matrix,
    before: &Tensor,
    activation: Activation,
    numbers: Numbers,
) -> Result<Tensor> {
    if numbers == Numbers::Bf16
        && let Some(dx) = fused::project_slope(dy, weight, before, activation)?
    {
        return Ok(dx);
    }
    let d_active = products::project(dy, Rows::All, weight, (0..1, None), Numbers::F32)?;
    activation::backward(before, &d_active, activation, numbers)
}

/// Multiplies like [`project`] over all rows. Returns the values before the activation, in the format `before`, and those after it.
pub(crate) fn project_both(
    x: &Tensor,
    weight: &Matrix,
    options: Options<'_>,
    before: Numbers,
) -> Result<(Tensor, Tensor)> {
    let (activation, numbers) = (options.activation, options.numbers);
    let plain = Options {
        activation: None,
        numbers: before,
        ..options
    };
    let first = project(x, weight, Rows::All, plain)?;
    let y = match activation {
        Some(activation) => activation::forward(&first, activation, numbers)?,
        None => first.cast(numbers)?,
    };
    Ok((first, y))
}

/// Returns the residual with the product added to `rows`; x has the shape that [`project`] returns for these rows.
pub(crate) fn project_add(
    x: &Tensor,
    residual: &Tensor,
    weight: &Matrix,
    rows: Rows,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    match rows {
        Rows::Patches => grouped::add_patches(x, residual, weight, bias),
        Rows::All | Rows::Class => products::project_add(x, residual, weight, rows, bias),
    }
}
