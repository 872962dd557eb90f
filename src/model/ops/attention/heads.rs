//! The arithmetic of attention, head by head: each head of a frame is one unit of parallel work.
#![allow(unsafe_code)]

use rayon::prelude::*;

use super::plan::Plan;
use crate::model::ops::kernel::{self, Format, Kernel, Left, MR, NR, Tile};
use crate::model::ops::share::{Out, unfilled};
use crate::model::ops::simd::{LANES, exp, total, wide};

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
    let kernel = Kernel::best(Format::F32);
    for (j, panel) in panels.chunks_exact((k * NR).max(1)).enumerate() {
        let width = NR.min(columns - j * NR);
        for row in (0..rows).step_by(kernel.rows()) {
            let taken = kernel.rows().min(rows - row);
            // SAFETY: promised by the caller.
            unsafe {
                kernel.tile(taken, k, left.rows_from(row), panel.as_ptr(), &mut tile);
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
        let (chunks, rest) = row.as_chunks::<LANES>();
        for (most, &x) in most.iter_mut().zip(rest) {
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
        let (chunks, rest) = row.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *x = exp(*x - top);
                *sum += *x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
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
const QUERIES: usize = 2 * MR;

/// The result of attention, `[frames, queries, C]`.
pub(super) fn attend(plan: &Plan, q: &[f32], kv: &[f32]) -> Vec<f32> {
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
            let left = queries.rows_from(first);
            let sizes = (rows, keys, width);
            multiply(left, sizes, &scratch.keys, plan.scale(), scores, padded);
        }
        for row in scratch.scores.chunks_exact_mut(padded).take(rows) {
            softmax(&mut row[..keys]);
        }
        let left = Left::floats(scratch.scores.as_ptr(), padded, 1);
        // SAFETY: these rows and columns of the result belong to this frame and head.
        unsafe {
            let y = out.at(plan.at(plan.y, frame, head) + first * plan.y.row);
            let sizes = (rows, width, keys);
            multiply(left, sizes, &scratch.values, 1.0, y, plan.y.row);
        }
    }
}

/// Writes dq to `dq` (placed as q) and dk, dv to `dkv` (placed as k and v).
pub(super) fn differentiate(plan: &Plan, q: &[f32], kv: &[f32], dy: &[f32], dq: Out, dkv: Out) {
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
    let rows = |values: &[f32]| Left::floats(values.as_ptr(), padded, 1);
    let columns = |values: &[f32]| Left::floats(values.as_ptr(), 1, padded);
    let scores = scratch.scores.as_mut_ptr();
    let slopes = scratch.slopes.as_mut_ptr();
    let panels = &mut scratch.panels;
    // SAFETY: in all products, operands have the rows that the plan gives them; scores and slopes have `queries` rows of `padded` values; the ranges
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
