//! Memory on the device.
//!
//! Invariant: a buffer is freed in the order of the stream that uses it, so that it may be dropped as soon as its last use is enqueued: the compute stream, or
//! the copy stream until the compute stream has been told to wait for the copy.

use std::sync::{Arc, Mutex};

use candle_core::Result;
use cudarc::driver::{CudaEvent, CudaStream, result, sys};

use super::gpu::{Gpu, lock};
use super::tensor::Tensor;

/// Bytes on the device.
pub(super) struct Buffer {
    at: sys::CUdeviceptr,
    bytes: usize,
    gpu: Arc<Gpu>,
    /// Whether only the copy stream knows the buffer.
    is_of_copies: bool,
    /// The floats from the begin in bytes, rounded, until the buffer is written to: what a product adds as its bias. A plain mutex, held for a copy of a
    /// pointer.
    rounded: Mutex<Option<(usize, Tensor)>>,
}

impl Buffer {
    /// Returns a buffer that nothing was written to yet, for what is enqueued on the compute stream from now on. During a self-check every byte is one of a NaN.
    pub(super) fn unfilled(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        let own = Self::on(gpu, &gpu.compute, bytes)?;
        if gpu.poisons() {
            own.fill(0xff)?;
        }
        Ok(own)
    }

    /// Returns a buffer that nothing was written to yet, for the copy stream.
    pub(super) fn for_copies(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        let mut own = Self::on(gpu, &gpu.copies, bytes)?;
        own.is_of_copies = true;
        Ok(own)
    }

    /// Gives a buffer of the copy stream to the compute stream, which waits for this event on the copy stream before it does anything else.
    pub(super) fn after(mut self, copied: &CudaEvent) -> Result<Self> {
        let gpu = self.gpu.clone();
        gpu.checked("cuStreamWaitEvent", gpu.compute.wait(copied))?;
        self.is_of_copies = false;
        Ok(self)
    }

    fn on(gpu: &Arc<Gpu>, stream: &CudaStream, bytes: usize) -> Result<Self> {
        gpu.checked("cuCtxSetCurrent", gpu.context.bind_to_thread())?;
        // An empty buffer is one that nobody reads; the driver refuses to allocate nothing.
        let asked = bytes.max(1);
        // SAFETY: the stream belongs to the context that was just bound.
        let allocate = || unsafe { result::malloc_async(stream.cu_stream(), asked) };
        let mut at = allocate();
        if let Err(error) = &at
            && error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY
        {
            // The pool does not wait for what the other stream is about to free.
            gpu.settle();
            at = allocate();
        }
        let at = gpu.allocated("cuMemAllocAsync", asked, at)?;
        Ok(Self {
            at,
            bytes,
            gpu: gpu.clone(),
            is_of_copies: false,
            rounded: Mutex::default(),
        })
    }

    /// Returns the GPU that the buffer lies on.
    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Returns the size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the address on the device.
    pub(super) fn at(&self) -> sys::CUdeviceptr {
        self.at
    }

    /// Returns the rounded floats from `begin` in bytes, as long as nobody has written to the buffer since they were put.
    pub(super) fn rounded(&self, begin: usize) -> Option<Tensor> {
        let rounded = lock(&self.rounded);
        let found = rounded.as_ref().filter(|(at, _)| *at == begin);
        found.map(|(_, tensor)| tensor.clone())
    }

    /// Keeps the rounded floats from `begin` in bytes.
    pub(super) fn put_rounded(&self, begin: usize, tensor: Tensor) {
        *lock(&self.rounded) = Some((begin, tensor));
    }

    /// Returns the address for a kernel that writes; what was derived from the content is forgotten.
    pub(super) fn at_for_writing(&self) -> sys::CUdeviceptr {
        let derived = lock(&self.rounded).take();
        drop(derived);
        self.at
    }

    /// Sets all bytes to this value.
    pub(super) fn fill(&self, byte: u8) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        let gpu = &self.gpu;
        gpu.checked("cuCtxSetCurrent", gpu.context.bind_to_thread())?;
        // SAFETY: the buffer is `bytes` long.
        let filled = unsafe {
            let (at, stream) = (self.at_for_writing(), gpu.compute.cu_stream());
            result::memset_d8_async(at, byte, self.bytes, stream)
        };
        gpu.checked("cuMemsetD8Async", filled)
    }

    /// Copies bytes of another buffer to `to`.
    pub(super) fn copy(&self, to: usize, from: &Self, begin: usize, bytes: usize) -> Result<()> {
        if to + bytes > self.bytes || begin + bytes > from.bytes {
            candle_core::bail!("a copy of {bytes} bytes beyond the end of a buffer");
        }
        if bytes == 0 {
            return Ok(());
        }
        let gpu = &self.gpu;
        gpu.checked("cuCtxSetCurrent", gpu.context.bind_to_thread())?;
        let (to, from) = (self.at_for_writing() + to as u64, from.at + begin as u64);
        // SAFETY: both ranges lie inside their buffers.
        let copied = unsafe { result::memcpy_dtod_async(to, from, bytes, gpu.compute.cu_stream()) };
        gpu.checked("cuMemcpyDtoDAsync", copied)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let gpu = &self.gpu;
        let stream = match self.is_of_copies {
            true => gpu.copies.cu_stream(),
            false => gpu.compute.cu_stream(),
        };
        // cudarc's own function binds nothing when somebody else's event or stream has left an error where it was dropped.
        // SAFETY: the context lives as long as the GPU.
        let bound = unsafe { result::ctx::set_current(gpu.context.cu_ctx()) };
        // SAFETY: the buffer came from the pool; whatever uses it was enqueued on this stream before, since whoever enqueues borrows it.
        let freed = unsafe { result::free_async(self.at, stream) };
        // A failure that matters is the device's; it is remembered there.
        let _ = gpu.checked("cuCtxSetCurrent", bound);
        let _ = gpu.checked("cuMemFreeAsync", freed);
    }
}
