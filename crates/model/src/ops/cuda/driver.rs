//! What the driver and cuBLASLt answer, as failures of ours.

use std::sync::Arc;

use cudarc::cublaslt::{result::CublasError, sys::cublasStatus_t};
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use crate::ops::failure::Failure;

/// Returns whether no later call of this process can succeed after this answer.
fn is_sticky(code: CUresult) -> bool {
    use CUresult as C;
    matches!(
        code,
        C::CUDA_ERROR_DEINITIALIZED
            | C::CUDA_ERROR_NO_DEVICE
            | C::CUDA_ERROR_INVALID_CONTEXT
            | C::CUDA_ERROR_ECC_UNCORRECTABLE
            | C::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | C::CUDA_ERROR_CONTAINED
            | C::CUDA_ERROR_ILLEGAL_ADDRESS
            | C::CUDA_ERROR_LAUNCH_TIMEOUT
            | C::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | C::CUDA_ERROR_ASSERT
            | C::CUDA_ERROR_HARDWARE_STACK_ERROR
            | C::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | C::CUDA_ERROR_MISALIGNED_ADDRESS
            | C::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | C::CUDA_ERROR_INVALID_PC
            | C::CUDA_ERROR_LAUNCH_FAILED
            | C::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | C::CUDA_ERROR_MPS_CLIENT_TERMINATED
            | C::CUDA_ERROR_EXTERNAL_DEVICE
            | C::CUDA_ERROR_SYSTEM_NOT_READY
            | C::CUDA_ERROR_UNKNOWN
    )
}

/// Returns the driver's error of `what` as a failure; `bytes` were asked for.
pub(super) fn failure(what: &'static str, bytes: usize, error: DriverError) -> Failure {
    let DriverError(code) = error;
    if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return Failure::OutOfMemory {
            bytes: bytes as u64,
        };
    }
    let reason: Arc<str> = format!("{code:?}").into();
    match is_sticky(code) {
        true => Failure::Lost { what, reason },
        false => Failure::Refused { what, reason },
    }
}

/// Returns the product library's error of `what` as a failure. What its kernels do wrong is the driver's to report.
pub(super) fn of_products(what: &'static str, error: CublasError) -> Failure {
    let reason: Arc<str> = format!("{:?}", error.0).into();
    match error.0 {
        cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => Failure::OutOfMemory { bytes: 0 },
        cublasStatus_t::CUBLAS_STATUS_EXECUTION_FAILED
        | cublasStatus_t::CUBLAS_STATUS_INTERNAL_ERROR
        | cublasStatus_t::CUBLAS_STATUS_MAPPING_ERROR => Failure::Lost { what, reason },
        cublasStatus_t::CUBLAS_STATUS_SUCCESS
        | cublasStatus_t::CUBLAS_STATUS_NOT_INITIALIZED
        | cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE
        | cublasStatus_t::CUBLAS_STATUS_ARCH_MISMATCH
        | cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED
        | cublasStatus_t::CUBLAS_STATUS_LICENSE_ERROR => Failure::Refused { what, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sticky_errors_and_refusals_are_told_apart() {
        let of = |code| failure("test", 5, DriverError(code));
        assert_eq!(
            of(CUresult::CUDA_ERROR_OUT_OF_MEMORY),
            Failure::OutOfMemory { bytes: 5 }
        );
        let lost = |code| matches!(of(code), Failure::Lost { .. });
        assert!(lost(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
        assert!(lost(CUresult::CUDA_ERROR_LAUNCH_FAILED));
        assert!(lost(CUresult::CUDA_ERROR_CONTAINED));
        assert!(!lost(CUresult::CUDA_ERROR_INVALID_VALUE));
        assert!(!lost(CUresult::CUDA_ERROR_NOT_FOUND));
    }
}
