//! Failures of an accelerator: of an operation, and of its start.
//!
//! Invariant: a failure passes through operations as candle's error and comes out of the model as its own error, so that a batch that is too large, a device
//! that is lost and a wrong adapter set are never mistaken for one another.

use std::sync::Arc;

/// Failure of an operation on an accelerator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The accelerator has no room for a buffer.
    #[error("the device has no room for {bytes} bytes")]
    OutOfMemory {
        /// Bytes that were asked for; 0 when the driver does not tell.
        bytes: u64,
    },
    /// The accelerator cannot be used any more by this process.
    #[error("the device is lost: {what}: {reason}")]
    Lost {
        /// Call that reported it.
        what: &'static str,
        /// Reason, as the driver gives it.
        reason: Arc<str>,
    },
    /// The driver or a library refused a call; later calls may succeed.
    #[error("{what}: {reason}")]
    Refused {
        /// Call that was refused.
        what: &'static str,
        /// Reason, as the driver gives it.
        reason: Arc<str>,
    },
}

impl From<Failure> for candle_core::Error {
    fn from(failure: Failure) -> Self {
        Self::Cuda(Box::new(failure))
    }
}

impl Failure {
    /// Returns the failure inside an error of an operation, whatever context candle has put around it; `None` when the error is another one.
    pub(crate) fn inside(error: &candle_core::Error) -> Option<&Self> {
        use candle_core::Error;
        #[allow(clippy::wildcard_enum_match_arm)]
        match error {
            Error::Cuda(inner) => inner.downcast_ref(),
            Error::WithBacktrace { inner, .. }
            | Error::WithPath { inner, .. }
            | Error::Context { inner, .. } => Self::inside(inner),
            _ => None,
        }
    }
}

/// Reason why an accelerator cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The program has no code for the accelerator.
    #[error("this program was built without CUDA (cargo feature `cuda`)")]
    NotBuilt,
    /// The program was built where there was no compiler for its kernels.
    #[error("this program was built without kernels for CUDA: nvcc was missing when it was built")]
    NoKernels,
    /// The machine has no driver.
    #[error("there is no NVIDIA driver on this machine (libcuda.so.1 was not found)")]
    NoDriver,
    /// The library for matrix products is missing.
    #[error(
        "libcublasLt.so.13 was not found: install cuBLAS 13 or add its folder to LD_LIBRARY_PATH"
    )]
    NoLibrary,
    /// The driver or a library is too old for this program.
    #[error("the NVIDIA driver or libcublasLt is too old for this program: {reason}")]
    OldLibrary {
        /// What is missing in it.
        reason: Arc<str>,
    },
    /// There is no such device.
    #[error("there is no device cuda:{ordinal}: the driver reports {count}")]
    NoDevice {
        /// Number of the device that was asked for.
        ordinal: usize,
        /// Number of devices that there are.
        count: usize,
    },
    /// The device is too old for the kernels.
    #[error("{name} has compute capability {major}.{minor}, and 8.0 is the least")]
    OldDevice {
        /// Name of the device.
        name: Arc<str>,
        /// Major version of its compute capability.
        major: i32,
        /// Minor version of its compute capability.
        minor: i32,
    },
    /// The driver failed.
    #[error("the device cannot be used: {0}")]
    Failed(#[source] Failure),
    /// A kernel gives wrong results on this device.
    #[error("the self-check failed: {kernel} differs from the plain computation: {problem}")]
    Wrong {
        /// Name of the kernel.
        kernel: &'static str,
        /// Largest distance, or what else is wrong.
        problem: Arc<str>,
    },
    /// The backbone, or its precision, is one that the device does not compute.
    #[error("{reason}")]
    Unsupported {
        /// What the device does not compute.
        reason: Arc<str>,
    },
}

impl From<Failure> for Unusable {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Error;

    #[test]
    fn a_failure_is_found_under_whatever_candle_put_around_it() {
        let failure = Failure::OutOfMemory { bytes: 7 };
        let error = Error::from(failure.clone())
            .context("while it computed")
            .bt();
        assert_eq!(Failure::inside(&error), Some(&failure));
        assert_eq!(Failure::inside(&Error::Msg("no".to_owned())), None);
        let other = Error::Cuda("another library's".into());
        assert_eq!(Failure::inside(&other), None);
    }
}
