//! Linear layers on the device: over all rows or class rows through the product library, over patch rows through the grouped kernels.
//!
//! Invariant: a layer reads its input in the number format of its weight, as the host's does.

use std::ops::Range;

use candle_core::Result;

use super::{Matrix, Tensor, activation, grouped, products};
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
}

/// Multiplies `rows` of x by some sections of the weight. Returns `[…, L, n]`, `[N, L - 1, n]` or `[N, n]`.
pub(crate) fn project(
    x: &Tensor,
    weight: &Matrix,
    rows: Rows,
    options: Options<'_>,
) -> Result<Tensor> {
    let numbers = options.numbers;
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
