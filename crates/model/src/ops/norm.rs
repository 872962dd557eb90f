//! LayerNorm over the last dimension, forward and backward, and the gradients of its own weights.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::activations::{Buffer, Numbers, ValuesMut, narrow};
use super::buffers::{output, slice, unfilled};
use super::integers::{self, Form};
use super::simd::{LANES, total, wide};
use super::sum::add_blocks;

/// Weights of a LayerNorm.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    /// Factors of the normalised values, `[C]`.
    pub(crate) weight: Vec<f32>,
    /// Summands of the normalised values, `[C]`.
    pub(crate) bias: Vec<f32>,
    /// Epsilon added to the variance.
    pub(crate) eps: f32,
}

/// Number of rows that one thread takes at a time.
const ROWS: usize = 16;

/// Normalises rows: y = (x - mean) / sqrt(variance + eps) · weight + bias, in this number format or as rows of integers.
pub(crate) fn forward(x: &Tensor, norm: &Norm, form: impl Into<Form>) -> Result<Tensor> {
    match form.into() {
        Form::Numbers(numbers) => x.apply_op1_no_bwd(&Forward { norm, numbers }),
        Form::Integers => x.apply_op1_no_bwd(&ForwardIntegers(norm)),
    }
}

/// Returns the gradient of the input, plus `add` (of the same shape), which is the gradient that bypassed the norm.
pub(crate) fn backward(x: &Tensor, dy: &Tensor, add: &Tensor, norm: &Norm) -> Result<Tensor> {
    x.apply_op3_no_bwd(dy, add, &Backward(norm))
}

/// Returns the gradients of weight and bias, `[2, C]`.
pub(crate) fn weight_gradient(x: &Tensor, dy: &Tensor, eps: f32) -> Result<Tensor> {
    x.apply_op2_no_bwd(dy, &WeightGradient { eps })
}

#[inline(always)]
fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = x;
    }
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    let mean = total(lanes) / count;
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = (x - mean) * (x - mean);
    }
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += (x - mean) * (x - mean);
        }
    }
    (mean, 1.0 / (total(lanes) / count + eps).sqrt())
}

/// Returns the sums of dy · weight and of dy · weight · x̂ over a row.
#[inline(always)]
fn projections(x: &[f32], dy: &[f32], weight: &[f32], mean: f32, scale: f32) -> (f32, f32) {
    let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
    let whole = x.len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let (x, dy, weight) = (
            &x[at..][..LANES],
            &dy[at..][..LANES],
            &weight[at..][..LANES],
        );
        for i in 0..LANES {
            let g = dy[i] * weight[i];
            a[i] += g;
            b[i] += g * ((x[i] - mean) * scale);
        }
    }
    for i in whole..x.len() {
        let g = dy[i] * weight[i];
        a[i - whole] += g;
        b[i - whole] += g * ((x[i] - mean) * scale);
    }
    (total(a), total(b))
}

wide! {
    fn forward_rows(x: &[f32], y: &mut [f32], norm: &Norm) {
        let c = norm.weight.len();
        let (weight, bias) = (norm.weight.as_slice(), &norm.bias[..c]);
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            let (mean, scale) = statistics(x, norm.eps);
            for i in 0..c {
                y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
            }
        }
    }

    fn backward_rows(x: &[f32], dy: &[f32], add: &[f32], dx: &mut [f32], norm: &Norm) {
        let c = norm.weight.len();
        let weight = norm.weight.as_slice();
        for at in (0..x.len()).step_by(c) {
            let (x, dy, add, dx) = (&x[at..][..c], &dy[at..][..c], &add[at..][..c], &mut dx[at..][..c]);
            let (mean, scale) = statistics(x, norm.eps);
            let (a, b) = projections(x, dy, weight, mean, scale);
            let (a, b) = (a / c as f32, b / c as f32);
            for i in 0..c {
                let normal = (x[i] - mean) * scale;
                dx[i] = add[i] + scale * (dy[i] * weight[i] - a - normal * b);
            }
        }
    }

    fn gradient_rows(x: &[f32], dy: &[f32], sums: &mut [f32], eps: f32) {
        let c = sums.len() / 2;
        let (weight, bias) = sums.split_at_mut(c);
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
            let (mean, scale) = statistics(x, eps);
            for i in 0..c {
                weight[i] += dy[i] * ((x[i] - mean) * scale);
                bias[i] += dy[i];
            }
        }
    }
}

fn check(c: usize, len: usize, norm: &Norm) -> Result<()> {
    if c == 0 || norm.weight.len() != c || norm.bias.len() != c || !len.is_multiple_of(c) {
        candle_core::bail!(
            "norm of width {} does not fit rows of {c}",
            norm.weight.len()
        );
    }
    Ok(())
}

fn last(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(0)
}

struct Forward<'a> {
    norm: &'a Norm,
    numbers: Numbers,
}

impl CustomOp1 for Forward<'_> {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, c) = (slice(storage, layout)?, last(layout));
        check(c, x.len(), self.norm)?;
        let mut y = Buffer::unfilled(self.numbers, x.len());
        let chunks = y.as_mut().chunks(c * ROWS).into_par_iter();
        (chunks.zip(x.par_chunks(c * ROWS))).for_each_init(
            || vec![0.0; c],
            |row, (y, x)| match y {
                ValuesMut::F32(y) => forward_rows(x, y, self.norm),
                ValuesMut::Bf16(y) => {
                    for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
                        forward_rows(x, row, self.norm);
                        narrow(row, y);
                    }
                }
            },
        );
        Ok(y.output(layout.shape()))
    }
}

struct ForwardIntegers<'a>(&'a Norm);

impl CustomOp1 for ForwardIntegers<'_> {
    fn name(&self) -> &'static str {
        "norm-integers"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, c) = (slice(storage, layout)?, last(layout));
        check(c, x.len(), self.0)?;
        let stride = integers::stride(c);
        let mut y = unfilled(x.len() / c * stride);
        y.par_chunks_mut(stride * ROWS)
            .zip(x.par_chunks(c * ROWS))
            .for_each_init(
                || vec![0.0; c],
                |row, (y, x)| {
                    for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(stride)) {
                        forward_rows(x, row, self.0);
                        integers::encode(row, y);
                    }
                },
            );
        let mut shape = layout.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = stride;
        }
        Ok((CpuStorage::U32(y), shape.into()))
    }
}

struct Backward<'a>(&'a Norm);

impl CustomOp3 for Backward<'_> {
    fn name(&self) -> &'static str {
        "norm-backward"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, dy, add) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let c = last(l1);
        check(c, x.len(), self.0)?;
        if dy.len() != x.len() || add.len() != x.len() {
            candle_core::bail!("norm of {:?}, gradient of {:?}", l1.shape(), l2.shape());
        }
        let mut dx = unfilled(x.len());
        x.par_chunks(c * ROWS)
            .zip(dy.par_chunks(c * ROWS))
            .zip(add.par_chunks(c * ROWS))
            .zip(dx.par_chunks_mut(c * ROWS))
            .for_each(|(((x, dy), add), dx)| backward_rows(x, dy, add, dx, self.0));
        Ok(output(dx, l1.shape()))
    }
}

struct WeightGradient {
    eps: f32,
}

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "norm-weight-gradient"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, dy) = (slice(s1, l1)?, slice(s2, l2)?);
        let c = last(l1);
        if c == 0 || dy.len() != x.len() {
            candle_core::bail!("norm of {:?}, gradient of {:?}", l1.shape(), l2.shape());
        }
        let sums = add_blocks(x.len() / c, 2 * c, |rows, sums| {
            let at = rows.start * c..rows.end * c;
            gradient_rows(&x[at.clone()], &dy[at], sums, self.eps);
        });
        Ok(output(sums, (2, c)))
    }
}
