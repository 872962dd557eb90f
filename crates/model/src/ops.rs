//! The kernels: `placed` has the operations that the model's walk calls, on the host or on a device; on the host each is a candle custom operation, and its
//! backward is another one.
//!
//! Invariant: the value of a row depends only on that row (or its frame, or its clip), computed in one order whatever the batch and the number of
//! threads; sums over rows use fixed blocks in a fixed order.
//!
//! # Map
//! The files, from the operations that layers call down to the instructions:
//!
//! | file | what it computes | what it guarantees |
//! |---|---|---|
//! | `placed` | every operation of the walk, on operands on the host or on a device | a result is where its operands are |
//! | `linear` | y = act(x · Wᵀ + b) and r + x · Wᵀ + b on packed weights | a row depends on that row |
//! | `linear/grouped` | several row ranges of a batch, each with its own weight, in one call | as if each range were alone |
//! | `linear/{product,split}` | one product, and its division into units of parallel work | the division changes no bit |
//! | `weight_gradient` | dW = dyᵀ · x | rows are added in their order, in blocks of a fixed depth; no block mixes two clips |
//! | `attention`, `attention/{plan,kernel}` | multi-head attention of a frame, forward and backward | a frame depends on that frame |
//! | `depthwise` | the adapters' convolution over (T, H, W) | a clip depends on that clip |
//! | `norm`, `gelu` | LayerNorm and activations, forward and backward | a row, or a value, depends on itself |
//! | `loss`, `sum` | cross entropy, sums over rows | blocks run in parallel and are added in order |
//! | `packed`, `packed/code` | weights in panels of 16 columns, in a number format | packed once; forward and backward share frozen weights |
//! | `integers` | rows of 8-bit integers with their scales, as activations | the integers that a product would make of the floats |
//! | `activations`, `buffers` | operands as floats or bfloat16; outputs that threads fill | every value is written before it is read |
//! | `epilogue` | scale, bias, residual and activation of a tile's sums | a value depends on its own sum |
//! | `kernel`, `kernel/{portable,avx2,avx512,amx,neon}` | a tile: a few rows times a panel; the vector sets share `kernel/micro` | sums in one order, whatever the tile |
//! | `kernel/tiles`, `kernel/unit` | what a set decides: shape of a tile, order of a product by the length of its sums, units and heads that it computes by itself | decided by shape, never by batch |
//! | `kernel/avx512/{epilogue,head,slope}` | with AVX-512, also beside AMX: the epilogue of a unit's tiles, a head of attention and its backward around their products | as for `linear` and `attention` |
//! | `kernel/avx512/{unit,products}`, `kernel/amx/{unit,head}` | units of products, and products of a head | as for `linear` and `attention` |
//! | `kernel/amx/emulator` | AMX's instructions, for tests on CPUs without it | sums as the instructions' description states |
//! | `simd` | loops that the compiler vectorises, compiled for each set | a fixed number of partial sums |
//! | `place`, `failure` | where a backbone computes, and how an accelerator fails | chosen before the weights are loaded |
//! | `cuda`, `cuda/*` | the same operations on a GPU | see its own invariant |
//! | `isa` | which instruction sets exist, and which may be used | every choice asks it |
//!
//! # Test and time
//! `cargo nextest run -p frameshift-model ops` checks every operation against plain candle and finite differences at odd sizes (`tests`), and every instruction set
//! that the CPU has against `portable` (`kernel/tests`). `FRAMESHIFT_CPU=portable|avx2|avx512|amx` limits any test to an instruction set; `make asan` runs
//! these tests under the address sanitizer. With `amx` the tests of this crate run on CPUs without AMX, too, if they have AVX-512 with bfloat16: an emulator
//! executes its instructions, and floats are multiplied as on Intel's CPUs. `cargo bench --bench kernels` shows each kernel's share of what the machine
//! can do (`model/bench.rs`), `frameshift bench compute` times the whole model. A new instruction set is a file beside `kernel/avx2`, an [`Isa`] and its line
//! in `Isa::tiles`; the tests and benchmarks then cover it without changes.

mod activations;
pub(super) mod attention;
mod buffers;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
pub(super) mod depthwise;
mod epilogue;
pub(super) mod failure;
pub(super) mod gelu;
mod integers;
mod isa;
mod kernel;
pub(super) mod linear;
pub(super) mod loss;
pub(super) mod norm;
mod packed;
pub(super) mod place;
pub(super) mod placed;
mod simd;
pub(super) mod sum;
pub(super) mod weight_gradient;

#[cfg(test)]
mod tests;

pub(super) use activations::Numbers;
pub(super) use buffers::{read, slice, slice_mut, tensor};
pub use failure::{Failure, Unusable};
pub(super) use integers::Form;
pub use isa::{Isa, limit};
pub(super) use kernel::Format;
pub use loss::{Goal, Marks};
pub(super) use packed::Packed;
pub use place::{Memory, Place, Work};
pub(super) use placed::{Array, Matrix, Vector};
pub(super) use sum::squares;

use crate::spec::Precision;

/// Runs `steps` multiply-adds on registers alone, for each of several independent sums, on this thread. Returns the number of multiplied numbers.
pub(super) fn multiply_adds(format: Format, steps: usize) -> u64 {
    kernel::Kernel::best(format).multiply_adds(steps)
}

/// Returns the precision that `auto` stands for: bfloat16 where the CPU multiplies it faster than floats, else f32.
pub fn fastest() -> Precision {
    if kernel::Kernel::best(Format::Bf16).beats_floats() {
        Precision::Bf16
    } else {
        Precision::F32
    }
}

/// Returns the instruction set that multiplies the frozen weights in this precision: `amx`, `avx512`, `avx2`, `neon` or `portable`.
pub fn instructions(precision: Precision) -> &'static str {
    kernel::Kernel::best(Format::of(precision)).name()
}
