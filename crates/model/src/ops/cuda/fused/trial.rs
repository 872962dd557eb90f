//! A fused product beside the product and the activation apart, on random data.
//!
//! Invariant: what is compared is computed as a batch computes it.

use std::sync::Arc;

use candle_core::Result;

use super::{Epilogues, Shape, Way};
use crate::ops::cuda::check::{bound, far};
use crate::ops::cuda::gpu::Gpu;
use crate::ops::cuda::trial::{RUNS, SIZES, repeats};
use crate::ops::cuda::{Matrix, Tensor, activation, products};
use crate::ops::linear::Rows;
use crate::ops::{Format, Numbers};
use crate::rng::Stream;

/// Number of times that the timing is repeated, in turns; the least time counts.
const TURNS: usize = 3;

/// How memory for a result is made.
type Fresh = fn(&Arc<Gpu>, Numbers, &[usize]) -> Result<Tensor>;

/// Operands of one shape: the rows of one frame again and again.
pub(super) struct Trial<'a> {
    gpu: &'a Arc<Gpu>,
    shape: &'a Shape,
    /// Rows of one frame.
    frame: usize,
    input: Tensor,
    weight: Matrix,
    /// Bias, or the values before the activation.
    beside: Tensor,
}

impl<'a> Trial<'a> {
    pub(super) fn new(gpu: &'a Arc<Gpu>, shape: &'a Shape, frame: usize) -> Result<Self> {
        let Shape { columns, inner, .. } = *shape;
        let mut stream = Stream::new(0, "trial of fused products");
        let mut random = |count: usize, scale: f32| -> Vec<f32> {
            (0..count).map(|_| stream.range(-scale, scale)).collect()
        };
        // Sums are about as large as the input, so that the activation sees all of its bends.
        let weights = random(columns * inner, (6.0 / inner as f32).sqrt());
        let biases = random(columns, 1.0);
        let mut rows = |width: usize| -> Result<Tensor> {
            let one = Tensor::upload(gpu, &random(frame * width, 2.0), &[1, frame, width])?;
            Tensor::cat(&[&one.cast(Numbers::Bf16)?; SIZES[2]])
        };
        let input = rows(inner)?;
        let (weight, beside) = match shape.way {
            Way::Forward => (
                Matrix::new(gpu, Format::Bf16, &weights, inner, 1)?,
                Tensor::upload(gpu, &biases, &[columns])?,
            ),
            Way::Backward => {
                let weight = Matrix::new(gpu, Format::Bf16, &weights, columns, 1)?;
                (weight.transposed(0..1), rows(columns)?)
            }
        };
        Ok(Self {
            gpu,
            shape,
            frame,
            input,
            weight,
            beside,
        })
    }

    /// Computes product and activation of so many frames one after the other.
    fn apart(&self, frames: usize) -> Result<Tensor> {
        let (x, act) = (self.input.narrow(0, frames)?, self.shape.activation);
        let project =
            |bias, numbers| products::project(&x, Rows::All, &self.weight, (0..1, bias), numbers);
        match self.shape.way {
            Way::Forward => {
                let y = project(Some(&self.beside), Numbers::Bf16)?;
                activation::forward(&y, act, Numbers::Bf16)
            }
            Way::Backward => {
                let before = self.beside.narrow(0, frames)?;
                activation::backward(&before, &project(None, Numbers::F32)?, act, Numbers::Bf16)
            }
        }
    }

    /// Computes both of so many rows in one kernel, into memory of `fresh`; the reason in words when the kernel does not do it.
    fn fused(
        &self,
        rows: usize,
        kernels: &dyn Epilogues,
        fresh: Fresh,
    ) -> Result<std::result::Result<Tensor, String>> {
        let mut y = fresh(self.gpu, Numbers::Bf16, &[rows, self.shape.columns])?;
        let operands = [&self.input, self.weight.values(), &self.beside];
        let ran = super::run(kernels, self.shape, rows, operands, &mut y);
        Ok(ran.map(|()| y))
    }

    /// Returns what is wrong with the one kernel, in words; `None` when nothing is. A row alone is tried, too: the last block reads class tokens, of which there
    /// may be any number.
    pub(super) fn problem(&self, kernels: &dyn Epilogues) -> Result<Option<String>> {
        let sizes = [1]
            .into_iter()
            .chain(SIZES.map(|frames| frames * self.frame));
        let mut outputs = Vec::with_capacity(SIZES.len() + 1);
        for rows in sizes {
            match self.fused(rows, kernels, Tensor::nans)? {
                Ok(output) => outputs.push(output),
                Err(reason) => return Ok(Some(reason)),
            }
        }
        let alone = outputs.remove(0);
        if let Some(problem) = far_apart(&self.apart(1)?, &outputs[0])? {
            return Ok(Some(format!("the one kernel is wrong: {problem}")));
        }
        let first = outputs[0].narrow(0, 1)?;
        let each = self.frame * self.shape.columns;
        let frames = outputs
            .iter()
            .map(|output| output.reshape(&[output.elem_count() / each, each]));
        let frames = frames.collect::<Result<Vec<Tensor>>>()?;
        Ok(match repeats(&[alone, first])? && repeats(&frames)? {
            true => None,
            false => Some("bits depend on the number of rows, or on a row's place".to_owned()),
        })
    }

    /// Returns the times of a clip in one kernel and apart, in microseconds.
    pub(super) fn micros(&self, kernels: &dyn Epilogues) -> Result<[f32; 2]> {
        let clip = SIZES[1] * self.frame;
        let mut least = [f32::INFINITY; 2];
        for _ in 0..TURNS {
            let fused = self.gpu.timed(RUNS, || {
                self.fused(clip, kernels, Tensor::unfilled).map(drop)
            })?;
            let apart = self.gpu.timed(RUNS, || self.apart(SIZES[1]).map(drop))?;
            for (least, took) in least.iter_mut().zip([fused, apart]) {
                *least = least.min(1e3 * took);
            }
        }
        Ok(least)
    }
}

/// Returns how a result differs by more than roundings to bfloat16; `None` when it does not.
pub(super) fn far_apart(expected: &Tensor, got: &Tensor) -> Result<Option<String>> {
    let values = |tensor: &Tensor| -> Result<Vec<f32>> {
        tensor.cast(Numbers::F32)?.host()?.flatten_all()?.to_vec1()
    };
    Ok(far(&values(expected)?, &values(got)?, bound(Format::Bf16)))
}
