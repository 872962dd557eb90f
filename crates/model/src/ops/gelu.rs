//! QuickGELU and GELU with the error function, forward and backward.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::activations::{Buffer, Numbers, Values, ValuesMut, narrow};
use super::buffers::slice;
use super::simd::{erf, exp, wide};
use crate::Activation;

/// Number of elements that one thread takes at a time.
const CHUNK: usize = 8192;

/// Number of elements that stay in the first-level cache before they are rounded to bfloat16.
const PIECE: usize = 1024;

const QUICK: f32 = 1.702;

#[inline(always)]
fn quick<const FUSES: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FUSES>(-QUICK * x))
}

#[inline(always)]
fn quick_slope<const FUSES: bool>(x: f32) -> f32 {
    let s = 1.0 / (1.0 + exp::<FUSES>(-QUICK * x));
    s + QUICK * x * s * (1.0 - s)
}

#[inline(always)]
fn exact<const FUSES: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<FUSES>(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn exact_slope<const FUSES: bool>(x: f32) -> f32 {
    // The factor 1 / sqrt(2 π) of the normal density.
    const DENSITY: f32 = 0.398_942_3;
    0.5 * (1.0 + erf::<FUSES>(x * std::f32::consts::FRAC_1_SQRT_2))
        + x * DENSITY * exp::<FUSES>(-0.5 * x * x)
}

wide! {
    fn quick_back(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
            *dx = dy * quick_slope::<FUSES>(x);
        }
    }

    fn exact_back(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
            *dx = dy * exact_slope::<FUSES>(x);
        }
    }
}

/// Applies an activation to values in place.
#[inline(always)]
pub(super) fn activate<const FUSES: bool>(values: &mut [f32], activation: Activation) {
    match activation {
        Activation::QuickGelu => values.iter_mut().for_each(|x| *x = quick::<FUSES>(*x)),
        Activation::Gelu => values.iter_mut().for_each(|x| *x = exact::<FUSES>(*x)),
    }
}

/// Returns the gradient of an activation's input, dy · act'(x), in this number format.
pub(crate) fn backward(
    x: &Tensor,
    dy: &Tensor,
    activation: Activation,
    numbers: Numbers,
) -> Result<Tensor> {
    x.apply_op2_no_bwd(
        dy,
        &GeluBackward {
            activation,
            numbers,
        },
    )
}

struct GeluBackward {
    activation: Activation,
    numbers: Numbers,
}

impl CustomOp2 for GeluBackward {
    fn name(&self) -> &'static str {
        "gelu-backward"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, dy) = (Values::new(s1, l1)?, slice(s2, l2)?);
        if x.len() != dy.len() {
            candle_core::bail!("gelu of {:?}, gradient of {:?}", l1.shape(), l2.shape());
        }
        let back = match self.activation {
            Activation::QuickGelu => quick_back,
            Activation::Gelu => exact_back,
        };
        let mut dx = Buffer::unfilled(self.numbers, x.len());
        let chunks = dx.as_mut().chunks(CHUNK).into_par_iter();
        (chunks.zip(dy.par_chunks(CHUNK)).enumerate()).for_each_init(
            Vec::new,
            |own, (i, (dx, dy))| {
                let x = x.skip(i * CHUNK).take(dy.len()).floats(own);
                match dx {
                    ValuesMut::F32(dx) => back(x, dy, dx),
                    ValuesMut::Bf16(dx) => {
                        let mut piece = [0.0; PIECE];
                        let parts = x.chunks(PIECE).zip(dy.chunks(PIECE));
                        for ((x, dy), dx) in parts.zip(dx.chunks_mut(PIECE)) {
                            back(x, dy, &mut piece[..x.len()]);
                            narrow(&piece[..x.len()], dx);
                        }
                    }
                }
            },
        );
        Ok(dx.output(l1.shape()))
    }
}
