//! Activations, weights and gradients on the device.
//!
//! Invariant: a tensor is contiguous and row-major. Clones and parts share the buffer; a kernel's output is a buffer that nobody else holds, unless it is
//! updated in place by name.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Result;

use super::buffer::Buffer;
use super::gpu::Gpu;
use super::pinned::Readback;
use crate::ops::Numbers;

/// Contiguous numbers on the device, with dimensions.
#[derive(Clone)]
pub(crate) struct Tensor {
    buffer: Arc<Buffer>,
    /// First byte in the buffer.
    begin: usize,
    dims: Vec<usize>,
    numbers: Numbers,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tensor")
            .field("dims", &self.dims)
            .field("numbers", &self.numbers)
            .finish_non_exhaustive()
    }
}

impl Tensor {
    /// Returns a tensor that a kernel fills completely before anybody reads it.
    pub(crate) fn unfilled(gpu: &Arc<Gpu>, numbers: Numbers, dims: &[usize]) -> Result<Self> {
        let bytes = dims.iter().product::<usize>() * numbers.bytes();
        Self::around(Buffer::unfilled(gpu, bytes)?, dims, numbers)
    }

    /// Returns a tensor of zeros.
    pub(crate) fn zeros(gpu: &Arc<Gpu>, numbers: Numbers, dims: &[usize]) -> Result<Self> {
        let zeros = Self::unfilled(gpu, numbers, dims)?;
        zeros.buffer.fill(0)?;
        Ok(zeros)
    }

    /// Returns a tensor of NaNs, in which a number that nobody writes shows.
    pub(super) fn nans(gpu: &Arc<Gpu>, numbers: Numbers, dims: &[usize]) -> Result<Self> {
        let nans = Self::unfilled(gpu, numbers, dims)?;
        nans.buffer.fill(0xff)?;
        Ok(nans)
    }

    /// Returns a tensor around a buffer of this size.
    pub(super) fn around(buffer: Buffer, dims: &[usize], numbers: Numbers) -> Result<Self> {
        let bytes = dims.iter().product::<usize>() * numbers.bytes();
        if bytes != buffer.bytes() {
            candle_core::bail!("{} bytes are not a tensor of {dims:?}", buffer.bytes());
        }
        Ok(Self {
            buffer: Arc::new(buffer),
            begin: 0,
            dims: dims.to_vec(),
            numbers,
        })
    }

    /// Uploads floats from any thread, which waits until they are on the device.
    pub(crate) fn upload(gpu: &Arc<Gpu>, values: &[f32], dims: &[usize]) -> Result<Self> {
        Self::around(gpu.upload(values)?, dims, Numbers::F32)
    }

    /// Uploads floats from the thread of the device; the compute stream waits for the copy, the thread does not.
    pub(crate) fn stage(gpu: &Arc<Gpu>, values: &[f32], dims: &[usize]) -> Result<Self> {
        Self::around(gpu.stage(values)?, dims, Numbers::F32)
    }

    /// Waits for everything that was enqueued. Returns the values on the host, in the same number format.
    pub(crate) fn host(&self) -> Result<candle_core::Tensor> {
        Readback::start(self)?.wait()
    }

    /// Returns the GPU that the tensor lies on.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        self.buffer.gpu()
    }

    /// Returns the number format.
    pub(crate) fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// Returns the dimensions.
    pub(crate) fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Returns the number of elements.
    pub(crate) fn elem_count(&self) -> usize {
        self.dims.iter().product()
    }

    /// Returns the size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.elem_count() * self.numbers.bytes()
    }

    /// Returns some rows of the first dimension, which share the buffer.
    pub(crate) fn narrow(&self, begin: usize, len: usize) -> Result<Self> {
        let rows = self.dims.first().copied().unwrap_or_default();
        match begin.checked_add(len) {
            Some(end) if end <= rows => Ok(self.part(begin..end)),
            Some(_) | None => candle_core::bail!("rows {begin} and {len} more of {:?}", self.dims),
        }
    }

    /// Returns these rows of the first dimension, as far as there are such, which share the buffer.
    pub(super) fn part(&self, rows: Range<usize>) -> Self {
        let all = self.dims.first().copied().unwrap_or_default();
        let (begin, end) = (rows.start.min(all), rows.end.min(all));
        let row: usize = self.dims.iter().skip(1).product();
        let mut dims = self.dims.clone();
        if let Some(first) = dims.first_mut() {
            *first = end.saturating_sub(begin);
        }
        Self {
            buffer: self.buffer.clone(),
            begin: self.begin + begin * row * self.numbers.bytes(),
            dims,
            numbers: self.numbers,
        }
    }

    /// Returns the same values with other dimensions.
    pub(crate) fn reshape(&self, dims: &[usize]) -> Result<Self> {
        if dims.iter().product::<usize>() != self.elem_count() {
            candle_core::bail!("reshape of {:?} to {dims:?}", self.dims);
        }
        Ok(Self {
            dims: dims.to_vec(),
            ..self.clone()
        })
    }

    /// Returns these tensors one after another in the first dimension.
    pub(crate) fn cat(tensors: &[&Self]) -> Result<Self> {
        let [first, rest @ ..] = tensors else {
            candle_core::bail!("nothing to join");
        };
        let fits = |other: &&Self| {
            other.numbers == first.numbers && other.dims.get(1..) == first.dims.get(1..)
        };
        if first.dims.is_empty() || !rest.iter().all(fits) {
            candle_core::bail!("tensors that do not fit are joined: {tensors:?}");
        }
        let mut dims = first.dims.clone();
        dims[0] = tensors.iter().map(|tensor| tensor.dims[0]).sum();
        let all = Self::unfilled(first.gpu(), first.numbers, &dims)?;
        let mut to = 0;
        for tensor in tensors {
            all.buffer
                .copy(to, &tensor.buffer, tensor.begin, tensor.bytes())?;
            to += tensor.bytes();
        }
        Ok(all)
    }

    /// Returns a copy with a buffer of its own.
    pub(crate) fn copy(&self) -> Result<Self> {
        Self::cat(&[&self.reshape(&[self.elem_count()])?])?.reshape(&self.dims)
    }

    /// Copies the values of another tensor into this one's part of its buffer, whoever holds it.
    pub(crate) fn copy_from(&self, from: &Self) -> Result<()> {
        if from.elem_count() != self.elem_count() || from.numbers != self.numbers {
            candle_core::bail!("{from:?} is copied to {self:?}");
        }
        self.buffer
            .copy(self.begin, &from.buffer, from.begin, from.bytes())
    }

    /// Returns the values in another number format, rounded to nearest with ties to even.
    pub(crate) fn cast(&self, numbers: Numbers) -> Result<Self> {
        let kernel = match (self.numbers, numbers) {
            (Numbers::F32, Numbers::F32) | (Numbers::Bf16, Numbers::Bf16) => {
                return Ok(self.clone());
            }
            (Numbers::F32, Numbers::Bf16) => "cast_f32_bf16",
            (Numbers::Bf16, Numbers::F32) => "cast_bf16_f32",
        };
        let mut out = Self::unfilled(self.gpu(), numbers, &self.dims)?;
        let count = self.elem_count();
        self.gpu()
            .launch(kernel)
            .grid([count.div_ceil(8).div_ceil(256), 1, 1])
            .threads(256)
            .read(self)
            .write(&mut out)
            .long(count)
            .run()?;
        Ok(out)
    }

    /// Returns the floats rounded to bfloat16; the copy is kept until somebody writes to the buffer.
    pub(super) fn rounded(&self) -> Result<Self> {
        if let Some(found) = self.buffer.rounded(self.begin)
            && found.elem_count() == self.elem_count()
        {
            return Ok(found);
        }
        let rounded = self.cast(Numbers::Bf16)?;
        self.buffer.put_rounded(self.begin, rounded.clone());
        Ok(rounded)
    }

    /// Returns the address of the first element.
    pub(crate) fn pointer(&self) -> u64 {
        self.buffer.at() + self.begin as u64
    }

    /// Returns the address of the first element for writing; `None` when somebody else holds the buffer.
    pub(super) fn pointer_mut(&mut self) -> Option<u64> {
        let begin = self.begin as u64;
        Arc::get_mut(&mut self.buffer).map(|buffer| buffer.at_for_writing() + begin)
    }

    /// Returns the address of the first element for an update in place, which all holders of the buffer see.
    pub(super) fn pointer_in_place(&self) -> u64 {
        self.buffer.at_for_writing() + self.begin as u64
    }
}
