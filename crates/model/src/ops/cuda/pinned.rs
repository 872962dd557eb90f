//! Pinned memory of the host: on the way to the device and back.
//!
//! Invariant: a block is used again only after the copy from or to it has ended. Blocks that nobody uses are kept up to a budget.

use std::ffi::c_void;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use candle_core::Result;
use cudarc::driver::{CudaContext, CudaEvent, result};
use half::bf16;

use super::buffer::Buffer;
use super::gpu::{Gpu, lock};
use super::tensor::Tensor;
use crate::ops::Numbers;

/// Most bytes of blocks that are kept although nobody uses them.
const KEPT: usize = 256 << 20;
/// Smallest block: a page.
const LEAST: usize = 4096;

/// Blocks of pinned memory, which are costly to make.
pub(super) struct Pinned {
    context: Arc<CudaContext>,
    /// Blocks that nobody holds, and their sum in bytes; the copy of some may not have ended. A plain mutex, held for a search through a few blocks.
    free: Mutex<(Vec<Block>, usize)>,
}

/// A block of pinned memory.
struct Block {
    at: *mut c_void,
    bytes: usize,
    /// Copy that used the block last.
    copied: Option<CudaEvent>,
    context: Arc<CudaContext>,
}

// SAFETY: a block is plain memory with one owner; the driver's functions on it may be called from any thread.
unsafe impl Send for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(copied) = &self.copied {
            // A copy that cannot be waited for has ended with its device.
            let _ = copied.synchronize();
        }
        // SAFETY: the block came from `malloc_host`, and no copy uses it any more.
        let _ = self
            .context
            .bind_to_thread()
            .and_then(|()| unsafe { result::free_host(self.at) });
    }
}

impl Block {
    fn slice_mut(&mut self, bytes: usize) -> &mut [u8] {
        // SAFETY: the block has this many bytes, every bit pattern is a byte, and nothing is copied to or from it now.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast::<u8>(), bytes.min(self.bytes)) }
    }

    fn slice(&self, bytes: usize) -> &[u8] {
        // SAFETY: as for `slice_mut`.
        unsafe { std::slice::from_raw_parts(self.at.cast::<u8>(), bytes.min(self.bytes)) }
    }

    fn is_idle(&self) -> bool {
        self.copied.as_ref().is_none_or(CudaEvent::is_complete)
    }
}

impl Pinned {
    pub(super) fn new(context: Arc<CudaContext>) -> Self {
        Self {
            context,
            free: Mutex::default(),
        }
    }

    /// Returns a block of at least so many bytes that no copy uses.
    fn take(&self, gpu: &Gpu, bytes: usize) -> Result<Block> {
        let size = bytes.max(LEAST).next_power_of_two();
        // Before a block is looked for, too: the copy of a block that is used again, and the question whether its last one has ended, need a context.
        gpu.checked("cuCtxSetCurrent", self.context.bind_to_thread())?;
        {
            let mut free = lock(&self.free);
            let found = free
                .0
                .iter()
                .position(|block| block.bytes == size && block.is_idle());
            if let Some(found) = found {
                free.1 -= size;
                let mut block = free.0.swap_remove(found);
                block.copied = None;
                return Ok(block);
            }
        }
        // SAFETY: the memory is only read after it was written.
        let at = unsafe { result::malloc_host(size, 0) };
        let at = gpu.allocated("cuMemHostAlloc", size, at)?;
        // Whoever reads the block before it was copied to reads zeros, not memory without a value.
        // SAFETY: the driver gave `size` bytes.
        unsafe { at.cast::<u8>().write_bytes(0, size) };
        Ok(Block {
            at,
            bytes: size,
            copied: None,
            context: self.context.clone(),
        })
    }

    /// Keeps a block whose copy ends at this event.
    fn give(&self, mut block: Block, copied: CudaEvent) {
        block.copied = Some(copied);
        let surplus = {
            let mut free = lock(&self.free);
            free.1 += block.bytes;
            free.0.push(block);
            let mut surplus = Vec::new();
            while free.1 > KEPT && !free.0.is_empty() {
                let oldest = free.0.remove(0);
                free.1 -= oldest.bytes;
                surplus.push(oldest);
            }
            surplus
        };
        drop(surplus);
    }
}

/// Values that the device reads as they lie in memory.
///
/// # Safety
/// The type is `repr(C)` or a number, and has no padding: every byte of a value is one.
pub(crate) unsafe trait Plain: Copy + 'static {}

// SAFETY: numbers have no padding.
unsafe impl Plain for u8 {}
// SAFETY: see above.
unsafe impl Plain for i32 {}
// SAFETY: see above.
unsafe impl Plain for i64 {}
// SAFETY: see above.
unsafe impl Plain for u64 {}
// SAFETY: see above.
unsafe impl Plain for f32 {}
// SAFETY: see above.
unsafe impl Plain for bf16 {}

/// Returns values as their bytes.
pub(super) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: the values have no padding, so every byte of them has a value.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

impl Gpu {
    /// Copies values into a new buffer, on the copy stream. Returns it with the event at the end of the copy.
    fn copy_in<T: Plain>(self: &Arc<Self>, values: &[T]) -> Result<(Buffer, CudaEvent)> {
        let bytes = size_of_val(values);
        // Memory of the copy stream: a copy does not wait for what computes now.
        let buffer = Buffer::for_copies(self, bytes)?;
        let mut block = self.pinned.take(self, bytes)?;
        block.slice_mut(bytes).copy_from_slice(bytes_of(values));
        // SAFETY: both ranges have this length; the block stays as it is until the event.
        let copied = unsafe {
            result::memcpy_htod_async(buffer.at(), block.slice(bytes), self.copies.cu_stream())
        };
        self.checked("cuMemcpyHtoDAsync", copied)?;
        let ended = self.event(&self.copies)?;
        self.pinned.give(block, self.event(&self.copies)?);
        Ok((buffer, ended))
    }

    /// Uploads values from the thread of the device: the compute stream waits for the copy, the thread does not.
    pub(super) fn stage<T: Plain>(self: &Arc<Self>, values: &[T]) -> Result<Buffer> {
        let (buffer, copied) = self.copy_in(values)?;
        self.checked("cuStreamWaitEvent", self.compute.wait(&copied))?;
        Ok(buffer)
    }

    /// Uploads values from any thread, which waits until they are there, so that the compute stream never waits for a long copy.
    pub(super) fn upload<T: Plain>(self: &Arc<Self>, values: &[T]) -> Result<Buffer> {
        let begun = Instant::now();
        let (buffer, copied) = self.copy_in(values)?;
        self.checked("cuEventSynchronize", copied.synchronize())?;
        self.checked("cuStreamWaitEvent", self.compute.wait(&copied))?;
        self.uploaded(size_of_val(values), begun.elapsed());
        Ok(buffer)
    }

    /// Uploads a table that a kernel reads, as bfloat16 numbers of no meaning: two bytes each.
    pub(crate) fn table<T: Plain>(self: &Arc<Self>, rows: &[T]) -> Result<Tensor> {
        let buffer = self.stage(rows)?;
        let halves = size_of_val(rows) / Numbers::Bf16.bytes();
        Tensor::around(buffer, &[halves], Numbers::Bf16)
    }
}

/// Result of a forward pass on its way home: enqueued, and read once it is there.
pub(crate) struct Readback {
    gpu: Arc<Gpu>,
    /// The block; `None` once it was given back.
    block: Option<Block>,
    ended: Option<CudaEvent>,
    dims: Vec<usize>,
    numbers: Numbers,
    bytes: usize,
}

impl Readback {
    /// Enqueues a copy to the host after everything that was enqueued so far.
    pub(crate) fn start(tensor: &Tensor) -> Result<Self> {
        let gpu = tensor.gpu().clone();
        let bytes = tensor.bytes();
        let mut block = gpu.pinned.take(&gpu, bytes)?;
        // SAFETY: both ranges have this length; nobody reads the block before the event.
        let copied = unsafe {
            result::memcpy_dtoh_async(
                block.slice_mut(bytes),
                tensor.pointer(),
                gpu.compute.cu_stream(),
            )
        };
        gpu.checked("cuMemcpyDtoHAsync", copied)?;
        let ended = gpu.event(&gpu.compute)?;
        Ok(Self {
            block: Some(block),
            ended: Some(ended),
            dims: tensor.dims().to_vec(),
            numbers: tensor.numbers(),
            bytes,
            gpu,
        })
    }

    /// Returns whether the result is there; true also after an error, which [`Readback::wait`] returns.
    pub(crate) fn is_ready(&self) -> bool {
        let ended = self.ended.as_ref();
        ended.is_none_or(|ended| !matches!(ended.try_is_complete(), Ok(false)))
    }

    /// Waits for the result. Returns it in the number format that it has.
    pub(crate) fn wait(mut self) -> Result<candle_core::Tensor> {
        if let Some(ended) = &self.ended {
            self.gpu
                .checked("cuEventSynchronize", ended.synchronize())?;
        }
        let block = self.block.as_ref();
        let bytes = block.map_or(&[][..], |block| block.slice(self.bytes));
        let (dims, host) = (std::mem::take(&mut self.dims), candle_core::Device::Cpu);
        match self.numbers {
            Numbers::F32 => {
                let words = bytes.chunks_exact(4);
                let floats =
                    words.map(|word| f32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
                candle_core::Tensor::from_vec(floats.collect::<Vec<f32>>(), dims, &host)
            }
            Numbers::Bf16 => {
                let halves = bytes.chunks_exact(2);
                let halves = halves.map(|half| bf16::from_ne_bytes([half[0], half[1]]));
                candle_core::Tensor::from_vec(halves.collect::<Vec<bf16>>(), dims, &host)
            }
        }
    }
}

impl Drop for Readback {
    fn drop(&mut self) {
        if let (Some(block), Some(ended)) = (self.block.take(), self.ended.take()) {
            self.gpu.pinned.give(block, ended);
        }
    }
}
