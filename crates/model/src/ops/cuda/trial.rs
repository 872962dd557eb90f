//! Products on random data, by which a plan is chosen.
//!
//! Invariant: a plan whose results depend on the number of rows, or on a row's place among them, or differ from the plain kernel's, is never chosen. A plan that
//! the library fails to run is not chosen either; the device is lost only when the driver says so.

use std::sync::Arc;

use candle_core::Result;

use super::check::{bound, far};
use super::driver;
use super::gpu::Gpu;
use super::plan::{self, Kind, Operands, Plan, Reads, Room};
use super::tensor::Tensor;
use crate::ops::failure::Failure;
use crate::ops::{Format, Numbers};
use crate::rng::Stream;

/// Frames, or rows where only class tokens are multiplied, of the products that are compared: of one frame, one clip and a batch.
pub(super) const SIZES: [usize; 3] = [1, 8, 64];
/// Timed runs of a candidate.
pub(super) const RUNS: usize = 5;
/// Words that a block compares.
const EACH: usize = 16_384;
/// Threads of a block of the plain kernel.
const THREADS: usize = 256;

/// What a trial found out about a plan.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The plan may be used; the result of one frame, `[1, n]`.
    Fits(Tensor),
    /// The library does not run the plan.
    Refused,
    /// A row's bits depend on the number of rows, or on its place among them.
    Varies,
    /// The results differ from the plain kernel's.
    Wrong(String),
}

/// Products on random data that compare the candidates for one kind.
pub(super) struct Trial<'a> {
    gpu: &'a Arc<Gpu>,
    kind: &'a Kind,
    /// Rows of one frame.
    frame: usize,
    weight: Tensor,
    /// The rows of one frame again and again.
    input: Tensor,
    bias: Tensor,
    residual: Tensor,
    /// Result of one frame by the plain kernel, `[rows, columns]`.
    expected: Vec<f32>,
}

impl<'a> Trial<'a> {
    pub(super) fn new(gpu: &'a Arc<Gpu>, kind: &'a Kind, frame: usize) -> Result<Self> {
        let mut stream = Stream::new(0, "trial of products");
        let mut random =
            |count: usize| -> Vec<f32> { (0..count).map(|_| stream.range(-1.0, 1.0)).collect() };
        let weights = match kind.reads {
            Reads::Rows => kind.columns * kind.weight_pitch,
            Reads::Columns => kind.inner * kind.weight_pitch,
        };
        let mut uploaded = |count: usize, numbers| -> Result<Tensor> {
            Tensor::upload(gpu, &random(count), &[count])?.cast(numbers)
        };
        let repeated = |one: Tensor| Tensor::cat(&[&one; SIZES[2]]);
        let residual = if kind.adds {
            frame * kind.output_pitch
        } else {
            0
        };
        let mut own = Self {
            gpu,
            kind,
            frame,
            weight: uploaded(weights, kind.input)?,
            input: repeated(uploaded(frame * kind.input_pitch, kind.input)?)?,
            bias: uploaded(kind.columns, kind.output)?,
            residual: repeated(uploaded(residual, kind.output)?)?,
            expected: Vec::new(),
        };
        own.expected = own.plain()?;
        Ok(own)
    }

    /// Computes the product of one frame with the plain kernel; the bias and the residual are added on the host, since the kernel's residual has no gaps.
    fn plain(&self) -> Result<Vec<f32>> {
        let (kind, rows) = (self.kind, self.frame);
        let kernel = match kind.input {
            Numbers::F32 => "plain_f32_f32",
            Numbers::Bf16 => "plain_bf16_f32",
        };
        let (row, step) = kind.steps();
        let mut y = Tensor::unfilled(self.gpu, Numbers::F32, &[rows, kind.columns])?;
        self.gpu
            .launch(kernel)
            .grid([kind.columns.div_ceil(THREADS), rows, 1])
            .threads(THREADS)
            .read(&self.input)
            .read(&self.weight)
            .write(&mut y)
            .read_or_null(None)
            .read_or_null(None)
            .int(kind.columns)
            .int(kind.inner)
            .long(kind.input_pitch)
            .long(1)
            .long(row)
            .long(step)
            .run()?;
        let mut y = floats(&y)?;
        if kind.has_bias {
            let bias = floats(&self.bias)?;
            let rows = y.chunks_exact_mut(kind.columns);
            rows.for_each(|y| y.iter_mut().zip(&bias).for_each(|(y, b)| *y += b));
        }
        if kind.adds {
            let residual = floats(&self.residual)?;
            let rows = y.chunks_exact_mut(kind.columns);
            let of_rows = residual.chunks_exact(kind.output_pitch);
            rows.zip(of_rows)
                .for_each(|(y, r)| y.iter_mut().zip(r).for_each(|(y, r)| *y += r));
        }
        Ok(y)
    }

    /// Returns the rows of the largest product.
    pub(super) fn most_rows(&self) -> usize {
        self.rows(SIZES[2])
    }

    fn rows(&self, frames: usize) -> usize {
        frames * self.frame
    }

    /// Computes the product of so many rows, `[rows, pitch]`. `None` when the plan does not do it.
    fn run(&self, plan: &Plan, rows: usize, room: Room) -> Result<Option<Tensor>> {
        let dims = [rows, self.kind.output_pitch];
        let output = Tensor::zeros(self.gpu, self.kind.output, &dims)?;
        let at = output.pointer_in_place();
        let operands = Operands {
            weight: self.weight.pointer(),
            input: self.input.pointer(),
            bias: if self.kind.has_bias {
                self.bias.pointer()
            } else {
                0
            },
            residual: if self.kind.adds {
                self.residual.pointer()
            } else {
                at
            },
            output: at,
        };
        // SAFETY: the tensors were made for this kind and at least so many rows, and are held until the product is enqueued.
        match unsafe { plan::run(self.kind, plan, rows, operands, room) } {
            Ok(()) => Ok(Some(output)),
            Err(error) => self.refused(driver::of_products("cublasLtMatmul", error), plan),
        }
    }

    /// Handles a product that the library did not run. `None` when the device still works, so that only the plan is at fault.
    fn refused(&self, failure: Failure, plan: &Plan) -> Result<Option<Tensor>> {
        let error = self.gpu.asked(failure);
        let Some(Failure::Refused { reason, .. }) = Failure::inside(&error) else {
            return Err(error);
        };
        let (plan, kind) = (plan::describe(plan), self.kind);
        tracing::warn!(%reason, plan, ?kind, "a plan of a product is not used: the library does not run it");
        Ok(None)
    }

    /// Compares a plan's results with the plain kernel's, and the bits of a frame's result in every size and at every place, and of its first row alone: the last
    /// block reads class tokens, of which there may be any number.
    pub(super) fn judged(&self, plan: &Plan, room: Room) -> Result<Verdict> {
        let mut outputs = Vec::with_capacity(SIZES.len());
        for frames in SIZES {
            match self.run(plan, self.rows(frames), room)? {
                Some(output) => {
                    let frame = [frames, self.frame * self.kind.output_pitch];
                    outputs.push(output.reshape(&frame)?);
                }
                None => return Ok(Verdict::Refused),
            }
        }
        let Some(alone) = self.run(plan, 1, room)? else {
            return Ok(Verdict::Refused);
        };
        if let Some(problem) = self.differs(&floats(&outputs[0])?) {
            return Ok(Verdict::Wrong(problem));
        }
        let rows = outputs[0].reshape(&[self.frame, self.kind.output_pitch])?;
        match repeats(&[alone, rows.narrow(0, 1)?])? && repeats(&outputs)? {
            true => Ok(Verdict::Fits(outputs.swap_remove(0))),
            false => Ok(Verdict::Varies),
        }
    }

    /// Makes every plan wrong.
    #[cfg(test)]
    pub(super) fn expect_otherwise(&mut self) {
        self.expected.iter_mut().for_each(|x| *x += 1.0);
    }

    /// Returns how a frame's result differs from the plain kernel's; `None` when it is the same but for roundings.
    fn differs(&self, values: &[f32]) -> Option<String> {
        let rows = values.chunks_exact(self.kind.output_pitch);
        let got: Vec<f32> = rows
            .flat_map(|row| &row[..self.kind.columns])
            .copied()
            .collect();
        let format = match self.kind.output {
            Numbers::F32 => Format::F32,
            Numbers::Bf16 => Format::Bf16,
        };
        far(&self.expected, &got, bound(format))
    }

    /// Returns plans in the order of the time that they take for a batch.
    ///
    /// # Errors
    /// When there is none, or the device fails.
    pub(super) fn fastest_first(&self, plans: Vec<Plan>, room: Room) -> Result<Vec<Plan>> {
        if plans.is_empty() {
            let reason = format!(
                "no algorithm for {:?} gives the plain kernel's results, with bits that do not depend on the number of rows",
                self.kind
            );
            return Err(self.gpu.failed(Failure::Refused {
                what: "cublasLt",
                reason: reason.into(),
            }));
        }
        if plans.len() == 1 {
            return Ok(plans);
        }
        let mut timed = Vec::with_capacity(plans.len());
        for plan in plans {
            let rows = self.rows(SIZES[2]);
            let took = (self.gpu).timed(RUNS, || self.run(&plan, rows, room).map(drop))?;
            timed.push((took, plan));
        }
        timed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Ok(timed.into_iter().map(|(_, plan)| plan).collect())
    }
}

/// Returns whether all rows of some tensors `[…, n]` of one format have the same bits, which are compared on the device.
pub(super) fn repeats(tensors: &[Tensor]) -> Result<bool> {
    let all = Tensor::cat(&tensors.iter().collect::<Vec<_>>())?;
    let (rows, _) = all.dims2()?;
    let words = all.bytes() / size_of::<f32>();
    if !words.is_multiple_of(rows.max(1)) || all.bytes() % size_of::<f32>() != 0 {
        candle_core::bail!("{all:?} has no whole words a row");
    }
    let row = words / rows.max(1);
    let blocks = row.div_ceil(EACH);
    let mut differing = Tensor::unfilled(all.gpu(), Numbers::F32, &[rows * blocks])?;
    all.gpu()
        .launch("differing_words")
        .grid([blocks, rows, 1])
        .threads(256)
        .shared(256 * size_of::<i32>())
        .read(&all)
        .write(&mut differing)
        .long(row)
        .int(EACH)
        .run()?;
    // Counts, of which only zeros have the bits of the float 0.
    let counts: Vec<f32> = differing.host()?.to_vec1()?;
    Ok(counts.iter().all(|count| count.to_bits() == 0))
}

/// Returns the values as floats on the host.
fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    let host = tensor.cast(Numbers::F32)?.host()?;
    host.flatten_all()?.to_vec1()
}
