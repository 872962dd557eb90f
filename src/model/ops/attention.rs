//! Multi-head attention within each frame, forward and backward; the backward computes the scores again.
//!
//! Invariant: a frame's result depends on that frame alone.
#![allow(unsafe_code)]

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::kernel::{self, Left, MR, NR, Tile};
use super::share::{Out, output, slice, unfilled};
use super::simd::{LANES, exp, total, wide};

/// Packed queries, keys and values `[N, L, 3C]` to `[N, L, C]`.
pub(in crate::model) fn forward(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    qkv.apply_op1_no_bwd(&Forward { heads })
}

/// The gradient `[N, L, 3C]` from that of the result, `[N, L, C]`.
pub(in crate::model) fn backward(qkv: &Tensor, dy: &Tensor, heads: usize) -> Result<Tensor> {
    qkv.apply_op2_no_bwd(dy, &Backward { heads })
}

/// One query a frame, `[N, C]`, with keys and values `[N, L, 2C]`: `[N, C]`.
pub(in crate::model) fn class_forward(q: &Tensor, kv: &Tensor, heads: usize) -> Result<Tensor> {
    q.apply_op2_no_bwd(kv, &ClassForward { heads })
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

/// Rows of one operand: where frame 0 begins, between frames, between rows.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: usize,
    frame: usize,
    row: usize,
}

/// Sizes and places, the same for forward and backward.
#[derive(Debug, Clone, Copy)]
struct Plan {
    frames: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    /// Of a head.
    width: usize,
    q: Place,
    k: Place,
    v: Place,
    /// The result.
    y: Place,
}

impl Plan {
    fn packed(shape: &Shape, heads: usize) -> Result<Self> {
        let (n, l, c3) = shape.dims3()?;
        let c = c3 / 3;
        if c == 0 || heads == 0 || c3 % 3 != 0 || c % heads != 0 {
            candle_core::bail!("{heads} heads do not divide {shape:?}");
        }
        let at = |offset| Place {
            offset,
            frame: l * c3,
            row: c3,
        };
        Ok(Self {
            frames: n,
            queries: l,
            keys: l,
            heads,
            width: c / heads,
            q: at(0),
            k: at(c),
            v: at(2 * c),
            y: Place {
                offset: 0,
                frame: l * c,
                row: c,
            },
        })
    }

    fn class(q: &Shape, kv: &Shape, heads: usize) -> Result<Self> {
        let (n, c) = q.dims2()?;
        let (frames, l, c2) = kv.dims3()?;
        if c == 0 || heads == 0 || frames != n || c2 != 2 * c || c % heads != 0 {
            candle_core::bail!("{heads} heads, queries {q:?}, keys and values {kv:?}");
        }
        let at = |offset| Place {
            offset,
            frame: l * c2,
            row: c2,
        };
        let one = Place {
            offset: 0,
            frame: c,
            row: c,
        };
        Ok(Self {
            frames: n,
            queries: 1,
            keys: l,
            heads,
            width: c / heads,
            q: one,
            k: at(0),
            v: at(c),
            y: one,
        })
    }

    /// One head's rows of an operand.
    fn head<'a>(&self, values: &'a [f32], place: Place, frame: usize, head: usize) -> Matrix<'a> {
        Matrix {
            values: &values[place.offset + frame * place.frame + head * self.width..],
            row: place.row,
        }
    }

    fn at(&self, place: Place, frame: usize, head: usize) -> usize {
        place.offset + frame * place.frame + head * self.width
    }

    /// Length of a row of scores.
    fn padded(&self) -> usize {
        self.keys.next_multiple_of(NR)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

/// Rows in memory.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    row: usize,
}

impl Matrix<'_> {
    fn left(&self) -> Left {
        Left {
            at: self.values.as_ptr(),
            row_stride: self.row,
            step: 1,
        }
    }

    /// The right operand of x · M: panels of M's columns, each `[rows][16]`.
    fn pack(&self, rows: usize, columns: usize, panels: &mut Vec<f32>) {
        panels.resize(columns.next_multiple_of(NR) * rows, 0.0);
        for (j, panel) in panels.chunks_exact_mut((rows * NR).max(1)).enumerate() {
            let width = NR.min(columns - j * NR);
            for (row, out) in panel.chunks_exact_mut(NR).enumerate() {
                kernel::copy(out, &self.values[row * self.row + j * NR..], width);
                out[width..].fill(0.0);
            }
        }
    }

    /// The right operand of x · Mᵀ: panels of M's rows, each `[columns][16]`.
    fn pack_transposed(&self, rows: usize, columns: usize, panels: &mut Vec<f32>) {
        panels.resize(rows.next_multiple_of(NR) * columns, 0.0);
        for (j, panel) in panels.chunks_exact_mut((columns * NR).max(1)).enumerate() {
            let width = NR.min(rows - j * NR);
            if width < NR {
                panel.fill(0.0);
            }
            for i in 0..width {
                let row = &self.values[(j * NR + i) * self.row..][..columns];
                for (p, &value) in row.iter().enumerate() {
                    panel[p * NR + i] = value;
                }
            }
        }
    }
}

/// out `[rows, columns]` = left · panels · scale.
///
/// # Safety
/// `left` has `rows` rows of `k` elements, `panels` hold `columns` columns of `k`, `out` has the rows, `stride` apart, and nobody else touches them.
unsafe fn multiply(
    left: Left,
    (rows, columns, k): (usize, usize, usize),
    panels: &[f32],
    scale: f32,
    out: *mut f32,
    stride: usize,
) {
    let mut tile: Tile = [[0.0; NR]; MR];
    for (j, panel) in panels.chunks_exact((k * NR).max(1)).enumerate() {
        let width = NR.min(columns - j * NR);
        for row in (0..rows).step_by(MR) {
            let taken = MR.min(rows - row);
            // SAFETY: promised by the caller.
            unsafe {
                kernel::tile(taken, k, left.from_row(row), panel.as_ptr(), &mut tile);
            }
            for (i, sums) in tile[..taken].iter_mut().enumerate() {
                // SAFETY: promised by the caller.
                let out = unsafe {
                    std::slice::from_raw_parts_mut(out.add((row + i) * stride + j * NR), width)
                };
                for sum in sums.iter_mut() {
                    *sum *= scale;
                }
                kernel::copy(out, sums, width);
            }
        }
    }
}

wide! {
    /// Softmax in place.
    fn softmax(row: &mut [f32]) {
        let mut most = [f32::NEG_INFINITY; LANES];
        let chunks = row.chunks_exact(LANES);
        for (most, &x) in most.iter_mut().zip(chunks.remainder()) {
            *most = x;
        }
        for chunk in chunks {
            for (most, &x) in most.iter_mut().zip(chunk) {
                *most = if x > *most { x } else { *most };
            }
        }
        let mut top = f32::NEG_INFINITY;
        for lane in most {
            top = if lane > top { lane } else { top };
        }
        let mut sums = [0.0; LANES];
        let mut chunks = row.chunks_exact_mut(LANES);
        for chunk in &mut chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *x = exp(*x - top);
                *sum += *x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(chunks.into_remainder()) {
            *x = exp(*x - top);
            *sum += *x;
        }
        let inverse = 1.0 / total(sums);
        for x in row.iter_mut() {
            *x *= inverse;
        }
    }

    /// dp becomes p · (dp - Σ p · dp) · scale.
    fn softmax_back(p: &[f32], dp: &mut [f32], scale: f32) {
        let mut sums = [0.0; LANES];
        for (p, dp) in p.chunks(LANES).zip(dp.chunks(LANES)) {
            for ((sum, p), dp) in sums.iter_mut().zip(p).zip(dp) {
                *sum += p * dp;
            }
        }
        let sum = total(sums);
        for (dp, p) in dp.iter_mut().zip(p) {
            *dp = p * (*dp - sum) * scale;
        }
    }
}

/// Buffers of a thread.
#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    slopes: Vec<f32>,
    panels: Vec<f32>,
}

/// Query rows whose scores are alive at once.
const QUERIES: usize = 4 * MR;

fn attend(plan: &Plan, q: &[f32], kv: &[f32]) -> Vec<f32> {
    let mut y = unfilled(plan.frames * plan.queries * plan.heads * plan.width);
    let out = Out::new(&mut y);
    (0..plan.frames * plan.heads).into_par_iter().for_each_init(
        Scratch::default,
        |scratch, unit| {
            let (frame, head) = (unit / plan.heads, unit % plan.heads);
            attend_head(plan, (q, kv), (frame, head), scratch, out);
        },
    );
    y
}

fn attend_head(
    plan: &Plan,
    (q, kv): (&[f32], &[f32]),
    (frame, head): (usize, usize),
    scratch: &mut Scratch,
    out: Out,
) {
    let (keys, width, padded) = (plan.keys, plan.width, plan.padded());
    plan.head(kv, plan.k, frame, head)
        .pack_transposed(keys, width, &mut scratch.keys);
    plan.head(kv, plan.v, frame, head)
        .pack(keys, width, &mut scratch.values);
    scratch.scores.resize(QUERIES * padded, 0.0);
    let queries = plan.head(q, plan.q, frame, head).left();
    for first in (0..plan.queries).step_by(QUERIES) {
        let rows = QUERIES.min(plan.queries - first);
        let scores = scratch.scores.as_mut_ptr();
        // SAFETY: the queries have these rows; the scores have room for 24 rows of `padded` values.
        unsafe {
            let left = queries.from_row(first);
            let sizes = (rows, keys, width);
            multiply(left, sizes, &scratch.keys, plan.scale(), scores, padded);
        }
        for row in scratch.scores.chunks_exact_mut(padded).take(rows) {
            softmax(&mut row[..keys]);
        }
        let left = Left {
            at: scratch.scores.as_ptr(),
            row_stride: padded,
            step: 1,
        };
        // SAFETY: these rows and columns of the result belong to this frame and head.
        unsafe {
            let y = out.at(plan.at(plan.y, frame, head) + first * plan.y.row);
            let sizes = (rows, width, keys);
            multiply(left, sizes, &scratch.values, 1.0, y, plan.y.row);
        }
    }
}

/// Writes dq to `dq` (placed as q) and dk, dv to `dkv` (placed as k and v).
fn differentiate(plan: &Plan, q: &[f32], kv: &[f32], dy: &[f32], dq: Out, dkv: Out) {
    (0..plan.frames * plan.heads).into_par_iter().for_each_init(
        Scratch::default,
        |scratch, unit| {
            let at = (unit / plan.heads, unit % plan.heads);
            differentiate_head(plan, (q, kv, dy), at, scratch, (dq, dkv));
        },
    );
}

fn differentiate_head(
    plan: &Plan,
    (q, kv, dy): (&[f32], &[f32], &[f32]),
    (frame, head): (usize, usize),
    scratch: &mut Scratch,
    (dq, dkv): (Out, Out),
) {
    let (queries, keys, width, padded) = (plan.queries, plan.keys, plan.width, plan.padded());
    let q = plan.head(q, plan.q, frame, head);
    let k = plan.head(kv, plan.k, frame, head);
    let v = plan.head(kv, plan.v, frame, head);
    let dy = plan.head(dy, plan.y, frame, head);
    scratch.scores.resize(queries * padded, 0.0);
    scratch.slopes.resize(queries * padded, 0.0);
    let rows = |values: &[f32]| Left {
        at: values.as_ptr(),
        row_stride: padded,
        step: 1,
    };
    let columns = |values: &[f32]| Left {
        at: values.as_ptr(),
        row_stride: 1,
        step: padded,
    };
    let scores = scratch.scores.as_mut_ptr();
    let slopes = scratch.slopes.as_mut_ptr();
    let panels = &mut scratch.panels;
    // SAFETY (all products): operands have the rows that the plan gives them; scores and slopes have `queries` rows of `padded` values; the ranges
    // of the outputs belong to this frame and head.
    unsafe {
        k.pack_transposed(keys, width, panels);
        let sizes = (queries, keys, width);
        multiply(q.left(), sizes, panels, plan.scale(), scores, padded);
        for row in scratch.scores.chunks_exact_mut(padded) {
            softmax(&mut row[..keys]);
        }
        dy.pack(queries, width, panels);
        let dv = dkv.at(plan.at(plan.v, frame, head));
        let (left, sizes) = (columns(&scratch.scores), (keys, width, queries));
        multiply(left, sizes, panels, 1.0, dv, plan.v.row);
        v.pack_transposed(keys, width, panels);
        let sizes = (queries, keys, width);
        multiply(dy.left(), sizes, panels, 1.0, slopes, padded);
        let slopes = scratch.slopes.chunks_exact_mut(padded);
        for (p, dp) in scratch.scores.chunks_exact(padded).zip(slopes) {
            softmax_back(&p[..keys], &mut dp[..keys], plan.scale());
        }
        k.pack(keys, width, panels);
        let dq = dq.at(plan.at(plan.q, frame, head));
        let (left, sizes) = (rows(&scratch.slopes), (queries, width, keys));
        multiply(left, sizes, panels, 1.0, dq, plan.q.row);
        q.pack(queries, width, panels);
        let dk = dkv.at(plan.at(plan.k, frame, head));
        let (left, sizes) = (columns(&scratch.slopes), (keys, width, queries));
        multiply(left, sizes, panels, 1.0, dk, plan.k.row);
    }
}

struct Forward {
    heads: usize,
}

impl CustomOp1 for Forward {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = slice(storage, layout)?;
        let plan = Plan::packed(layout.shape(), self.heads)?;
        let y = attend(&plan, qkv, qkv);
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
        Ok(output(attend(&plan, q, kv), l1.shape()))
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
