//! Pinned memory of the host: on the way to the device and back.
//!
//! Invariant: a block is used again, or freed, only after the copy from or to it has ended. What goes up goes in pieces, through blocks that together stay
//! within a budget; only results that nobody has read yet may exceed it.

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

/// Most bytes of all blocks, as long as one of them is free: what follows waits for the oldest copy. Tests have little, so that they get there.
pub(super) const BUDGET: usize = if cfg!(test) { 1 << 18 } else { 256 << 20 };
/// Most bytes of a copy to the device: while one piece is on its way, the next one is written.
pub(super) const PIECE: usize = BUDGET / 16;
/// Smallest block: a page.
const LEAST: usize = 4096;

/// Blocks of pinned memory, which are costly to make.
pub(super) struct Pinned {
    context: Arc<CudaContext>,
    /// A plain mutex, held for a search through a few dozen blocks.
    blocks: Mutex<Blocks>,
}

/// Blocks that nobody holds, oldest first, and the bytes of all blocks that there are.
#[derive(Default)]
struct Blocks {
    free: Vec<Block>,
    bytes: usize,
}

/// Where a block comes from.
enum Found {
    /// No copy uses the block.
    Idle(Block),
    /// The block is of the wanted size, but its copy may not have ended.
    Busy(Block),
    /// There is room for a new block, once these are freed.
    Room(Vec<Block>),
}

impl Blocks {
    /// Finds a block of this size, or makes room for one, which is counted.
    fn find(&mut self, size: usize) -> Found {
        let fits = |block: &Block| block.bytes == size;
        if let Some(found) = self
            .free
            .iter()
            .position(|block| fits(block) && block.is_idle())
        {
            return Found::Idle(self.free.remove(found));
        }
        if self.bytes + size > BUDGET
            && let Some(found) = self.free.iter().position(fits)
        {
            return Found::Busy(self.free.remove(found));
        }
        let surplus = self.surplus(size);
        self.bytes += size;
        Found::Room(surplus)
    }

    /// Takes out the oldest blocks until so many more bytes fit, or none is left.
    fn surplus(&mut self, more: usize) -> Vec<Block> {
        let mut surplus = Vec::new();
        while self.bytes + more > BUDGET && !self.free.is_empty() {
            let oldest = self.free.remove(0);
            self.bytes -= oldest.bytes;
            surplus.push(oldest);
        }
        surplus
    }
}

/// A block of pinned memory.
struct Block {
    at: *mut c_void,
    bytes: usize,
    /// Copy that used the block last.
    copied: Option<Arc<CudaEvent>>,
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

    /// Returns the first values of the block, to be written.
    fn values_mut<T: Plain>(&mut self, count: usize) -> &mut [T] {
        let most = self.bytes / size_of::<T>();
        // SAFETY: the block begins at a page, has room for `most` values, any bytes are values, and nothing is copied to or from it now.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast::<T>(), count.min(most)) }
    }

    fn is_idle(&self) -> bool {
        let copied = self.copied.as_ref();
        copied.is_none_or(|copied| copied.is_complete())
    }
}

impl Pinned {
    pub(super) fn new(context: Arc<CudaContext>) -> Self {
        Self {
            context,
            blocks: Mutex::default(),
        }
    }

    /// Returns the bytes of all blocks.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        lock(&self.blocks).bytes
    }

    /// Returns a block of at least so many bytes that no copy uses.
    fn take(&self, gpu: &Gpu, bytes: usize) -> Result<Block> {
        let size = bytes.max(LEAST).next_power_of_two();
        // Before a block is looked for, too: the copy of a block that is used again, and the question whether its last one has ended, need a context.
        gpu.checked("cuCtxSetCurrent", self.context.bind_to_thread())?;
        let found = lock(&self.blocks).find(size);
        match found {
            Found::Idle(mut block) => {
                block.copied = None;
                Ok(block)
            }
            Found::Busy(mut block) => {
                let waited = block.copied.as_ref().map(|copied| copied.synchronize());
                match gpu.checked("cuEventSynchronize", waited.unwrap_or(Ok(()))) {
                    Ok(()) => {
                        block.copied = None;
                        Ok(block)
                    }
                    Err(error) => {
                        lock(&self.blocks).free.push(block);
                        Err(error)
                    }
                }
            }
            Found::Room(surplus) => {
                drop(surplus);
                self.make(gpu, size).inspect_err(|_| self.forget(size))
            }
        }
    }

    fn make(&self, gpu: &Gpu, size: usize) -> Result<Block> {
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

    /// Takes bytes off the sum: a block of this size is gone, or was not made.
    fn forget(&self, size: usize) {
        lock(&self.blocks).bytes -= size;
    }

    /// Keeps a block whose copy ends at this event; the oldest ones are freed when all exceed the budget.
    fn give(&self, mut block: Block, copied: Arc<CudaEvent>) {
        block.copied = Some(copied);
        let surplus = {
            let mut blocks = lock(&self.blocks);
            blocks.free.push(block);
            blocks.surplus(0)
        };
        drop(surplus);
    }

    /// Frees a block that no copy uses.
    fn discard(&self, block: Block) {
        self.forget(block.bytes);
        drop(block);
    }
}

/// Values that the device reads as they lie in memory.
///
/// # Safety
/// The type is `repr(C)` or a number, and has no padding, so every byte of a value is one; any bytes are a value; and it is aligned to at most 16 bytes.
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
    /// Copies values into a new buffer, on the copy stream; `write` writes those from an index on, piece by piece. Returns the buffer with the event at the end of the copy.
    pub(super) fn copy_in<T: Plain>(
        self: &Arc<Self>,
        count: usize,
        write: impl Fn(usize, &mut [T]),
    ) -> Result<(Buffer, Arc<CudaEvent>)> {
        let size = size_of::<T>();
        // Memory of the copy stream: a copy does not wait for what computes now.
        let buffer = Buffer::for_copies(self, count * size)?;
        let most = (PIECE / size).max(1);
        let mut ended = None;
        for begin in (0..count).step_by(most) {
            let own = most.min(count - begin);
            let mut block = self.pinned.take(self, own * size)?;
            write(begin, block.values_mut(own));
            ended = Some(self.send(block, own * size, buffer.at() + (begin * size) as u64)?);
        }
        match ended {
            Some(ended) => Ok((buffer, ended)),
            None => Ok((buffer, self.end_of(&self.copies)?)),
        }
    }

    /// Enqueues the copy of a block's first bytes to an address on the device. Returns the event at its end.
    fn send(&self, block: Block, bytes: usize, to: u64) -> Result<Arc<CudaEvent>> {
        // SAFETY: both ranges have this length; the block stays as it is until the event.
        let copied =
            unsafe { result::memcpy_htod_async(to, block.slice(bytes), self.copies.cu_stream()) };
        let copied = self.checked("cuMemcpyHtoDAsync", copied);
        match copied.and_then(|()| self.end_of(&self.copies)) {
            Ok(ended) => {
                self.pinned.give(block, ended.clone());
                Ok(ended)
            }
            Err(error) => {
                self.pinned.discard(block);
                Err(error)
            }
        }
    }

    /// Uploads values from the thread of the device: the compute stream waits for the copy, the thread does not.
    pub(super) fn stage<T: Plain>(self: &Arc<Self>, values: &[T]) -> Result<Buffer> {
        self.stage_by(values.len(), copying(values))
    }

    /// Uploads values like [`Gpu::stage`]; `write` writes those from an index on, in pieces.
    pub(super) fn stage_by<T: Plain>(
        self: &Arc<Self>,
        count: usize,
        write: impl Fn(usize, &mut [T]),
    ) -> Result<Buffer> {
        let (buffer, copied) = self.copy_in(count, write)?;
        buffer.after(&copied)
    }

    /// Uploads values from any thread, which waits until they are there, so that the compute stream never waits for a long copy.
    pub(super) fn upload<T: Plain>(self: &Arc<Self>, values: &[T]) -> Result<Buffer> {
        let begun = Instant::now();
        let (buffer, copied) = self.copy_in(values.len(), copying(values))?;
        self.checked("cuEventSynchronize", copied.synchronize())?;
        let buffer = buffer.after(&copied)?;
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

/// Writes values from an index on.
fn copying<T: Plain>(values: &[T]) -> impl Fn(usize, &mut [T]) {
    move |begin, to: &mut [T]| to.copy_from_slice(&values[begin..][..to.len()])
}

/// Result of a forward pass on its way home: enqueued, and read once it is there.
pub(crate) struct Readback {
    gpu: Arc<Gpu>,
    /// The block; `None` once it was given back.
    block: Option<Block>,
    ended: Option<Arc<CudaEvent>>,
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
        let copied = gpu.checked("cuMemcpyDtoHAsync", copied);
        let ended = match copied.and_then(|()| gpu.end_of(&gpu.compute)) {
            Ok(ended) => ended,
            Err(error) => {
                gpu.pinned.discard(block);
                return Err(error);
            }
        };
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
