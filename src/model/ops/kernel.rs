//! The innermost product: up to 6 rows times a packed panel of 16 columns.
//!
//! Invariant: each element is the sum over k = 0, 1, … in this order, whatever the number of rows in the tile.
#![allow(unsafe_code)]

/// Columns of a panel.
pub(super) const NR: usize = 16;
/// Rows of a tile.
pub(super) const MR: usize = 6;

/// Rows of results.
pub(super) type Tile = [[f32; NR]; MR];

/// Copies the first `width` values of a row of results; nearly always all 16, which then need no call.
#[inline(always)]
pub(super) fn copy(to: &mut [f32], from: &[f32], width: usize) {
    match (to.first_chunk_mut::<NR>(), from.first_chunk::<NR>()) {
        (Some(to), Some(from)) if width == NR => *to = *from,
        _ => to[..width].copy_from_slice(&from[..width]),
    }
}

/// Adds `width` values to a row of results.
#[inline(always)]
pub(super) fn add(to: &mut [f32; NR], from: &[f32], width: usize) {
    match from.first_chunk::<NR>() {
        Some(from) if width == NR => {
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        }
        _ => {
            for (to, from) in to.iter_mut().zip(&from[..width]) {
                *to += from;
            }
        }
    }
}

/// The left operand: element (row, k) lies at `row · row_stride + k · step`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    /// Element (0, 0).
    pub(super) at: *const f32,
    /// Between rows.
    pub(super) row_stride: usize,
    /// Between elements of a row.
    pub(super) step: usize,
}

impl Left {
    /// The rows from `row` on.
    ///
    /// # Safety
    /// The operand has such a row.
    pub(super) unsafe fn rows_from(self, row: usize) -> Self {
        Self {
            // SAFETY: promised by the caller.
            at: unsafe { self.at.add(row * self.row_stride) },
            ..self
        }
    }
}

/// Computes `rows` (1 to 6) rows of a tile; the others are left as they were.
///
/// # Safety
/// `left` has `rows` rows of `k` elements, and `panel` has `k` · 16 elements.
#[inline]
pub(super) unsafe fn tile(rows: usize, k: usize, left: Left, panel: *const f32, out: &mut Tile) {
    // SAFETY: passed on.
    unsafe {
        match rows {
            6 => any::<6>(k, left, panel, out),
            5 => any::<5>(k, left, panel, out),
            4 => any::<4>(k, left, panel, out),
            3 => any::<3>(k, left, panel, out),
            2 => any::<2>(k, left, panel, out),
            _ => any::<1>(k, left, panel, out),
        }
    }
}

/// # Safety
/// As `tile`.
#[inline(always)]
unsafe fn any<const M: usize>(k: usize, left: Left, panel: *const f32, out: &mut Tile) {
    #[cfg(target_arch = "x86_64")]
    if super::simd::is_wide() {
        // SAFETY: the CPU has both features; the rest is passed on.
        unsafe { avx2::<M>(k, left, panel, out) };
        return;
    }
    // SAFETY: passed on.
    unsafe { portable::<M>(k, left, panel, out) }
}

/// # Safety
/// As `tile`, on a CPU with AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const M: usize>(k: usize, left: Left, panel: *const f32, out: &mut Tile) {
    use std::arch::x86_64::{
        _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    let (mut at, mut panel) = (left.at, panel);
    for _ in 0..k {
        // SAFETY: the panel has 16 elements for each of the k steps, and the left operand M rows of k elements.
        unsafe {
            let (low, high) = (_mm256_loadu_ps(panel), _mm256_loadu_ps(panel.add(8)));
            for (row, sum) in sums.iter_mut().enumerate() {
                let value = _mm256_broadcast_ss(&*at.add(row * left.row_stride));
                sum[0] = _mm256_fmadd_ps(value, low, sum[0]);
                sum[1] = _mm256_fmadd_ps(value, high, sum[1]);
            }
            panel = panel.add(NR);
            at = at.wrapping_add(left.step);
        }
    }
    for (row, sum) in out.iter_mut().zip(sums) {
        // SAFETY: a row of a tile has 16 elements.
        unsafe {
            _mm256_storeu_ps(row.as_mut_ptr(), sum[0]);
            _mm256_storeu_ps(row.as_mut_ptr().add(8), sum[1]);
        }
    }
}

/// # Safety
/// As `tile`.
unsafe fn portable<const M: usize>(k: usize, left: Left, panel: *const f32, out: &mut Tile) {
    let mut sums = [[0.0; NR]; M];
    for p in 0..k {
        // SAFETY: the panel has 16 elements for each of the k steps.
        let right = unsafe { &*panel.add(p * NR).cast::<[f32; NR]>() };
        for (row, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the left operand has M rows of k elements.
            let value = unsafe { *left.at.add(row * left.row_stride + p * left.step) };
            for (sum, right) in sum.iter_mut().zip(right) {
                *sum += value * right;
            }
        }
    }
    out[..M].copy_from_slice(&sums);
}
