//! Tiles with AMX: a matrix unit that adds 16 words of a sum at once to 16 rows of 16 columns.
//!
//! Invariant: a row's sums do not depend on how many rows are computed with it. The rest of a sum after whole steps of 16 words is added by AVX-512.
#![allow(unsafe_code)]

#[cfg(all(test, target_os = "linux"))]
pub(in crate::ops) mod emulator;
mod head;
mod unit;

use std::arch::asm;
use std::cell::Cell;
use std::sync::OnceLock;

use self::head::OnTiles;
use self::unit::{Bf16s, Int8s};
use super::avx512::head::STRIP;
use super::tiles::{Operands, Tiles};
use super::unit::{Backs, Heads, Order, Stays, Units};
use super::{Format, MR, NR, STEP, Tile, avx512};
use crate::ops::isa;

/// Rows of a whole tile: two of the unit's registers.
const ROWS: usize = 32;
/// Tiles of [`MR`] rows that hold a whole tile's rows.
const TILES: usize = ROWS.div_ceil(MR);
/// Rows, and words of a row, of one of the unit's registers.
const SIDE: usize = 16;
/// Bytes of a register's row.
const ROW_BYTES: usize = 4 * SIDE;

/// AMX's matrix unit, for bfloat16 and 8-bit integers, with AVX-512 for the remainder of a sum.
pub(in crate::ops) struct Amx;

impl Tiles for Amx {
    fn name(&self) -> &'static str {
        "amx"
    }

    fn has(&self, format: Format) -> bool {
        // Epilogues round to bfloat16 in every format.
        [format, Format::Bf16]
            .iter()
            .all(|&of| avx512::Avx512.has(of))
            && isa::is_widest()
            && runs(format)
    }

    fn rows(&self, _format: Format) -> usize {
        ROWS
    }

    fn panels(&self) -> usize {
        2
    }

    fn beats_floats(&self) -> bool {
        true
    }

    fn word_multiple(&self) -> usize {
        STEP
    }

    fn order(&self, format: Format, words: usize, is_in_place: bool) -> Order {
        let mut orders = ORDERS.iter().filter(|_| is_in_place);
        let found = orders.find(|(of, most, _)| *of == format && words <= *most);
        found.map_or(ENCODED, |(.., order)| *order)
    }

    fn units(&self, format: Format, words: usize) -> Option<&dyn Units> {
        let units: &dyn Units = match format {
            Format::Int8 => &Int8s,
            Format::F32 | Format::Bf16 => &Bf16s,
        };
        (words > 0 && words.is_multiple_of(SIDE)).then_some(units)
    }

    fn heads(&self, format: Format, width: usize) -> Option<&dyn Heads> {
        let heads: &dyn Heads = &OnTiles;
        (format == Format::Bf16 && width > 0 && width.is_multiple_of(STRIP)).then_some(heads)
    }

    fn backs(&self, width: usize) -> Option<&dyn Backs> {
        let backs: &dyn Backs = &OnTiles;
        (width > 0 && width.is_multiple_of(STRIP)).then_some(backs)
    }

    fn chunk_steps(&self) -> usize {
        128
    }

    unsafe fn tiles(
        &self,
        format: Format,
        rows: usize,
        operands: &Operands<'_>,
        out: &mut [Tile],
        goes_on: bool,
    ) {
        let Operands {
            words,
            left,
            panels,
        } = *operands;
        debug_assert!(left.step == 1);
        let steps = words / SIDE;
        let out = out.as_mut_ptr().cast::<f32>();
        let apart = TILES * MR * NR;
        let first = panels[0];
        // SAFETY: passed on; missing rows and panels are replaced by existing ones, and their sums go to `spare`.
        unsafe {
            if steps > 0 {
                let mut spare = [[0.0_f32; NR]; SIDE];
                let spare = spare.as_mut_ptr().cast::<f32>();
                let (is_tall, second) = (rows > SIDE, panels.get(1));
                let place = |is_there: bool, at: usize| {
                    if is_there { out.add(at) } else { spare }
                };
                let lower = if is_tall { left.rows_from(SIDE) } else { left };
                let walk = Walk {
                    left: [left.at, lower.at],
                    row_bytes: 4 * left.row_stride,
                    panels: [first, *second.unwrap_or(&first)],
                    sums: [
                        out,
                        place(second.is_some(), apart),
                        place(is_tall, SIDE * NR),
                        place(is_tall && second.is_some(), apart + SIDE * NR),
                    ],
                    sum_bytes: ROW_BYTES,
                    steps,
                };
                shape(rows);
                match (format, goes_on) {
                    (Format::Int8, false) => int8s(&walk),
                    (Format::Int8, true) => more_int8s(&walk),
                    (_, false) => bf16s(&walk),
                    (_, true) => more_bf16s(&walk),
                }
            }
            let done = steps * SIDE;
            if done == words && words > 0 {
                return;
            }
            for row in (0..rows).step_by(avx512::ROWS) {
                let taken = avx512::ROWS.min(rows - row);
                let left = left.rows_from(row).skip(done);
                for (p, panel) in panels.iter().enumerate() {
                    let out = out.add(p * apart + row * NR);
                    let goes_on = goes_on || steps > 0;
                    avx512::one(
                        format,
                        taken,
                        words - done,
                        left,
                        panel.add(done * NR),
                        out,
                        goes_on,
                    );
                }
            }
        }
    }

    unsafe fn registers(&self, format: Format, steps: usize) -> u64 {
        macro_rules! repeat {
            ($multiply:literal) => {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                    "2:",
                    concat!($multiply, " tmm0, tmm4, tmm6"),
                    concat!($multiply, " tmm1, tmm4, tmm7"),
                    concat!($multiply, " tmm2, tmm5, tmm6"),
                    concat!($multiply, " tmm3, tmm5, tmm7"),
                    "dec {steps}",
                    "jnz 2b",
                    steps = inout(reg) steps.max(1) => _,
                    options(nostack, nomem),
                )
            };
        }
        // SAFETY: promised by the caller; see `walk`.
        unsafe {
            shape(ROWS);
            match format {
                Format::Int8 => repeat!("tdpbusd"),
                Format::F32 | Format::Bf16 => repeat!("tdpbf16ps"),
            }
        }
        4 * (SIDE * SIDE * SIDE) as u64
    }
}

/// An order in which rows stay in the second-level cache while strips of panels pass.
const ROWS_STAY: Order = Order {
    stays: Stays::Rows,
    tile: (ROWS, 2),
    rows: 13 * ROWS,
    part_words: usize::MAX,
    panels: usize::MAX,
    blocks: 2,
};

/// An order in which panels of so many words stay while rows pass.
const fn panels_stay(part_words: usize) -> Order {
    Order {
        stays: Stays::Panels,
        rows: 25 * ROWS,
        part_words,
        ..ROWS_STAY
    }
}

/// Orders of products whose rows are read in place: format, most words of a row, and the order. Those of bfloat16 were measured on cores with 2 MiB of
/// second-level cache: 640 KB of rows stay, or, where those would be few rows, 1.1 MB of panels. Those of integers are a prototype's, on the same cores:
/// a tile's rows stay in the first-level cache while four or five strips pass, which stay in the second; they are not timed here.
const ORDERS: [(Format, usize, Order); 4] = [
    (Format::Bf16, 1024, ROWS_STAY),
    (Format::Bf16, usize::MAX, panels_stay(9 << 15)),
    (Format::Int8, 256, panels_stay(1 << 15)),
    (Format::Int8, usize::MAX, panels_stay(1 << 17)),
];

/// Order of products whose rows are encoded: once, so that a unit has all panels.
const ENCODED: Order = Order {
    stays: Stays::Rows,
    tile: (ROWS, 2),
    rows: 8 * ROWS,
    part_words: usize::MAX,
    panels: usize::MAX,
    blocks: 4,
};

/// Whether the CPU has the unit with this format, and the operating system lets this process use it.
fn runs(format: Format) -> bool {
    static HAS: OnceLock<(bool, bool)> = OnceLock::new();
    let (bf16, int8) = *HAS.get_or_init(|| {
        let leaf = std::arch::x86_64::__cpuid_count(7, 0).edx;
        let has = |bit: u32| leaf >> bit & 1 == 1;
        // AMX-BF16, AMX-TILE and AMX-INT8, as numbered in CPUID's leaf 7.
        let permitted = has(24) && is_permitted();
        #[cfg(all(test, target_os = "linux"))]
        if !permitted && emulator::is_installed() {
            return (true, true);
        }
        (permitted && has(22), permitted && has(25))
    });
    match format {
        Format::F32 => false,
        Format::Bf16 => bf16,
        Format::Int8 => int8,
    }
}

/// Asks Linux for the unit's registers, which a process may use only after that.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    /// The number of ARCH_REQ_XCOMP_PERM.
    const REQUEST: libc::c_long = 0x1023;
    /// The state component of the tiles' data.
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and changes only what later instructions may do.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The configuration that `ldtilecfg` reads.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Gives the registers their shapes for `rows` rows: 0 to 3 hold sums (two panels of the upper rows, then of the lower), 4 and 5 the left operand's
/// upper and lower rows, 6 and 7 two panels.
///
/// # Safety
/// The CPU has AMX and the process may use it.
unsafe fn shape(rows: usize) {
    thread_local! {
        static SHAPED: Cell<usize> = const { Cell::new(0) };
    }
    if SHAPED.replace(rows) == rows {
        return;
    }
    let upper = rows.min(SIDE) as u8;
    let lower = rows.saturating_sub(SIDE).max(1) as u8;
    let mut shapes = Shapes {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [0; 16],
        rows: [0; 16],
    };
    shapes.row_bytes[..8].fill(ROW_BYTES as u16);
    shapes.rows[..8].copy_from_slice(&[upper, upper, lower, lower, upper, lower, 16, 16]);
    // SAFETY: the instruction reads these 64 bytes. Only this module uses the tile registers.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly)) };
}

/// Addresses of a tile's operands.
struct Walk {
    /// Upper and lower rows of the left operand.
    left: [*const u32; 2],
    /// Bytes between rows of the left operand.
    row_bytes: usize,
    /// The two panels.
    panels: [*const u32; 2],
    /// Sums of the upper rows with each panel, then of the lower rows.
    sums: [*mut f32; 4],
    /// Bytes between rows of the sums.
    sum_bytes: usize,
    /// Number of steps of 16 words; at least one.
    steps: usize,
}

/// Defines a walk over whole steps; `$first` are the instructions that give the four registers of sums their first values.
macro_rules! walk {
    ($name:ident, $multiply:literal, $($first:literal),+) => {
        /// # Safety
        /// `shape` was called for these rows on this thread, and the CPU multiplies this format. The rows of the left operand and the panels have
        /// 16 · `steps` words, and all sums 16 values for each row of their register.
        unsafe fn $name(walk: &Walk) {
            // SAFETY: promised by the caller. Neither the compiler nor any other code uses the tile registers.
            unsafe {
                asm!(
                    $($first,)+
                    "2:",
                    "tileloadd tmm6, [{one} + {line}*1]",
                    "tileloadd tmm4, [{upper} + {row}*1]",
                    concat!($multiply, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm7, [{two} + {line}*1]",
                    concat!($multiply, " tmm1, tmm4, tmm7"),
                    "tileloadd tmm5, [{lower} + {row}*1]",
                    concat!($multiply, " tmm2, tmm5, tmm6"),
                    concat!($multiply, " tmm3, tmm5, tmm7"),
                    "add {upper}, 64",
                    "add {lower}, 64",
                    "add {one}, 1024",
                    "add {two}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{a} + {sum}*1], tmm0",
                    "tilestored [{b} + {sum}*1], tmm1",
                    "tilestored [{c} + {sum}*1], tmm2",
                    "tilestored [{d} + {sum}*1], tmm3",
                    upper = inout(reg) walk.left[0] => _,
                    lower = inout(reg) walk.left[1] => _,
                    one = inout(reg) walk.panels[0] => _,
                    two = inout(reg) walk.panels[1] => _,
                    steps = inout(reg) walk.steps => _,
                    row = in(reg) walk.row_bytes,
                    line = in(reg) ROW_BYTES,
                    sum = in(reg) walk.sum_bytes,
                    a = in(reg) walk.sums[0],
                    b = in(reg) walk.sums[1],
                    c = in(reg) walk.sums[2],
                    d = in(reg) walk.sums[3],
                    options(nostack),
                );
            }
        }
    };
}

walk!(
    bf16s,
    "tdpbf16ps",
    "tilezero tmm0",
    "tilezero tmm1",
    "tilezero tmm2",
    "tilezero tmm3"
);
walk!(
    int8s,
    "tdpbusd",
    "tilezero tmm0",
    "tilezero tmm1",
    "tilezero tmm2",
    "tilezero tmm3"
);
walk!(
    more_bf16s,
    "tdpbf16ps",
    "tileloadd tmm0, [{a} + {sum}*1]",
    "tileloadd tmm1, [{b} + {sum}*1]",
    "tileloadd tmm2, [{c} + {sum}*1]",
    "tileloadd tmm3, [{d} + {sum}*1]"
);
walk!(
    more_int8s,
    "tdpbusd",
    "tileloadd tmm0, [{a} + {sum}*1]",
    "tileloadd tmm1, [{b} + {sum}*1]",
    "tileloadd tmm2, [{c} + {sum}*1]",
    "tileloadd tmm3, [{d} + {sum}*1]"
);
