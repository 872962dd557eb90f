//! The optimiser's passes over flat buffers in a place: the sum of squares of the gradients, and the update.
//!
//! Invariant: every element is updated by itself, and the order of the sum is fixed.

use std::ops::Range;

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result};
use rayon::prelude::*;

use super::Array;
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::{read, slice, slice_mut, squares};

/// Number of elements that one thread updates at a time.
const CHUNK: usize = 65_536;

/// Factors of one update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors {
    /// Share of the first moment that is kept, and of the gradient that is added.
    pub(crate) first: [f32; 2],
    /// Share of the second moment that is kept, and of the squared gradient that is added.
    pub(crate) second: [f32; 2],
    /// Factor of the gradient.
    pub(crate) scale: f32,
    /// Rate of the update, over the correction of the first moment.
    pub(crate) rate: f32,
    /// Root of the correction of the second moment.
    pub(crate) root: f32,
    /// Constant added to the root of the second moment.
    pub(crate) eps: f32,
}

/// Position of a weight in the buffers, and the share of it that an update keeps.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    pub(crate) range: Range<usize>,
    pub(crate) keep: f32,
}

/// Returns the sum of squares of a flat buffer: of each range by itself, then of the ranges in their order. It is finite when all values are.
pub(crate) fn sum_of_squares(flat: &Array, ranges: &[Range<usize>]) -> Result<f64> {
    match flat {
        Array::Host(flat) => read(flat, |values| {
            let ranges = ranges.par_iter().with_max_len(1);
            let sums: Vec<f64> = ranges
                .map(|range| squares(&values[range.clone()]))
                .collect();
            let mut sum = 0.0;
            for own in sums {
                sum += own;
            }
            sum
        }),
        #[cfg(feature = "cuda")]
        Array::Cuda(flat) => cuda::adamw::sum_of_squares(flat),
    }
}

/// Updates the weights and both moments in place. `own` holds the ranges in ascending order.
pub(crate) fn update(
    weights: &Array,
    gradients: &Array,
    [first, second]: [&Array; 2],
    own: &[Own],
    factors: Factors,
) -> Result<()> {
    match weights {
        Array::Host(weights) => {
            let (gradients, [first, second]) =
                (gradients.on_host()?, [first.on_host()?, second.on_host()?]);
            let moment = |[keep, add]: [f32; 2], square| Moment {
                keep,
                add,
                scale: factors.scale,
                square,
            };
            first.inplace_op2(gradients, &moment(factors.first, false))?;
            second.inplace_op2(gradients, &moment(factors.second, true))?;
            weights.inplace_op3(first, second, &Update { own, factors })
        }
        #[cfg(feature = "cuda")]
        Array::Cuda(weights) => {
            let moments = [first.on_cuda()?, second.on_cuda()?];
            cuda::adamw::update(weights, gradients.on_cuda()?, moments, own, factors)
        }
    }
}

/// Update of a moment: m = keep · m + add · g, or + add · g² when `square`.
struct Moment {
    keep: f32,
    add: f32,
    scale: f32,
    square: bool,
}

impl InplaceOp2 for Moment {
    fn name(&self) -> &'static str {
        "adamw-moment"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<()> {
        let (moment, gradient) = (slice_mut(s1, l1)?, slice(s2, l2)?);
        moment
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .for_each(|(moment, gradient)| {
                for (m, g) in moment.iter_mut().zip(gradient) {
                    let g = g * self.scale;
                    let g = if self.square { g * g } else { g };
                    *m = self.keep * *m + self.add * g;
                }
            });
        Ok(())
    }
}

/// Update of the weights: w = keep · w - rate · m / (√v / root + eps).
struct Update<'a> {
    own: &'a [Own],
    factors: Factors,
}

impl Update<'_> {
    /// Updates the elements of one thread, which begin at `at` of the buffers.
    fn chunk(&self, at: usize, weights: &mut [f32], first: &[f32], second: &[f32]) {
        let Factors {
            rate, root, eps, ..
        } = self.factors;
        let begin = self.own.partition_point(|own| own.range.end <= at);
        for own in &self.own[begin..] {
            let from = own.range.start.saturating_sub(at).min(weights.len());
            let to = own.range.end.saturating_sub(at).min(weights.len());
            if from == to && own.range.start >= at {
                break;
            }
            let weights = weights[from..to].iter_mut();
            for ((w, m), v) in weights.zip(&first[from..to]).zip(&second[from..to]) {
                *w = own.keep * *w - rate * m / (v.sqrt() / root + eps);
            }
        }
    }
}

impl InplaceOp3 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw-update"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<()> {
        let (weights, first, second) = (slice_mut(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        weights
            .par_chunks_mut(CHUNK)
            .zip(first.par_chunks(CHUNK))
            .zip(second.par_chunks(CHUNK))
            .enumerate()
            .for_each(|(i, ((weights, first), second))| {
                self.chunk(i * CHUNK, weights, first, second);
            });
        Ok(())
    }
}
