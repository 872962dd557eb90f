//! Weights in a place: matrices in the layout of the products there, and vectors.

use std::ops::Range;

use candle_core::Result;

#[cfg(feature = "cuda")]
use super::apart;
use super::{Array, Place};
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::{Form, Format, Numbers, Packed};

/// Right operand W `[n, k]` of y = x · Wᵀ. The columns of the product may form equal sections that can be used separately.
#[derive(Debug, Clone)]
pub(crate) enum Matrix {
    /// Panels of the host's kernels.
    Host(Packed),
    /// Rows on a GPU.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Matrix),
}

impl Matrix {
    /// Puts W `[n, k]` where it is used, in this format.
    pub(crate) fn new(
        weight: &[f32],
        (k, sections): (usize, usize),
        format: Format,
        place: &Place,
    ) -> Result<Self> {
        Ok(match place {
            Place::Host => Self::Host(Packed::new(format, weight, k, sections)),
            #[cfg(feature = "cuda")]
            Place::Cuda(gpu) => {
                let format = on_device(format, weight.len(), k);
                Self::Cuda(cuda::Matrix::new(gpu, format, weight, k, sections)?)
            }
        })
    }

    /// Like [`Self::new`], from an array in any place.
    pub(crate) fn of(
        weight: &Array,
        (k, sections): (usize, usize),
        format: Format,
        place: &Place,
    ) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let (Array::Cuda(weight), Place::Cuda(_)) = (weight, place) {
            let format = on_device(format, weight.elem_count(), k);
            let weight = weight.cast(Numbers::read_by(format))?;
            return Ok(Self::Cuda(cuda::Matrix::of(weight, k, sections)?));
        }
        weight.read(|weight| Self::new(weight, (k, sections), format, place))?
    }

    /// Packs W `[n, k]` a second time for the backward product, where the place has a layout of its own for it.
    pub(crate) fn new_backward(
        weight: &[f32],
        k: usize,
        format: Format,
        place: &Place,
    ) -> Option<Self> {
        match place {
            Place::Host => Some(Self::Host(Packed::new_transposed(format, weight, k))),
            #[cfg(feature = "cuda")]
            Place::Cuda(_) => None,
        }
    }

    /// Returns the same weights in another format and place.
    pub(crate) fn placed(&self, format: Format, place: &Place) -> Result<Self> {
        match (self, place) {
            (Self::Host(own), Place::Host) => Ok(Self::Host(own.in_format(format))),
            #[cfg(feature = "cuda")]
            (Self::Host(_) | Self::Cuda(_), _) => {
                let (shape, own) = ((self.k(), self.sections()), self.unpacked()?);
                Self::new(&own, shape, format, place)
            }
        }
    }

    /// Returns the right operand of the backward product, dx = dy · W, where dy has only the columns of `sections`.
    pub(crate) fn transposed(&self, sections: Range<usize>) -> Self {
        match self {
            Self::Host(own) => Self::Host(own.transposed(sections)),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => Self::Cuda(own.transposed(sections)),
        }
    }

    /// Returns the host's panels; an error when the matrix is on a device.
    pub(super) fn on_host(&self) -> Result<&Packed> {
        match self {
            Self::Host(own) => Ok(own),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => apart(),
        }
    }

    /// Returns the device's rows; an error when the matrix is on the host.
    #[cfg(feature = "cuda")]
    pub(super) fn on_cuda(&self) -> Result<&cuda::Matrix> {
        match self {
            Self::Cuda(own) => Ok(own),
            Self::Host(_) => apart(),
        }
    }

    /// Returns W `[n, k]`, with the rounded values where the format is not f32.
    pub(crate) fn unpacked(&self) -> Result<Vec<f32>> {
        match self {
            Self::Host(own) => Ok(own.unpacked()),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.unpacked(),
        }
    }

    /// Returns the number of elements of each sum.
    #[cfg(feature = "cuda")]
    fn k(&self) -> usize {
        match self {
            Self::Host(own) => own.k(),
            Self::Cuda(own) => own.k(),
        }
    }

    /// Returns the number of sections.
    pub(crate) fn sections(&self) -> usize {
        match self {
            Self::Host(own) => own.sections(),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.sections(),
        }
    }

    /// Returns the number format of the weights.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Host(own) => own.format(),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.format(),
        }
    }

    /// Returns the form in which a product with these weights reads its left operand: one that is made once, by what writes it.
    pub(crate) fn form(&self) -> Form {
        match self {
            Self::Host(own) if own.format() == Format::Int8 => Form::Integers,
            Self::Host(own) => Numbers::read_by(own.format()).into(),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => Numbers::read_by(own.format()).into(),
        }
    }

    /// Returns the memory of the weights in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Host(own) => own.bytes(),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.bytes(),
        }
    }

    /// Returns the address of the first value, in the memory of its place.
    pub(crate) fn pointer(&self) -> usize {
        match self {
            Self::Host(own) => own.pointer(),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.pointer() as usize,
        }
    }
}

/// Returns the format of a weight of so many numbers on a device, whose products of bfloat16 want multiples of 8: other weights stay floats.
#[cfg(feature = "cuda")]
fn on_device(format: Format, count: usize, k: usize) -> Format {
    let n = count / k.max(1);
    match format {
        Format::Bf16 if !n.is_multiple_of(8) || !k.is_multiple_of(8) => Format::F32,
        Format::F32 | Format::Bf16 | Format::Int8 => format,
    }
}

/// Numbers `[n]` in f32: a bias, the weights of a norm, taps of a convolution.
#[derive(Debug, Clone)]
pub(crate) enum Vector {
    /// On the host.
    Host(Vec<f32>),
    /// On a GPU.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Tensor),
}

impl Vector {
    /// Puts values where they are used.
    pub(crate) fn new(values: Vec<f32>, place: &Place) -> Result<Self> {
        Ok(match place {
            Place::Host => Self::Host(values),
            #[cfg(feature = "cuda")]
            Place::Cuda(gpu) => Self::Cuda(cuda::Tensor::upload(gpu, &values, &[values.len()])?),
        })
    }

    /// Like [`Self::new`], from an array in any place.
    pub(crate) fn of(values: &Array, place: &Place) -> Result<Self> {
        match place {
            Place::Host => Ok(Self::Host(values.read(<[f32]>::to_vec)?)),
            #[cfg(feature = "cuda")]
            Place::Cuda(_) => Ok(Self::Cuda(values.to(place)?.on_cuda()?.clone())),
        }
    }

    /// Returns the same values in another place.
    pub(crate) fn placed(&self, place: &Place) -> Result<Self> {
        Self::new(self.values()?, place)
    }

    /// Returns the values, which are copied from where they are.
    pub(crate) fn values(&self) -> Result<Vec<f32>> {
        match self {
            Self::Host(own) => Ok(own.clone()),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => Array::Cuda(own.clone()).read(<[f32]>::to_vec),
        }
    }

    /// Returns the host's values; an error when they are on a device.
    pub(super) fn on_host(&self) -> Result<&[f32]> {
        match self {
            Self::Host(own) => Ok(own),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => apart(),
        }
    }

    /// Returns the device's values; an error when they are on the host.
    #[cfg(feature = "cuda")]
    pub(super) fn on_cuda(&self) -> Result<&cuda::Tensor> {
        match self {
            Self::Cuda(own) => Ok(own),
            Self::Host(_) => apart(),
        }
    }

    /// Returns the number of values.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Host(own) => own.len(),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.elem_count(),
        }
    }

    /// Returns the address of the first value, in the memory of its place.
    pub(crate) fn pointer(&self) -> usize {
        match self {
            Self::Host(own) => own.as_ptr() as usize,
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.pointer() as usize,
        }
    }
}
