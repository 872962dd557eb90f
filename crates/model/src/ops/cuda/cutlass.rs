//! CUTLASS's products, as the program was built with them.
//!
//! Invariant: they are called for devices of compute capability 9.0 alone, with operands as `cutlass/products.cu` lists them.

use std::sync::Arc;

use cudarc::driver::sys::CUdevice_attribute;

use super::fused::{Epilogues, Operands, Shape, Way};
use super::gpu::Gpu;
use crate::Activation;

/// Returns the products for a device of this compute capability, or why there are none.
pub(super) fn epilogues(capability: (i32, i32)) -> Result<Box<dyn Epilogues>, &'static str> {
    match capability {
        (9, 0) => Ok(Box::new(Cutlass)),
        _ => Err("they are for compute capability 9.0"),
    }
}

/// The products of `cutlass/products.cu`.
struct Cutlass;

/// What a call is about, as `cutlass/products.cu` reads it.
#[repr(C)]
struct Call {
    input: u64,
    weight: u64,
    beside: u64,
    output: u64,
    stream: u64,
    rows: i32,
    columns: i32,
    inner: i32,
    device: i32,
    processors: i32,
}

unsafe extern "C" {
    fn frameshift_product_active(call: *const Call) -> i32;
    fn frameshift_product_active_quick(call: *const Call) -> i32;
    fn frameshift_product_slope(call: *const Call) -> i32;
    fn frameshift_product_slope_quick(call: *const Call) -> i32;
}

impl Epilogues for Cutlass {
    fn run(
        &self,
        gpu: &Arc<Gpu>,
        shape: &Shape,
        rows: usize,
        operands: Operands,
    ) -> Result<(), String> {
        let int =
            |size: usize| i32::try_from(size).map_err(|_| format!("{size} does not fit 32 bits"));
        let processors = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let processors = gpu.context.attribute(processors);
        let call = Call {
            input: operands.input,
            weight: operands.weight,
            beside: operands.beside,
            output: operands.output,
            stream: gpu.compute.cu_stream() as u64,
            rows: int(rows)?,
            columns: int(shape.columns)?,
            inner: int(shape.inner)?,
            device: int(gpu.ordinal())?,
            processors: processors.map_err(|error| error.to_string())?,
        };
        let function = match (shape.way, shape.activation) {
            (Way::Forward, Activation::Gelu) => frameshift_product_active,
            (Way::Forward, Activation::QuickGelu) => frameshift_product_active_quick,
            (Way::Backward, Activation::Gelu) => frameshift_product_slope,
            (Way::Backward, Activation::QuickGelu) => frameshift_product_slope_quick,
        };
        // SAFETY: the caller promises operands of this shape on the device whose context it has bound; the structure has the fields of the function's.
        match unsafe { function(&raw const call) } {
            0 => Ok(()),
            status => Err(format!("CUTLASS answers with status {status}")),
        }
    }
}
