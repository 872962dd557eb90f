//! QuickGELU and GELU with the error function, forward and backward.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::kernel::{NR, Tile};
use super::share::{output, slice, unfilled};
use super::simd::{erf, exp, wide};
use crate::model::Activation;

/// Elements that a thread takes at once.
const CHUNK: usize = 16_384;

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
    // 1 / sqrt(2 π), of the normal density.
    const DENSITY: f32 = 0.398_942_3;
    0.5 * (1.0 + erf::<FUSES>(x * std::f32::consts::FRAC_1_SQRT_2))
        + x * DENSITY * exp::<FUSES>(-0.5 * x * x)
}

wide! {
    fn quick_into(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = quick::<FUSES>(x);
        }
    }

    fn exact_into(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = exact::<FUSES>(x);
        }
    }

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

    fn quick_tile(tile: &mut [f32]) {
        for x in tile.iter_mut() {
            *x = quick::<FUSES>(*x);
        }
    }

    fn exact_tile(tile: &mut [f32]) {
        for x in tile.iter_mut() {
            *x = exact::<FUSES>(*x);
        }
    }
}

/// Activates the first rows of a tile in place.
pub(super) fn activate_tile(tile: &mut Tile, rows: usize, activation: Activation) {
    let used = &mut tile.as_flattened_mut()[..rows * NR];
    match activation {
        Activation::QuickGelu => quick_tile(used),
        Activation::Gelu => exact_tile(used),
    }
}

/// act(x), of any shape.
pub(in crate::model) fn forward(x: &Tensor, activation: Activation) -> Result<Tensor> {
    x.apply_op1_no_bwd(&Gelu(activation))
}

/// dy · act'(x).
pub(in crate::model) fn backward(
    x: &Tensor,
    dy: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    x.apply_op2_no_bwd(dy, &GeluBackward(activation))
}

struct Gelu(Activation);

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let mut y = unfilled(x.len());
        let into = match self.0 {
            Activation::QuickGelu => quick_into,
            Activation::Gelu => exact_into,
        };
        x.par_chunks(CHUNK)
            .zip(y.par_chunks_mut(CHUNK))
            .for_each(|(x, y)| into(x, y));
        Ok(output(y, layout.shape()))
    }
}

struct GeluBackward(Activation);

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
        let (x, dy) = (slice(s1, l1)?, slice(s2, l2)?);
        if x.len() != dy.len() {
            candle_core::bail!("gelu of {:?}, gradient of {:?}", l1.shape(), l2.shape());
        }
        let mut dx = unfilled(x.len());
        let back = match self.0 {
            Activation::QuickGelu => quick_back,
            Activation::Gelu => exact_back,
        };
        x.par_chunks(CHUNK)
            .zip(dy.par_chunks(CHUNK))
            .zip(dx.par_chunks_mut(CHUNK))
            .for_each(|((x, dy), dx)| back(x, dy, dx));
        Ok(output(dx, l1.shape()))
    }
}
