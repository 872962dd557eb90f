//! Products on random data, by which a plan is chosen.
//!
//! Invariant: a plan whose results depend on the number of rows, or on a row's place among them, is never chosen.

use std::sync::Arc;

use candle_core::Result;
use cudarc::driver::sys;

use super::driver;
use super::gpu::Gpu;
use super::plan::{self, Kind, Operands, Plan, Reads, Room};
use super::tensor::Tensor;
use crate::ops::Numbers;
use crate::ops::failure::Failure;
use crate::rng::Stream;

/// Frames, or rows where only class tokens are multiplied, of the products that are compared: of one frame, one clip and a batch.
const SIZES: [usize; 3] = [1, 8, 64];
/// Timed runs of a candidate.
const RUNS: usize = 5;

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
        Ok(Self {
            gpu,
            kind,
            frame,
            weight: uploaded(weights, kind.input)?,
            input: repeated(uploaded(frame * kind.input_pitch, kind.input)?)?,
            bias: uploaded(kind.columns, kind.output)?,
            residual: repeated(uploaded(residual, kind.output)?)?,
        })
    }

    /// Returns the rows of the largest product.
    pub(super) fn most_rows(&self) -> usize {
        self.rows(SIZES[2])
    }

    fn rows(&self, frames: usize) -> usize {
        frames * self.frame
    }

    /// Computes the product of so many frames. `None` when the plan does not do it.
    fn run(&self, plan: &Plan, frames: usize, room: Room) -> Result<Option<Tensor>> {
        let rows = self.rows(frames);
        let dims = [frames, self.frame * self.kind.output_pitch];
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
            Err(error) => match driver::of_products("cublasLtMatmul", error) {
                Failure::Refused { .. } => Ok(None),
                failure @ (Failure::Lost { .. } | Failure::OutOfMemory { .. }) => {
                    Err(self.gpu.failed(failure))
                }
            },
        }
    }

    /// Returns whether a frame's result has the same bits in every size and at every place.
    pub(super) fn gives_equal_bits(&self, plan: &Plan, room: Room) -> Result<bool> {
        let mut expected: Option<Vec<u32>> = None;
        for frames in SIZES {
            let Some(output) = self.run(plan, frames, room)? else {
                return Ok(false);
            };
            let values: Vec<f32> = output
                .cast(Numbers::F32)?
                .host()?
                .flatten_all()?
                .to_vec1()?;
            let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
            let each = self.frame * self.kind.output_pitch;
            let expected = expected.get_or_insert_with(|| bits[..each].to_vec());
            if !bits
                .chunks_exact(each)
                .all(|frame| frame == expected.as_slice())
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the plan that computes a clip fastest.
    pub(super) fn fastest(&self, plans: &[Plan], room: Room) -> Result<Plan> {
        let mut best: Option<(f32, Plan)> = None;
        for plan in plans {
            // The first run loads the kernel.
            self.run(plan, SIZES[1], room)?;
            let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
            let mark = || self.gpu.compute.record_event(Some(flags));
            let begin = self.gpu.checked("cuEventRecord", mark())?;
            for _ in 0..RUNS {
                self.run(plan, SIZES[1], room)?;
            }
            let end = self.gpu.checked("cuEventRecord", mark())?;
            let took = self
                .gpu
                .checked("cuEventElapsedTime", begin.elapsed_ms(&end))?;
            if best.is_none_or(|(least, _)| took < least) {
                best = Some((took, *plan));
            }
        }
        let failure = || Failure::Refused {
            what: "cublasLt",
            reason: format!(
                "no algorithm for {:?} gives bits that do not depend on the number of rows",
                self.kind
            )
            .into(),
        };
        best.map(|(_, plan)| plan)
            .ok_or_else(|| self.gpu.failed(failure()))
    }
}
