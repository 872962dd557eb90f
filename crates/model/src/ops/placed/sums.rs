//! Sums over rows in a place: gradients of a layer's weight and bias.

use candle_core::Result;

use super::Array;
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::linear::Rows;
use crate::ops::{Format, sum, weight_gradient as host};

/// Starting point of a sum over rows; see [`sum::Onto`].
#[derive(Debug, Clone)]
pub(crate) struct Onto {
    /// Number of rows of a clip.
    pub(crate) clip: usize,
    /// Sum over the earlier clips; zeros when `None`.
    pub(crate) earlier: Option<Array>,
}

impl Onto {
    /// Starting point without earlier clips, with all rows as one clip.
    pub(crate) const NOTHING: Self = Self {
        clip: usize::MAX,
        earlier: None,
    };

    fn on_host(&self) -> Result<sum::Onto<'_>> {
        Ok(sum::Onto {
            clip: self.clip,
            earlier: self.earlier.as_ref().map(Array::on_host).transpose()?,
        })
    }

    #[cfg(feature = "cuda")]
    fn on_cuda(&self) -> Result<cuda::linear::Onto<'_>> {
        Ok(cuda::linear::Onto {
            clip: self.clip,
            earlier: self.earlier.as_ref().map(Array::on_cuda).transpose()?,
        })
    }
}

/// Computes the gradient `[n, k]` of a weight in this format from some rows of x and as many rows of dy, added to that of earlier clips. The host multiplies
/// bfloat16 only where that is faster than floats; a device multiplies in the weight's format.
pub(crate) fn weight_gradient(
    x: (&Array, Rows),
    dy: (&Array, Rows),
    onto: &Onto,
    format: Format,
) -> Result<Array> {
    match x.0 {
        Array::Host(of_x) => {
            let dy = (dy.0.on_host()?, dy.1);
            host::of((of_x, x.1), dy, onto.on_host()?, format).map(Array::Host)
        }
        #[cfg(feature = "cuda")]
        Array::Cuda(of_x) => {
            let dy = (dy.0.on_cuda()?, dy.1);
            cuda::linear::weight_gradient((of_x, x.1), dy, &onto.on_cuda()?, format)
                .map(Array::Cuda)
        }
    }
}

/// Returns the column sums `[n]` over some rows of x `[…, n]`.
pub(crate) fn columns(x: &Array, rows: Rows, onto: &Onto) -> Result<Array> {
    match x {
        Array::Host(x) => sum::columns(x, rows, onto.on_host()?).map(Array::Host),
        #[cfg(feature = "cuda")]
        Array::Cuda(x) => cuda::linear::columns(x, rows, &onto.on_cuda()?).map(Array::Cuda),
    }
}
