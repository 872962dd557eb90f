//! Epilogue of a whole AMX tile in one pass: scale, bias, residual, activation and rounding of 32 columns in two registers of AVX-512.
//!
//! Invariant: a value depends only on its own sum and on the layer's parameters, whatever the size of the tile around it.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::ROWS;
use crate::Activation;
use crate::ops::kernel::NR;
use crate::ops::kernel::unit::{Target, Unit};
use crate::ops::packed::SHIFT;
use crate::ops::simd;

/// Sums of one tile: 32 rows of two panels' 16 columns.
pub(super) type Sums = [[[f32; NR]; 2]; ROWS];

/// Epilogue of one tile, whose rows are computed a few at a time.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a> {
    /// Parameters of the unit that the tile belongs to.
    pub(super) whole: &'a Unit<'a>,
    /// Address of the tile's sums.
    pub(super) sums: *const Sums,
    /// First row of the tile in the unit, and number of rows.
    pub(super) rows: (usize, usize),
    /// First panel of the tile in the unit, and number of panels.
    pub(super) panels: (usize, usize),
}

/// Parameters of a tile's columns in registers.
struct Columns {
    masks: [__mmask16; 2],
    bias: [__m512; 2],
    scales: [__m512; 2],
    sums: [__m512i; 2],
    /// Place of each panel's first column in a row of the result.
    in_row: [usize; 2],
}

impl Epilogue<'_> {
    /// Calls [`Epilogue::end`] for an activation.
    ///
    /// # Safety
    /// Same as for `end`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn rows<const INTEGERS: bool>(&self, first: usize, count: usize) {
        // SAFETY: passed on.
        unsafe {
            match self.whole.activation {
                None => self.end::<INTEGERS>(first, count, |x| x),
                Some(Activation::QuickGelu) => self.end::<INTEGERS>(first, count, |x| quick(x)),
                Some(Activation::Gelu) => self.end::<INTEGERS>(first, count, |x| exact(x)),
            }
        }
    }

    /// Writes the results of at most `count` rows of the tile from row `first` on.
    ///
    /// # Safety
    /// The sums are those of this tile; the unit's parameters cover its rows and panels; no other thread touches the rows and columns of the results.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn end<const INTEGERS: bool>(
        &self,
        first: usize,
        count: usize,
        act: impl Fn(__m512) -> __m512,
    ) {
        let whole = self.whole;
        let last = self.rows.1.min(first + count);
        if first >= last {
            return;
        }
        // SAFETY: promised by the caller; the masks exclude columns that a panel does not have.
        unsafe {
            let columns = self.columns::<INTEGERS>();
            for row in first..last {
                let sums = &(&*self.sums)[row];
                let row = self.rows.0 + row;
                let mut x = [
                    _mm512_loadu_ps(sums[0].as_ptr()),
                    _mm512_loadu_ps(sums[1].as_ptr()),
                ];
                let at = row * whole.stride;
                if INTEGERS {
                    let scale = _mm512_set1_ps(*whole.scales.get_unchecked(row));
                    for (p, x) in x.iter_mut().enumerate() {
                        // The left operand was shifted to be unsigned.
                        let sum = _mm512_sub_epi32(_mm512_castps_si512(*x), columns.sums[p]);
                        let scale = _mm512_mul_ps(scale, columns.scales[p]);
                        *x = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
                    }
                }
                for (x, bias) in x.iter_mut().zip(columns.bias) {
                    *x = _mm512_add_ps(*x, bias);
                }
                if let Some(residual) = whole.residual {
                    for (p, x) in x.iter_mut().enumerate() {
                        let from = residual.add(at + columns.in_row[p]);
                        let residual = _mm512_maskz_loadu_ps(columns.masks[p], from);
                        *x = _mm512_add_ps(*x, residual);
                    }
                }
                if let Some(before) = whole.before {
                    write(before, at, &columns, x);
                }
                write(whole.y, at, &columns, [act(x[0]), act(x[1])]);
            }
        }
    }

    /// Loads the parameters of the tile's columns.
    ///
    /// # Safety
    /// Same as for `end`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn columns<const INTEGERS: bool>(&self) -> Columns {
        let whole = self.whole;
        let mut columns = Columns {
            masks: [0; 2],
            bias: [_mm512_setzero_ps(); 2],
            scales: [_mm512_setzero_ps(); 2],
            sums: [_mm512_setzero_si512(); 2],
            in_row: [0; 2],
        };
        let (first, count) = self.panels;
        for p in 0..count.min(2) {
            // SAFETY: promised by the caller; the masks exclude columns that the panel does not have.
            unsafe {
                let place = whole.places.get_unchecked(first + p);
                columns.masks[p] = ((1_u32 << place.width) - 1) as __mmask16;
                columns.in_row[p] = place.column - whole.first_column;
                if let Some(bias) = whole.bias {
                    let from = bias.as_ptr().add(place.column);
                    columns.bias[p] = _mm512_maskz_loadu_ps(columns.masks[p], from);
                }
                if INTEGERS {
                    let own = whole.columns.get_unchecked(first + p);
                    columns.scales[p] = _mm512_loadu_ps(own.scales.as_ptr());
                    let sums = _mm512_loadu_si512(own.sums.as_ptr().cast());
                    columns.sums[p] = _mm512_mullo_epi32(sums, _mm512_set1_epi32(SHIFT));
                }
            }
        }
        columns
    }
}

/// Writes a row's values of both panels. Rounding to bfloat16 is the instruction's: to the nearest even, with subnormal numbers as 0, which is what
/// the matrix unit reads them as.
///
/// # Safety
/// The target has the row and the columns of the masks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn write(target: Target, at: usize, columns: &Columns, x: [__m512; 2]) {
    let [low, high] = columns.masks;
    // SAFETY: promised by the caller. A pair of registers of 16 bfloat16 is one of 32.
    unsafe {
        match target {
            Target::F32(y) => {
                _mm512_mask_storeu_ps(y.add(at + columns.in_row[0]), low, x[0]);
                _mm512_mask_storeu_ps(y.wrapping_add(at + columns.in_row[1]), high, x[1]);
            }
            Target::Bf16(y) => {
                let both =
                    std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(x[1], x[0]));
                let first = y.add(at + columns.in_row[0]).cast::<i16>();
                // Whole panels are neighbours: columns follow one another within a section, and sections too.
                if low & high == u16::MAX {
                    _mm512_storeu_si512(first.cast(), both);
                } else {
                    let second = y.wrapping_add(at + columns.in_row[1]).cast::<i16>();
                    _mm256_mask_storeu_epi16(first, low, _mm512_castsi512_si256(both));
                    _mm256_mask_storeu_epi16(second, high, _mm512_extracti64x4_epi64::<1>(both));
                }
            }
        }
    }
}

/// Computes 2^t within 3e-6 of its size, for t up to 127.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn exp2(t: __m512) -> __m512 {
    const TERMS: [f32; 4] = [0.052_011_46, 0.241_442_75, 0.693_003_83, 1.000_002_6];
    // What is left of the integer below, 0 to 1; the scale takes that integer.
    let rest = _mm512_reduce_ps::<9>(t);
    let mut p = _mm512_set1_ps(0.013_534_168);
    for c in TERMS {
        p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, t)
}

/// Computes 1 / x within 2^-22 of its size, for x from 1 to 2^126.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn inverse(x: __m512) -> __m512 {
    let near = _mm512_rcp14_ps(x);
    let error = _mm512_fnmadd_ps(x, near, _mm512_set1_ps(1.0));
    _mm512_fmadd_ps(near, error, near)
}

/// QuickGELU, x / (1 + e^(-1.702 x)).
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn quick(x: __m512) -> __m512 {
    let t = _mm512_mul_ps(x, _mm512_set1_ps(-1.702 * std::f32::consts::LOG2_E));
    // A larger power would have no inverse. The minimum returns its second operand when that is NaN.
    let power = exp2(_mm512_min_ps(_mm512_set1_ps(120.0), t));
    _mm512_mul_ps(x, inverse(_mm512_add_ps(power, _mm512_set1_ps(1.0))))
}

/// GELU with the error function, as `simd::erf` computes it.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn exact(x: __m512) -> __m512 {
    let all = |c: f32| _mm512_set1_ps(c);
    let scaled = _mm512_mul_ps(x, all(std::f32::consts::FRAC_1_SQRT_2));
    let near = _mm512_max_ps(all(-4.0), _mm512_min_ps(all(4.0), scaled));
    let square = _mm512_mul_ps(near, near);
    let (mut above, mut below) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for c in simd::ERF_ABOVE {
        above = _mm512_fmadd_ps(above, square, all(c));
    }
    for c in simd::ERF_BELOW {
        below = _mm512_fmadd_ps(below, square, all(c));
    }
    let quotient = _mm512_div_ps(above, below);
    let half = _mm512_mul_ps(x, all(0.5));
    _mm512_fmadd_ps(half, _mm512_mul_ps(near, quotient), half)
}
