//! Products that end with an activation, or with its slope, in one kernel.
//!
//! Invariant: a fused product is used only after it has given, on this device and on random data, what the product and the activation give apart, with bits that
//! depend neither on the number of rows nor on a row's place among them, and in less time. A kernel that refuses a call later on costs no result: the shape is
//! computed apart for a while, then the kernel is tried again.

mod trial;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use candle_core::Result;

use self::trial::Trial;
use super::gpu::{Gpu, lock};
use super::rest::{self, Rest};
use super::{Matrix, Tensor};
use crate::Activation;
use crate::ops::Numbers;
use crate::ops::failure::Failure;

/// Rows of this many numbers begin where matrix instructions read.
const EIGHT: usize = 8;

/// Which product it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// act(x · Wᵀ + b).
    Forward,
    /// dy · W, times the activation's slope at the values before it.
    Backward,
}

/// What a fused product is, except for its number of rows. Operands and result are bfloat16, the bias floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) way: Way,
    pub(super) activation: Activation,
    /// Columns of the result.
    pub(super) columns: usize,
    /// Length of the sums.
    pub(super) inner: usize,
}

/// Addresses of a fused product's operands.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(any(test, cutlass_kernels)), allow(dead_code))] // Only kernels read them.
pub(super) struct Operands {
    /// Rows `[rows, inner]`.
    pub(super) input: u64,
    /// W `[columns, inner]`, or, of a backward product, `[inner, columns]`.
    pub(super) weight: u64,
    /// Bias `[columns]` in floats, or, of a backward product, the values before the activation `[rows, columns]`.
    pub(super) beside: u64,
    /// Result `[rows, columns]`.
    pub(super) output: u64,
}

/// Kernels of fused products.
pub(super) trait Epilogues: Send + Sync {
    /// Enqueues a product on the compute stream of the device, whose context is bound. The operands are of this shape.
    ///
    /// # Errors
    /// In words, when the kernel does not do it.
    fn run(
        &self,
        gpu: &Arc<Gpu>,
        shape: &Shape,
        rows: usize,
        operands: Operands,
    ) -> std::result::Result<(), String>;
}

/// How a shape is computed on this device.
#[derive(Debug, Clone, PartialEq)]
enum Choice {
    /// In one kernel; the text says how long it takes.
    Fused(String),
    /// Product and activation apart, for this reason.
    Apart(String),
}

/// The choice for a shape, and the rest of its kernel, if that refused a call since.
struct Chosen {
    choice: Choice,
    rest: Rest,
    /// Why the kernel refused the last call that it refused.
    refusal: String,
}

impl Chosen {
    fn new(choice: Choice) -> Self {
        Self {
            choice,
            rest: Rest::default(),
            refusal: String::new(),
        }
    }

    fn is_used(&self, now: Instant) -> bool {
        matches!(self.choice, Choice::Fused(_)) && self.rest.left(now).is_none()
    }
}

/// The fused products of a device, and which of them are used.
pub(super) struct Fused {
    kernels: Option<Box<dyn Epilogues>>,
    /// Choice for each shape. A plain mutex: it is held while a choice is made, so that it is made once, and for a search afterwards.
    choices: Mutex<HashMap<Shape, Chosen>>,
}

impl Fused {
    /// Returns the fused products for a device of this compute capability, of which there may be none.
    pub(super) fn new(capability: (i32, i32)) -> Self {
        #[cfg(cutlass_kernels)]
        let kernels = super::cutlass::epilogues(capability);
        #[cfg(not(cutlass_kernels))]
        let kernels = {
            let _ = capability;
            Err("the program was built without CUTLASS")
        };
        let kernels = kernels.inspect_err(|why| tracing::debug!(why, "no fused products"));
        Self::of(kernels.ok())
    }

    fn of(kernels: Option<Box<dyn Epilogues>>) -> Self {
        Self {
            kernels,
            choices: Mutex::default(),
        }
    }

    /// Returns how each shape is computed that could be computed in one kernel, for people.
    pub(super) fn plans(&self) -> Vec<String> {
        let now = Instant::now();
        let line = |(shape, chosen): (&Shape, &Chosen)| {
            let Shape {
                way,
                activation,
                columns,
                inner,
            } = shape;
            let how = match (&chosen.choice, chosen.rest.left(now)) {
                (Choice::Fused(_), Some(left)) => {
                    let (why, again) = (&chosen.refusal, rest::words(left));
                    format!("apart: the one kernel refused a call: {why}; {again}")
                }
                (Choice::Fused(how), None) => format!("in one kernel, {how}"),
                (Choice::Apart(why), _) => format!("apart: {why}"),
            };
            format!("{way:?} {columns}x{inner} with {activation:?}: {how}")
        };
        lock(&self.choices).iter().map(line).collect()
    }

    /// Computes a product in one kernel; `None` when it is computed apart. `rows` are those of all frames and of one.
    fn compute(
        &self,
        gpu: &Arc<Gpu>,
        shape: &Shape,
        (rows, frame): (usize, usize),
        dims: &[usize],
        operands: impl FnOnce() -> Result<[Tensor; 3]>,
    ) -> Result<Option<Tensor>> {
        let Some(kernels) = &self.kernels else {
            return Ok(None);
        };
        let fits = shape.columns.is_multiple_of(EIGHT) && shape.inner.is_multiple_of(EIGHT);
        if rows == 0 || !fits || !self.is_used(gpu, shape, frame, kernels.as_ref())? {
            return Ok(None);
        }
        let [input, weight, beside] = operands()?;
        let mut y = Tensor::unfilled(gpu, Numbers::Bf16, dims)?;
        let operands = [&input, &weight, &beside];
        let mut once = || run(kernels.as_ref(), shape, rows, operands, &mut y);
        let done = once().or_else(|_| {
            // A kernel that is loaded at its first use needs memory that the pool may hold.
            gpu.settle();
            once()
        });
        match done {
            Ok(()) => {
                self.works(shape);
                Ok(Some(y))
            }
            Err(reason) => self.leave_out(gpu, shape, &reason).map(|()| None),
        }
    }

    /// Has a shape computed apart for a while, since its kernel refused a call after it was chosen. The call's operands are not at fault.
    ///
    /// # Errors
    /// When the device is lost, which a kernel that cannot start may be the first to notice.
    fn leave_out(&self, gpu: &Arc<Gpu>, shape: &Shape, reason: &str) -> Result<()> {
        let error = gpu.asked(Failure::Lost {
            what: "a fused product",
            reason: reason.into(),
        });
        let Some(Failure::Refused { .. }) = Failure::inside(&error) else {
            return Err(error);
        };
        tracing::error!(
            ?shape,
            reason,
            "a kernel refused a call after it was chosen; the product and its activation are computed apart for a while, with other bits"
        );
        if let Some(chosen) = lock(&self.choices).get_mut(shape) {
            chosen.rest.begin(Instant::now());
            reason.clone_into(&mut chosen.refusal);
        }
        Ok(())
    }

    /// Notes that the kernel of a shape has taken a call.
    fn works(&self, shape: &Shape) {
        let mut choices = lock(&self.choices);
        let Some(chosen) = choices.get_mut(shape) else {
            return;
        };
        if chosen.rest.was_refused() {
            chosen.rest = Rest::default();
            tracing::info!(?shape, "a kernel takes calls again that it refused before");
        }
    }

    /// Returns whether a shape is computed in one kernel, which is decided when the shape is new.
    fn is_used(
        &self,
        gpu: &Arc<Gpu>,
        shape: &Shape,
        frame: usize,
        kernels: &dyn Epilogues,
    ) -> Result<bool> {
        let mut choices = lock(&self.choices);
        if let Some(chosen) = choices.get(shape) {
            return Ok(chosen.is_used(Instant::now()));
        }
        let choice = choose(gpu, shape, frame, kernels)?;
        match &choice {
            Choice::Fused(how) => {
                tracing::debug!(?shape, how, "a product ends with its activation")
            }
            Choice::Apart(why) => {
                tracing::warn!(
                    ?shape,
                    why,
                    "a product and its activation are computed apart"
                );
            }
        }
        let is_fused = matches!(choice, Choice::Fused(_));
        choices.insert(*shape, Chosen::new(choice));
        Ok(is_fused)
    }
}

/// Tries a fused product on random data.
fn choose(gpu: &Arc<Gpu>, shape: &Shape, frame: usize, kernels: &dyn Epilogues) -> Result<Choice> {
    let trial = Trial::new(gpu, shape, frame)?;
    if let Some(wrong) = trial.problem(kernels)? {
        return Ok(Choice::Apart(wrong));
    }
    trial.micros(kernels).map(decided)
}

/// Share of the time apart that one kernel has to save: its bits are others, and should not depend on the noise of a measurement.
const GAIN: f32 = 0.05;

/// Decides by the microseconds of one kernel and of product and activation apart.
fn decided([fused, apart]: [f32; 2]) -> Choice {
    let both = format!("{fused:.1} µs, apart {apart:.1} µs");
    match fused < apart * (1.0 - GAIN) {
        true => Choice::Fused(both),
        false => Choice::Apart(format!("the one kernel is not faster: {both}")),
    }
}

/// Enqueues a fused product of these operands: rows, weight, and bias or values before the activation.
fn run(
    kernels: &dyn Epilogues,
    shape: &Shape,
    rows: usize,
    [input, weight, beside]: [&Tensor; 3],
    y: &mut Tensor,
) -> std::result::Result<(), String> {
    let gpu = input.gpu();
    let bound = gpu.context.bind_to_thread();
    bound.map_err(|error| error.to_string())?;
    let operands = Operands {
        input: input.pointer(),
        weight: weight.pointer(),
        beside: beside.pointer(),
        output: y.pointer_mut().ok_or("the result is shared")?,
    };
    // A bias is read number by number, values before an activation as matrices are.
    let beside = match shape.way {
        Way::Forward => 0,
        Way::Backward => operands.beside,
    };
    let aligned = [operands.input, operands.weight, beside, operands.output];
    if aligned.iter().any(|at| !at.is_multiple_of(16)) {
        return Err("an operand does not begin at a multiple of 16 bytes".to_owned());
    }
    kernels.run(gpu, shape, rows, operands)
}

/// Returns rows of all frames and of one.
fn rows(x: &Tensor) -> (usize, usize) {
    match x.dims() {
        [lead @ .., _] => (lead.iter().product(), lead.last().copied().unwrap_or(1)),
        [] => (0, 0),
    }
}

/// Returns the dimensions of x with another number of columns.
fn dims(x: &Tensor, columns: usize) -> Vec<usize> {
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = columns;
    }
    dims
}

/// Computes act(x · Wᵀ + b) in bfloat16 in one kernel; `None` when it is computed apart.
pub(super) fn project(
    x: &Tensor,
    weight: &Matrix,
    bias: &Tensor,
    activation: Activation,
) -> Result<Option<Tensor>> {
    let is_own = weight.numbers() == Numbers::Bf16 && !weight.is_transposed();
    if !is_own || x.dims().last() != Some(&weight.k()) || bias.elem_count() != weight.n() {
        return Ok(None);
    }
    let shape = Shape {
        way: Way::Forward,
        activation,
        columns: weight.n(),
        inner: weight.k(),
    };
    let operands = || {
        Ok([
            x.cast(Numbers::Bf16)?,
            weight.values().clone(),
            bias.clone(),
        ])
    };
    let gpu = x.gpu();
    gpu.fused()
        .compute(gpu, &shape, rows(x), &dims(x, weight.n()), operands)
}

/// Computes dy · W times the activation's slope at `before`, in bfloat16, in one kernel; `None` when it is computed apart. `weight` is the view of Wᵀ.
pub(super) fn project_slope(
    dy: &Tensor,
    weight: &Matrix,
    before: &Tensor,
    activation: Activation,
) -> Result<Option<Tensor>> {
    let is_own = weight.numbers() == Numbers::Bf16 && weight.is_transposed();
    let (all, _) = rows(dy);
    let fits = before.numbers() == Numbers::Bf16 && before.elem_count() == all * weight.n();
    if !is_own || !fits || dy.dims().last() != Some(&weight.k()) {
        return Ok(None);
    }
    let shape = Shape {
        way: Way::Backward,
        activation,
        columns: weight.n(),
        inner: weight.k(),
    };
    let operands = || {
        Ok([
            dy.cast(Numbers::Bf16)?,
            weight.values().clone(),
            before.clone(),
        ])
    };
    let gpu = dy.gpu();
    gpu.fused()
        .compute(gpu, &shape, rows(dy), &dims(dy, weight.n()), operands)
}

#[cfg(test)]
pub(super) mod tests;
