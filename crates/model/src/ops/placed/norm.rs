//! LayerNorm over the last dimension in a place, forward and backward, and the gradients of its own weights.

use candle_core::Result;

#[cfg(feature = "cuda")]
use super::apart;
use super::{Array, Place};
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::{Form, norm as host};

/// Weights of a LayerNorm.
#[derive(Debug, Clone)]
pub(crate) enum Norm {
    /// On the host.
    Host(host::Norm),
    /// On a GPU.
    #[cfg(feature = "cuda")]
    Cuda(cuda::norm::Norm),
}

impl Norm {
    /// Puts weight and bias `[C]` where they are used; `eps` is added to the variance.
    pub(crate) fn new(weight: Vec<f32>, bias: Vec<f32>, eps: f32, place: &Place) -> Result<Self> {
        Ok(match place {
            Place::Host => Self::Host(host::Norm { weight, bias, eps }),
            #[cfg(feature = "cuda")]
            Place::Cuda(gpu) => Self::Cuda(cuda::norm::Norm::new(gpu, &weight, &bias, eps)?),
        })
    }

    fn on_host(&self) -> Result<&host::Norm> {
        match self {
            Self::Host(own) => Ok(own),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => apart(),
        }
    }

    #[cfg(feature = "cuda")]
    fn on_cuda(&self) -> Result<&cuda::norm::Norm> {
        match self {
            Self::Cuda(own) => Ok(own),
            Self::Host(_) => apart(),
        }
    }

    /// Returns the memory of the weights in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let width = match self {
            Self::Host(own) => own.weight.len(),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.width(),
        };
        (2 * width * size_of::<f32>()) as u64
    }

    /// Returns the address of the first weight, in the memory of its place.
    pub(crate) fn pointer(&self) -> usize {
        match self {
            Self::Host(own) => own.weight.as_ptr() as usize,
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.pointer() as usize,
        }
    }

    fn eps(&self) -> f32 {
        match self {
            Self::Host(own) => own.eps,
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.eps(),
        }
    }
}

/// Normalises rows: y = (x - mean) / sqrt(variance + eps) · weight + bias, in this number format or, on the host, as rows of integers.
pub(crate) fn forward(x: &Array, norm: &Norm, form: impl Into<Form>) -> Result<Array> {
    match x {
        Array::Host(x) => host::forward(x, norm.on_host()?, form).map(Array::Host),
        #[cfg(feature = "cuda")]
        Array::Cuda(x) => match form.into() {
            Form::Numbers(numbers) => {
                cuda::norm::forward(x, norm.on_cuda()?, numbers).map(Array::Cuda)
            }
            Form::Integers => apart(),
        },
    }
}

/// Returns the gradient of the input, plus `add` (of the same shape), which is the gradient that bypassed the norm.
pub(crate) fn backward(x: &Array, dy: &Array, add: &Array, norm: &Norm) -> Result<Array> {
    match x {
        Array::Host(x) => {
            let (dy, add) = (dy.on_host()?, add.on_host()?);
            host::backward(x, dy, add, norm.on_host()?).map(Array::Host)
        }
        #[cfg(feature = "cuda")]
        Array::Cuda(x) => {
            let (dy, add) = (dy.on_cuda()?, add.on_cuda()?);
            cuda::norm::backward(x, dy, add, norm.on_cuda()?).map(Array::Cuda)
        }
    }
}

/// Returns the gradients of weight and bias, `[2, C]`.
pub(crate) fn weight_gradient(x: &Array, dy: &Array, norm: &Norm) -> Result<Array> {
    match x {
        Array::Host(x) => host::weight_gradient(x, dy.on_host()?, norm.eps()).map(Array::Host),
        #[cfg(feature = "cuda")]
        Array::Cuda(x) => {
            cuda::norm::weight_gradient(x, dy.on_cuda()?, norm.eps()).map(Array::Cuda)
        }
    }
}
