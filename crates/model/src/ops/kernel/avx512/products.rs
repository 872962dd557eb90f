//! Products of a head of attention on AVX-512, of floats and of bfloat16.
#![allow(unsafe_code)]

use super::epilogue::Kind;
use super::head::{self, Products, Strip};
use super::{ROWS, bf16s, f32s, slope};
use crate::ops::kernel::NR;
use crate::ops::kernel::micro::by_rows;
use crate::ops::kernel::unit::{Back, Backs, Head, Heads};

/// Defines heads of a number format by the module of its tiles.
macro_rules! heads {
    ($(#[$doc:meta])* $name:ident, $module:ident, $group:literal) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl Kind for $name {
            const EXACT: bool = $group == 1;
            const ROUNDS: bool = $group == 2;
        }

        impl Heads for $name {
            unsafe fn head(&self, head: &Head) {
                // SAFETY: passed on.
                unsafe { head::head::<Self>(head) }
            }
        }

        impl Products for $name {
            const ROWS: usize = 2 * ROWS;
            const GROUP: usize = $group;

            unsafe fn multiply(
                rows: usize,
                (left, row): (*const u32, usize),
                right: Strip,
                (to, apart): (*mut f32, usize),
            ) {
                let panels = (right.at, right.words * NR);
                for first in (0..rows).step_by(ROWS) {
                    // SAFETY: promised by the caller.
                    unsafe {
                        let left = (left.add(first * row), row);
                        let to = (to.add(first * apart), apart);
                        let rows = ROWS.min(rows - first);
                        if right.panels == 1 {
                            by_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12], 1, $module::strip, (right.used, left, panels, to));
                        } else {
                            by_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12], 2, $module::strip, (right.used, left, panels, to));
                        }
                    }
                }
            }
        }
    };
}

heads!(
    /// Heads of floats.
    F32s,
    f32s,
    1
);
heads!(
    /// Heads of bfloat16, on a CPU that has AVX-512 with it.
    Bf16s,
    bf16s,
    2
);

impl Backs for Bf16s {
    unsafe fn back(&self, back: &Back) {
        // SAFETY: passed on.
        unsafe { slope::back::<Self>(back) }
    }
}
