//! Products of a head of attention on AMX.
#![allow(unsafe_code)]

use super::{ROWS, SIDE, Walk, bf16s, shape};
use crate::ops::kernel::NR;
use crate::ops::kernel::avx512::epilogue::Kind;
use crate::ops::kernel::avx512::head::{self, Products, Strip};
use crate::ops::kernel::avx512::slope;
use crate::ops::kernel::unit::{Back, Backs, Head, Heads};

/// Heads on a CPU that has AMX with bfloat16 and AVX-512 with bfloat16.
pub(super) struct OnTiles;

impl Kind for OnTiles {}

impl Heads for OnTiles {
    unsafe fn head(&self, head: &Head) {
        // SAFETY: passed on.
        unsafe { head::head::<Self>(head) }
    }
}

impl Backs for OnTiles {
    unsafe fn back(&self, back: &Back) {
        // SAFETY: passed on.
        unsafe { slope::back::<Self>(back) }
    }
}

impl Products for OnTiles {
    const ROWS: usize = ROWS;
    const GROUP: usize = 2;

    unsafe fn begin() {
        // SAFETY: passed on.
        unsafe { shape(ROWS) }
    }

    unsafe fn multiply(
        _rows: usize,
        left: (*const u32, usize),
        right: Strip,
        to: (*mut f32, usize),
    ) {
        // SAFETY: promised by the caller; padding is multiplied as well.
        unsafe {
            let lower = to.0.add(SIDE * to.1);
            bf16s(&Walk {
                left: [left.0, left.0.add(SIDE * left.1)],
                row_bytes: 4 * left.1,
                panels: [right.at, right.at.add(right.words * NR)],
                sums: [to.0, to.0.add(NR), lower, lower.add(NR)],
                sum_bytes: 4 * to.1,
                steps: right.words / SIDE,
            });
        }
    }
}
