//! Where a model computes: the host, or an accelerator.
//!
//! Invariant: a place is chosen once, before the weights are loaded; everything of one backbone lies there.

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "cuda")]
use super::cuda::Gpu;
use super::failure::Unusable;
use crate::BackboneConfig;
use crate::spec::Precision;

/// Where weights lie and operations run; cheap to clone.
#[derive(Debug, Clone, Default)]
pub enum Place {
    /// The processor and its memory.
    #[default]
    Host,
    /// A GPU of NVIDIA's.
    #[cfg(feature = "cuda")]
    Cuda(Arc<Gpu>),
}

/// Memory of an accelerator in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of the device, for all processes.
    pub total: u64,
    /// Bytes that this process has taken from the driver.
    pub reserved: u64,
    /// Bytes of them that buffers use.
    pub used: u64,
}

/// What an accelerator has done since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Slices whose end was marked for pacing.
    pub slices: u64,
    /// Time that uploads took, from the first byte until the device had the last one, all together.
    pub uploading: Duration,
    /// Bytes that were uploaded.
    pub uploaded: u64,
}

impl Place {
    /// Opens the accelerator with this number.
    ///
    /// # Errors
    /// [`Unusable`] with the reason; [`Unusable::NotBuilt`] in a program without the feature `cuda`.
    pub fn cuda(ordinal: usize) -> Result<Self, Unusable> {
        #[cfg(feature = "cuda")]
        return Gpu::open(ordinal).map(Self::Cuda);
        #[cfg(not(feature = "cuda"))]
        {
            let _ = ordinal;
            Err(Unusable::NotBuilt)
        }
    }

    /// Compares every operation of a backbone of this shape with the host's, on random data. The host needs no comparison.
    ///
    /// # Errors
    /// [`Unusable::Wrong`] with the first operation that differs, [`Unusable::Unsupported`] when the place does not compute in this precision.
    pub fn check(&self, config: &BackboneConfig, precision: Precision) -> Result<(), Unusable> {
        #[cfg(feature = "cuda")]
        if !self.is_host() {
            return super::cuda::check::run(config, precision, self);
        }
        let _ = (config, precision);
        Ok(())
    }

    /// Returns whether this is the host.
    pub fn is_host(&self) -> bool {
        matches!(self, Self::Host)
    }

    /// Returns the name for people: `cpu`, or the device with its number and model.
    pub fn name(&self) -> String {
        match self {
            Self::Host => "cpu".to_owned(),
            #[cfg(feature = "cuda")]
            Self::Cuda(gpu) => gpu.name(),
        }
    }

    /// Returns the model of an accelerator and the library that multiplies on it, which results depend on in their last bits; `None` on the host.
    pub fn kind(&self) -> Option<String> {
        match self {
            Self::Host => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(gpu) => Some(gpu.kind()),
        }
    }

    /// Returns the memory of an accelerator; `None` on the host, and when the driver does not tell.
    pub fn memory(&self) -> Option<Memory> {
        match self {
            Self::Host => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(gpu) => gpu.memory().ok(),
        }
    }

    /// Returns what an accelerator has done; `None` on the host.
    pub fn work(&self) -> Option<Work> {
        match self {
            Self::Host => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(gpu) => Some(gpu.work()),
        }
    }

    /// Returns the plan of each kind of product that has run, for people; empty on the host.
    pub fn plans(&self) -> Vec<String> {
        match self {
            Self::Host => Vec::new(),
            #[cfg(feature = "cuda")]
            Self::Cuda(gpu) => gpu.plans(),
        }
    }

    /// Returns why this process cannot use the place any more; `None` while it can.
    pub fn lost(&self) -> Option<Arc<str>> {
        match self {
            Self::Host => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(gpu) => gpu.lost(),
        }
    }

    /// Marks the end of a slice, and waits for the end of the slice before the last: at most two slices are under way. Does nothing on the host, where a
    /// slice is over when its call returns.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn pace(&self) -> candle_core::Result<()> {
        match self {
            Self::Host => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Cuda(gpu) => gpu.pace(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_always_there_and_never_lost() {
        let host = Place::default();
        assert!(host.is_host() && host.pace().is_ok());
        assert_eq!((host.name().as_str(), host.memory()), ("cpu", None));
        assert_eq!(
            (host.lost(), host.work(), host.plans()),
            (None, None, Vec::new())
        );
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_program_without_cuda_says_so() {
        assert_eq!(Place::cuda(0).unwrap_err(), Unusable::NotBuilt);
    }
}
