//! The kernels: each a candle custom operation, with its backward as another, so that a device adds its own side to one place.
//!
//! Invariant: the value of a row depends on that row (or its frame, or its clip) alone, computed in one order whatever the batch and the number of
//! threads; sums over rows go over fixed blocks in a fixed order.
//!
//! A map, from the operations that layers call down to the instructions:
//!
//! | file | computes | its own invariant |
//! |---|---|---|
//! | `linear`, `linear/{product,grouped,split}` | y = act(x · Wᵀ + b) on packed weights; several rows of weights in one call; how a product is cut into units | a row depends on that row |
//! | `weight_gradient` | dW = dyᵀ · x | rows are added in their order, in blocks of a fixed depth, none of which has rows of two clips |
//! | `attention`, `attention/{plan,kernel}` | multi-head attention of a frame, forward and backward | a frame depends on that frame |
//! | `depthwise` | the adapters' convolution over (T, H, W) | a clip depends on that clip |
//! | `norm`, `gelu`, `loss`, `sum` | LayerNorm, activations, cross entropy, sums over rows | blocks in parallel, then one after another |
//! | `packed`, `packed/code` | weights in panels of 16 columns, in a number format | packed once; forward and backward share frozen ones |
//! | `activations`, `buffers` | operands as floats or bfloat16; output that threads fill | every value is written before one is read |
//! | `epilogue` | scale, bias, residual, activation of a tile's sums | a value depends on its own sum |
//! | `kernel`, `kernel/{portable,avx2,avx512,amx,neon}` | a tile: a few rows times a panel; `micro` is what the vector sets share | sums in one order, whatever the tile |
//! | `simd` | loops that the compiler vectorises, compiled for each set | a fixed number of partial sums |
//! | `isa` | which instructions there are, and which may be used | every choice asks it |
//!
//! To test: `cargo nextest run model::ops` holds every operation against plain candle and finite differences at odd sizes, and every instruction set
//! that the CPU has against `portable`; `FRAMESHIFT_CPU=portable|avx2|avx512|amx` runs any test as on a lesser CPU. To time: `cargo bench --bench
//! kernels` shows each kernel's share of what the machine can do (`model/bench.rs`), `frameshift bench compute` the whole model. A new instruction set
//! is a file beside `kernel/avx2`, an [`Isa`], and its arms in `kernel`; the tests above find it by themselves.

mod activations;
pub(super) mod attention;
mod buffers;
pub(super) mod depthwise;
mod epilogue;
pub(super) mod gelu;
mod isa;
mod kernel;
pub(super) mod linear;
pub(super) mod loss;
pub(super) mod norm;
mod packed;
mod simd;
pub(super) mod sum;
pub(super) mod weight_gradient;

#[cfg(test)]
mod tests;

pub(super) use activations::Numbers;
pub(super) use buffers::{read, slice, slice_mut, tensor};
pub use isa::{Isa, limit};
pub(super) use kernel::Format;
pub(super) use packed::Packed;
pub(super) use sum::{Onto, squares};

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
