//! One GPU: its context, its two streams, its memory pool, its kernels and the plans of its products.
//!
//! Invariant: the compute stream is the order of everything that reads or writes a buffer; what the copy stream brings is waited for on the compute stream
//! before its first use. At most two slices are under way.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::{self, CUmemPool_attribute};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result};

use super::driver;
use super::fused::Fused;
use super::kernels::Kernels;
use super::launch::Launch;
use super::library::{self, Products};
use super::pinned::Pinned;
use crate::ops::failure::{Failure, Unusable};
use crate::ops::place::{Memory, Work};

/// Slices that may be under way: while one computes, the next one is enqueued, and an arriving clip waits for little more than one.
const SLICES: usize = 2;
/// Least compute capability for which there is code: the first with matrix instructions for bfloat16.
const LEAST: (i32, i32) = (8, 0);

/// A GPU of NVIDIA's that this process uses.
pub struct Gpu {
    ordinal: usize,
    model: String,
    pub(super) context: Arc<CudaContext>,
    /// Stream of everything that computes, allocates or frees.
    pub(super) compute: Arc<CudaStream>,
    /// Stream of copies from the host.
    pub(super) copies: Arc<CudaStream>,
    pool: Pool,
    pub(super) kernels: Kernels,
    pub(super) pinned: Pinned,
    products: Products,
    pub(super) fused: Fused,
    /// Most dynamic shared memory of a block in bytes.
    most_shared: usize,
    /// Events at the ends of the slices that are under way, oldest first. A plain mutex: only the device thread takes it, for one push and one pop.
    under_way: Mutex<VecDeque<CudaEvent>>,
    slices: AtomicU64,
    upload_nanos: AtomicU64,
    uploaded: AtomicU64,
    /// Whether new buffers begin as NaN.
    poisons: AtomicBool,
    /// First sticky error.
    lost: OnceLock<Arc<str>>,
}

/// The device's stream-ordered memory pool.
struct Pool(sys::CUmemoryPool);

// SAFETY: the driver's functions on a pool may be called from any thread, and the default pool of a device lives as long as the process.
unsafe impl Send for Pool {}
// SAFETY: see `Send`.
unsafe impl Sync for Pool {}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu")
            .field("ordinal", &self.ordinal)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl Gpu {
    /// Opens a device and loads the kernels into it.
    ///
    /// # Errors
    /// When there is no driver, library or device, when one of them is too old, or when the program has no kernels.
    pub fn open(ordinal: usize) -> Result<Arc<Self>, Unusable> {
        // SAFETY: loads libraries of the system and runs their initialisers; whoever put them there is trusted as the loader trusts them.
        let (has_driver, has_products) = unsafe {
            (
                sys::is_culib_present(),
                cudarc::cublaslt::sys::is_culib_present(),
            )
        };
        match (has_driver, has_products) {
            (false, _) => return Err(Unusable::NoDriver),
            (true, false) => return Err(Unusable::NoLibrary),
            (true, true) => {}
        }
        // A function that an old library does not have is a panic in the loader.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_present(ordinal)));
        opened.unwrap_or_else(|panic| {
            let reason = panic.downcast_ref::<String>().map(String::as_str);
            let reason = reason.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(Unusable::OldLibrary {
                reason: reason.unwrap_or("a function is missing").into(),
            })
        })
    }

    fn open_present(ordinal: usize) -> Result<Arc<Self>, Unusable> {
        let of = |what| move |error| Unusable::Failed(driver::failure(what, 0, error));
        let none = |count| Unusable::NoDevice { ordinal, count };
        result::init().map_err(|error| {
            if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE {
                return none(0);
            }
            of("cuInit")(error)
        })?;
        let count = CudaContext::device_count().map_err(of("cuDeviceGetCount"))?;
        let count = usize::try_from(count).unwrap_or(0);
        if ordinal >= count {
            return Err(none(count));
        }
        let context = CudaContext::new(ordinal).map_err(of("cuDevicePrimaryCtxRetain"))?;
        let model = context.name().map_err(of("cuDeviceGetName"))?;
        let (major, minor) = context
            .compute_capability()
            .map_err(of("cuDeviceGetAttribute"))?;
        if (major, minor) < LEAST {
            let name = model.as_str().into();
            return Err(Unusable::OldDevice { name, major, minor });
        }
        library::version().map_err(|reason| Unusable::OldLibrary { reason })?;
        let most_shared = context
            .attribute(
                sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )
            .map_err(of("cuDeviceGetAttribute"))?;
        // SAFETY: no buffer exists yet; buffers of this module are not cudarc's, and what crosses streams waits for an event of its own.
        unsafe { context.disable_event_tracking() };
        let compute = context.new_stream().map_err(of("cuStreamCreate"))?;
        let copies = context.new_stream().map_err(of("cuStreamCreate"))?;
        let gpu = Self {
            ordinal,
            model,
            pool: pool(&context).map_err(of("cuDeviceGetDefaultMemPool"))?,
            kernels: Kernels::load(&context)?,
            pinned: Pinned::new(context.clone()),
            products: Products::new(&context)?,
            fused: Fused::new((major, minor)),
            most_shared: usize::try_from(most_shared).unwrap_or(0),
            context,
            compute,
            copies,
            under_way: Mutex::default(),
            slices: AtomicU64::new(0),
            upload_nanos: AtomicU64::new(0),
            uploaded: AtomicU64::new(0),
            poisons: AtomicBool::new(false),
            lost: OnceLock::new(),
        };
        Ok(Arc::new(gpu))
    }

    /// Returns the number and the model of the device, for example `cuda:0 (NVIDIA H200)`.
    pub fn name(&self) -> String {
        format!("cuda:{} ({})", self.ordinal, self.model)
    }

    /// Returns the model of the device and the product library, for example `NVIDIA H200, cuBLASLt 13.1.0`.
    pub(crate) fn kind(&self) -> String {
        let version = library::version().unwrap_or_else(|why| why.to_string());
        format!("{}, {version}", self.model)
    }

    /// Returns why this process cannot use the device any more; `None` while it can.
    pub fn lost(&self) -> Option<Arc<str>> {
        self.lost.get().cloned()
    }

    /// Returns what the device has done.
    pub fn work(&self) -> Work {
        Work {
            slices: self.slices.load(Ordering::Relaxed),
            uploading: Duration::from_nanos(self.upload_nanos.load(Ordering::Relaxed)),
            uploaded: self.uploaded.load(Ordering::Relaxed),
        }
    }

    /// Returns the memory of the device.
    ///
    /// # Errors
    /// When the device is lost, or the driver does not tell.
    pub fn memory(&self) -> candle_core::Result<Memory> {
        // Device and pool are asked without the context: only a call of the context tells that it is broken.
        if let Err(code) = self.answers() {
            let reason = format!("{code:?}").into();
            let what = "cuStreamQuery";
            return Err(self.failed(Failure::Lost { what, reason }));
        }
        let read = |attribute| {
            let mut value = 0_u64;
            // SAFETY: the pool is valid, and the driver writes 64 bits for both attributes that are read.
            let read = unsafe {
                result::mem_pool::get_attribute(
                    self.pool.0,
                    attribute,
                    (&raw mut value).cast::<c_void>(),
                )
            };
            self.checked("cuMemPoolGetAttribute", read).map(|()| value)
        };
        Ok(Memory {
            total: self.checked("cuDeviceTotalMem", self.context.total_mem())? as u64,
            reserved: read(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?,
            used: read(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
        })
    }

    /// Returns the free memory of the device in bytes, other processes considered.
    ///
    /// # Errors
    /// When the driver does not tell.
    pub fn free(&self) -> candle_core::Result<u64> {
        let (free, _) = self.checked("cuMemGetInfo", self.context.mem_get_info())?;
        Ok(free as u64)
    }

    /// Marks the end of a slice, and waits for the end of the slice before the last.
    pub(crate) fn pace(&self) -> candle_core::Result<()> {
        self.slices.fetch_add(1, Ordering::Relaxed);
        let end = self.event(&self.compute)?;
        let oldest = {
            let mut under_way = lock(&self.under_way);
            under_way.push_back(end);
            match under_way.len() > SLICES {
                true => under_way.pop_front(),
                false => None,
            }
        };
        match oldest {
            Some(oldest) => self.checked("a slice", oldest.synchronize()),
            None => Ok(()),
        }
    }

    /// Returns the time in milliseconds that one of so many calls takes on the compute stream, after a call that is not counted, which loads kernels.
    pub(crate) fn timed(
        &self,
        calls: usize,
        mut call: impl FnMut() -> candle_core::Result<()>,
    ) -> candle_core::Result<f32> {
        call()?;
        let mark = || {
            let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
            self.checked("cuEventRecord", self.compute.record_event(Some(flags)))
        };
        let begin = mark()?;
        for _ in 0..calls {
            call()?;
        }
        let end = mark()?;
        let took = self.checked("cuEventElapsedTime", begin.elapsed_ms(&end))?;
        Ok(took / calls.max(1) as f32)
    }

    /// Waits until everything that was enqueued is done.
    #[cfg(test)]
    pub(crate) fn synchronize(&self) -> candle_core::Result<()> {
        self.checked("cuStreamSynchronize", self.copies.synchronize())?;
        self.checked("cuStreamSynchronize", self.compute.synchronize())
    }

    /// Begins a launch of this kernel.
    pub(crate) fn launch(&self, kernel: &'static str) -> Launch<'_> {
        Launch::new(self, kernel)
    }

    /// Returns the library of products.
    pub(super) fn products(&self) -> &Products {
        &self.products
    }

    /// Returns the products that end with an activation.
    pub(super) fn fused(&self) -> &Fused {
        &self.fused
    }

    /// Returns the most dynamic shared memory of a block in bytes.
    pub(super) fn most_shared(&self) -> usize {
        self.most_shared
    }

    /// Returns the library of products and how each kind of product that has run is computed, for people.
    pub(crate) fn plans(&self) -> Vec<String> {
        let mut lines = self.products.plans();
        lines.extend(library::version());
        lines.extend(self.fused.plans());
        lines.sort();
        lines
    }

    /// Returns the number of the device.
    #[cfg(cutlass_kernels)]
    pub(super) fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Makes new buffers begin as NaN for as long as the guard lives, so that a result that a kernel does not write is seen.
    pub(super) fn poison(&self) -> Poison<'_> {
        self.poisons.store(true, Ordering::Relaxed);
        Poison(self)
    }

    /// Returns whether new buffers begin as NaN.
    pub(super) fn poisons(&self) -> bool {
        self.poisons.load(Ordering::Relaxed)
    }

    /// Records an event at the end of what was enqueued on a stream. When that fails, waits for the stream instead: whoever gets the error may free what the
    /// stream uses.
    pub(super) fn end_of(&self, stream: &CudaStream) -> candle_core::Result<Arc<CudaEvent>> {
        match self.event(stream) {
            Ok(ended) => Ok(Arc::new(ended)),
            Err(error) => {
                // What cannot be waited for has ended with its device.
                let _ = stream.synchronize();
                Err(error)
            }
        }
    }

    /// Records an event on a stream; waiting for it does not keep a core busy.
    pub(super) fn event(&self, stream: &CudaStream) -> candle_core::Result<CudaEvent> {
        let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        self.checked("cuEventRecord", stream.record_event(Some(flags)))
    }

    /// Turns an answer of the driver into a result of ours, and remembers that the device is lost.
    pub(super) fn checked<T>(
        &self,
        what: &'static str,
        answer: Result<T, DriverError>,
    ) -> candle_core::Result<T> {
        self.allocated(what, 0, answer)
    }

    /// Turns the driver's answer to a request for `bytes` into a result of ours, and remembers that the device is lost.
    pub(super) fn allocated<T>(
        &self,
        what: &'static str,
        bytes: usize,
        answer: Result<T, DriverError>,
    ) -> candle_core::Result<T> {
        answer.map_err(|error| self.failed(driver::failure(what, bytes, error)))
    }

    /// Turns a failure into an error of an operation, and remembers that the device is lost. A refusal is the call's own only as long as the driver answers
    /// others: it answers every call with the error of a broken context.
    pub(super) fn failed(&self, failure: Failure) -> candle_core::Error {
        let failure = match failure {
            Failure::Refused { what, reason } => match self.answers() {
                Ok(()) => Failure::Refused { what, reason },
                Err(then) => Failure::Lost {
                    what,
                    reason: format!("{reason}, and {then:?} of the next call").into(),
                },
            },
            failure @ (Failure::OutOfMemory { .. } | Failure::Lost { .. }) => failure,
        };
        if let Failure::Lost { .. } = &failure {
            let reason = failure.to_string();
            if self.lost.set(reason.as_str().into()).is_ok() {
                tracing::error!(device = self.name(), reason, "the device is lost");
            }
        }
        failure.into()
    }

    /// Asks the driver for nothing but an answer.
    fn answers(&self) -> Result<(), sys::CUresult> {
        // SAFETY: context and stream live as long as the value.
        let answer = unsafe {
            result::ctx::set_current(self.context.cu_ctx()).map_err(|error| error.0)?;
            sys::cuStreamQuery(self.compute.cu_stream())
        };
        let is_fine = [
            sys::CUresult::CUDA_SUCCESS,
            sys::CUresult::CUDA_ERROR_NOT_READY,
        ]
        .contains(&answer);
        if is_fine { Ok(()) } else { Err(answer) }
    }

    /// Waits for everything that was enqueued, and gives memory that nobody uses back to the driver: afterwards no memory is only about to be free.
    pub(super) fn settle(&self) {
        // cudarc's own functions return early, and wait for nothing, when a dropped event has left an error.
        // SAFETY: context, streams and pool live as long as the value. An error of a broken context comes again at the next call.
        unsafe {
            let _ = result::ctx::set_current(self.context.cu_ctx());
            let _ = result::stream::synchronize(self.copies.cu_stream());
            let _ = result::stream::synchronize(self.compute.cu_stream());
            let _ = result::mem_pool::trim_to(self.pool.0, 0);
        }
    }

    /// Turns a failure of the product library into an error. The device is lost only when the driver says so, too.
    pub(super) fn asked(&self, failure: Failure) -> candle_core::Error {
        match failure {
            Failure::Lost { what, reason } => {
                let works = self.compute.synchronize();
                match self.checked("cuStreamSynchronize", works) {
                    Ok(()) => Failure::Refused { what, reason }.into(),
                    Err(lost) => lost,
                }
            }
            failure @ (Failure::OutOfMemory { .. } | Failure::Refused { .. }) => {
                self.failed(failure)
            }
        }
    }

    /// Counts an upload.
    pub(super) fn uploaded(&self, bytes: usize, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.upload_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.uploaded.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Guard of a time in which new buffers begin as NaN.
pub(super) struct Poison<'a>(&'a Gpu);

impl Drop for Poison<'_> {
    fn drop(&mut self) {
        self.0.poisons.store(false, Ordering::Relaxed);
    }
}

/// Locks a mutex even after a panic, since every change leaves its value consistent.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the device's pool, which from now on keeps what is freed: a steady state takes nothing from the driver. The pool makes no stream wait for another
/// to get memory that is about to be freed there: a copy would wait for what computes.
fn pool(context: &CudaContext) -> Result<Pool, DriverError> {
    use CUmemPool_attribute as A;
    let device = context.cu_device();
    let (mut all, mut never) = (u64::MAX, 0_i32);
    // SAFETY: the device is the context's; the pool is valid, the threshold is 64 bits wide and the other attribute 32.
    unsafe {
        let pool = result::device::get_default_mem_pool(device)?;
        let threshold = A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, threshold, (&raw mut all).cast::<c_void>())?;
        let waits = A::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES;
        result::mem_pool::set_attribute(pool, waits, (&raw mut never).cast::<c_void>())?;
        Ok(Pool(pool))
    }
}
