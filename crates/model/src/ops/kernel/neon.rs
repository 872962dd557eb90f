//! Tiles with NEON. bfloat16 is widened in registers; integers are multiplied as 16-bit pairs, so that no product saturates.
#![allow(unsafe_code)]

use super::micro::{by_rows, micro, registers, single_panels};
use super::tiles::{Operands, Tiles};
use super::{Format, Tile};

/// NEON, which every 64-bit ARM has.
pub(in crate::ops) struct Neon;

impl Tiles for Neon {
    fn name(&self) -> &'static str {
        "neon"
    }

    fn has(&self, _format: Format) -> bool {
        true
    }

    single_panels!(4, 4);
}

/// Sums of floats, as both float formats keep them.
mod floats {
    use std::arch::aarch64::{float32x4_t, vdupq_n_f32, vld1q_f32, vst1q_f32};

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn zero() -> float32x4_t {
        vdupq_n_f32(0.0)
    }

    /// # Safety
    /// `at` points to 4 values.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn load(at: *const f32) -> float32x4_t {
        // SAFETY: promised by the caller.
        unsafe { vld1q_f32(at) }
    }

    /// # Safety
    /// `at` has room for 4 values.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn store(at: *mut f32, sum: float32x4_t) {
        // SAFETY: promised by the caller.
        unsafe { vst1q_f32(at, sum) }
    }
}

mod f32s {
    use std::arch::aarch64::{float32x4_t, vfmaq_f32, vld1q_dup_f32, vld1q_f32};

    use super::floats::{load, store, zero};
    use super::micro;

    type Right = float32x4_t;
    type Sum = float32x4_t;

    /// # Safety
    /// `at` points to 4 words.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn right(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        unsafe { vld1q_f32(at.cast()) }
    }

    /// # Safety
    /// `at` points to a word.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn value(at: *const u32) -> float32x4_t {
        // SAFETY: promised by the caller.
        unsafe { vld1q_dup_f32(at.cast()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn add(sum: float32x4_t, value: &float32x4_t, right: &Right) -> float32x4_t {
        vfmaq_f32(sum, *value, *right)
    }

    micro!("neon");
}

mod bf16s {
    use std::arch::aarch64::{
        float32x4_t, vandq_u32, vdupq_n_u32, vfmaq_f32, vld1q_dup_u32, vld1q_u32,
        vreinterpretq_f32_u32, vshlq_n_u32,
    };

    use super::floats::{load, store, zero};
    use super::micro;

    type Right = (float32x4_t, float32x4_t);
    type Sum = float32x4_t;

    /// # Safety
    /// `at` points to 4 words.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn right(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        let words = unsafe { vld1q_u32(at) };
        (
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(words)),
            vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xFFFF_0000))),
        )
    }

    /// # Safety
    /// `at` points to a word.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn value(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        let words = unsafe { vld1q_dup_u32(at) };
        (
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(words)),
            vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xFFFF_0000))),
        )
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn add(sum: float32x4_t, value: &Right, right: &Right) -> float32x4_t {
        vfmaq_f32(vfmaq_f32(sum, value.0, right.0), value.1, right.1)
    }

    micro!("neon");
}

mod int8s {
    use std::arch::aarch64::{
        int16x8_t, int32x4_t, vaddq_s32, vandq_s16, vdupq_n_s16, vdupq_n_s32, vget_low_s16,
        vld1q_dup_u32, vld1q_f32, vld1q_u32, vmlal_high_s16, vmlal_s16, vmull_high_s16, vmull_s16,
        vpaddq_s32, vreinterpretq_f32_s32, vreinterpretq_s16_u16, vreinterpretq_s16_u32,
        vreinterpretq_s32_f32, vreinterpretq_u16_u32, vshlq_n_s16, vshrq_n_s16, vshrq_n_u16,
        vst1q_f32,
    };

    use super::micro;

    /// The bytes 0 and 2 of each word, then 1 and 3, as signed 16-bit pairs.
    type Right = (int16x8_t, int16x8_t);
    type Sum = int32x4_t;

    #[inline]
    #[target_feature(enable = "neon")]
    fn zero() -> int32x4_t {
        vdupq_n_s32(0)
    }

    /// # Safety
    /// `at` points to 4 words.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn right(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        let words = vreinterpretq_s16_u32(unsafe { vld1q_u32(at) });
        (
            vshrq_n_s16::<8>(vshlq_n_s16::<8>(words)),
            vshrq_n_s16::<8>(words),
        )
    }

    /// # Safety
    /// `at` points to a word.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn value(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        let word = unsafe { vld1q_dup_u32(at) };
        let odd = vshrq_n_u16::<8>(vreinterpretq_u16_u32(word));
        (
            vandq_s16(vreinterpretq_s16_u32(word), vdupq_n_s16(0xFF)),
            vreinterpretq_s16_u16(odd),
        )
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn add(sum: int32x4_t, value: &Right, right: &Right) -> int32x4_t {
        let low = vmull_s16(vget_low_s16(value.0), vget_low_s16(right.0));
        let low = vmlal_s16(low, vget_low_s16(value.1), vget_low_s16(right.1));
        let high = vmull_high_s16(value.0, right.0);
        let high = vmlal_high_s16(high, value.1, right.1);
        vaddq_s32(sum, vpaddq_s32(low, high))
    }

    /// # Safety
    /// `at` points to 4 values.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(at: *const f32) -> int32x4_t {
        // SAFETY: promised by the caller.
        vreinterpretq_s32_f32(unsafe { vld1q_f32(at) })
    }

    /// # Safety
    /// `at` has room for 4 values.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(at: *mut f32, sum: int32x4_t) {
        // SAFETY: promised by the caller.
        unsafe { vst1q_f32(at, vreinterpretq_f32_s32(sum)) }
    }

    micro!("neon");
}
