//! Epilogue of a tile in one pass: scale, bias, residual, activation and rounding of a row in a register for each panel.
//!
//! Invariant: a value depends only on its own sum and on the layer's parameters, whatever the size of the tile around it.
#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use crate::Activation;
use crate::ops::gelu::activate;
use crate::ops::kernel::unit::{Target, Unit};
use crate::ops::kernel::{NR, will_read, will_write};
use crate::ops::packed::SHIFT;
use crate::ops::simd;

/// What the epilogue knows of a number format and of the CPU.
pub(in crate::ops::kernel) trait Kind {
    /// Whether sums are integers, which have scales.
    const INTEGERS: bool = false;
    /// Whether activations are those of the other instruction sets, within a few units of the last place; else within 3e-6, which is less than what
    /// the operands' rounding changes.
    const EXACT: bool = false;
    /// Whether the CPU has the instruction that rounds to bfloat16.
    const ROUNDS: bool = true;
}

/// Address of a tile's sums, and values between its rows and between its panels.
#[derive(Clone, Copy)]
pub(in crate::ops::kernel) struct Sums {
    pub(in crate::ops::kernel) at: *const f32,
    pub(in crate::ops::kernel) row: usize,
    pub(in crate::ops::kernel) panel: usize,
}

/// Epilogue of one tile, whose rows are computed a few at a time.
#[derive(Clone, Copy)]
pub(in crate::ops::kernel) struct Epilogue<'a> {
    /// Parameters of the unit that the tile belongs to.
    pub(in crate::ops::kernel) whole: &'a Unit<'a>,
    pub(in crate::ops::kernel) sums: Sums,
    /// First row of the tile in the unit, and number of rows.
    pub(in crate::ops::kernel) rows: (usize, usize),
    /// First panel of the tile in the unit, and number of panels.
    pub(in crate::ops::kernel) panels: (usize, usize),
}

/// Parameters of the columns of a tile's panels in registers.
struct Columns<const V: usize> {
    masks: [__mmask16; V],
    bias: [__m512; V],
    scales: [__m512; V],
    sums: [__m512i; V],
    /// Place of each panel's first column in a row of the result.
    in_row: [usize; V],
}

impl Epilogue<'_> {
    /// Prefetches the lines of some rows that the tile's epilogue will access.
    #[inline]
    pub(in crate::ops::kernel) fn expect(&self, rows: Range<usize>) {
        let unit = self.whole;
        let (first, count) = self.panels;
        let places = &unit.places[first..first + count];
        let column = places[0].column - unit.first_column;
        let columns = places.iter().map(|place| place.width).sum();
        for row in rows.start..rows.end.min(self.rows.1) {
            let at = (self.rows.0 + row) * unit.stride + column;
            for target in [Some(unit.y), unit.before].into_iter().flatten() {
                match target {
                    Target::F32(y) => will_write(y.wrapping_add(at), columns),
                    Target::Bf16(y) => will_write(y.wrapping_add(at), columns),
                }
            }
            if let Some(residual) = unit.residual {
                // SAFETY: the residual has the rows and columns of the unit.
                will_read(unsafe { std::slice::from_raw_parts(residual.add(at), columns) });
            }
        }
    }

    /// Writes the results of at most `count` rows of the tile, of at most `V` panels, from row `first` on.
    ///
    /// # Safety
    /// The sums are those of this tile, with `V` panels in memory; the unit's parameters cover its rows and panels; no other thread touches the rows and
    /// columns of the results. The CPU rounds to bfloat16 if `K` says so.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in crate::ops::kernel) unsafe fn rows<K: Kind, const V: usize>(
        &self,
        first: usize,
        count: usize,
    ) {
        // SAFETY: passed on.
        unsafe {
            match self.whole.activation {
                None => self.end::<K, V>(first, count, |x| x),
                Some(act) if K::EXACT => self.end::<K, V>(first, count, |x| same(x, act)),
                Some(Activation::QuickGelu) => self.end::<K, V>(first, count, |x| quick(x)),
                Some(Activation::Gelu) => self.end::<K, V>(first, count, |x| exact(x)),
            }
        }
    }

    /// Same as [`Epilogue::rows`], with this activation.
    ///
    /// # Safety
    /// Same as for `rows`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn end<K: Kind, const V: usize>(
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
            let columns = self.columns::<K, V>();
            for row in first..last {
                let sums = self.sums.at.add(row * self.sums.row);
                let row = self.rows.0 + row;
                let mut x = [_mm512_setzero_ps(); V];
                for (p, x) in x.iter_mut().enumerate() {
                    *x = _mm512_loadu_ps(sums.add(p * self.sums.panel));
                }
                let at = row * whole.stride;
                if K::INTEGERS {
                    let scale = _mm512_set1_ps(*whole.scales.get_unchecked(row));
                    for (p, x) in x.iter_mut().enumerate() {
                        // The left operand was shifted to be unsigned.
                        let sum = _mm512_sub_epi32(_mm512_castps_si512(*x), columns.sums[p]);
                        let scale = _mm512_mul_ps(scale, columns.scales[p]);
                        *x = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
                    }
                }
                if whole.bias.is_some() {
                    for (x, bias) in x.iter_mut().zip(columns.bias) {
                        *x = _mm512_add_ps(*x, bias);
                    }
                }
                if let Some(residual) = whole.residual {
                    for (p, x) in x.iter_mut().enumerate() {
                        let from = residual.wrapping_add(at + columns.in_row[p]);
                        let residual = _mm512_maskz_loadu_ps(columns.masks[p], from);
                        *x = _mm512_add_ps(*x, residual);
                    }
                }
                if let Some(before) = whole.before {
                    write::<K, V>(before, at, &columns, &x);
                }
                for x in &mut x {
                    *x = act(*x);
                }
                write::<K, V>(whole.y, at, &columns, &x);
            }
        }
    }

    /// Loads the parameters of the tile's columns.
    ///
    /// # Safety
    /// Same as for `rows`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn columns<K: Kind, const V: usize>(&self) -> Columns<V> {
        let whole = self.whole;
        let mut columns = Columns {
            masks: [0; V],
            bias: [_mm512_setzero_ps(); V],
            scales: [_mm512_setzero_ps(); V],
            sums: [_mm512_setzero_si512(); V],
            in_row: [0; V],
        };
        let (first, count) = self.panels;
        for p in 0..count.min(V) {
            // SAFETY: promised by the caller; the masks exclude columns that the panel does not have.
            unsafe {
                let place = whole.places.get_unchecked(first + p);
                columns.masks[p] = ((1_u32 << place.width) - 1) as __mmask16;
                columns.in_row[p] = place.column - whole.first_column;
                if let Some(bias) = whole.bias {
                    let from = bias.as_ptr().add(place.column);
                    columns.bias[p] = _mm512_maskz_loadu_ps(columns.masks[p], from);
                }
                if K::INTEGERS {
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

/// Writes a row's values of all panels.
///
/// # Safety
/// The target has the row and the columns of the masks; the CPU rounds to bfloat16 if `K` says so.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn write<K: Kind, const V: usize>(
    target: Target,
    at: usize,
    columns: &Columns<V>,
    x: &[__m512; V],
) {
    // SAFETY: promised by the caller.
    unsafe {
        match target {
            Target::F32(y) => {
                for (p, x) in x.iter().enumerate() {
                    let to = y.wrapping_add(at + columns.in_row[p]);
                    _mm512_mask_storeu_ps(to, columns.masks[p], *x);
                }
            }
            Target::Bf16(y) => {
                for p in (0..V).step_by(2) {
                    let to = |p: usize| y.wrapping_add(at + columns.in_row[p]).cast::<i16>();
                    let low = columns.masks[p];
                    let (high, second) = if p + 1 < V {
                        (columns.masks[p + 1], x[p + 1])
                    } else {
                        (0, _mm512_setzero_ps())
                    };
                    let both = rounded::<K>(x[p], second);
                    // Whole panels are neighbours: columns follow one another within a section, and sections too.
                    if low & high == u16::MAX {
                        _mm512_storeu_si512(to(p).cast(), both);
                        continue;
                    }
                    _mm256_mask_storeu_epi16(to(p), low, _mm512_castsi512_si256(both));
                    if high != 0 {
                        let upper = _mm512_extracti64x4_epi64::<1>(both);
                        _mm256_mask_storeu_epi16(to(p + 1), high, upper);
                    }
                }
            }
        }
    }
}

/// Rounds 32 floats to bfloat16, to the nearest even. The instruction takes subnormal numbers for 0, which is what products read them as.
///
/// # Safety
/// The CPU rounds to bfloat16 if `K` says so.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn rounded<K: Kind>(low: __m512, high: __m512) -> __m512i {
    if K::ROUNDS {
        let both: __m512i;
        // SAFETY: promised by the caller; the instruction accesses registers alone. It is not an intrinsic, so that functions without the feature can
        // have it in a branch.
        unsafe {
            asm!(
                "vcvtne2ps2bf16 {both}, {high}, {low}",
                both = lateout(zmm_reg) both,
                high = in(zmm_reg) high,
                low = in(zmm_reg) low,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        return both;
    }
    let [low, high] = [low, high].map(|x| {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let near = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
        let near = _mm512_srli_epi32::<16>(near);
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let word = _mm512_mask_mov_epi32(near, is_nan, _mm512_set1_epi32(0x7FC0));
        _mm512_cvtepi32_epi16(word)
    });
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// The activation as the other instruction sets compute it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn same(x: __m512, activation: Activation) -> __m512 {
    let mut values = [0.0_f32; NR];
    // SAFETY: there is room for 16 values.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), x) };
    activate::<true>(&mut values, activation);
    // SAFETY: there are 16 values.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
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
