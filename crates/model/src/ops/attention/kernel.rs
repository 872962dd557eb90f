//! Arithmetic of attention, head by head: each head of a frame is one unit of parallel work.
#![allow(unsafe_code)]

use half::bf16;
use rayon::prelude::*;

use super::plan::{Matrix, Plan};
use crate::ops::activations::{Buffer, Numbers, Sink, Values};
use crate::ops::buffers::Out;
use crate::ops::epilogue::{Epilogue, Scale, end};
use crate::ops::kernel::{Format, Kernel, Left, MR, NR, Tile};
use crate::ops::simd::{LANES, exp, total, wide};

/// Most tiles of one product: panels of the widest kernel times its stacked tiles.
const TILES: usize = 6;

/// Computes left · panels · scale, `[rows, columns]`, and writes it from index `at` on with rows `stride` apart.
///
/// # Safety
/// `left` has `rows` rows of `words` words, `panels` hold `columns` columns of as many, `out` has the rows, and no other thread touches them.
unsafe fn multiply(
    kernel: Kernel,
    left: Left,
    (rows, columns, words): (usize, usize, usize),
    panels: &[u32],
    scale: f32,
    out: Sink,
    (at, stride): (usize, usize),
) {
    let (tall, wide, stacked) = (kernel.rows(), kernel.panels(), kernel.stacked());
    let mut tiles: [Tile; TILES] = [[[0.0; NR]; MR]; TILES];
    let strips = panels.chunks((wide * words * NR).max(1));
    for (first, strip) in (0..columns).step_by(wide * NR).zip(strips) {
        let right: [*const u32; 2] = std::array::from_fn(|j| {
            strip
                .get(j * words * NR..)
                .map_or(strip, |own| own)
                .as_ptr()
        });
        let count = wide.min((columns - first).div_ceil(NR));
        for row in (0..rows).step_by(tall) {
            let taken = tall.min(rows - row);
            // SAFETY: promised by the caller.
            unsafe {
                let left = left.rows_from(row);
                kernel.tiles(taken, words, left, &right[..count], &mut tiles, false);
            }
            for p in 0..count {
                let column = first + p * NR;
                let (place, width) = (at + row * stride + column, NR.min(columns - column));
                let epilogue = Epilogue {
                    scale: Scale::By(scale),
                    bias: None,
                    residual: None,
                    before: None,
                    activation: None,
                    // SAFETY: promised by the caller.
                    y: unsafe { out.lines((place, stride), (taken, width)) },
                };
                end(
                    tiles[p * stacked..][..stacked].as_flattened_mut(),
                    &epilogue,
                );
            }
        }
    }
}

wide! {
    /// Applies softmax to a row, in place.
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
                *x = exp::<FUSES>(*x - top);
                *sum += *x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *x = exp::<FUSES>(*x - top);
            *sum += *x;
        }
        let inverse = 1.0 / total(sums);
        for x in row.iter_mut() {
            *x *= inverse;
        }
    }

    /// Applies the backward of softmax in place: dp becomes p · (dp - Σ p · dp) · scale.
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

/// Buffers that one thread reuses.
#[derive(Default)]
struct Scratch {
    keys: Vec<u32>,
    values: Vec<u32>,
    scores: Vec<f32>,
    slopes: Vec<f32>,
    panels: Vec<u32>,
    /// Rows of the left operand, where the kernel cannot read them in place; `row` is one of them as floats.
    words: Vec<u32>,
    row: Vec<f32>,
}

/// Smallest number of query rows whose scores are in memory at a time.
const QUERIES: usize = 2 * MR;

/// Calls `f` with each frame and head, in parallel and a few at a time, so that a core that is busy otherwise takes fewer.
fn each_head(plan: &Plan, f: impl Fn((usize, usize), &mut Scratch) + Sync) {
    let units = (0..plan.frames * plan.heads).into_par_iter();
    units
        .with_max_len(4)
        .for_each_init(Scratch::default, |scratch, unit| {
            f((unit / plan.heads, unit % plan.heads), scratch)
        });
}

/// Returns the result of attention, `[frames, queries, C]`, computed with this kernel.
pub(super) fn attend(
    plan: &Plan,
    kernel: Kernel,
    (q, kv): (Values<'_>, Values<'_>),
    numbers: Numbers,
) -> Buffer {
    let mut y = Buffer::unfilled(
        numbers,
        plan.frames * plan.queries * plan.heads * plan.width,
    );
    let out = y.as_mut().sink();
    if let Some(heads) = kernel.heads(plan.width).filter(|_| plan.keys > 0) {
        let (mut own_q, mut own_kv) = (Own::default(), Own::default());
        let (q, kv) = (own_q.of(q, kernel), own_kv.of(kv, kernel));
        each_head(plan, |at, _| {
            let head = plan.whole((q, kv), at, out);
            // SAFETY: the plan's sizes are those of the operands and the result, of which each frame and head has its own part.
            unsafe { heads.head(&head) };
        });
        return y;
    }
    each_head(plan, |at, scratch| {
        attend_head(plan, kernel, (q, kv), at, scratch, out)
    });
    y
}

/// An operand in a kernel's format, where it is stored in another one.
#[derive(Default)]
struct Own(Vec<f32>, Vec<bf16>);

impl Own {
    fn of<'b>(&'b mut self, values: Values<'b>, kernel: Kernel) -> Values<'b> {
        match kernel.format() {
            Format::F32 => Values::F32(values.floats(&mut self.0)),
            Format::Bf16 | Format::Int8 => Values::Bf16(values.narrowed(&mut self.1)),
        }
    }
}

fn attend_head(
    plan: &Plan,
    kernel: Kernel,
    (q, kv): (Values<'_>, Values<'_>),
    (frame, head): (usize, usize),
    scratch: &mut Scratch,
    out: Sink,
) {
    let (keys, width, padded) = (plan.keys, plan.width, plan.padded());
    let size = (keys, width);
    let queries = plan.head(q, plan.q, frame, head);
    let k = plan.head(kv, plan.k, frame, head);
    let v = plan.head(kv, plan.v, frame, head);
    k.expect(size);
    v.expect(size);
    queries.expect((plan.queries, width));
    k.pack_transposed(kernel, size, &mut scratch.keys);
    v.pack(kernel, size, &mut scratch.values);
    let most = QUERIES.next_multiple_of(kernel.rows());
    scratch.scores.resize(most * padded, 0.0);
    for first in (0..plan.queries).step_by(most) {
        let rows = most.min(plan.queries - first);
        let (words, own) = (&mut scratch.words, &mut scratch.row);
        let left = (queries.rows_from(first)).encode(kernel, (rows, width), words, own);
        let sizes = (rows, keys, kernel.padded_words(width));
        let scores = Sink::F32(Out::new(&mut scratch.scores));
        let (keys_of, scale) = (&scratch.keys, plan.scale());
        // SAFETY: the queries have these rows; the scores have room for `most` rows of `padded` values.
        unsafe { multiply(kernel, left, sizes, keys_of, scale, scores, (0, padded)) };
        let at = plan.at(plan.y, frame, head) + first * plan.y.row;
        let lines = scratch.scores.chunks_exact_mut(padded).take(rows);
        for (i, row) in lines.enumerate() {
            out.expect(at + i * plan.y.row, width);
            softmax(&mut row[..keys]);
        }
        let scores = Matrix::new(Values::F32(&scratch.scores), padded);
        let left = scores.encode(kernel, (rows, keys), words, own);
        let sizes = (rows, width, kernel.padded_words(keys));
        let (values, place) = (&scratch.values, (at, plan.y.row));
        // SAFETY: these rows and columns of the result belong to this frame and head.
        unsafe { multiply(kernel, left, sizes, values, 1.0, out, place) };
    }
}

/// Operands of the backward pass.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub(super) q: Values<'a>,
    pub(super) kv: Values<'a>,
    pub(super) dy: Values<'a>,
}

/// Writes dq to `dq` (laid out like q) and dk, dv to `dkv` (laid out like k and v). Products are of floats, or of bfloat16 beside weights in another format
/// where the kernel of that computes them faster.
pub(super) fn differentiate(
    plan: &Plan,
    kernel: Kernel,
    operands: Operands<'_>,
    (dq, dkv): (Sink, Sink),
) {
    if let Some(backs) = kernel.backs(plan.width).filter(|_| plan.keys > 0) {
        let (mut own_q, mut own_kv) = (Own::default(), Own::default());
        let operands = Operands {
            q: own_q.of(operands.q, kernel),
            kv: own_kv.of(operands.kv, kernel),
            dy: operands.dy,
        };
        each_head(plan, |at, _| {
            let back = plan.back(operands, at, (dq, dkv));
            // SAFETY: the plan's sizes are those of the operands and the gradients, of which each frame and head has its own part.
            unsafe { backs.back(&back) };
        });
        return;
    }
    each_head(plan, |at, scratch| {
        differentiate_head(plan, operands, at, scratch, (dq, dkv))
    });
}

fn differentiate_head(
    plan: &Plan,
    operands: Operands<'_>,
    (frame, head): (usize, usize),
    scratch: &mut Scratch,
    (dq, dkv): (Sink, Sink),
) {
    let (queries, keys, width, padded) = (plan.queries, plan.keys, plan.width, plan.padded());
    let q = plan.head(operands.q, plan.q, frame, head);
    let k = plan.head(operands.kv, plan.k, frame, head);
    let v = plan.head(operands.kv, plan.v, frame, head);
    let dy = plan.head(operands.dy, plan.y, frame, head);
    for (rows, count) in [(k, keys), (q, queries), (v, keys), (dy, queries)] {
        rows.expect((count, width));
    }
    scratch.scores.resize(queries * padded, 0.0);
    scratch.slopes.resize(queries * padded, 0.0);
    let rows = |values: &[f32]| Left::floats(values.as_ptr(), padded, 1);
    let columns = |values: &[f32]| Left::floats(values.as_ptr(), 1, padded);
    let scores = Sink::F32(Out::new(&mut scratch.scores));
    let slopes = Sink::F32(Out::new(&mut scratch.slopes));
    let (panels, words, own) = (&mut scratch.panels, &mut scratch.words, &mut scratch.row);
    let kernel = Kernel::best(Format::F32);
    let (dq_at, dk_at, dv_at) = (
        (plan.at(plan.q, frame, head), plan.q.row),
        (plan.at(plan.k, frame, head), plan.k.row),
        (plan.at(plan.v, frame, head), plan.v.row),
    );
    // SAFETY: in all products, operands have the rows that the plan gives them; scores and slopes have `queries` rows of `padded` values; the ranges
    // of the outputs belong to this frame and head.
    unsafe {
        k.pack_transposed(kernel, (keys, width), panels);
        let (left, sizes) = (
            q.encode(kernel, (queries, width), words, own),
            (queries, keys, width),
        );
        let scale = plan.scale();
        multiply(kernel, left, sizes, panels, scale, scores, (0, padded));
        for row in scratch.scores.chunks_exact_mut(padded) {
            softmax(&mut row[..keys]);
        }
        dy.pack(kernel, (queries, width), panels);
        let (left, sizes) = (columns(&scratch.scores), (keys, width, queries));
        multiply(kernel, left, sizes, panels, 1.0, dkv, dv_at);
        v.pack_transposed(kernel, (keys, width), panels);
        let (left, sizes) = (
            dy.encode(kernel, (queries, width), words, own),
            (queries, keys, width),
        );
        multiply(kernel, left, sizes, panels, 1.0, slopes, (0, padded));
        let slopes = scratch.slopes.chunks_exact_mut(padded);
        for (p, dp) in scratch.scores.chunks_exact(padded).zip(slopes) {
            softmax_back(&p[..keys], &mut dp[..keys], scale);
        }
        k.pack(kernel, (keys, width), panels);
        let (left, sizes) = (rows(&scratch.slopes), (queries, width, keys));
        multiply(kernel, left, sizes, panels, 1.0, dq, dq_at);
        q.pack(kernel, (queries, width), panels);
        let (left, sizes) = (columns(&scratch.slopes), (keys, width, queries));
        multiply(kernel, left, sizes, panels, 1.0, dkv, dk_at);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Shape;
    use half::bf16;

    use super::*;
    use crate::ops::isa::Isa;
    use crate::rng::Stream;

    #[test]
    fn every_set_of_instructions_gives_the_same_attention() {
        let mut stream = Stream::new(3, "qkv");
        for (frames, tokens, heads, width) in
            [(1, 1, 1, 3), (2, 37, 2, 8), (1, 50, 2, 64), (1, 197, 1, 64)]
        {
            let shape = Shape::from((frames, tokens, 3 * heads * width));
            let qkv: Vec<f32> = (0..shape.elem_count())
                .map(|_| stream.range(-1.0, 1.0))
                .collect();
            let plan = Plan::packed(&shape, heads).unwrap();
            for (format, tolerance) in [(Format::F32, 1e-5), (Format::Bf16, 1e-2)] {
                let kernels: Vec<Kernel> = (Isa::ALL.iter())
                    .filter_map(|&isa| Kernel::on(format, isa))
                    .collect();
                let all: Vec<Vec<f32>> = (kernels.iter())
                    .map(|&kernel| {
                        let qkv = Values::F32(&qkv);
                        match attend(&plan, kernel, (qkv, qkv), Numbers::F32) {
                            Buffer::F32(y) => y,
                            Buffer::Bf16(_) => unreachable!("floats were asked for"),
                        }
                    })
                    .collect();
                for y in &all {
                    let worst = (y.iter().zip(&all[0]))
                        .map(|(a, b)| (a - b).abs())
                        .fold(0.0, f32::max);
                    assert!(worst <= tolerance, "{format:?}: {worst}");
                }
            }
        }
    }

    /// Attention of rounded operands on every instruction set, plain loops last.
    fn on_all(plan: &Plan, q: &[bf16], kv: &[bf16], numbers: Numbers) -> Vec<Buffer> {
        let kernels = (Isa::ALL.iter()).filter_map(|&isa| Kernel::on(Format::Bf16, isa));
        let operands = (Values::Bf16(q), Values::Bf16(kv));
        kernels
            .map(|kernel| attend(plan, kernel, operands, numbers))
            .collect()
    }

    fn floats(y: &Buffer) -> Vec<f32> {
        match y {
            Buffer::F32(y) => y.clone(),
            Buffer::Bf16(y) => y.iter().map(|x| x.to_f32()).collect(),
        }
    }

    #[test]
    fn rounded_operands_give_the_same_attention_on_every_set() {
        let mut stream = Stream::new(4, "qkv");
        for (frames, tokens, heads, width) in [
            (1, 1, 1, 32),
            (2, 5, 2, 64),
            (2, 17, 1, 32),
            (2, 37, 2, 48),
            (2, 50, 2, 64),
            (1, 64, 1, 96),
            (2, 197, 2, 64),
            (1, 257, 1, 64),
            (1, 577, 1, 64),
        ] {
            let c = heads * width;
            let shape = Shape::from((frames, tokens, 3 * c));
            let qkv: Vec<bf16> = (0..shape.elem_count())
                .map(|_| bf16::from_f32(stream.range(-3.0, 3.0)))
                .collect();
            let plan = Plan::packed(&shape, heads).unwrap();
            for numbers in [Numbers::F32, Numbers::Bf16] {
                let all = on_all(&plan, &qkv, &qkv, numbers);
                let want = floats(&all[all.len() - 1]);
                for y in &all {
                    for (i, (y, want)) in floats(y).iter().zip(&want).enumerate() {
                        assert!((y - want).abs() <= 3e-2, "{tokens} {i}: {y}, not {want}");
                    }
                }
            }
            // A class token alone, beside the keys and values of its frame, has the bits that it has among all queries.
            let rows = qkv.chunks_exact(3 * c);
            let (q, kv): (Vec<_>, Vec<_>) = rows.map(|row| row.split_at(c)).unzip();
            let q: Vec<bf16> = q
                .iter()
                .step_by(tokens)
                .copied()
                .flatten()
                .copied()
                .collect();
            let (one, both) = ((frames, c), (frames, tokens, 2 * c));
            let class = Plan::class(&one.into(), &both.into(), heads).unwrap();
            let whole = on_all(&plan, &qkv, &qkv, Numbers::F32);
            let alone = on_all(&class, &q, &kv.concat(), Numbers::F32);
            for (whole, alone) in whole.iter().zip(&alone) {
                let whole = floats(whole);
                let first: Vec<f32> = whole
                    .chunks(tokens * c)
                    .flat_map(|y| &y[..c])
                    .copied()
                    .collect();
                assert_eq!(floats(alone), first);
            }
        }
    }
}
