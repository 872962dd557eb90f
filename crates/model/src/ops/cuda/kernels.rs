//! The kernels: one image for all devices, embedded when the program was built where nvcc is.
//!
//! Invariant: a kernel is looked up once by its name, which is the name of its function in `kernels/`.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaContext, result, sys};

use super::driver;
use super::gpu::lock;
use crate::ops::failure::{Failure, Unusable};

/// Machine code and PTX of all kernels; empty when the program was built without nvcc.
static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Stands in for a missing image. A GPU's driver refuses it; the driver of the tests knows the kernels by their names.
const NOTHING: &[u8] = b"built without kernels\0\0\0";

/// Dynamic shared memory that a block may use without being allowed to.
const USUAL: usize = 48 << 10;

/// The loaded image.
pub(super) struct Kernels {
    module: sys::CUmodule,
    /// Functions by name. A plain mutex, held for a search or one call of the driver.
    functions: Mutex<HashMap<&'static str, Function>>,
    context: Arc<CudaContext>,
    /// How often each kernel was asked for.
    #[cfg(test)]
    pub(super) launched: Mutex<std::collections::BTreeMap<&'static str, usize>>,
}

/// A kernel that can be launched.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub(super) at: sys::CUfunction,
    /// Bytes of dynamic shared memory that a block of it may use.
    shared: usize,
}

// SAFETY: modules and functions may be used from any thread while their context lives, which the value holds.
unsafe impl Send for Kernels {}
// SAFETY: see `Send`.
unsafe impl Sync for Kernels {}

impl Kernels {
    /// Loads the image into a device.
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self, Unusable> {
        let bytes = if IMAGE.is_empty() { NOTHING } else { IMAGE };
        // The driver reads words of the header.
        let mut image = vec![0_u64; bytes.len().div_ceil(8)];
        for (word, eight) in image.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..eight.len()].copy_from_slice(eight);
            *word = u64::from_ne_bytes(whole);
        }
        let loaded = context.bind_to_thread().and_then(|()| {
            // SAFETY: an image is a fat binary, which knows its length, or ends with a zero.
            unsafe { result::module::load_data(image.as_ptr().cast()) }
        });
        match loaded {
            Ok(module) => Ok(Self {
                module,
                functions: Mutex::default(),
                context: context.clone(),
                #[cfg(test)]
                launched: Mutex::default(),
            }),
            Err(_) if IMAGE.is_empty() => Err(Unusable::NoKernels),
            Err(error) => Err(driver::failure("cuModuleLoadData", 0, error).into()),
        }
    }

    /// Returns a kernel whose blocks may use so many bytes of dynamic shared memory.
    pub(super) fn function(&self, name: &'static str, shared: usize) -> Result<Function, Failure> {
        #[cfg(test)]
        lock(&self.launched)
            .entry(name)
            .and_modify(|count| *count += 1)
            .or_insert(1);
        let failed = |what| move |error| driver::failure(what, 0, error);
        let mut functions = lock(&self.functions);
        let known = functions.get(name).copied();
        let mut function = match known {
            Some(function) => function,
            None => {
                self.context
                    .bind_to_thread()
                    .map_err(failed("cuCtxSetCurrent"))?;
                let c_name = CString::new(name).map_err(|error| Failure::Refused {
                    what: "cuModuleGetFunction",
                    reason: error.to_string().into(),
                })?;
                // SAFETY: the module is loaded.
                let found = unsafe { result::module::get_function(self.module, c_name) };
                let at = found.map_err(|error| Failure::Refused {
                    what: name,
                    reason: format!("there is no such kernel: {:?}", error.0).into(),
                })?;
                Function { at, shared: USUAL }
            }
        };
        if shared > function.shared {
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(shared).map_err(|_| Failure::Refused {
                what: name,
                reason: format!("{shared} bytes of shared memory").into(),
            })?;
            // SAFETY: the function belongs to the loaded module.
            let set =
                unsafe { result::function::set_function_attribute(function.at, attribute, bytes) };
            set.map_err(failed("cuFuncSetAttribute"))?;
            function.shared = shared;
        }
        functions.insert(name, function);
        Ok(function)
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        // SAFETY: the module was loaded once, and nothing launches its functions any more.
        let _ = self
            .context
            .bind_to_thread()
            .and_then(|()| unsafe { result::module::unload(self.module) });
    }
}
