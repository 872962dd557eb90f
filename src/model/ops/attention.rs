//! Multi-head attention within each frame, forward and backward; the backward computes the scores again.
//!
//! Invariant: a frame's result depends on that frame alone.

mod heads;
mod plan;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use self::heads::{attend, differentiate};
use self::plan::Plan;
use super::kernel::{Format, Kernel};
use super::share::{Out, output, slice, unfilled};

/// Packed queries, keys and values `[N, L, 3C]` to `[N, L, C]`, by products in this format of floats.
pub(in crate::model) fn forward(qkv: &Tensor, heads: usize, format: Format) -> Result<Tensor> {
    qkv.apply_op1_no_bwd(&Forward { heads, format })
}

/// The gradient `[N, L, 3C]` from that of the result, `[N, L, C]`.
pub(in crate::model) fn backward(qkv: &Tensor, dy: &Tensor, heads: usize) -> Result<Tensor> {
    qkv.apply_op2_no_bwd(dy, &Backward { heads })
}

/// One query a frame, `[N, C]`, with keys and values `[N, L, 2C]`: `[N, C]`.
pub(in crate::model) fn class_forward(
    q: &Tensor,
    kv: &Tensor,
    heads: usize,
    format: Format,
) -> Result<Tensor> {
    q.apply_op2_no_bwd(kv, &ClassForward { heads, format })
}

/// The gradients of queries `[N, C]` and of keys and values `[N, L, 2C]`.
pub(in crate::model) fn class_backward(
    q: &Tensor,
    kv: &Tensor,
    dy: &Tensor,
    heads: usize,
) -> Result<(Tensor, Tensor)> {
    let both = q.apply_op3_no_bwd(kv, dy, &ClassBackward { heads })?;
    let dq = both.narrow(0, 0, q.elem_count())?.reshape(q.shape())?;
    let dkv = both.narrow(0, q.elem_count(), kv.elem_count())?;
    Ok((dq, dkv.reshape(kv.shape())?))
}

struct Forward {
    heads: usize,
    format: Format,
}

impl CustomOp1 for Forward {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = slice(storage, layout)?;
        let plan = Plan::packed(layout.shape(), self.heads)?;
        let y = attend(&plan, Kernel::best(self.format), qkv, qkv);
        let shape = (plan.frames, plan.queries, plan.heads * plan.width);
        Ok(output(y, shape))
    }
}

struct Backward {
    heads: usize,
}

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
        let (qkv, dy) = (slice(s1, l1)?, slice(s2, l2)?);
        let plan = Plan::packed(l1.shape(), self.heads)?;
        if dy.len() * 3 != qkv.len() {
            candle_core::bail!("attention on {:?}, gradient {:?}", l1.shape(), l2.shape());
        }
        let mut dx = unfilled(qkv.len());
        let out = Out::new(&mut dx);
        differentiate(&plan, qkv, qkv, dy, out, out);
        Ok(output(dx, l1.shape()))
    }
}

struct ClassForward {
    heads: usize,
    format: Format,
}

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
        let (q, kv) = (slice(s1, l1)?, slice(s2, l2)?);
        let plan = Plan::class(l1.shape(), l2.shape(), self.heads)?;
        let y = attend(&plan, Kernel::best(self.format), q, kv);
        Ok(output(y, l1.shape()))
    }
}

struct ClassBackward {
    heads: usize,
}

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
        let (q, kv, dy) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let plan = Plan::class(l1.shape(), l2.shape(), self.heads)?;
        if dy.len() != q.len() {
            candle_core::bail!("class attention: gradient {:?}", l3.shape());
        }
        let mut both = unfilled(q.len() + kv.len());
        let (dq, dkv) = both.split_at_mut(q.len());
        differentiate(&plan, q, kv, dy, Out::new(dq), Out::new(dkv));
        let len = both.len();
        Ok(output(both, len))
    }
}
