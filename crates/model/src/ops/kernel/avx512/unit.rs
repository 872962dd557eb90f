//! Units of a product on AVX-512: each tile's epilogue takes its sums from the first-level cache, in one pass.
//!
//! Invariant: each sum is added up in the order of its words, and ended by itself, whatever the tile.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::epilogue::{Epilogue, Kind, Sums};
use super::head::transposed;
use super::{Avx512, ROWS, f32s};
use crate::ops::kernel::tiles::{Operands, Tiles};
use crate::ops::kernel::unit::{Unit, Units};
use crate::ops::kernel::{Format, MR, NR, Tile};

/// Panels of a strip whose rows are read in place.
const WIDE: usize = 2;
/// Rows of a tile whose rows are packed, and panels of a strip of it.
pub(super) const PACKED: (usize, usize) = (8, 3);
/// Values of a packed tile's sums.
const SUMS: usize = PACKED.0 * PACKED.1 * NR;
/// Words of a sum that are added up before those of the next tile; a packed tile's share is half of the first-level cache.
const CHUNK: usize = 768;

/// Units of products of floats, whose rows are packed first.
pub(super) struct F32s;

impl Kind for F32s {
    const EXACT: bool = true;
    const ROUNDS: bool = false;
}

impl Units for F32s {
    unsafe fn unit(&self, unit: &Unit<'_>, spare: &mut Vec<u32>) {
        // SAFETY: passed on.
        unsafe {
            if unit.rows < PACKED.0 {
                in_place::<Self>(unit, Format::F32);
            } else {
                packed(unit, spare);
            }
        }
    }
}

/// Units of products of bfloat16, on a CPU that has AVX-512 with it.
pub(super) struct Bf16s;

impl Kind for Bf16s {}

impl Units for Bf16s {
    unsafe fn unit(&self, unit: &Unit<'_>, _spare: &mut Vec<u32>) {
        // SAFETY: passed on.
        unsafe { in_place::<Self>(unit, Format::Bf16) }
    }
}

/// Units of products of 8-bit integers, on a CPU that has AVX-512 with VNNI.
pub(super) struct Int8s;

impl Kind for Int8s {
    const INTEGERS: bool = true;
    // VNNI is older than the instruction.
    const ROUNDS: bool = false;
}

impl Units for Int8s {
    unsafe fn unit(&self, unit: &Unit<'_>, _spare: &mut Vec<u32>) {
        // SAFETY: passed on.
        unsafe { in_place::<Self>(unit, Format::Int8) }
    }
}

/// Sums of a tile.
#[repr(C, align(64))]
struct Scratch([Tile; WIDE]);

/// Computes a unit whose rows are read where they are.
///
/// # Safety
/// Same as for `Units::unit`, on a CPU that multiplies the format.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn in_place<K: Kind>(unit: &Unit<'_>, format: Format) {
    debug_assert!(unit.panels.len() == unit.places.len() * unit.words * NR);
    let (strips, tiles) = (unit.places.len().div_ceil(WIDE), unit.rows.div_ceil(ROWS));
    let mut scratch = Scratch([[[0.0; NR]; MR]; WIDE]);
    // Written by the tiles and read by the epilogue, in turns.
    let sums = &raw mut scratch.0;
    for at in 0..strips * tiles {
        let (strip, tile) = unit.stays.nth(at, strips, tiles);
        let epilogue = Epilogue {
            whole: unit,
            sums: Sums {
                at: sums.cast::<f32>().cast_const(),
                row: NR,
                panel: MR * NR,
            },
            rows: (tile * ROWS, ROWS.min(unit.rows - tile * ROWS)),
            panels: (strip * WIDE, WIDE.min(unit.places.len() - strip * WIDE)),
        };
        epilogue.expect(0..ROWS);
        // SAFETY: promised by the caller; the unit has these rows and panels.
        unsafe {
            let first = unit.panels.as_ptr().add(strip * WIDE * unit.words * NR);
            let panels = [first, first.wrapping_add(unit.words * NR)];
            let operands = Operands {
                words: unit.words,
                left: unit.left.rows_from(tile * ROWS),
                panels: &panels[..epilogue.panels.1],
            };
            Avx512.tiles(format, epilogue.rows.1, &operands, &mut *sums, false);
            epilogue.rows::<K, WIDE>(0, ROWS);
        }
    }
}

/// Computes a unit of floats whose rows are packed first, `[tile][word][8]`, so that a tile's words are one stream. While strips of panels pass by, the rows
/// stay in the second-level cache, and the sums too if they are cut.
///
/// # Safety
/// Same as for `Units::unit`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn packed(unit: &Unit<'_>, spare: &mut Vec<u32>) {
    let ((tall, wide), words) = (PACKED, unit.words);
    let (strips, tiles) = (unit.places.len().div_ceil(wide), unit.rows.div_ceil(tall));
    let chunk = if words > CHUNK + CHUNK / 3 {
        CHUNK
    } else {
        words
    };
    let kept = if words > chunk { strips * tiles } else { 1 };
    spare.resize(kept * SUMS + tiles * tall * chunk, 0);
    let (sums, rows) = spare.split_at_mut(kept * SUMS);
    for begin in (0..words).step_by(chunk) {
        let (count, is_last) = (chunk.min(words - begin), begin + chunk >= words);
        // SAFETY: promised by the caller; the unit has these rows, words and panels.
        unsafe {
            pack(unit, (begin, count), rows);
            for (strip, tile) in (0..strips * tiles).map(|at| (at / tiles, at % tiles)) {
                let own = if kept > 1 { strip * tiles + tile } else { 0 };
                let own = sums[own * SUMS..][..SUMS].as_mut_ptr().cast::<f32>();
                let epilogue = Epilogue {
                    whole: unit,
                    sums: Sums {
                        at: own,
                        row: NR,
                        panel: tall * NR,
                    },
                    rows: (tile * tall, tall.min(unit.rows - tile * tall)),
                    panels: (strip * wide, wide.min(unit.places.len() - strip * wide)),
                };
                if is_last {
                    epilogue.expect(0..tall);
                }
                let left = rows.as_ptr().add(tile * tall * count);
                let panel = unit.panels.as_ptr();
                let panel = panel.add((strip * wide * words + begin) * NR);
                let (apart, goes_on) = ((words * NR, tall * NR), begin > 0);
                match epilogue.panels.1 {
                    1 => f32s::packed::<8, 1>(count, left, panel, own, apart, goes_on),
                    2 => f32s::packed::<8, 2>(count, left, panel, own, apart, goes_on),
                    _ => f32s::packed::<8, 3>(count, left, panel, own, apart, goes_on),
                }
                if is_last {
                    epilogue.rows::<F32s, { PACKED.1 }>(0, tall);
                }
            }
        }
    }
}

/// Packs `count` words from `begin` on of all rows, `[tile][word][8]`; rows that the last tile lacks become zeros.
///
/// # Safety
/// The unit's left operand has its rows and words, which are neighbours.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pack(unit: &Unit<'_>, (begin, count): (usize, usize), to: &mut [u32]) {
    let tall = PACKED.0;
    let tiles = to.chunks_exact_mut(tall * count);
    for (tile, to) in tiles.take(unit.rows.div_ceil(tall)).enumerate() {
        let taken = tall.min(unit.rows - tile * tall);
        for first in (0..count).step_by(NR) {
            let width = NR.min(count - first);
            let mask = ((1_u32 << width) - 1) as __mmask16;
            let mut block = [_mm512_setzero_si512(); NR];
            for (i, line) in block.iter_mut().enumerate().take(taken) {
                // SAFETY: the row has the words of the mask.
                *line = unsafe {
                    let row = unit.left.rows_from(tile * tall + i).at;
                    _mm512_maskz_loadu_epi32(mask, row.add(begin + first).cast())
                };
            }
            let lines = to[first * tall..][..width * tall].chunks_exact_mut(tall);
            for (to, line) in lines.zip(transposed(block)) {
                // SAFETY: there is room for 8 words.
                unsafe {
                    _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_castsi512_si256(line))
                };
            }
        }
    }
}

#[cfg(test)]
mod tests;
