//! Units of a product on AMX: the epilogue of a tile is computed between the steps of the next one, whose first operands are loaded before the sums of
//! the former are stored, so that the matrix unit seldom waits.
//!
//! Invariant: each sum is added up whole, in the order of its words.
#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::{ROW_BYTES, ROWS, SIDE, shape};
use crate::ops::kernel::avx512::epilogue::{Epilogue, Kind, Sums};
use crate::ops::kernel::unit::{Stays, Unit, Units};
use crate::ops::kernel::{LINE, NR};

/// Parts of a tile's steps, after each of which some rows of the former tile are ended.
const GROUPS: usize = 8;
/// Rows that are ended after each part.
const SHARE: usize = ROWS / GROUPS;
/// Panels of a strip.
const WIDE: usize = 2;

/// Operands of a tile from some step on: upper and lower rows, and two panels.
#[derive(Clone, Copy)]
struct At {
    left: [*const u32; 2],
    row_bytes: usize,
    right: [*const u32; 2],
}

/// Two tiles' sums: those that are ended and those that are stored next.
#[repr(C, align(64))]
struct Scratch([[[[f32; NR]; WIDE]; ROWS]; 2]);

/// Units of products of bfloat16, on a CPU that has AMX with it and AVX-512 with bfloat16.
pub(super) struct Bf16s;

impl Kind for Bf16s {}

impl Units for Bf16s {
    unsafe fn unit(&self, unit: &Unit<'_>, spare: &mut Vec<u32>) {
        // SAFETY: passed on.
        unsafe {
            match unit.stays {
                Stays::Rows => walk::<Self>(unit, spare, |at, count| bf16s(at, count)),
                Stays::Panels => walk::<Self>(unit, spare, |at, count| passing_bf16s(at, count)),
            }
        }
    }
}

/// Units of products of 8-bit integers, on a CPU that has AMX with them and AVX-512 with bfloat16.
pub(super) struct Int8s;

impl Kind for Int8s {
    const INTEGERS: bool = true;
}

impl Units for Int8s {
    unsafe fn unit(&self, unit: &Unit<'_>, spare: &mut Vec<u32>) {
        // SAFETY: passed on.
        unsafe { walk::<Self>(unit, spare, |at, count| int8s(at, count)) }
    }
}

/// Computes a unit; `spare` holds the rows of a tile that is not whole.
///
/// # Safety
/// Same as for `Units::unit`, with steps of the unit's format.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn walk<K: Kind>(unit: &Unit<'_>, spare: &mut Vec<u32>, steps_of: impl Fn(&mut At, usize)) {
    debug_assert!(unit.left.step == 1 && unit.rows > 0);
    debug_assert!(unit.panels.len() == unit.places.len() * unit.words * NR);
    let steps = unit.words / SIDE;
    let (strips, tiles) = (unit.places.len().div_ceil(WIDE), unit.rows.div_ceil(ROWS));
    let mut scratch = Scratch([[[[0.0; NR]; 2]; ROWS]; 2]);
    // SAFETY: all addresses are those of rows and panels that the unit has, or of `spare`.
    unsafe {
        let ragged = ragged(unit, spare);
        let operands = |at: usize| {
            let (strip, tile) = unit.stays.nth(at, strips, tiles);
            operands(unit, ragged, strip, tile)
        };
        shape(ROWS);
        let mut now = operands(0);
        load(&now);
        let mut pending: Option<Epilogue<'_>> = None;
        let total = strips * tiles;
        for at in 0..total {
            let (strip, tile) = unit.stays.nth(at, strips, tiles);
            let epilogue = Epilogue {
                whole: unit,
                sums: Sums {
                    at: (&raw const scratch.0[at % 2]).cast(),
                    row: WIDE * NR,
                    panel: NR,
                },
                rows: (tile * ROWS, ROWS.min(unit.rows - tile * ROWS)),
                panels: (strip * WIDE, WIDE.min(unit.places.len() - strip * WIDE)),
            };
            let mut next = operands(if at + 1 < total { at + 1 } else { at });
            let mut ahead = Ahead::new(unit, at, strips, tiles);
            zero();
            for group in 0..GROUPS {
                let count = steps * (group + 1) / GROUPS - steps * group / GROUPS;
                if group + 1 < GROUPS {
                    steps_of(&mut now, count);
                } else {
                    // The last step loads the first operands of the next tile.
                    steps_of(&mut now, count - 1);
                    next.back();
                    steps_of(&mut next, 1);
                }
                if let Some(epilogue) = &pending {
                    epilogue.rows::<K, WIDE>(group * SHARE, SHARE);
                }
                ahead.prefetch();
                epilogue.expect(group * SHARE..(group + 1) * SHARE);
            }
            store((&raw mut scratch.0[at % 2]).cast());
            (now, pending) = (next, Some(epilogue));
        }
        if let Some(epilogue) = &pending {
            epilogue.rows::<K, WIDE>(0, ROWS);
        }
    }
}

/// Copies the rows of the last tile to `spare`, followed by zeros, unless the tile is whole: the unit's registers are always read whole.
///
/// # Safety
/// The unit's left operand has its rows.
unsafe fn ragged(unit: &Unit<'_>, spare: &mut Vec<u32>) -> Option<*const u32> {
    let (first, words) = (unit.rows / ROWS * ROWS, unit.words);
    if first == unit.rows {
        return None;
    }
    spare.clear();
    for row in first..unit.rows {
        // SAFETY: promised by the caller; words of a row are neighbours.
        let row = unsafe { std::slice::from_raw_parts(unit.left.rows_from(row).at, words) };
        spare.extend_from_slice(row);
    }
    spare.resize(ROWS * words, 0);
    Some(spare.as_ptr())
}

/// Operands of a tile from its first step on.
///
/// # Safety
/// The unit has the tile and the strip; `ragged` are the rows of its last tile, unless that is whole.
#[inline]
unsafe fn operands(unit: &Unit<'_>, ragged: Option<*const u32>, strip: usize, tile: usize) -> At {
    let is_whole = (tile + 1) * ROWS <= unit.rows;
    // SAFETY: promised by the caller.
    unsafe {
        let (upper, row) = match ragged {
            Some(rows) if !is_whole => (rows, unit.words),
            _ => (unit.left.rows_from(tile * ROWS).at, unit.left.row_stride),
        };
        let first = unit.panels.as_ptr().add(strip * WIDE * unit.words * NR);
        let has_second = strip * WIDE + 1 < unit.places.len();
        At {
            left: [upper, upper.add(SIDE * row)],
            row_bytes: 4 * row,
            // A panel that does not exist is replaced by its neighbour, whose sums are not read.
            right: [
                first,
                if has_second {
                    first.add(unit.words * NR)
                } else {
                    first
                },
            ],
        }
    }
}

/// Panels that are read soon, of which each group of steps prefetches a share to the second-level cache.
struct Ahead {
    at: *const u8,
    share: usize,
}

impl Ahead {
    /// The share of tile number `at`.
    #[inline]
    fn new(unit: &Unit<'_>, at: usize, strips: usize, tiles: usize) -> Self {
        let strip_lines = WIDE * unit.words * NR * 4 / LINE;
        // The next strip while rows stay, or the next unit's panels while these panels stay.
        let (first, lines, turn, turns) = match unit.stays {
            Stays::Rows => (at / tiles + 1, strip_lines, at % tiles, tiles),
            Stays::Panels => (strips, strips * strip_lines, at, strips * tiles),
        };
        let share = lines.div_ceil(turns * GROUPS);
        let begin = first * strip_lines + turn * share * GROUPS;
        Self {
            at: unit.panels.as_ptr().cast::<u8>().wrapping_add(begin * LINE),
            share,
        }
    }

    #[inline]
    fn prefetch(&mut self) {
        for _ in 0..self.share {
            // SAFETY: a prefetch accepts any address and does not even read it.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.at.cast()) };
            self.at = self.at.wrapping_add(LINE);
        }
    }
}

impl At {
    /// Moves one step back, so that a step loads the first operands.
    #[inline]
    fn back(&mut self) {
        for left in &mut self.left {
            *left = left.wrapping_sub(SIDE);
        }
        for right in &mut self.right {
            *right = right.wrapping_sub(SIDE * NR);
        }
    }
}

/// Clears the sums.
///
/// # Safety
/// `shape` was called on this thread.
#[inline]
unsafe fn zero() {
    // SAFETY: neither the compiler nor any other code uses the tile registers.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            options(nostack, nomem, preserves_flags)
        );
    }
}

/// Loads the operands of a step.
///
/// # Safety
/// `shape` was called on this thread; the operands have a step.
#[inline]
unsafe fn load(at: &At) {
    // SAFETY: promised by the caller; see `zero`.
    unsafe {
        asm!(
            "tileloadd tmm4, [{upper} + {row}*1]",
            "tileloadd tmm5, [{lower} + {row}*1]",
            "tileloadd tmm6, [{one} + {line}*1]",
            "tileloadd tmm7, [{two} + {line}*1]",
            upper = in(reg) at.left[0],
            lower = in(reg) at.left[1],
            one = in(reg) at.right[0],
            two = in(reg) at.right[1],
            row = in(reg) at.row_bytes,
            line = in(reg) ROW_BYTES,
            options(nostack, readonly, preserves_flags),
        );
    }
}

/// Stores the four sums.
///
/// # Safety
/// `shape` was called on this thread; `sums` has room for a tile.
#[inline]
unsafe fn store(sums: *mut f32) {
    // SAFETY: promised by the caller; see `zero`.
    unsafe {
        asm!(
            "tilestored [{upper} + {row}*1], tmm0",
            "tilestored [{upper} + {row}*1 + 64], tmm1",
            "tilestored [{lower} + {row}*1], tmm2",
            "tilestored [{lower} + {row}*1 + 64], tmm3",
            upper = in(reg) sums,
            lower = in(reg) sums.add(SIDE * 2 * NR),
            row = in(reg) 2 * ROW_BYTES,
            options(nostack, preserves_flags),
        );
    }
}

/// Defines steps of a sum: each multiplies what was loaded before, and loads the operands of the next step with `$load` and `tileloadd`.
macro_rules! steps {
    ($name:ident, $multiply:literal, $load:literal) => {
        /// # Safety
        /// `shape` was called on this thread, the operands of the first step are loaded, and `count` further steps exist.
        #[inline]
        unsafe fn $name(at: &mut At, count: usize) {
            if count == 0 {
                return;
            }
            // SAFETY: promised by the caller; see `zero`.
            unsafe {
                asm!(
                    "2:",
                    "add {upper}, 64",
                    "add {lower}, 64",
                    "add {one}, 1024",
                    "add {two}, 1024",
                    concat!($multiply, " tmm0, tmm4, tmm6"),
                    concat!($multiply, " tmm1, tmm4, tmm7"),
                    concat!($load, " tmm4, [{upper} + {row}*1]"),
                    concat!($multiply, " tmm2, tmm5, tmm6"),
                    "tileloadd tmm6, [{one} + {line}*1]",
                    concat!($multiply, " tmm3, tmm5, tmm7"),
                    "tileloadd tmm7, [{two} + {line}*1]",
                    concat!($load, " tmm5, [{lower} + {row}*1]"),
                    "dec {count}",
                    "jnz 2b",
                    upper = inout(reg) at.left[0],
                    lower = inout(reg) at.left[1],
                    one = inout(reg) at.right[0],
                    two = inout(reg) at.right[1],
                    count = inout(reg) count => _,
                    row = in(reg) at.row_bytes,
                    line = in(reg) ROW_BYTES,
                    options(nostack, readonly),
                );
            }
        }
    };
}

steps!(bf16s, "tdpbf16ps", "tileloadd");
steps!(int8s, "tdpbusd", "tileloadd");
// Rows pass by the first-level cache, where panels stay.
steps!(passing_bf16s, "tdpbf16ps", "tileloaddt1");
