//! cuBLASLt on a device, and the plans of products.
//!
//! Invariant: a kind of product has one plan, chosen at its first use, which is the self-check or the warm-up: the fastest of those whose results are the plain
//! kernel's, and equal by the bit whatever the number of rows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::Result;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::{CudaContext, result as driver_result};

use super::driver;
use super::gpu::{Gpu, lock};
use super::plan::{self, Kind, Operands, Plan, Room};
use super::trial::{Trial, Verdict};
use crate::ops::failure::Unusable;

/// Memory that a product may use beside its operands: what the library asks for on Hopper.
const WORKSPACE: usize = 32 << 20;
/// Plans that are tried for a kind.
const CANDIDATES: usize = 16;

/// The product library on a device, and the plans.
pub(crate) struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    context: Arc<CudaContext>,
    /// Plan of each kind. A plain mutex: it is held while a plan is chosen, so that it is chosen once, and for a search afterwards.
    plans: Mutex<HashMap<Kind, Plan>>,
}

// SAFETY: the library's handle may be used from any thread; the workspace is used on one stream only.
unsafe impl Send for Products {}
// SAFETY: see `Send`.
unsafe impl Sync for Products {}

impl Products {
    pub(super) fn new(context: &Arc<CudaContext>) -> std::result::Result<Self, Unusable> {
        let of = |what| move |error| driver::failure(what, WORKSPACE, error);
        context.bind_to_thread().map_err(of("cuCtxSetCurrent"))?;
        // SAFETY: the context is bound; the memory is freed with the value.
        let workspace = unsafe { driver_result::malloc_sync(WORKSPACE) };
        let workspace = workspace.map_err(of("cuMemAlloc"))?;
        let handle = result::create_handle()
            .map_err(|error| driver::of_products("cublasLtCreate", error))?;
        Ok(Self {
            handle,
            workspace,
            context: context.clone(),
            plans: Mutex::default(),
        })
    }

    /// Returns the plan of each kind of product that has run, for people.
    pub(super) fn plans(&self) -> Vec<String> {
        let plans = lock(&self.plans);
        let line = |(kind, plan): (&Kind, &Plan)| {
            let (bias, adds) = (kind.has_bias, kind.adds);
            format!(
                "{:?} {}x{} {:?} to {:?}{}{}: {}",
                kind.reads,
                kind.columns,
                kind.inner,
                kind.input,
                kind.output,
                if bias { ", bias" } else { "" },
                if adds { ", residual" } else { "" },
                plan::describe(plan)
            )
        };
        plans.iter().map(line).collect()
    }

    /// Returns the kinds of products that have a plan.
    #[cfg(test)]
    pub(super) fn kinds(&self) -> Vec<Kind> {
        lock(&self.plans).keys().copied().collect()
    }

    pub(super) fn room(&self, gpu: &Gpu) -> Room {
        Room {
            handle: self.handle,
            stream: gpu.compute.cu_stream().cast(),
            workspace: self.workspace,
            bytes: WORKSPACE,
        }
    }

    /// Returns the plan of a kind, which is chosen when the kind is new. `rows` are those of one frame.
    fn plan(&self, gpu: &Arc<Gpu>, kind: &Kind, rows: usize) -> Result<Plan> {
        let mut plans = lock(&self.plans);
        if let Some(plan) = plans.get(kind) {
            return Ok(*plan);
        }
        let plan = self.choose(gpu, kind, rows)?;
        tracing::debug!(?kind, plan = plan::describe(&plan), "plan of a product");
        plans.insert(*kind, plan);
        Ok(plan)
    }

    fn choose(&self, gpu: &Arc<Gpu>, kind: &Kind, rows: usize) -> Result<Plan> {
        let trial = Trial::new(gpu, kind, rows)?;
        let room = self.room(gpu);
        let found = plan::candidates(kind, trial.most_rows(), room, CANDIDATES);
        let found = found.map_err(|error| {
            gpu.asked(driver::of_products("cublasLtMatmulAlgoGetHeuristic", error))
        })?;
        let mut fit = Vec::new();
        for plan in found {
            match trial.judged(&plan, room)? {
                Verdict::Fits => fit.push(plan),
                Verdict::Refused | Verdict::Varies => {}
                Verdict::Wrong(problem) => {
                    let plan = plan::describe(&plan);
                    tracing::warn!(
                        problem,
                        plan,
                        ?kind,
                        "a plan of a product is not used: its results are wrong"
                    );
                }
            }
        }
        let [only] = fit.as_slice() else {
            return trial.fastest(&fit, room);
        };
        Ok(*only)
    }

    /// Enqueues a product of `rows` rows, of which a frame has `frame`.
    pub(super) fn run(
        &self,
        gpu: &Arc<Gpu>,
        kind: &Kind,
        (rows, frame): (usize, usize),
        operands: Operands,
    ) -> Result<()> {
        if rows == 0 || kind.columns == 0 {
            return Ok(());
        }
        gpu.checked("cuCtxSetCurrent", gpu.context.bind_to_thread())?;
        let plan = self.plan(gpu, kind, frame)?;
        // SAFETY: the callers below make the operands from tensors of this kind, which they hold until this returns.
        let done = unsafe { plan::run(kind, &plan, rows, operands, self.room(gpu)) };
        done.map_err(|error| gpu.failed(driver::of_products("cublasLtMatmul", error)))
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        // SAFETY: both were made in `new`, and nothing uses them any more.
        unsafe {
            let _ = result::destroy_handle(self.handle);
            let _ = driver_result::free_sync(self.workspace);
        }
    }
}
