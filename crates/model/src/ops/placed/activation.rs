//! Gradients of activations in a place. Forward, the activation is part of a layer's product.

use candle_core::Result;

use super::Array;
use crate::Activation;
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::{Numbers, gelu as host};

/// Returns the gradient of an activation's input, dy · act'(x), in this number format.
pub(crate) fn backward(
    x: &Array,
    dy: &Array,
    activation: Activation,
    numbers: Numbers,
) -> Result<Array> {
    match x {
        Array::Host(x) => host::backward(x, dy.on_host()?, activation, numbers).map(Array::Host),
        #[cfg(feature = "cuda")]
        Array::Cuda(x) => {
            cuda::activation::backward(x, dy.on_cuda()?, activation, numbers).map(Array::Cuda)
        }
    }
}
