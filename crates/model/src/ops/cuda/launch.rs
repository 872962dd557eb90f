//! Launches of kernels.
//!
//! Invariant: a launch that the device would refuse is refused here with the kernel's name; a launch without blocks does nothing. A kernel writes only into
//! buffers that nobody else holds.

use std::ffi::c_void;

use candle_core::Result;
use cudarc::driver::result;

use super::gpu::Gpu;
use super::pinned::{Plain, bytes_of};
use super::tensor::Tensor;

/// Most blocks of a grid in x, y and z.
const GRID: [usize; 3] = [(1 << 31) - 1, 65_535, 65_535];
/// Most threads of a block.
const THREADS: usize = 1024;
/// Room for an argument in bytes.
const ARGUMENT: usize = 32;

/// Launch of a kernel that is being put together; the arguments follow in the order of the kernel's parameters.
pub(crate) struct Launch<'a> {
    gpu: &'a Gpu,
    kernel: &'static str,
    grid: [usize; 3],
    threads: usize,
    shared: usize,
    /// Arguments, each at the begin of its room: the driver reads as many bytes as the parameter has.
    arguments: Vec<[u64; ARGUMENT / 8]>,
    /// First argument that does not fit.
    wrong: Option<String>,
}

impl<'a> Launch<'a> {
    pub(super) fn new(gpu: &'a Gpu, kernel: &'static str) -> Self {
        Self {
            gpu,
            kernel,
            grid: [1; 3],
            threads: 1,
            shared: 0,
            arguments: Vec::with_capacity(16),
            wrong: None,
        }
    }

    /// Sets the number of blocks in x, y and z.
    pub(crate) fn grid(mut self, grid: [usize; 3]) -> Self {
        self.grid = grid;
        self
    }

    /// Sets the number of threads of a block.
    pub(crate) fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the bytes of dynamic shared memory of a block.
    pub(crate) fn shared(mut self, bytes: usize) -> Self {
        self.shared = bytes;
        self
    }

    fn push(mut self, bytes: &[u8]) -> Self {
        let mut argument = [0; ARGUMENT / 8];
        // SAFETY: the words are as many bytes, and any bytes are words.
        let room =
            unsafe { std::slice::from_raw_parts_mut(argument.as_mut_ptr().cast::<u8>(), ARGUMENT) };
        match room.get_mut(..bytes.len()) {
            Some(room) => room.copy_from_slice(bytes),
            None => {
                let wrong = || format!("{} bytes long", bytes.len());
                self.wrong.get_or_insert_with(wrong);
            }
        }
        self.arguments.push(argument);
        self
    }

    fn pointer(self, pointer: u64) -> Self {
        self.push(&pointer.to_ne_bytes())
    }

    /// Adds a tensor that the kernel reads.
    pub(crate) fn read(self, tensor: &'a Tensor) -> Self {
        self.pointer(tensor.pointer())
    }

    /// Adds a tensor that the kernel reads, or a null pointer.
    pub(crate) fn read_or_null(self, tensor: Option<&'a Tensor>) -> Self {
        self.pointer(tensor.map_or(0, Tensor::pointer))
    }

    /// Adds the numbers from `at` on of a tensor that the kernel reads.
    pub(crate) fn read_from(mut self, tensor: &'a Tensor, at: usize) -> Self {
        if at > tensor.elem_count() {
            let wrong = || format!("{at}, beyond the end of {tensor:?}");
            self.wrong.get_or_insert_with(wrong);
        }
        self.pointer(tensor.pointer() + (at * tensor.numbers().bytes()) as u64)
    }

    /// Adds the numbers from `at` on of a tensor that the kernel reads, or a null pointer.
    pub(crate) fn read_from_or_null(self, tensor: Option<&'a Tensor>, at: usize) -> Self {
        match tensor {
            Some(tensor) => self.read_from(tensor, at),
            None => self.pointer(0),
        }
    }

    /// Adds a tensor that the kernel writes; nobody else may hold its buffer.
    pub(crate) fn write(mut self, tensor: &'a mut Tensor) -> Self {
        match tensor.pointer_mut() {
            Some(pointer) => self.pointer(pointer),
            None => {
                self.wrong
                    .get_or_insert_with(|| "an output that is shared".to_owned());
                self
            }
        }
    }

    /// Adds a tensor that the kernel writes, or a null pointer.
    pub(crate) fn write_or_null(self, tensor: Option<&'a mut Tensor>) -> Self {
        match tensor {
            Some(tensor) => self.write(tensor),
            None => self.pointer(0),
        }
    }

    /// Adds a tensor that the kernel updates in place; all holders of its buffer see it.
    pub(crate) fn update(self, tensor: &'a Tensor) -> Self {
        self.pointer(tensor.pointer_in_place())
    }

    /// Adds the numbers from `at` on of a tensor that the kernel updates in place.
    pub(crate) fn update_from(mut self, tensor: &'a Tensor, at: usize) -> Self {
        if at > tensor.elem_count() {
            let wrong = || format!("{at}, beyond the end of {tensor:?}");
            self.wrong.get_or_insert_with(wrong);
        }
        self.pointer(tensor.pointer_in_place() + (at * tensor.numbers().bytes()) as u64)
    }

    /// Adds a structure that the kernel takes by value, or a single number.
    pub(crate) fn value<T: Plain>(self, value: T) -> Self {
        self.push(bytes_of(&[value]))
    }

    /// Adds a number as a 32-bit integer.
    pub(crate) fn int(mut self, value: usize) -> Self {
        match i32::try_from(value) {
            Ok(value) => self.push(&value.to_ne_bytes()),
            Err(_) => {
                self.wrong
                    .get_or_insert_with(|| format!("{value}, which does not fit 32 bits"));
                self
            }
        }
    }

    /// States how many numbers the kernel counts with 32 bits; there is no argument of it.
    pub(crate) fn counts(mut self, numbers: usize) -> Self {
        if i32::try_from(numbers).is_err() {
            self.wrong
                .get_or_insert_with(|| format!("a tensor of {numbers} numbers, beyond 32 bits"));
        }
        self
    }

    /// Adds a number as a 64-bit integer.
    pub(crate) fn long(self, value: usize) -> Self {
        self.push(&(value as u64).to_ne_bytes())
    }

    /// Adds a 32-bit float.
    pub(crate) fn float(self, value: f32) -> Self {
        self.push(&value.to_ne_bytes())
    }

    /// Enqueues the launch on the compute stream.
    ///
    /// # Errors
    /// When the device has no such kernel or would refuse the launch, or is lost.
    pub(crate) fn run(mut self) -> Result<()> {
        let (kernel, grid) = (self.kernel, self.grid);
        if let Some(wrong) = &self.wrong {
            candle_core::bail!("kernel {kernel}: an argument is {wrong}");
        }
        if grid.contains(&0) {
            return Ok(());
        }
        let fits = grid.iter().zip(GRID).all(|(blocks, most)| *blocks <= most);
        let (gpu, shared) = (self.gpu, self.shared);
        let most = gpu.most_shared();
        if !fits || self.threads == 0 || self.threads > THREADS || shared > most {
            candle_core::bail!(
                "kernel {kernel}: a grid of {grid:?} blocks of {} threads with {shared} bytes of shared memory, of which the device has {most}",
                self.threads
            );
        }
        gpu.checked("cuCtxSetCurrent", gpu.context.bind_to_thread())?;
        let function = gpu.kernels.function(kernel, self.shared);
        let function = function.map_err(|failure| gpu.failed(failure))?;
        let mut arguments: Vec<*mut c_void> = (self.arguments.iter_mut())
            .map(|argument| argument.as_mut_ptr().cast())
            .collect();
        let [x, y, z] = grid.map(|blocks| blocks as u32);
        // SAFETY: the kernel is of the loaded image; its callers pass the arguments that `kernels/README.md` lists, which the tests on the emulated device
        // check together with every address that a kernel reads or writes. The buffers live until the launch is enqueued, and are freed in stream order.
        let launched = unsafe {
            result::launch_kernel(
                function.at,
                (x, y, z),
                (self.threads as u32, 1, 1),
                self.shared as u32,
                gpu.compute.cu_stream(),
                &mut arguments,
            )
        };
        gpu.checked(kernel, launched)
    }
}
