//! Tiles with AVX2 and FMA. bfloat16 is widened in registers; integers are multiplied as 16-bit pairs, so that no product saturates.
#![allow(unsafe_code)]

use super::micro::{by_rows, micro, registers, single_panels};
use super::tiles::{Operands, Tiles};
use super::{Format, Tile};
use crate::ops::isa;

/// AVX2 and FMA.
pub(in crate::ops) struct Avx2;

impl Tiles for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn has(&self, _format: Format) -> bool {
        isa::is_wide()
    }

    single_panels!(2, 8);
}

/// Sums of floats, as both float formats keep them.
mod floats {
    use std::arch::x86_64::{__m256, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps};

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn zero() -> __m256 {
        _mm256_setzero_ps()
    }

    /// # Safety
    /// `at` points to 8 values.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn load(at: *const f32) -> __m256 {
        // SAFETY: promised by the caller.
        unsafe { _mm256_loadu_ps(at) }
    }

    /// # Safety
    /// `at` has room for 8 values.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn store(at: *mut f32, sum: __m256) {
        // SAFETY: promised by the caller.
        unsafe { _mm256_storeu_ps(at, sum) }
    }
}

mod f32s {
    use std::arch::x86_64::{__m256, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps};

    use super::floats::{load, store, zero};
    use super::micro;

    type Right = __m256;
    type Sum = __m256;

    /// # Safety
    /// `at` points to 8 words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn right(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        unsafe { _mm256_loadu_ps(at.cast()) }
    }

    /// # Safety
    /// `at` points to a word.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn value(at: *const u32) -> __m256 {
        // SAFETY: promised by the caller.
        unsafe { _mm256_broadcast_ss(&*at.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn add(sum: __m256, value: &__m256, right: &Right) -> __m256 {
        _mm256_fmadd_ps(*value, *right, sum)
    }

    micro!("avx2,fma");
}

mod bf16s {
    use std::arch::x86_64::{
        __m256, _mm256_and_si256, _mm256_castsi256_ps, _mm256_fmadd_ps, _mm256_loadu_si256,
        _mm256_set1_epi32, _mm256_slli_epi32,
    };

    use super::floats::{load, store, zero};
    use super::micro;

    type Right = (__m256, __m256);
    type Sum = __m256;

    /// # Safety
    /// `at` points to 8 words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn right(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        let words = unsafe { _mm256_loadu_si256(at.cast()) };
        (
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)),
            _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(-65536))),
        )
    }

    /// # Safety
    /// `at` points to a word.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn value(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        let words = unsafe { _mm256_set1_epi32(*at.cast()) };
        (
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)),
            _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(-65536))),
        )
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn add(sum: __m256, value: &Right, right: &Right) -> __m256 {
        _mm256_fmadd_ps(value.1, right.1, _mm256_fmadd_ps(value.0, right.0, sum))
    }

    micro!("avx2,fma");
}

mod int8s {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_castps_si256, _mm256_castsi256_ps,
        _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi16,
        _mm256_set1_epi32, _mm256_setzero_si256, _mm256_slli_epi16, _mm256_srai_epi16,
        _mm256_srli_epi16, _mm256_storeu_ps,
    };

    use super::micro;

    type Right = (__m256i, __m256i);
    type Sum = __m256i;

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn zero() -> __m256i {
        _mm256_setzero_si256()
    }

    /// # Safety
    /// `at` points to 8 words.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn right(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        let words = unsafe { _mm256_loadu_si256(at.cast()) };
        // The bytes 0 and 2 of each word, then 1 and 3, as signed 16-bit pairs.
        let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(words));
        (even, _mm256_srai_epi16::<8>(words))
    }

    /// # Safety
    /// `at` points to a word.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn value(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        let word = unsafe { _mm256_set1_epi32(*at.cast()) };
        let even = _mm256_and_si256(word, _mm256_set1_epi16(0xFF));
        (even, _mm256_srli_epi16::<8>(word))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn add(sum: __m256i, value: &Right, right: &Right) -> __m256i {
        let even = _mm256_madd_epi16(value.0, right.0);
        let odd = _mm256_madd_epi16(value.1, right.1);
        _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
    }

    /// # Safety
    /// `at` points to 8 values.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn load(at: *const f32) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_castps_si256(_mm256_loadu_ps(at)) }
    }

    /// # Safety
    /// `at` has room for 8 values.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn store(at: *mut f32, sum: __m256i) {
        // SAFETY: promised by the caller.
        unsafe { _mm256_storeu_ps(at, _mm256_castsi256_ps(sum)) }
    }

    micro!("avx2,fma");
}
