//! Multi-head attention of each frame in a place, forward and backward.

use candle_core::Result;

use super::Array;
use crate::ops::attention as host;
#[cfg(feature = "cuda")]
use crate::ops::cuda;

pub(crate) use crate::ops::attention::How;

/// What a forward pass leaves for its backward pass, in addition to the operands: nothing on the host, which computes the scores again.
#[derive(Debug, Clone)]
pub(crate) enum Trace {
    /// Of the host.
    Host,
    /// Of a GPU: the result, and the logarithms of the sums of each query's exponentials.
    #[cfg(feature = "cuda")]
    Cuda(cuda::attention::Trace),
}

#[cfg(feature = "cuda")]
impl Trace {
    fn on_cuda(&self) -> Result<&cuda::attention::Trace> {
        match self {
            Self::Cuda(own) => Ok(own),
            Self::Host => super::apart(),
        }
    }
}

/// Computes attention over packed queries, keys and values `[N, L, 3C]`. Returns `[N, L, C]`.
pub(crate) fn forward(qkv: &Array, how: How) -> Result<(Array, Trace)> {
    match qkv {
        Array::Host(qkv) => Ok((Array::Host(host::forward(qkv, how)?), Trace::Host)),
        #[cfg(feature = "cuda")]
        Array::Cuda(qkv) => {
            let (y, trace) = cuda::attention::forward(qkv, how)?;
            Ok((Array::Cuda(y), Trace::Cuda(trace)))
        }
    }
}

/// Returns the gradient `[N, L, 3C]` of the packed operands from the gradient of the result, `[N, L, C]`.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub(crate) fn backward(qkv: &Array, trace: &Trace, dy: &Array, how: How) -> Result<Array> {
    match qkv {
        Array::Host(qkv) => host::backward(qkv, dy.on_host()?, how).map(Array::Host),
        #[cfg(feature = "cuda")]
        Array::Cuda(qkv) => {
            cuda::attention::backward(qkv, trace.on_cuda()?, dy.on_cuda()?, how).map(Array::Cuda)
        }
    }
}

/// Computes attention of one query per frame, `[N, C]`, over keys and values `[N, L, 2C]`. Returns `[N, C]`.
pub(crate) fn class_forward(q: &Array, kv: &Array, how: How) -> Result<Array> {
    match q {
        Array::Host(q) => host::class_forward(q, kv.on_host()?, how).map(Array::Host),
        #[cfg(feature = "cuda")]
        Array::Cuda(q) => cuda::attention::class_forward(q, kv.on_cuda()?, how).map(Array::Cuda),
    }
}

/// Returns the gradients of one query per frame, `[N, C]`, and of keys and values, `[N, L, 2C]`.
pub(crate) fn class_backward(
    q: &Array,
    kv: &Array,
    dy: &Array,
    how: How,
) -> Result<(Array, Array)> {
    match q {
        Array::Host(q) => {
            let (dq, dkv) = host::class_backward(q, kv.on_host()?, dy.on_host()?, how)?;
            Ok((Array::Host(dq), Array::Host(dkv)))
        }
        #[cfg(feature = "cuda")]
        Array::Cuda(q) => {
            let (kv, dy) = (kv.on_cuda()?, dy.on_cuda()?);
            let (dq, dkv) = cuda::attention::class_backward(q, kv, dy, how)?;
            Ok((Array::Cuda(dq), Array::Cuda(dkv)))
        }
    }
}
