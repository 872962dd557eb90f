//! Epilogue of a tile: its sums are scaled, bias and residual are added, the activation is applied, and the result is written.
//!
//! Invariant: each value depends only on its own sum.

use super::activations::Lines;
use super::gelu::activate;
use super::kernel::{self, NR};
use super::packed::{Columns, SHIFT};
use super::simd::{alone, wide};
use crate::Activation;

/// Parameters of the epilogue of one panel's tile.
pub(super) struct Epilogue<'a> {
    pub(super) scale: Scale<'a>,
    /// Bias of the columns.
    pub(super) bias: Option<&'a [f32]>,
    /// Residual, laid out like the buffer of `y`.
    pub(super) residual: Option<&'a [f32]>,
    /// Destination of the values before the activation.
    pub(super) before: Option<Lines>,
    pub(super) activation: Option<Activation>,
    pub(super) y: Lines,
}

/// Scale that turns a sum into a value.
#[derive(Clone, Copy)]
pub(super) enum Scale<'a> {
    /// The same scale for every sum.
    By(f32),
    /// Sums are the bits of 32-bit integers; the scale is a row's times a column's.
    Integers(&'a [f32], &'a Columns),
}

wide! {
    /// Applies the epilogue to the first rows of a tile, as many as `y` has.
    pub(super) fn end(tile: &mut [[f32; NR]], epilogue: &Epilogue<'_>) {
        let y = &epilogue.y;
        let tile = &mut tile[..y.rows()];
        match epilogue.scale {
            Scale::By(1.0) => {}
            Scale::By(scale) => {
                for sum in tile.as_flattened_mut() {
                    *sum *= scale;
                }
            }
            Scale::Integers(rows, columns) => {
                for (row, &scale) in tile.iter_mut().zip(rows) {
                    for ((value, sum), own) in alone(row).iter_mut().zip(columns.sums).zip(columns.scales) {
                        // The left operand was shifted to be unsigned.
                        let sum = value.to_bits() as i32 - SHIFT * sum;
                        *value = sum as f32 * (scale * own);
                    }
                }
            }
        }
        if let Some(bias) = epilogue.bias {
            for row in tile.iter_mut() {
                kernel::add(alone(row), bias, y.width());
            }
        }
        if let Some(residual) = epilogue.residual {
            for (i, row) in tile.iter_mut().enumerate() {
                kernel::add(alone(row), &residual[y.at(i)..], y.width());
            }
        }
        if let Some(before) = &epilogue.before {
            before.write(tile);
        }
        if let Some(activation) = epilogue.activation {
            activate::<FUSES>(tile.as_flattened_mut(), activation);
        }
        y.write(tile);
    }
}
