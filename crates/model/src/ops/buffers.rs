//! Slices of candle storage, and output buffers that several threads fill.
#![allow(unsafe_code)]

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor};
use rayon::prelude::*;

use crate::allocator::prefer_large;

/// Returns the f32 values of a contiguous CPU operand.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((begin, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("expected a contiguous tensor, got {layout:?}");
    };
    Ok(&storage.as_slice::<f32>()?[begin..end])
}

/// Calls `f` with the f32 values of a contiguous CPU tensor.
pub(crate) fn read<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => Ok(f(slice(cpu, layout)?)),
        Storage::Cuda(_) | Storage::Metal(_) => candle_core::bail!("expected a CPU tensor"),
    }
}

/// Returns a CPU tensor of these values.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// Returns values as an operation's output.
pub(super) fn output(values: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.into())
}

/// Number types for which every bit pattern is valid.
pub(super) trait Number: Copy {}

impl Number for f32 {}

impl Number for half::bf16 {}

impl Number for u32 {}

/// Returns a buffer of `len` values, which the caller fills completely before it reads any.
///
/// The buffer is not zeroed, since that pass over fresh memory would cost as much as a cheap kernel.
pub(super) fn unfilled<T: Number>(len: usize) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    prefer_large(&mut values);
    // SAFETY: the capacity is `len`, every bit pattern is a number, and each kernel writes every element of its output before it is read.
    #[allow(clippy::uninit_vec)]
    unsafe {
        values.set_len(len);
    }
    values
}

/// Returns a buffer of `len` zeros.
pub(super) fn zeroed(len: usize) -> Vec<u32> {
    let mut words = Vec::with_capacity(len);
    prefer_large(&mut words);
    words.resize(len, 0);
    words
}

/// Runs units of work in parallel, handed out one by one, so that a core that is busy otherwise takes fewer.
pub(super) fn each_unit(units: usize, work: impl Fn(usize) + Send + Sync) {
    (0..units).into_par_iter().with_max_len(1).for_each(work);
}

/// Pointer to a buffer of which several threads write disjoint parts.
#[derive(Clone, Copy)]
pub(super) struct Out<T>(*mut T);

// SAFETY: each kernel hands disjoint ranges of the buffer to its threads and joins them before the buffer is used or freed.
unsafe impl<T: Number> Send for Out<T> {}
// SAFETY: see `Send`.
unsafe impl<T: Number> Sync for Out<T> {}

impl<T: Number> Out<T> {
    /// Creates a pointer to a buffer that outlives the parallel loop.
    pub(super) fn new(values: &mut [T]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// Returns the address of element `at`, for prefetching only; it must not be dereferenced.
    pub(super) fn near(self, at: usize) -> *const T {
        self.0.wrapping_add(at)
    }

    /// Returns the address of element `at`.
    pub(super) fn place(self, at: usize) -> *mut T {
        self.0.wrapping_add(at)
    }

    /// Returns the elements `at..at + len`.
    ///
    /// # Safety
    /// The elements lie inside the buffer, and no other thread accesses them while the slice exists.
    pub(super) unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a mut [T] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

/// Returns the f32 values of a contiguous CPU operand that is updated in place.
pub(crate) fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((begin, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("expected a contiguous tensor, got {layout:?}");
    };
    let CpuStorage::F32(values) = storage else {
        candle_core::bail!("expected f32 values");
    };
    Ok(&mut values[begin..end])
}

/// Reinterprets words as floats with the same bits.
pub(super) fn floats_mut(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: both types have the same size and alignment, and any bits are a valid float and a valid word; the result keeps the borrow of the words.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}
