//! The backward pass of one head of attention in bfloat16: five products by an instruction set's own loops, everything between them in registers of AVX-512.
//!
//! Invariant: the gradients of a head depend on that head alone; queries are added up in their order.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::cell::RefCell;

use super::epilogue::rounded;
use super::head::{
    Line, Products, STRIP, Strip, most_of, pack_keys, pack_pairs, power, queries, scale_of,
    transposed, write,
};
use crate::ops::kernel::NR;
use crate::ops::kernel::unit::{Back, Head, Matrix, Source};

/// Queries of a block.
const BLOCK: usize = 2 * NR;
/// Most bytes that a thread keeps of each of the buffers that grow with the square of a head's length.
const KEPT: usize = 1 << 20;

/// Buffers of one head, reused by its thread.
#[derive(Default)]
struct Space {
    /// Panels of keys and of values, `[panel][word of the width][16]`.
    keys: Vec<Line>,
    values: Vec<Line>,
    /// Panels of keys, of queries and of the result's gradient, `[panel of the width][pair of rows][16]`.
    key_pairs: Vec<Line>,
    query_pairs: Vec<Line>,
    dy_pairs: Vec<Line>,
    /// The result's gradient as bfloat16, `[queries][width]`, queries padded to blocks.
    dy: Vec<Line>,
    /// Weights of a block's queries and their gradients, `[32][keys]` floats, keys padded to strips.
    weights: Vec<Line>,
    slopes: Vec<Line>,
    /// The scores' gradients as bfloat16, `[32][keys]`.
    rows: Vec<Line>,
    /// Weights and the scores' gradients of all queries, `[keys][pairs of queries]`.
    weight_columns: Vec<Line>,
    slope_columns: Vec<Line>,
    /// Sums of a block.
    sums: Vec<Line>,
    spare: Vec<Line>,
}

thread_local! {
    static SPACE: RefCell<Space> = RefCell::default();
}

/// Computes the gradients of a head.
///
/// # Safety
/// Same as for `Backs::back`, on a CPU with AVX-512 and what `P` needs; its words are pairs.
pub(in crate::ops::kernel) unsafe fn back<P: Products>(back: &Back) {
    debug_assert!(back.head.keys > 0 && back.head.width.is_multiple_of(STRIP) && P::GROUP == 2);
    SPACE.with_borrow_mut(|space| {
        // SAFETY: passed on.
        unsafe { differentiate::<P>(back, space) };
        for columns in [&mut space.weight_columns, &mut space.slope_columns] {
            if columns.capacity() * size_of::<Line>() > KEPT {
                *columns = Vec::new();
            }
        }
    });
}

/// Sizes of a head in words: of a row, of all keys, and of all queries, padded.
#[derive(Clone, Copy)]
struct Sizes {
    words: usize,
    keys: usize,
    queries: usize,
}

/// # Safety
/// Same as for [`back`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn differentiate<P: Products>(back: &Back, space: &mut Space) {
    let head = &back.head;
    let strips = head.keys.div_ceil(STRIP);
    let sizes = Sizes {
        words: head.width / 2,
        keys: strips * NR,
        queries: head.queries.div_ceil(BLOCK) * NR,
    };
    resize(space, head.width, sizes);
    let dy = Matrix {
        at: space.dy.as_ptr().cast(),
        row: sizes.words,
    };
    // SAFETY: promised by the caller; the buffers have these sizes.
    unsafe {
        P::begin();
        narrow::<P>(back, &mut space.dy);
        pack_keys((head.k, head.keys), (strips, sizes.words), &mut space.keys);
        pack_keys(
            (head.v, head.keys),
            (strips, sizes.words),
            &mut space.values,
        );
        pack_pairs(
            (head.k, head.keys, head.width),
            sizes.keys,
            &mut space.key_pairs,
        );
        pack_pairs(
            (head.q, head.queries, head.width),
            sizes.queries,
            &mut space.query_pairs,
        );
        pack_pairs(
            (dy, head.queries, head.width),
            sizes.queries,
            &mut space.dy_pairs,
        );
        for first in (0..head.queries).step_by(BLOCK) {
            block::<P>(head, (first, BLOCK.min(head.queries - first)), sizes, space);
        }
        let sums = space.sums.as_mut_ptr().cast::<f32>();
        for (columns, panels, to) in [
            (&space.weight_columns, &space.dy_pairs, back.dv),
            (&space.slope_columns, &space.query_pairs, back.dk),
        ] {
            let used = head.queries.div_ceil(2);
            for first in (0..head.keys).step_by(BLOCK) {
                let rows = BLOCK.min(head.keys - first);
                let left = columns.as_ptr().cast::<u32>().add(first * sizes.queries);
                let left = (left, sizes.queries);
                let right = (panels.as_ptr().cast(), sizes.queries, used);
                products::<P>(rows, left, right, head.width, sums);
                for row in 0..rows {
                    let at = (first + row) * back.stride;
                    write::<P>(to, at, head.width, sums.add(row * head.width), 1.0);
                }
            }
        }
    }
}

fn resize(space: &mut Space, width: usize, sizes: Sizes) {
    let none = Line([0; NR]);
    let Sizes {
        words,
        keys,
        queries,
    } = sizes;
    for (buffer, words) in [
        (&mut space.keys, 2 * keys * words),
        (&mut space.values, 2 * keys * words),
        (&mut space.key_pairs, width * keys),
        (&mut space.query_pairs, width * queries),
        (&mut space.dy_pairs, width * queries),
        (&mut space.dy, 2 * queries * words),
        (&mut space.weights, BLOCK * 2 * keys),
        (&mut space.slopes, BLOCK * 2 * keys),
        (&mut space.rows, BLOCK * keys),
        (&mut space.weight_columns, 2 * keys * queries),
        (&mut space.slope_columns, 2 * keys * queries),
        (&mut space.sums, BLOCK * width),
        (&mut space.spare, BLOCK * words),
    ] {
        buffer.resize(words / NR, none);
    }
}

/// Rounds the result's gradient to bfloat16.
///
/// # Safety
/// The gradient has the head's queries, and `to` room for them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn narrow<P: Products>(back: &Back, to: &mut [Line]) {
    let Head { queries, width, .. } = back.head;
    let to = to.as_mut_ptr().cast::<u16>();
    for row in 0..queries {
        for column in (0..width).step_by(STRIP) {
            let at = row * back.dy_row + column;
            // SAFETY: promised by the caller.
            unsafe {
                let line = match back.dy {
                    Source::F32(dy) => {
                        let low = _mm512_loadu_ps(dy.add(at));
                        rounded::<P>(low, _mm512_loadu_ps(dy.add(at + NR)))
                    }
                    Source::Bf16(dy) => _mm512_loadu_si512(dy.add(at).cast()),
                };
                _mm512_store_si512(to.add(row * width + column).cast(), line);
            }
        }
    }
}

/// Multiplies rows by all panels of a width, `right.1` words each of which `right.2` are not padding; the sums are `[rows][width]`.
///
/// # Safety
/// Same as for `Products::multiply`.
unsafe fn products<P: Products>(
    rows: usize,
    left: (*const u32, usize),
    (panels, words, used): (*const u32, usize, usize),
    width: usize,
    sums: *mut f32,
) {
    for strip in 0..width / STRIP {
        // SAFETY: promised by the caller.
        unsafe {
            let right = Strip {
                at: panels.add(strip * 2 * words * NR),
                words,
                used,
                panels: 2,
            };
            P::multiply(rows, left, right, (sums.add(strip * STRIP), width));
        }
    }
}

/// Computes the gradients of a block of queries, and adds its columns to those of the weights and of the scores' gradients.
///
/// # Safety
/// Same as for [`back`]; the operands were packed.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn block<P: Products>(
    head: &Head,
    (first, rows): (usize, usize),
    sizes: Sizes,
    space: &mut Space,
) {
    let (words, row) = (sizes.words, 2 * sizes.keys);
    let weights = space.weights.as_mut_ptr().cast::<f32>();
    let slopes = space.slopes.as_mut_ptr().cast::<f32>();
    let narrow = space.rows.as_mut_ptr().cast::<u32>();
    // SAFETY: promised by the caller; the buffers have room for a block.
    unsafe {
        let left = queries::<P>(head, (first, rows), BLOCK, &mut space.spare);
        let dy = space.dy.as_ptr().cast::<u32>().add(first * words);
        for strip in 0..row / STRIP {
            for (left, panels, to) in [
                (left, &space.keys, weights),
                ((dy, words), &space.values, slopes),
            ] {
                let right = Strip {
                    at: panels.as_ptr().cast::<u32>().add(strip * 2 * words * NR),
                    words,
                    used: words,
                    panels: (head.keys - strip * STRIP).div_ceil(NR).min(2),
                };
                P::multiply(rows, left, right, (to.add(strip * STRIP), row));
            }
        }
        for i in 0..rows {
            let (weights, slopes) = (weights.add(i * row), slopes.add(i * row));
            slope::<P>(head, weights, slopes, narrow.add(i * sizes.keys));
        }
        for values in [weights, slopes] {
            std::ptr::write_bytes(values.add(rows * row), 0, (BLOCK - rows) * row);
        }
        for (values, columns) in [
            (weights, &mut space.weight_columns),
            (slopes, &mut space.slope_columns),
        ] {
            let to = columns.as_mut_ptr().cast::<u32>().add(first / 2);
            transpose::<P>(values, row, to, sizes.queries);
        }
        let sums = space.sums.as_mut_ptr().cast::<f32>();
        let panels = space.key_pairs.as_ptr().cast();
        let right = (panels, sizes.keys, head.keys.div_ceil(2));
        products::<P>(rows, (narrow, sizes.keys), right, head.width, sums);
        for i in 0..rows {
            let at = (first + i) * head.stride;
            write::<P>(head.y, at, head.width, sums.add(i * head.width), 1.0);
        }
    }
}

/// Turns a query's scores into weights, and the weights' gradients into those of the scores, w · (dw - Σ w · dw) · scale, also as bfloat16; all with zeros
/// up to the end of the strip.
///
/// # Safety
/// All have the head's keys, padded to whole strips.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn slope<P: Products>(head: &Head, weights: *mut f32, slopes: *mut f32, narrow: *mut u32) {
    let (full, rest) = (head.keys / NR, head.keys % NR);
    let mask = |i: usize| match i.cmp(&full) {
        std::cmp::Ordering::Less => u16::MAX,
        std::cmp::Ordering::Equal => ((1_u32 << rest) - 1) as __mmask16,
        std::cmp::Ordering::Greater => 0,
    };
    let panels = head.keys.div_ceil(STRIP) * 2;
    // SAFETY: promised by the caller.
    unsafe {
        let (scale, shift) = scale_of::<P>(head, most_of(weights, head.keys));
        let (mut sums, mut both) = ([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]);
        for i in 0..panels {
            let x = power::<P>(_mm512_load_ps(weights.add(i * NR)), scale, shift);
            let x = _mm512_maskz_mov_ps(mask(i), x);
            let dx = _mm512_maskz_loadu_ps(mask(i), slopes.add(i * NR));
            sums[i % 2] = _mm512_add_ps(sums[i % 2], x);
            both[i % 2] = _mm512_fmadd_ps(x, dx, both[i % 2]);
            _mm512_store_ps(weights.add(i * NR), x);
        }
        let inverse = 1.0 / _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
        let mean = _mm512_reduce_add_ps(_mm512_add_ps(both[0], both[1])) * inverse;
        let (inverse, mean) = (_mm512_set1_ps(inverse), _mm512_set1_ps(mean));
        let scale = _mm512_set1_ps(head.scale);
        for pair in 0..panels / 2 {
            let dx = [2 * pair, 2 * pair + 1].map(|i| {
                let x = _mm512_mul_ps(_mm512_load_ps(weights.add(i * NR)), inverse);
                _mm512_store_ps(weights.add(i * NR), x);
                let dx = _mm512_maskz_loadu_ps(mask(i), slopes.add(i * NR));
                let dx = _mm512_mul_ps(_mm512_mul_ps(x, _mm512_sub_ps(dx, mean)), scale);
                let dx = _mm512_maskz_mov_ps(mask(i), dx);
                _mm512_store_ps(slopes.add(i * NR), dx);
                dx
            });
            _mm512_store_si512(narrow.add(pair * NR).cast(), rounded::<P>(dx[0], dx[1]));
        }
    }
}

/// Writes the columns of a block's 32 rows as words of two neighbouring rows each, `apart` words apart.
///
/// # Safety
/// `values` has 32 rows of `row` floats, a multiple of 16, and `to` as many rows of 16 words.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn transpose<P: Products>(values: *const f32, row: usize, to: *mut u32, apart: usize) {
    // Numbers of the lower half and of the upper one, in turns.
    let turns: [u16; STRIP] = std::array::from_fn(|i| (i / 2 + i % 2 * NR) as u16);
    // SAFETY: promised by the caller.
    unsafe {
        let turns = _mm512_loadu_si512(turns.as_ptr().cast());
        for column in (0..row).step_by(NR) {
            let mut pairs = [_mm512_setzero_si512(); NR];
            for (i, pair) in pairs.iter_mut().enumerate() {
                let low = _mm512_load_ps(values.add(2 * i * row + column));
                let high = _mm512_load_ps(values.add((2 * i + 1) * row + column));
                *pair = _mm512_permutexvar_epi16(turns, rounded::<P>(low, high));
            }
            for (i, line) in transposed(pairs).into_iter().enumerate() {
                _mm512_storeu_si512(to.add((column + i) * apart).cast(), line);
            }
        }
    }
}
