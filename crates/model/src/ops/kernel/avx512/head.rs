//! One head of attention: both products by an instruction set's own loops, everything between them in registers of AVX-512.
//!
//! Invariant: a query's result depends on that query and the head's keys and values, whatever the other queries.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::cmp::Ordering;

use super::epilogue::{Kind, exp2, rounded};
use crate::ops::kernel::unit::{Head, Matrix, Target};
use crate::ops::kernel::{LINE, NR};
use crate::ops::simd;

/// Keys of a strip, and columns of the result: two panels.
pub(in crate::ops::kernel) const STRIP: usize = 2 * NR;

/// A cache line of words.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u32; NR]);

/// Two panels, one after the other, of which the last may be missing.
#[derive(Clone, Copy)]
pub(in crate::ops::kernel) struct Strip {
    pub(in crate::ops::kernel) at: *const u32,
    /// Words of a panel's column, and how many of them are not padding.
    pub(in crate::ops::kernel) words: usize,
    pub(in crate::ops::kernel) used: usize,
    /// Number of panels that are not padding, 1 or 2.
    pub(in crate::ops::kernel) panels: usize,
}

/// Products of a head, by an instruction set.
pub(in crate::ops::kernel) trait Products: Kind {
    /// Most rows of a product.
    const ROWS: usize;
    /// Numbers of a word: one float or two bfloat16.
    const GROUP: usize;

    /// Prepares the thread.
    ///
    /// # Safety
    /// The CPU has what the products need.
    unsafe fn begin() {}

    /// Multiplies `rows` rows, words `left.1` apart, by the panels. The sums' rows are `to.1` values apart.
    ///
    /// # Safety
    /// `begin` was called on this thread. The operands have `ROWS` rows and these words, and the sums `ROWS` rows of 32 values.
    unsafe fn multiply(rows: usize, left: (*const u32, usize), right: Strip, to: (*mut f32, usize));
}

/// Buffers of one head, reused by its thread.
#[derive(Default)]
struct Space {
    /// Panels of keys, `[panel][word of the width][16]`.
    keys: Vec<Line>,
    /// Panels of values, `[panel][word of the keys][16]`.
    values: Vec<Line>,
    /// Scores of a tile's queries, `[rows][keys]` floats, keys padded to strips.
    scores: Vec<Line>,
    /// Their exponentials, `[rows][words of the keys]`.
    weights: Vec<Line>,
    /// Sums of weighted values, `[rows][width]` floats.
    sums: Vec<Line>,
    /// Queries of a tile that is not whole.
    spare: Vec<Line>,
}

thread_local! {
    static SPACE: RefCell<Space> = RefCell::default();
}

/// Computes a head.
///
/// # Safety
/// Same as for `Heads::head`, on a CPU with AVX-512 and what `P` needs.
pub(in crate::ops::kernel) unsafe fn head<P: Products>(head: &Head) {
    debug_assert!(head.keys > 0 && head.width.is_multiple_of(STRIP));
    // SAFETY: passed on.
    SPACE.with_borrow_mut(|space| unsafe { attend::<P>(head, space) });
}

/// # Safety
/// Same as for [`head`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn attend<P: Products>(head: &Head, space: &mut Space) {
    let (strips, words) = (head.keys.div_ceil(STRIP), head.width / P::GROUP);
    // Words of a row of weights: those of all strips.
    let padded = strips * STRIP / P::GROUP;
    let none = Line([0; NR]);
    space.keys.resize(strips * 2 * words, none);
    space.values.resize(head.width / NR * padded, none);
    space.scores.resize(P::ROWS * strips * 2, none);
    space.weights.resize(P::ROWS * padded / NR, none);
    space.sums.resize(P::ROWS * head.width / NR, none);
    space.spare.resize(P::ROWS * words / NR, none);
    // SAFETY: promised by the caller; the buffers have these sizes.
    unsafe {
        P::begin();
        pack_keys((head.k, head.keys), (strips, words), &mut space.keys);
        if P::GROUP == 2 {
            pack_pairs((head.v, head.keys, head.width), padded, &mut space.values);
        } else {
            pack_floats(head, padded, &mut space.values);
        }
        for first in (0..head.queries).step_by(P::ROWS) {
            let rows = P::ROWS.min(head.queries - first);
            let queries = queries::<P>(head, (first, rows), P::ROWS, &mut space.spare);
            let scores = space.scores.as_mut_ptr().cast::<f32>();
            let keys = space.keys.as_ptr().cast::<u32>();
            for strip in 0..strips {
                let right = Strip {
                    at: keys.add(strip * 2 * words * NR),
                    words,
                    used: words,
                    panels: (head.keys - strip * STRIP).div_ceil(NR).min(2),
                };
                let to = (scores.add(strip * STRIP), strips * STRIP);
                P::multiply(rows, queries, right, to);
            }
            let weights = space.weights.as_mut_ptr().cast::<u32>();
            for i in 0..rows {
                let own = scores.add(i * strips * STRIP);
                let sum = softmax::<P>(own, head, weights.add(i * padded));
                // The score of the first key is not read any more.
                *own = 1.0 / sum;
                ahead::<P>(head, first + i);
            }
            let sums = space.sums.as_mut_ptr().cast::<f32>();
            let values = space.values.as_ptr().cast::<u32>();
            for strip in 0..head.width / STRIP {
                let right = Strip {
                    at: values.add(strip * 2 * padded * NR),
                    words: padded,
                    used: head.keys.div_ceil(P::GROUP),
                    panels: 2,
                };
                let to = (sums.add(strip * STRIP), head.width);
                P::multiply(rows, (weights, padded), right, to);
            }
            for i in 0..rows {
                let inverse = *scores.add(i * strips * STRIP);
                let (at, sums) = ((first + i) * head.stride, sums.add(i * head.width));
                write::<P>(head.y, at, head.width, sums, inverse);
            }
        }
    }
}

/// Address of the rows of queries and the number of words between them; rows of a tile that is not whole are copied, since tiles may be read whole.
///
/// # Safety
/// The head has these queries, and `spare` room for a tile of `tall` of them.
pub(super) unsafe fn queries<P: Products>(
    head: &Head,
    (first, rows): (usize, usize),
    tall: usize,
    spare: &mut [Line],
) -> (*const u32, usize) {
    let (Matrix { at, row }, words) = (head.q, head.width / P::GROUP);
    let spare = spare.as_mut_ptr().cast::<u32>();
    // SAFETY: promised by the caller.
    unsafe {
        if rows == tall {
            return (at.add(first * row), row);
        }
        for i in 0..rows {
            // Rows of bfloat16 may begin at any even address.
            let from = at.add((first + i) * row).cast::<u8>();
            std::ptr::copy_nonoverlapping(from, spare.add(i * words).cast(), 4 * words);
        }
    }
    (spare.cast_const(), words)
}

/// Packs the keys as the right operand of q · kᵀ: 16 × 16 words are transposed in registers.
///
/// # Safety
/// There are so many keys, of `words` words, and `panels` has room for `strips` strips of them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn pack_keys(
    (keys, count): (Matrix, usize),
    (strips, words): (usize, usize),
    panels: &mut [Line],
) {
    let Matrix { at, row } = keys;
    for panel in 0..2 * strips {
        let first = panel * NR;
        for step in 0..words / NR {
            let mut block = [_mm512_setzero_si512(); NR];
            for (i, line) in block.iter_mut().enumerate() {
                if first + i < count {
                    // SAFETY: the row has these 16 words.
                    *line =
                        unsafe { _mm512_loadu_si512(at.add((first + i) * row + step * NR).cast()) };
                }
            }
            let block = transposed(block);
            let to = &mut panels[panel * words + step * NR..][..NR];
            for (to, line) in to.iter_mut().zip(block) {
                // SAFETY: a line has 64 bytes and is aligned to them.
                unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), line) };
            }
        }
    }
}

/// Packs values of bfloat16 as the right operand of weights · v: a word joins the numbers of two neighbouring keys.
///
/// # Safety
/// There are so many values of this width, and `panels` has room for `pairs` pairs of them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn pack_pairs(
    (values, count, width): (Matrix, usize, usize),
    pairs: usize,
    panels: &mut [Line],
) {
    let Matrix { at, row } = values;
    // Numbers of the first row and of the second, which begins at 32, in turns.
    let joined = |first: usize| -> [u16; STRIP] {
        std::array::from_fn(|i| (first + i / 2 + i % 2 * STRIP) as u16)
    };
    let (low, high) = (joined(0), joined(NR));
    // SAFETY: the arrays have 64 bytes.
    let (low, high) = unsafe {
        (
            _mm512_loadu_si512(low.as_ptr().cast()),
            _mm512_loadu_si512(high.as_ptr().cast()),
        )
    };
    for pair in 0..pairs {
        for strip in 0..width / STRIP {
            let get = |key: usize| {
                if key < count {
                    // SAFETY: the row has `width` numbers, of which these are 32.
                    unsafe { _mm512_loadu_si512(at.add(key * row + strip * NR).cast()) }
                } else {
                    _mm512_setzero_si512()
                }
            };
            let (one, two) = (get(2 * pair), get(2 * pair + 1));
            for (p, order) in [low, high].into_iter().enumerate() {
                let to = &mut panels[(2 * strip + p) * pairs + pair];
                let line = _mm512_permutex2var_epi16(one, order, two);
                // SAFETY: a line has 64 bytes and is aligned to them.
                unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), line) };
            }
        }
    }
}

/// Packs values of floats as the right operand of weights · v; rows beyond the last key become zeros.
///
/// # Safety
/// The head has its values, and `panels` room for `rows` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pack_floats(head: &Head, rows: usize, panels: &mut [Line]) {
    let Matrix { at, row } = head.v;
    for key in 0..rows {
        for panel in 0..head.width / NR {
            let line = if key < head.keys {
                // SAFETY: the row has `width` words, of which these are 16.
                unsafe { _mm512_loadu_si512(at.add(key * row + panel * NR).cast()) }
            } else {
                _mm512_setzero_si512()
            };
            let to = &mut panels[panel * rows + key];
            // SAFETY: a line has 64 bytes and is aligned to them.
            unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), line) };
        }
    }
}

/// Returns the transpose of 16 × 16 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn transposed(mut r: [__m512i; NR]) -> [__m512i; NR] {
    let mut t = r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..4 {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for i in 0..4 {
        t[i] = _mm512_shuffle_i32x4::<0x88>(r[i], r[i + 4]);
        t[i + 4] = _mm512_shuffle_i32x4::<0xDD>(r[i], r[i + 4]);
        t[i + 8] = _mm512_shuffle_i32x4::<0x88>(r[i + 8], r[i + 12]);
        t[i + 12] = _mm512_shuffle_i32x4::<0xDD>(r[i + 8], r[i + 12]);
    }
    for i in 0..8 {
        r[i] = _mm512_shuffle_i32x4::<0x88>(t[i], t[i + 8]);
        r[i + 8] = _mm512_shuffle_i32x4::<0xDD>(t[i], t[i + 8]);
    }
    r
}

/// Computes e^x for x up to 0: within 2 ulp, as `simd::exp` does, or within 3e-6 where that is enough.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn power<P: Products>(x: __m512, scale: __m512, shift: __m512) -> __m512 {
    let t = _mm512_fmadd_ps(x, scale, shift);
    if !P::EXACT {
        return exp2(t);
    }
    let t = _mm512_max_ps(_mm512_set1_ps(-87.3), t);
    let n = _mm512_roundscale_ps::<8>(_mm512_mul_ps(t, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(simd::LN_2[0]), t);
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(simd::LN_2[1]), r);
    let mut p = _mm512_setzero_ps();
    for c in simd::EXP {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    let y = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r);
    _mm512_scalef_ps(_mm512_add_ps(y, _mm512_set1_ps(1.0)), n)
}

/// Returns the largest of a row of scores.
///
/// # Safety
/// `scores` has so many keys, padded to whole panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn most_of(scores: *const f32, keys: usize) -> f32 {
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let (full, rest) = (keys / NR, keys % NR);
    let mask = ((1_u32 << rest) - 1) as __mmask16;
    // SAFETY: promised by the caller.
    let get = |i: usize| unsafe { _mm512_load_ps(scores.add(i * NR)) };
    let mut most = [lowest; 4];
    for quad in 0..full / 4 {
        for (i, most) in most.iter_mut().enumerate() {
            *most = _mm512_max_ps(*most, get(4 * quad + i));
        }
    }
    for i in full / 4 * 4..full {
        most[0] = _mm512_max_ps(most[0], get(i));
    }
    if rest > 0 {
        most[1] = _mm512_mask_max_ps(most[1], mask, most[1], get(full));
    }
    let [a, b, c, d] = most;
    _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d)))
}

/// Factor and summand of a row of scores before `power`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn scale_of<P: Products>(head: &Head, most: f32) -> (__m512, __m512) {
    let scale = if P::EXACT {
        head.scale
    } else {
        head.scale * std::f32::consts::LOG2_E
    };
    (_mm512_set1_ps(scale), _mm512_set1_ps(-most * scale))
}

/// Writes e^((x - max) · scale) of a row of scores as words, with zeros up to the end of the strip. Returns the sum of the floats.
///
/// # Safety
/// `scores` and `weights` have the head's keys, padded to whole strips.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn softmax<P: Products>(scores: *const f32, head: &Head, weights: *mut u32) -> f32 {
    let keys = head.keys;
    let (full, rest) = (keys / NR, keys % NR);
    let mask = ((1_u32 << rest) - 1) as __mmask16;
    // SAFETY: promised by the caller.
    let get = |i: usize| unsafe { _mm512_load_ps(scores.add(i * NR)) };
    // SAFETY: promised by the caller.
    let (scale, shift) = scale_of::<P>(head, unsafe { most_of(scores, keys) });
    let power = |i: usize| power::<P>(get(i), scale, shift);
    let write = |pair: usize, low: __m512, high: __m512| {
        // SAFETY: promised by the caller.
        unsafe {
            if P::GROUP == 2 {
                let both = rounded::<P>(low, high);
                _mm512_store_si512(weights.add(pair * NR).cast(), both);
            } else {
                _mm512_store_ps(weights.add(pair * STRIP).cast(), low);
                _mm512_store_ps(weights.add(pair * STRIP + NR).cast(), high);
            }
        }
    };
    let mut sums = [_mm512_setzero_ps(); 4];
    for quad in 0..full / 4 {
        let mut x = [_mm512_setzero_ps(); 4];
        for (i, (x, sum)) in x.iter_mut().zip(&mut sums).enumerate() {
            *x = power(4 * quad + i);
            *sum = _mm512_add_ps(*sum, *x);
        }
        write(2 * quad, x[0], x[1]);
        write(2 * quad + 1, x[2], x[3]);
    }
    let last = |i: usize| match i.cmp(&full) {
        Ordering::Less => power(i),
        Ordering::Equal if rest > 0 => _mm512_maskz_mov_ps(mask, power(i)),
        Ordering::Equal | Ordering::Greater => _mm512_setzero_ps(),
    };
    for pair in full / 4 * 2..keys.div_ceil(STRIP) {
        let (low, high) = (last(2 * pair), last(2 * pair + 1));
        sums[0] = _mm512_add_ps(sums[0], low);
        sums[1] = _mm512_add_ps(sums[1], high);
        write(pair, low, high);
    }
    let [a, b, c, d] = sums;
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
}

/// Prefetches the next head's rows, which lie beside this one's.
#[inline]
fn ahead<P: Products>(head: &Head, row: usize) {
    let words = head.width / P::GROUP;
    for of in [head.q, head.k, head.v] {
        let next = of.at.wrapping_add(row * of.row + words);
        for line in 0..words * 4 / LINE {
            let line = next.wrapping_add(line * NR);
            // SAFETY: a prefetch accepts any address and does not even read it.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
        }
    }
}

/// Writes a row of a result, of `width` values from `at` on: its sums times `factor`.
///
/// # Safety
/// The result has the row; `sums` are its values, aligned to cache lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn write<P: Products>(
    to: Target,
    at: usize,
    width: usize,
    sums: *const f32,
    factor: f32,
) {
    let factor = _mm512_set1_ps(factor);
    for column in (0..width).step_by(STRIP) {
        // SAFETY: promised by the caller.
        unsafe {
            let low = _mm512_mul_ps(_mm512_load_ps(sums.add(column)), factor);
            let high = _mm512_mul_ps(_mm512_load_ps(sums.add(column + NR)), factor);
            match to {
                Target::F32(y) => {
                    _mm512_storeu_ps(y.add(at + column), low);
                    _mm512_storeu_ps(y.add(at + column + NR), high);
                }
                Target::Bf16(y) => {
                    _mm512_storeu_si512(y.add(at + column).cast(), rounded::<P>(low, high));
                }
            }
        }
    }
}
