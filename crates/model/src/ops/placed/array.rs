//! A tensor of activations, weights or gradients, on the host or on a device.

use std::ops::Range;

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::Place;
#[cfg(feature = "cuda")]
use super::apart;
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::{Numbers, buffers};

/// Tensor in one place; cheap to clone. Rows are adjacent, without gaps.
#[derive(Debug, Clone)]
pub(crate) enum Array {
    /// On the host.
    Host(Tensor),
    /// On a GPU.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Tensor),
}

impl From<Tensor> for Array {
    fn from(tensor: Tensor) -> Self {
        Self::Host(tensor)
    }
}

impl Array {
    /// Returns an array of these values on the host.
    pub(crate) fn of(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Self> {
        Ok(Self::Host(buffers::tensor(values, shape)?))
    }

    /// Returns an array of zeros.
    pub(crate) fn zeros(shape: impl Into<Shape>, place: &Place) -> Result<Self> {
        match place {
            Place::Host => Ok(Self::Host(Tensor::zeros(shape, DType::F32, &Device::Cpu)?)),
            #[cfg(feature = "cuda")]
            Place::Cuda(gpu) => {
                let zeros = cuda::Tensor::zeros(gpu, Numbers::F32, shape.into().dims())?;
                Ok(Self::Cuda(zeros))
            }
        }
    }

    /// Returns an array of zeros of the same shape, in the same place.
    pub(crate) fn zeros_like(&self) -> Result<Self> {
        Self::zeros(self.dims(), &self.place())
    }

    /// Returns where the array is.
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Host(_) => Place::Host,
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => Place::Cuda(own.gpu().clone()),
        }
    }

    /// Returns the array on the host; a device is waited for.
    pub(crate) fn host(&self) -> Result<Tensor> {
        match self {
            Self::Host(own) => Ok(own.clone()),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.host(),
        }
    }

    /// Returns the same values, f32, in this place; nothing is copied when they are there.
    pub(crate) fn to(&self, place: &Place) -> Result<Self> {
        match place {
            Place::Host => Ok(Self::Host(self.host()?)),
            #[cfg(feature = "cuda")]
            Place::Cuda(gpu) => match self {
                Self::Cuda(own) => Ok(Self::Cuda(own.clone())),
                Self::Host(own) => {
                    let upload = |values: &[f32]| cuda::Tensor::stage(gpu, values, own.dims());
                    Ok(Self::Cuda(buffers::read(own, upload)??))
                }
            },
        }
    }

    /// Returns the same values in this number format, rounded to nearest with ties to even.
    pub(crate) fn cast(&self, numbers: Numbers) -> Result<Self> {
        Ok(match self {
            Self::Host(own) => Self::Host(own.to_dtype(numbers.dtype())?),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => Self::Cuda(own.cast(numbers)?),
        })
    }

    /// Returns the host's tensor; an error when the array is on a device.
    pub(super) fn on_host(&self) -> Result<&Tensor> {
        match self {
            Self::Host(own) => Ok(own),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => apart(),
        }
    }

    /// Returns the device's tensor; an error when the array is on the host.
    #[cfg(feature = "cuda")]
    pub(super) fn on_cuda(&self) -> Result<&cuda::Tensor> {
        match self {
            Self::Cuda(own) => Ok(own),
            Self::Host(_) => apart(),
        }
    }

    /// Calls `f` with the f32 values, which are copied to the host when they are on a device.
    pub(crate) fn read<R>(&self, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
        buffers::read(&self.host()?, f)
    }

    /// Calls `f` with the f32 values when they are on the host.
    pub(crate) fn read_on_host<R>(&self, f: impl FnOnce(&[f32]) -> R) -> Result<Option<R>> {
        match self {
            Self::Host(own) => buffers::read(own, f).map(Some),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Ok(None),
        }
    }

    pub(crate) fn dims(&self) -> &[usize] {
        match self {
            Self::Host(own) => own.dims(),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.dims(),
        }
    }

    pub(crate) fn dim(&self, axis: usize) -> Result<usize> {
        match self.dims().get(axis) {
            Some(&size) => Ok(size),
            None => candle_core::bail!("no dimension {axis} in {:?}", self.dims()),
        }
    }

    pub(crate) fn dims2(&self) -> Result<(usize, usize)> {
        match *self.dims() {
            [a, b] => Ok((a, b)),
            ref other => candle_core::bail!("expected two dimensions, got {other:?}"),
        }
    }

    pub(crate) fn dims3(&self) -> Result<(usize, usize, usize)> {
        match *self.dims() {
            [a, b, c] => Ok((a, b, c)),
            ref other => candle_core::bail!("expected three dimensions, got {other:?}"),
        }
    }

    /// Returns some rows of the first dimension, without copying them.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Result<Self> {
        Ok(match self {
            Self::Host(own) => Self::Host(own.narrow(0, rows.start, rows.len())?),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => Self::Cuda(own.narrow(rows.start, rows.len())?),
        })
    }

    /// Returns row i of the first dimension.
    pub(crate) fn get(&self, i: usize) -> Result<Self> {
        let rest = self.dims().get(1..).unwrap_or_default().to_vec();
        self.rows(i..i + 1)?.reshape(rest)
    }

    /// Returns the same values in another shape.
    pub(crate) fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        Ok(match self {
            Self::Host(own) => Self::Host(own.reshape(shape.into())?),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => Self::Cuda(own.reshape(shape.into().dims())?),
        })
    }

    /// Writes the values of `from`, in the same place, to this array from element `at` on.
    pub(crate) fn write(&self, at: usize, from: &Self) -> Result<()> {
        match self {
            Self::Host(own) => {
                let from = from.on_host()?.contiguous()?.flatten_all()?;
                own.slice_set(&from, 0, at)
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => {
                let from = from.on_cuda()?;
                own.narrow(at, from.elem_count())?.copy_from(from)
            }
        }
    }

    /// Joins arrays along the first dimension; one alone is not copied.
    pub(crate) fn cat(parts: &[Self]) -> Result<Self> {
        let Some(first) = parts.first() else {
            candle_core::bail!("no arrays to join");
        };
        if parts.len() == 1 {
            return Ok(first.clone());
        }
        match first {
            Self::Host(_) => {
                let parts: Vec<&Tensor> = parts.iter().map(Self::on_host).collect::<Result<_>>()?;
                Ok(Self::Host(Tensor::cat(&parts, 0)?))
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => {
                let parts: Vec<_> = parts.iter().map(Self::on_cuda).collect::<Result<_>>()?;
                Ok(Self::Cuda(cuda::Tensor::cat(&parts)?))
            }
        }
    }
}
