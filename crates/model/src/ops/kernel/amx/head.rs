//! One head of attention on AMX: both products on tiles, everything between them in registers of AVX-512.
//!
//! Invariant: a query's result depends on that query and the head's keys and values, whatever the other queries.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::cmp::Ordering;

use super::epilogue::exp2;
use super::{ROWS, SIDE, Walk, bf16s, shape};
use crate::ops::kernel::unit::{Head, Heads, Matrix, Target};
use crate::ops::kernel::{LINE, NR};

/// Keys of a strip, and numbers of a line: two panels.
const STRIP: usize = 2 * NR;

/// A cache line of words.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; NR]);

/// Buffers of one head, reused by its thread.
#[derive(Default)]
struct Space {
    /// Panels of keys, `[panel][word of the width][16]`.
    keys: Vec<Line>,
    /// Panels of values, `[panel][pair of keys][16]`.
    values: Vec<Line>,
    /// Scores of a tile's queries, `[32][keys]` floats, keys padded to strips.
    scores: Vec<Line>,
    /// Their exponentials, `[32][keys]` bfloat16.
    weights: Vec<Line>,
    /// Sums of weighted values, `[32][width]` floats.
    sums: Vec<Line>,
    /// Queries of a tile that is not whole.
    spare: Vec<Line>,
}

thread_local! {
    static SPACE: RefCell<Space> = RefCell::default();
}

/// Heads on a CPU that has AMX with bfloat16 and AVX-512 with bfloat16.
pub(super) struct OnTiles;

impl Heads for OnTiles {
    unsafe fn head(&self, head: &Head) {
        debug_assert!(head.keys > 0 && head.width.is_multiple_of(STRIP));
        // SAFETY: passed on.
        SPACE.with_borrow_mut(|space| unsafe { attend(head, space) });
    }
}

/// # Safety
/// Same as for `Heads::head`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn attend(head: &Head, space: &mut Space) {
    let strips = head.keys.div_ceil(STRIP);
    let none = Line([0; NR]);
    space.keys.resize(strips * head.width, none);
    space.values.resize(strips * head.width, none);
    space.scores.resize(ROWS * strips * 2, none);
    space.weights.resize(ROWS * strips, none);
    space.sums.resize(ROWS * head.width / NR, none);
    space.spare.resize(ROWS * head.width / STRIP, none);
    // SAFETY: promised by the caller; the buffers have these sizes.
    unsafe {
        shape(ROWS);
        pack_keys(head, strips, &mut space.keys);
        pack_values(head, strips, &mut space.values);
        for first in (0..head.queries).step_by(ROWS) {
            let rows = ROWS.min(head.queries - first);
            let (queries, row) = queries(head, (first, rows), &mut space.spare);
            let scores = space.scores.as_mut_ptr().cast::<f32>();
            let keys = space.keys.as_ptr().cast::<u32>();
            for strip in 0..strips {
                let panel = keys.add(strip * head.width * NR);
                multiply(
                    (queries, row),
                    (panel, head.width / STRIP),
                    (scores.add(strip * STRIP), strips * STRIP),
                );
            }
            let mut inverses = [0.0; ROWS];
            for (i, inverse) in inverses[..rows].iter_mut().enumerate() {
                let own = scores.add(i * strips * STRIP);
                let to = space.weights.as_mut_ptr().add(i * strips);
                *inverse = 1.0 / softmax(own, (head.keys, head.scale), to.cast());
                ahead(head, first + i);
            }
            let sums = space.sums.as_mut_ptr().cast::<f32>();
            let values = space.values.as_ptr().cast::<u32>();
            for strip in 0..head.width / STRIP {
                multiply(
                    (space.weights.as_ptr().cast(), strips * NR),
                    (values.add(strip * strips * STRIP * NR), strips),
                    (sums.add(strip * STRIP), head.width),
                );
            }
            for (i, &inverse) in inverses[..rows].iter().enumerate() {
                write(head, first + i, sums.add(i * head.width), inverse);
            }
        }
    }
}

/// Multiplies 32 rows, words `left.1` apart, by two panels of `right.1` steps each, one after the other. The sums' rows are `to.1` values apart.
///
/// # Safety
/// The operands have these rows and words, and the sums 32 rows of 32 values; `shape` was called on this thread.
#[inline]
unsafe fn multiply(left: (*const u32, usize), right: (*const u32, usize), to: (*mut f32, usize)) {
    // SAFETY: promised by the caller.
    unsafe {
        let lower = to.0.add(SIDE * to.1);
        bf16s(&Walk {
            left: [left.0, left.0.add(SIDE * left.1)],
            row_bytes: 4 * left.1,
            panels: [right.0, right.0.add(right.1 * SIDE * NR)],
            sums: [to.0, to.0.add(NR), lower, lower.add(NR)],
            sum_bytes: 4 * to.1,
            steps: right.1,
        });
    }
}

/// Address of 32 rows of queries and the number of words between them; rows of a tile that is not whole are copied, since tiles are read whole.
///
/// # Safety
/// The head has these queries, and `spare` room for a tile of them.
unsafe fn queries(
    head: &Head,
    (first, rows): (usize, usize),
    spare: &mut [Line],
) -> (*const u32, usize) {
    let Matrix { at, row } = head.q;
    let spare = spare.as_mut_ptr().cast::<u16>();
    // SAFETY: promised by the caller.
    unsafe {
        if rows == ROWS && row.is_multiple_of(2) {
            return (at.add(first * row).cast(), row / 2);
        }
        for i in 0..rows {
            let from = at.add((first + i) * row);
            std::ptr::copy_nonoverlapping(from, spare.add(i * head.width), head.width);
        }
    }
    (spare.cast_const().cast(), head.width / 2)
}

/// Packs the keys as the right operand of q · kᵀ: 16 × 16 words are transposed in registers.
///
/// # Safety
/// The head has its keys, and `panels` room for `strips` strips of them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pack_keys(head: &Head, strips: usize, panels: &mut [Line]) {
    let Matrix { at, row } = head.k;
    let words = head.width / 2;
    for panel in 0..2 * strips {
        let first = panel * NR;
        for step in 0..words / SIDE {
            let mut block = [_mm512_setzero_si512(); SIDE];
            for (i, line) in block.iter_mut().enumerate() {
                if first + i < head.keys {
                    // SAFETY: the row has `width` numbers, of which these are 32.
                    *line = unsafe {
                        _mm512_loadu_si512(at.add((first + i) * row + step * STRIP).cast())
                    };
                }
            }
            let block = transposed(block);
            let to = &mut panels[panel * words + step * SIDE..][..SIDE];
            for (to, line) in to.iter_mut().zip(block) {
                // SAFETY: a line has 64 bytes and is aligned to them.
                unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), line) };
            }
        }
    }
}

/// Packs the values as the right operand of weights · v: a word joins the numbers of two neighbouring keys.
///
/// # Safety
/// The head has its values, and `panels` room for `strips` strips of keys.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pack_values(head: &Head, strips: usize, panels: &mut [Line]) {
    let Matrix { at, row } = head.v;
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
    let pairs = strips * NR;
    for pair in 0..pairs {
        for strip in 0..head.width / STRIP {
            let get = |key: usize| {
                if key < head.keys {
                    // SAFETY: the row has `width` numbers, of which these are 32.
                    unsafe { _mm512_loadu_si512(at.add(key * row + strip * STRIP).cast()) }
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

/// Returns the transpose of 16 × 16 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn transposed(mut r: [__m512i; SIDE]) -> [__m512i; SIDE] {
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

/// Writes e^((x - max) · scale) of a row of scores as bfloat16, with zeros up to the end of the strip. Returns the sum of the floats.
///
/// # Safety
/// `scores` and `weights` have `keys` numbers, padded to whole strips.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn softmax(scores: *const f32, (keys, scale): (usize, f32), weights: *mut u16) -> f32 {
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
    let most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d)));
    let scale = scale * std::f32::consts::LOG2_E;
    let (scale, shift) = (_mm512_set1_ps(scale), _mm512_set1_ps(-most * scale));
    let power = |i: usize| exp2(_mm512_fmadd_ps(get(i), scale, shift));
    let write = |pair: usize, low: __m512, high: __m512| {
        // SAFETY: promised by the caller; one register of 32 bfloat16 is one of 512 bits.
        unsafe {
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_store_si512(weights.add(pair * STRIP).cast(), both);
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
fn ahead(head: &Head, row: usize) {
    for of in [head.q, head.k, head.v] {
        let next = of.at.wrapping_add(row * of.row + head.width);
        for line in 0..head.width * 2 / LINE {
            let line = next.wrapping_add(line * STRIP);
            // SAFETY: a prefetch accepts any address and does not even read it.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
        }
    }
}

/// Writes a query's result: its sums times `inverse`.
///
/// # Safety
/// The result has the row; `sums` are its values, aligned to cache lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn write(head: &Head, row: usize, sums: *const f32, inverse: f32) {
    let inverse = _mm512_set1_ps(inverse);
    for column in (0..head.width).step_by(STRIP) {
        // SAFETY: promised by the caller; one register of 32 bfloat16 is one of 512 bits.
        unsafe {
            let low = _mm512_mul_ps(_mm512_load_ps(sums.add(column)), inverse);
            let high = _mm512_mul_ps(_mm512_load_ps(sums.add(column + NR)), inverse);
            let at = row * head.stride + column;
            match head.y {
                Target::F32(y) => {
                    _mm512_storeu_ps(y.add(at), low);
                    _mm512_storeu_ps(y.add(at + NR), high);
                }
                Target::Bf16(y) => {
                    let both =
                        std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_storeu_si512(y.add(at).cast(), both);
                }
            }
        }
    }
}
