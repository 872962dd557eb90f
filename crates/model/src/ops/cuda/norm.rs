//! LayerNorm on the device, forward and backward, and the gradients of its own weights.
//!
//! Invariant: a row depends on that row; sums over rows are formed in runs of a fixed length, added in their order.

use std::sync::Arc;

use candle_core::Result;

use super::sums::Sums;
use super::{Gpu, Tensor};
use crate::ops::Numbers;

/// Rows of a block: a warp a row.
const ROWS: usize = 8;
/// Threads of a block.
const THREADS: usize = 256;
/// Rows of a run of the weights' gradients.
const DEPTH: usize = 256;

/// Weights of a LayerNorm.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl Norm {
    /// Uploads weight and bias `[C]`.
    pub(crate) fn new(gpu: &Arc<Gpu>, weight: &[f32], bias: &[f32], eps: f32) -> Result<Self> {
        if weight.len() != bias.len() || weight.is_empty() {
            candle_core::bail!("a norm of {} weights, {} biases", weight.len(), bias.len());
        }
        Ok(Self {
            weight: Tensor::upload(gpu, weight, &[weight.len()])?,
            bias: Tensor::upload(gpu, bias, &[bias.len()])?,
            eps,
        })
    }

    /// Returns the number of weights.
    pub(crate) fn width(&self) -> usize {
        self.weight.elem_count()
    }

    /// Returns the address of the first weight.
    pub(crate) fn pointer(&self) -> u64 {
        self.weight.pointer()
    }

    /// Returns the number that is added to the variance.
    pub(crate) fn eps(&self) -> f32 {
        self.eps
    }

    /// Returns the number of rows of x.
    fn rows(&self, x: &Tensor) -> Result<usize> {
        let c = self.width();
        if x.dims().last() != Some(&c) || x.numbers() != Numbers::F32 {
            candle_core::bail!("a norm of width {c} does not fit {x:?}");
        }
        Ok(x.elem_count() / c)
    }
}

/// Kernels, each with the most numbers of a row that it reads, eight of them at a time; the last reads any row.
const KERNELS: [(usize, [&str; 2]); 5] = [
    (256, ["norm_f32_1", "norm_bf16_1"]),
    (768, ["norm_f32_3", "norm_bf16_3"]),
    (1024, ["norm_f32_4", "norm_bf16_4"]),
    (2048, ["norm_f32_8", "norm_bf16_8"]),
    (usize::MAX, ["norm_f32_any", "norm_bf16_any"]),
];

/// Returns the kernel for rows of so many numbers.
fn kernel(c: usize, numbers: Numbers) -> &'static str {
    let [.., (_, any)] = KERNELS;
    let fits = KERNELS.iter().find(|(most, _)| c <= *most);
    let [floats, narrow] = match fits {
        Some((_, names)) if c.is_multiple_of(8) => *names,
        Some(_) | None => any,
    };
    match numbers {
        Numbers::F32 => floats,
        Numbers::Bf16 => narrow,
    }
}

/// Normalises rows in f32, to this number format.
pub(crate) fn forward(x: &Tensor, norm: &Norm, numbers: Numbers) -> Result<Tensor> {
    let (rows, c) = (norm.rows(x)?, norm.width());
    let mut y = Tensor::unfilled(x.gpu(), numbers, x.dims())?;
    x.gpu()
        .launch(kernel(c, numbers))
        .grid([rows.div_ceil(ROWS), 1, 1])
        .threads(THREADS)
        .read(x)
        .write(&mut y)
        .read(&norm.weight)
        .read(&norm.bias)
        .int(rows)
        .int(c)
        .float(norm.eps)
        .run()?;
    Ok(y)
}

/// Returns the gradient of the input, plus `add`.
pub(crate) fn backward(x: &Tensor, dy: &Tensor, add: &Tensor, norm: &Norm) -> Result<Tensor> {
    let (rows, c) = (norm.rows(x)?, norm.width());
    let fits = dy.elem_count() == x.elem_count() && add.elem_count() == x.elem_count();
    if !fits || add.numbers() != Numbers::F32 {
        candle_core::bail!("norm of {x:?}, gradient of {dy:?}, added to {add:?}");
    }
    let name = match (dy.numbers(), c.is_multiple_of(8)) {
        (Numbers::F32, true) => "norm_backward_f32_8",
        (Numbers::F32, false) => "norm_backward_f32_any",
        (Numbers::Bf16, true) => "norm_backward_bf16_8",
        (Numbers::Bf16, false) => "norm_backward_bf16_any",
    };
    let mut dx = Tensor::unfilled(x.gpu(), Numbers::F32, x.dims())?;
    x.gpu()
        .launch(name)
        .grid([rows.div_ceil(ROWS), 1, 1])
        .threads(THREADS)
        .read(x)
        .read(dy)
        .read(add)
        .read(&norm.weight)
        .write(&mut dx)
        .write_or_null(None)
        .int(rows)
        .int(c)
        .float(norm.eps)
        .run()?;
    Ok(dx)
}

/// Returns the gradients of weight and bias, `[2, C]`.
pub(crate) fn weight_gradient(x: &Tensor, dy: &Tensor, eps: f32) -> Result<Tensor> {
    let c = x.dims().last().copied().unwrap_or(0);
    if c == 0 || x.numbers() != Numbers::F32 || dy.elem_count() != x.elem_count() {
        candle_core::bail!("norm of {x:?}, gradient of {dy:?}");
    }
    let rows = x.elem_count() / c;
    let runs = rows.div_ceil(DEPTH);
    let mut statistics = Tensor::unfilled(x.gpu(), Numbers::F32, &[rows, 2])?;
    x.gpu()
        .launch("norm_statistics")
        .grid([rows.div_ceil(ROWS), 1, 1])
        .threads(THREADS)
        .read(x)
        .write(&mut statistics)
        .int(rows)
        .int(c)
        .float(eps)
        .run()?;
    let name = match dy.numbers() {
        Numbers::F32 => "norm_weight_gradient_f32",
        Numbers::Bf16 => "norm_weight_gradient_bf16",
    };
    let mut partial = Tensor::unfilled(x.gpu(), Numbers::F32, &[runs, 2, c])?;
    x.gpu()
        .launch(name)
        .grid([c.div_ceil(THREADS), runs, 1])
        .threads(THREADS)
        .read(x)
        .read(&statistics)
        .read(dy)
        .write(&mut partial)
        .int(rows)
        .int(c)
        .int(DEPTH)
        .run()?;
    let sums = Sums {
        runs,
        stride: 2 * c,
        at: 0,
        shape: [2, c],
        transposed: false,
    };
    sums.add(&partial, None, &[2, c])
}
