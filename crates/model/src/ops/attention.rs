//! Multi-head attention within each frame, forward and backward; the backward recomputes the scores.
//!
//! Invariant: a frame's result depends on that frame alone.

mod kernel;
mod plan;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use self::kernel::{Operands, attend, differentiate};
use self::plan::Plan;
use super::activations::{Buffer, Numbers, Values};
use super::kernel::{Format, Kernel};

/// Number of heads, and number formats, of an attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub(crate) heads: usize,
    /// Format of the products; those of the backward pass are of floats unless the CPU multiplies this format faster.
    pub(crate) format: Format,
    /// Number format of the result, or of the gradient.
    pub(crate) numbers: Numbers,
}

/// Computes attention over packed queries, keys and values `[N, L, 3C]`. Returns `[N, L, C]`.
pub(crate) fn forward(qkv: &Tensor, how: How) -> Result<Tensor> {
    qkv.apply_op1_no_bwd(&Forward(how))
}

/// Returns the gradient `[N, L, 3C]` of the packed operands from the gradient of the result, `[N, L, C]`.
pub(crate) fn backward(qkv: &Tensor, dy: &Tensor, how: How) -> Result<Tensor> {
    qkv.apply_op2_no_bwd(dy, &Backward(how))
}

/// Computes attention of one query per frame, `[N, C]`, over keys and values `[N, L, 2C]`. Returns `[N, C]`.
pub(crate) fn class_forward(q: &Tensor, kv: &Tensor, how: How) -> Result<Tensor> {
    q.apply_op2_no_bwd(kv, &ClassForward(how))
}

/// Returns the gradients of one query per frame, `[N, C]`, and of keys and values, `[N, L, 2C]`.
pub(crate) fn class_backward(
    q: &Tensor,
    kv: &Tensor,
    dy: &Tensor,
    how: How,
) -> Result<(Tensor, Tensor)> {
    let both = q.apply_op3_no_bwd(kv, dy, &ClassBackward(how))?;
    let dq = both.narrow(0, 0, q.elem_count())?.reshape(q.shape())?;
    let dkv = both.narrow(0, q.elem_count(), kv.elem_count())?;
    Ok((dq, dkv.reshape(kv.shape())?))
}

struct Forward(How);

impl CustomOp1 for Forward {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = Values::new(storage, layout)?;
        let plan = Plan::packed(layout.shape(), self.0.heads)?;
        let kernel = Kernel::best(self.0.format);
        let y = attend(&plan, kernel, (qkv, qkv), self.0.numbers);
        Ok(y.output((plan.frames, plan.queries, plan.heads * plan.width)))
    }
}

struct Backward(How);

impl CustomOp2 for Backward {
    fn name(&self) -> &'static str {
        "attention-backward"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (qkv, dy) = (Values::new(s1, l1)?, Values::new(s2, l2)?);
        let plan = Plan::packed(l1.shape(), self.0.heads)?;
        if dy.len() * 3 != qkv.len() {
            candle_core::bail!("attention on {:?}, gradient {:?}", l1.shape(), l2.shape());
        }
        let mut dx = Buffer::unfilled(self.0.numbers, qkv.len());
        let out = dx.as_mut().sink();
        let operands = Operands {
            q: qkv,
            kv: qkv,
            dy,
        };
        let kernel = Kernel::best(self.0.format);
        differentiate(&plan, kernel, operands, (out, out));
        Ok(dx.output(l1.shape()))
    }
}

struct ClassForward(How);

impl CustomOp2 for ClassForward {
    fn name(&self) -> &'static str {
        "class-attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let both = (Values::new(s1, l1)?, Values::new(s2, l2)?);
        let plan = Plan::class(l1.shape(), l2.shape(), self.0.heads)?;
        let kernel = Kernel::best(self.0.format);
        Ok(attend(&plan, kernel, both, self.0.numbers).output(l1.shape()))
    }
}

struct ClassBackward(How);

impl CustomOp3 for ClassBackward {
    fn name(&self) -> &'static str {
        "class-attention-backward"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, kv) = (Values::new(s1, l1)?, Values::new(s2, l2)?);
        let dy = Values::new(s3, l3)?;
        let plan = Plan::class(l1.shape(), l2.shape(), self.0.heads)?;
        if dy.len() != q.len() {
            candle_core::bail!("class attention: gradient {:?}", l3.shape());
        }
        let len = q.len() + kv.len();
        let mut both = Buffer::unfilled(self.0.numbers, len);
        let (dq, dkv) = both.as_mut().split(q.len());
        let (kernel, out) = (Kernel::best(self.0.format), (dq.sink(), dkv.sink()));
        differentiate(&plan, kernel, Operands { q, kv, dy }, out);
        Ok(both.output(len))
    }
}
