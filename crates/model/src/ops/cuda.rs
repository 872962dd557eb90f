//! The operations on a GPU: own buffers, own kernels, cuBLASLt for large products.
//!
//! Invariant: nothing outside this folder names cudarc. The first call that reports a sticky error marks the GPU as lost; whoever asks learns of it. A value
//! depends on its row, frame or clip alone: kernels compute in one order, and a product has one plan, whatever the number of its rows.
#![allow(unsafe_code)]

pub(crate) mod activation;
pub(crate) mod adamw;
pub(crate) mod attention;
mod buffer;
pub(crate) mod cells;
pub(crate) mod check;
#[cfg(cutlass_kernels)]
mod cutlass;
pub(crate) mod depthwise;
mod driver;
pub(crate) mod embed;
mod fused;
mod gpu;
mod grouped;
mod kernels;
mod launch;
mod library;
pub(crate) mod linear;
pub(crate) mod norm;
mod pinned;
mod plan;
pub(crate) mod pool;
pub(crate) mod products;
mod rest;
pub(crate) mod rows;
mod sums;
mod tables;
mod tensor;
mod trial;
mod weights;

#[allow(unreachable_pub)]
pub use gpu::Gpu;
pub(crate) use pinned::{Plain, Readback};
pub(crate) use tensor::Tensor;
pub(crate) use weights::Matrix;

#[cfg(test)]
mod tests;
