//! cuBLASLt on a device, and the plans of products.
//!
//! Invariant: a kind of product has one plan, chosen at its first use, which is the self-check or the warm-up: the fastest of those whose results are the plain
//! kernel's, equal by the bit whatever the number of rows, and equal by the bit to those of the first such plan that the library proposes, so that a measurement
//! of time decides no bit. A plan that is refused later on rests, and is tried again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use candle_core::Result;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::{CudaContext, result as driver_result};

use super::driver;
use super::gpu::{Gpu, lock};
use super::plan::{self, Kind, Operands, Plan, Room};
use super::rest::{self, Rest};
use super::tensor::Tensor;
use super::trial::{Trial, Verdict, repeats};
use crate::ops::failure::{Failure, Unusable};

/// Memory that a product may use beside its operands: what the library asks for on Hopper.
const WORKSPACE: usize = 32 << 20;
/// Plans that are tried for a kind.
const CANDIDATES: usize = 16;
/// Least version of the library, as it counts: the one whose interface the program was built for.
const LEAST: usize = 130_000;

/// Returns the library's version in words.
///
/// # Errors
/// In words, when the version is older than the program needs.
pub(super) fn version() -> std::result::Result<String, Arc<str>> {
    // SAFETY: the function reads nothing; the library is loaded by the first call.
    let version = unsafe { sys::cublasLtGetVersion() };
    let words = format!(
        "cuBLASLt {}.{}.{}",
        version / 10_000,
        version / 100 % 100,
        version % 100
    );
    match version >= LEAST {
        true => Ok(words),
        false => Err(format!("{words} was found, and 13 is the least").into()),
    }
}

/// A plan that was chosen, and its rest, if the library refused it since.
struct Chosen {
    plan: Plan,
    rest: Rest,
}

/// The product library on a device, and the plans.
pub(crate) struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    context: Arc<CudaContext>,
    /// Plans of each kind, all with the same bits, of which the first that does not rest is used; while all rest, the plain kernel computes the kind. A plain
    /// mutex: it is held while plans are tried, so that they are tried once, and for a search afterwards.
    plans: Mutex<HashMap<Kind, Vec<Chosen>>>,
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
        let now = Instant::now();
        let line = |(kind, plans): (&Kind, &Vec<Chosen>)| {
            let (bias, adds) = (kind.has_bias, kind.adds);
            let how = match awake(plans, now) {
                Some(chosen) => plan::describe(&chosen.plan),
                None => {
                    let first = plans.iter().filter_map(|plan| plan.rest.left(now)).min();
                    let again = rest::words(first.unwrap_or_default());
                    format!("plain kernel, since the library refused; {again}")
                }
            };
            format!(
                "{:?} {}x{} {:?} to {:?}{}{}: {}",
                kind.reads,
                kind.columns,
                kind.inner,
                kind.input,
                kind.output,
                if bias { ", bias" } else { "" },
                if adds { ", residual" } else { "" },
                how
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

    /// Returns the plan of a kind, which is chosen when the kind is new, and whether the library refused it when it was last tried; `None` while all plans
    /// rest. `rows` are those of one frame.
    fn plan(&self, gpu: &Arc<Gpu>, kind: &Kind, rows: usize) -> Result<Option<(Plan, bool)>> {
        let mut plans = lock(&self.plans);
        if let Some(own) = plans.get(kind) {
            let chosen = awake(own, Instant::now());
            return Ok(chosen.map(|chosen| (chosen.plan, chosen.rest.was_refused())));
        }
        let own = self.choose(gpu, kind, rows)?;
        let first = own.first().copied();
        tracing::debug!(?kind, plan = ?first.as_ref().map(plan::describe), "plan of a product");
        let rest = Rest::default();
        let own = own.into_iter().map(|plan| Chosen { plan, rest });
        plans.insert(*kind, own.collect());
        Ok(first.map(|plan| (plan, false)))
    }

    /// Tries the plans of a kind. Returns those whose bits are those of the first one that fits, the fastest first.
    fn choose(&self, gpu: &Arc<Gpu>, kind: &Kind, rows: usize) -> Result<Vec<Plan>> {
        let trial = Trial::new(gpu, kind, rows)?;
        let room = self.room(gpu);
        let found = plan::candidates(kind, trial.most_rows(), room, CANDIDATES);
        let found = found.map_err(|error| {
            gpu.asked(driver::of_products("cublasLtMatmulAlgoGetHeuristic", error))
        })?;
        let mut first: Option<Tensor> = None;
        let mut fit = Vec::new();
        for plan in found {
            match trial.judged(&plan, room)? {
                Verdict::Fits(frame) => {
                    let first = first.get_or_insert_with(|| frame.clone());
                    if repeats(&[first.clone(), frame])? {
                        fit.push(plan);
                    }
                }
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
        trial.fastest_first(fit, room)
    }

    /// Enqueues a product of `rows` rows, of which a frame has `frame`. Returns whether the library computes it: false while all plans of the kind rest because
    /// the library refused them; the plain kernel computes it then, whatever the number of rows.
    ///
    /// # Errors
    /// When the device is lost, or has no room for the product's kernel.
    pub(super) fn run(
        &self,
        gpu: &Arc<Gpu>,
        kind: &Kind,
        (rows, frame): (usize, usize),
        operands: Operands,
    ) -> Result<bool> {
        if rows == 0 || kind.columns == 0 {
            return Ok(true);
        }
        gpu.checked("cuCtxSetCurrent", gpu.context.bind_to_thread())?;
        let mut has_room = false;
        while let Some((plan, was_refused)) = self.plan(gpu, kind, frame)? {
            // SAFETY: the callers below make the operands from tensors of this kind, which they hold until this returns.
            let done = unsafe { plan::run(kind, &plan, rows, operands, self.room(gpu)) };
            let Err(error) = done else {
                if was_refused {
                    self.works_again(kind, &plan);
                }
                return Ok(true);
            };
            let error = gpu.asked(driver::of_products("cublasLtMatmul", error));
            match Failure::inside(&error) {
                // A kernel that is loaded at its first use needs memory that the pool may hold.
                Some(Failure::OutOfMemory { .. } | Failure::Refused { .. }) if !has_room => {
                    gpu.settle();
                    has_room = true;
                }
                // No plan is at fault while its kernel may have found no room: the caller makes some.
                Some(Failure::Refused { .. }) if gpu.free()? < WORKSPACE as u64 => {
                    return Err(gpu.failed(Failure::OutOfMemory { bytes: 0 }));
                }
                Some(Failure::Refused { reason, .. }) => self.leave_out(kind, &plan, reason),
                Some(Failure::OutOfMemory { .. } | Failure::Lost { .. }) | None => {
                    return Err(error);
                }
            }
        }
        Ok(false)
    }

    /// Leaves out a plan for a while that the library refused to run although it was chosen.
    fn leave_out(&self, kind: &Kind, plan: &Plan, reason: &str) {
        let mut plans = lock(&self.plans);
        let Some(own) = plans.get_mut(kind) else {
            return;
        };
        let now = Instant::now();
        let refused = own.iter_mut().filter(|other| other.plan.data == plan.data);
        refused.for_each(|chosen| chosen.rest.begin(now));
        let left = own.iter().filter(|own| own.rest.left(now).is_none());
        tracing::error!(
            ?kind,
            plan = plan::describe(plan),
            reason,
            left = left.count(),
            "the library refused a plan after it was chosen; it is left out for a while: the next one of the same bits is used, or the plain kernel, with other bits"
        );
    }

    /// Notes that the library runs a plan again that it refused before.
    fn works_again(&self, kind: &Kind, plan: &Plan) {
        let mut plans = lock(&self.plans);
        let own = plans.get_mut(kind).into_iter().flatten();
        own.filter(|other| other.plan.data == plan.data)
            .for_each(|chosen| chosen.rest = Rest::default());
        let plan = plan::describe(plan);
        tracing::info!(
            ?kind,
            plan,
            "the library runs a plan again that it refused before"
        );
    }

    /// Ends the rests of all plans before their time.
    #[cfg(test)]
    pub(super) fn cut_rests_short(&self) {
        let mut plans = lock(&self.plans);
        let all = plans.values_mut().flatten();
        all.for_each(|chosen| chosen.rest.cut_short());
    }
}

/// Returns the first plan that does not rest.
fn awake(plans: &[Chosen], now: Instant) -> Option<&Chosen> {
    plans.iter().find(|plan| plan.rest.left(now).is_none())
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
