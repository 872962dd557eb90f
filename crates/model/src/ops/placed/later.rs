//! Arrays on their way to the host.

use candle_core::{Result, Tensor};

use super::Array;
#[cfg(feature = "cuda")]
use crate::ops::cuda::Readback;

/// An array that is on the host, or will be once a device has computed it.
pub(crate) enum Later {
    /// On the host.
    Host(Tensor),
    /// On its way from a GPU.
    #[cfg(feature = "cuda")]
    Cuda(Readback),
}

impl Later {
    /// Returns whether the array is there.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::Host(_) => true,
            #[cfg(feature = "cuda")]
            Self::Cuda(readback) => readback.is_ready(),
        }
    }

    /// Waits for the array, and returns it on the host.
    pub(crate) fn wait(self) -> Result<Array> {
        match self {
            Self::Host(tensor) => Ok(Array::Host(tensor)),
            #[cfg(feature = "cuda")]
            Self::Cuda(readback) => readback.wait().map(Array::Host),
        }
    }
}

impl Array {
    /// Starts the way to the host, after everything that was enqueued on the device so far.
    pub(crate) fn later(&self) -> Result<Later> {
        match self {
            Self::Host(own) => Ok(Later::Host(own.clone())),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => Readback::start(own).map(Later::Cuda),
        }
    }
}
