//! The kernels: each a candle custom operation, with its backward as another, so that a device adds its own side to one place.
//!
//! Invariant: the value of a row depends on that row (or its frame, or its clip) alone, computed in one order whatever the batch and the number of
//! threads; sums over rows go over fixed blocks in a fixed order.

pub(super) mod attention;
pub(super) mod depthwise;
mod ending;
pub(super) mod gelu;
mod isa;
mod kernel;
pub(super) mod linear;
pub(super) mod loss;
pub(super) mod norm;
mod numbers;
mod packed;
mod share;
mod simd;
pub(super) mod sum;
pub(super) mod weight_gradient;

#[cfg(test)]
mod tests;

pub use isa::{Isa, limit};
pub(super) use kernel::Format;
pub(super) use numbers::Numbers;
pub(super) use packed::Packed;
pub(super) use share::{read, slice, slice_mut, tensor};
pub(super) use sum::squares;

use crate::spec::Precision;

/// Runs multiply-adds on registers alone, on this thread: `steps` for each of some independent sums. Returns how many numbers were multiplied.
pub(super) fn multiply_adds(format: Format, steps: usize) -> u64 {
    kernel::Kernel::best(format).multiply_adds(steps)
}

/// The precision that `auto` means: bfloat16 where the CPU multiplies it faster than floats.
pub fn fastest() -> Precision {
    if kernel::Kernel::best(Format::Bf16).beats_floats() {
        Precision::Bf16
    } else {
        Precision::F32
    }
}

/// Which instructions multiply the frozen weights in this precision: `amx`, `avx512`, `avx2`, `neon` or `portable`.
pub fn instructions(precision: Precision) -> &'static str {
    kernel::Kernel::best(Format::of(precision)).name()
}
