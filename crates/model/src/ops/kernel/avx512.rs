//! Tiles with AVX-512: the same loop as AVX2's, one vector a panel, two panels at once, or three of floats beside packed rows.
#![allow(unsafe_code)]

pub(super) mod epilogue;
pub(super) mod head;
mod products;
pub(super) mod slope;
mod unit;

use std::sync::OnceLock;

use super::micro::{by_rows, micro, packed, registers, strips};
use super::tiles::{Operands, Tiles};
use super::unit::{Backs, Heads, Order, Stays, Units};
use super::{Format, Left, MR, NR, Tile};
use crate::ops::isa;

/// Rows of a whole tile.
pub(super) const ROWS: usize = 12;

/// Words of packed panels that stay in the second-level cache: 384 KiB, for cores with 1 or 2 MiB.
const PART_WORDS: usize = 3 << 15;

/// An order in which rows stay in the second-level cache, at most so many and as wide as so many panels at a time, which every thread gets a few of.
const fn rows_stay(tile: (usize, usize), rows: usize) -> Order {
    Order {
        stays: Stays::Rows,
        tile,
        rows,
        part_words: usize::MAX,
        panels: 24,
        blocks: 2,
    }
}

/// Orders of products: format, whether the CPU is AMD's, most words of a row, and the order. Floats on Intel's were measured on Emerald Rapids. On Zen 5
/// tiles of rows in place are 3 to 5 % faster than packed ones, and units of floats are not faster than single tiles.
const ORDERS: [(Format, bool, usize, Order); 3] = [
    (Format::F32, false, usize::MAX, rows_stay(unit::PACKED, 96)),
    (Format::Bf16, true, 1024, rows_stay((ROWS, 2), 192)),
    (Format::Bf16, true, usize::MAX, rows_stay((ROWS, 2), 96)),
];

/// AVX-512, with its bfloat16 or VNNI instructions for those formats.
pub(in crate::ops) struct Avx512;

impl Tiles for Avx512 {
    fn name(&self) -> &'static str {
        "avx512"
    }

    fn has(&self, format: Format) -> bool {
        std::is_x86_feature_detected!("avx512f")
            && isa::is_wide()
            && match format {
                Format::F32 => true,
                Format::Bf16 => std::is_x86_feature_detected!("avx512bf16"),
                Format::Int8 => std::is_x86_feature_detected!("avx512vnni"),
            }
    }

    fn rows(&self, _format: Format) -> usize {
        ROWS
    }

    fn panels(&self) -> usize {
        2
    }

    fn beats_floats(&self) -> bool {
        is_amd()
    }

    fn part_words(&self) -> usize {
        PART_WORDS
    }

    fn order(&self, format: Format, words: usize, is_in_place: bool) -> Order {
        let found = ORDERS.iter().find(|(of, amd, most, _)| {
            // Rows of floats are packed wherever they come from.
            let applies = is_in_place || format == Format::F32;
            applies && *of == format && *amd == is_amd() && words <= *most
        });
        match found {
            Some((.., order)) if isa::is_widest() => *order,
            _ => self.default_order(format, words, is_in_place),
        }
    }

    fn units(&self, format: Format, words: usize) -> Option<&dyn Units> {
        let units: &dyn Units = match format {
            Format::F32 if is_amd() => return None,
            Format::F32 => &unit::F32s,
            Format::Bf16 => &unit::Bf16s,
            Format::Int8 => &unit::Int8s,
        };
        (words > 0 && isa::is_widest()).then_some(units)
    }

    fn heads(&self, format: Format, width: usize) -> Option<&dyn Heads> {
        let heads: &dyn Heads = match format {
            Format::F32 => &products::F32s,
            Format::Bf16 => &products::Bf16s,
            Format::Int8 => return None,
        };
        (width > 0 && width.is_multiple_of(head::STRIP) && isa::is_widest()).then_some(heads)
    }

    fn backs(&self, width: usize) -> Option<&dyn Backs> {
        let backs: &dyn Backs = &products::Bf16s;
        let is_whole = width > 0 && width.is_multiple_of(head::STRIP);
        (is_whole && is_amd() && isa::is_widest()).then_some(backs)
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
        let (first, out) = (panels[0], out.as_mut_ptr().cast::<f32>());
        // SAFETY: passed on; panels of one operand have the same length, and the second's distance is theirs.
        unsafe {
            if let [_, second] = panels {
                let apart = (second.offset_from(first) as usize, MR * NR);
                match format {
                    // Rows that were packed for a whole tile.
                    Format::F32 if (rows, left.row_stride, left.step) == (ROWS, 1, ROWS) => {
                        f32s::packed::<ROWS, 2>(words, left.at, first, out, apart, goes_on);
                    }
                    Format::F32 => {
                        by_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12], 2, f32s, (words, left, first, out, apart, goes_on));
                    }
                    Format::Bf16 => {
                        by_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12], 2, bf16s, (words, left, first, out, apart, goes_on));
                    }
                    Format::Int8 => {
                        by_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12], 2, int8s, (words, left, first, out, apart, goes_on));
                    }
                }
                return;
            }
            one(format, rows, words, left, first, out, goes_on);
        }
    }

    registers!(16);
}

/// Whether the CPU is AMD's, which multiplies bfloat16 twice as fast as floats; Intel's (Sapphire Rapids) does so more slowly.
fn is_amd() -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(|| {
        // A CPU with the matrix unit is Intel's, an emulated one too.
        #[cfg(all(test, target_os = "linux"))]
        if super::amx::emulator::is_installed() {
            return false;
        }
        let vendor = std::arch::x86_64::__cpuid(0);
        let name = [vendor.ebx, vendor.edx, vendor.ecx];
        name == [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes)
    })
}

/// Same as `Kernel::tiles`, for one panel.
///
/// # Safety
/// Same as `Kernel::tiles`; `out` has 16 values for each row.
pub(super) unsafe fn one(
    format: Format,
    rows: usize,
    words: usize,
    left: Left,
    first: *const u32,
    out: *mut f32,
    goes_on: bool,
) {
    let apart = (0, 0);
    // SAFETY: passed on.
    unsafe {
        match format {
            Format::F32 => {
                by_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12], 1, f32s, (words, left, first, out, apart, goes_on));
            }
            Format::Bf16 => {
                by_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12], 1, bf16s, (words, left, first, out, apart, goes_on));
            }
            Format::Int8 => {
                by_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12], 1, int8s, (words, left, first, out, apart, goes_on));
            }
        }
    }
}

/// Sums of floats, as both float formats keep them.
mod floats {
    use std::arch::x86_64::{__m512, _mm512_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps};

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn zero() -> __m512 {
        _mm512_setzero_ps()
    }

    /// # Safety
    /// `at` points to 16 values.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn load(at: *const f32) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { _mm512_loadu_ps(at) }
    }

    /// # Safety
    /// `at` has room for 16 values.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn store(at: *mut f32, sum: __m512) {
        // SAFETY: promised by the caller.
        unsafe { _mm512_storeu_ps(at, sum) }
    }
}

mod f32s {
    use std::arch::x86_64::{__m512, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps};

    use super::floats::{load, store, zero};
    use super::{micro, packed, strips};

    type Right = __m512;
    type Sum = __m512;

    /// # Safety
    /// `at` points to 16 words.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn right(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        unsafe { _mm512_loadu_ps(at.cast()) }
    }

    /// # Safety
    /// `at` points to a word.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn value(at: *const u32) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { _mm512_set1_ps(at.cast::<f32>().read_unaligned()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(sum: __m512, value: &__m512, right: &Right) -> __m512 {
        _mm512_fmadd_ps(*value, *right, sum)
    }

    micro!("avx512f");
    packed!("avx512f");
    strips!("avx512f");
}

mod bf16s {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32,
    };

    use super::floats::{load, store, zero};
    use super::{micro, strips};

    type Right = __m512bh;
    type Sum = __m512;

    /// # Safety
    /// `at` points to 16 words.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn right(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())) }
    }

    /// # Safety
    /// `at` points to a word.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn value(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        unsafe {
            let word = at.cast::<i32>().read_unaligned();
            std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(word))
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn add(sum: __m512, value: &Right, right: &Right) -> __m512 {
        _mm512_dpbf16_ps(sum, *value, *right)
    }

    micro!("avx512f,avx512bf16");
    strips!("avx512f,avx512bf16");
}

mod int8s {
    use std::arch::x86_64::{
        __m512i, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_dpbusd_epi32, _mm512_loadu_ps,
        _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_ps,
    };

    use super::micro;

    type Right = __m512i;
    type Sum = __m512i;

    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn zero() -> __m512i {
        _mm512_setzero_si512()
    }

    /// # Safety
    /// `at` points to 16 words.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn right(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    /// # Safety
    /// `at` points to a word.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn value(at: *const u32) -> Right {
        // SAFETY: promised by the caller.
        unsafe { _mm512_set1_epi32(*at.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn add(sum: __m512i, value: &Right, right: &Right) -> __m512i {
        _mm512_dpbusd_epi32(sum, *value, *right)
    }

    /// # Safety
    /// `at` points to 16 values.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn load(at: *const f32) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_castps_si512(_mm512_loadu_ps(at)) }
    }

    /// # Safety
    /// `at` has room for 16 values.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn store(at: *mut f32, sum: __m512i) {
        // SAFETY: promised by the caller.
        unsafe { _mm512_storeu_ps(at, _mm512_castsi512_ps(sum)) }
    }

    micro!("avx512f,avx512vnni");
}
