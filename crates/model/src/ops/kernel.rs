//! The innermost product: a few rows times one or two packed panels of 16 columns, in three number formats.
//!
//! Operands are 32-bit words: one float, two bfloat16 or four 8-bit integers, neighbours along k. Invariants: each element is the sum over the words
//! 0, 1, … in one order, whatever the number of rows and panels; sums of integers are exact, and so the same on every CPU.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod micro;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;
#[cfg(test)]
mod tests;
pub(super) mod tiles;
pub(super) mod unit;

use self::tiles::{Operands, Tiles, whole_panels};
use self::unit::{Backs, Heads, Order, Units};
use super::isa::Isa;
use crate::spec::Precision;

/// Columns of a panel.
pub(super) const NR: usize = 16;
/// Rows of a tile; a CPU takes [`Kernel::rows`] rows at once, in [`Kernel::stacked`] tiles.
pub(super) const MR: usize = 12;

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// A sum may be cut after every multiple of this number of words, and continued later with the same bits.
pub(super) const STEP: usize = 16;

/// Rows of results: floats, or the bits of 32-bit integers when the operands are integers.
pub(super) type Tile = [[f32; NR]; MR];

/// How an operand's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    /// One 32-bit float a word.
    F32,
    /// Two bfloat16 a word; products and sums are 32-bit floats.
    Bf16,
    /// Four 8-bit integers a word: unsigned on the left, signed on the right; sums are 32-bit integers.
    Int8,
}

impl Format {
    /// Format of the frozen weights of a block.
    pub(crate) fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
            Precision::Int8 => Self::Int8,
        }
    }

    /// Numbers per word.
    pub(super) fn group(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
        }
    }

    /// Words that hold `k` numbers.
    pub(super) fn words(self, k: usize) -> usize {
        k.div_ceil(self.group())
    }

    /// Format of products whose operands both change, beside weights in this format: 8 bits are too few for them.
    pub(crate) fn float(self) -> Self {
        match self {
            Self::F32 => Self::F32,
            Self::Bf16 | Self::Int8 => Self::Bf16,
        }
    }
}

/// The tile of a format on one set of instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kernel {
    format: Format,
    isa: Isa,
}

/// The left operand: word (row, i) lies at `row · row_stride + i · step`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    /// Address of word (0, 0).
    pub(super) at: *const u32,
    /// Words between rows.
    pub(super) row_stride: usize,
    /// Words between neighbouring words of a row.
    pub(super) step: usize,
}

impl Left {
    /// A left operand of floats as they lie in memory.
    pub(super) fn floats(at: *const f32, row_stride: usize, step: usize) -> Self {
        Self {
            at: at.cast(),
            row_stride,
            step,
        }
    }

    /// The rows from `row` on.
    ///
    /// # Safety
    /// The operand has such a row.
    pub(super) unsafe fn rows_from(self, row: usize) -> Self {
        Self {
            // SAFETY: promised by the caller.
            at: unsafe { self.at.add(row * self.row_stride) },
            ..self
        }
    }

    /// The words from `first` on.
    ///
    /// # Safety
    /// The operand has such a word, or `first` is its end.
    pub(super) unsafe fn skip(self, first: usize) -> Self {
        Self {
            // SAFETY: promised by the caller.
            at: unsafe { self.at.add(first * self.step) },
            ..self
        }
    }
}

impl Kernel {
    /// The best kernel that this CPU runs.
    pub(super) fn best(format: Format) -> Self {
        let isa = Isa::ALL.iter().find(|isa| isa.runs(format));
        Self {
            format,
            isa: isa.copied().unwrap_or(Isa::Portable),
        }
    }

    /// The kernel with these instructions, if this CPU has them.
    #[cfg(test)]
    pub(super) fn on(format: Format, isa: Isa) -> Option<Self> {
        isa.runs(format).then_some(Self { format, isa })
    }

    /// The tiles of the kernel's instruction set.
    fn set(self) -> &'static dyn Tiles {
        self.isa.tiles()
    }

    /// Name of the kernel's instructions.
    pub(super) fn name(self) -> &'static str {
        self.set().name()
    }

    /// Whether the kernel is faster than that of floats on the same CPU.
    pub(super) fn beats_floats(self) -> bool {
        self.set().beats_floats()
    }

    /// Rows of a whole tile.
    pub(super) fn rows(self) -> usize {
        self.set().rows(self.format)
    }

    /// Number of panels that a tile takes at once.
    pub(super) fn panels(self) -> usize {
        self.set().panels()
    }

    /// How a product with `words` words a row is divided and computed, and how many panels of as many words stay in the cache.
    pub(super) fn order(self, words: usize, is_in_place: bool) -> (Order, usize) {
        // Sums that the set does not compute whole are cut.
        let words = match self.units(words) {
            Some(_) => words,
            None => words.clamp(1, self.chunk()),
        };
        let order = self.set().order(self.format, words, is_in_place);
        let panels = whole_panels(order.part_words, words, order.tile.1);
        (order, panels)
    }

    /// What computes units of products with `words` words a row together with their epilogues, if the instruction set has it.
    pub(super) fn units(self, words: usize) -> Option<&'static dyn Units> {
        self.set().units(self.format, words)
    }

    /// What computes heads of attention of this width from operands in the kernel's format, if the instruction set has it.
    pub(super) fn heads(self, width: usize) -> Option<&'static dyn Heads> {
        self.set().heads(self.format, width)
    }

    /// What computes the backward pass of heads of attention of this width, if the instruction set has it and the kernel multiplies bfloat16.
    pub(super) fn backs(self, width: usize) -> Option<&'static dyn Backs> {
        let set = self.set();
        (self.format == Format::Bf16).then(|| set.backs(width))?
    }

    /// Words of a sum that are added up before those of the next tile.
    pub(super) fn chunk(self) -> usize {
        self.set().chunk_steps() * STEP
    }

    /// Number format of the operands.
    pub(super) fn format(self) -> Format {
        self.format
    }

    /// Words that hold `k` numbers, filled up with zeros where a sum of whole steps is faster.
    pub(super) fn padded_words(self, k: usize) -> usize {
        self.format
            .words(k)
            .next_multiple_of(self.set().word_multiple())
    }

    /// Number of tiles that hold the rows of one panel.
    pub(super) fn stacked(self) -> usize {
        self.rows().div_ceil(MR)
    }

    /// Computes `rows` rows of `self.stacked()` tiles for each panel, or adds to them when it continues after earlier words (a multiple of [`STEP`]);
    /// the other rows are left unchanged.
    ///
    /// # Safety
    /// `rows` is 1 to `self.rows()`, there are 1 to `self.panels()` panels, `left` has `rows` rows of `words` words, and each panel has `words` · 16.
    #[inline]
    pub(super) unsafe fn tiles(
        self,
        rows: usize,
        words: usize,
        left: Left,
        panels: &[*const u32],
        out: &mut [Tile],
        goes_on: bool,
    ) {
        debug_assert!(panels.len() <= self.panels());
        debug_assert!(panels.len() * self.stacked() <= out.len());
        debug_assert!((1..=self.rows()).contains(&rows));
        let operands = Operands {
            words,
            left,
            panels,
        };
        // SAFETY: passed on; `best` and `on` checked the CPU.
        unsafe {
            self.set().tiles(self.format, rows, &operands, out, goes_on);
        }
    }

    /// Runs multiply-adds on registers alone; returns how many numbers were multiplied. For integers the figure means nothing, since the loop's
    /// invariant products are not repeated.
    pub(super) fn multiply_adds(self, steps: usize) -> u64 {
        // SAFETY: `best` and `on` checked the CPU.
        let per_step = unsafe { self.set().registers(self.format, steps) };
        per_step * steps as u64 * self.format.group() as u64
    }
}

/// Prefetches the cache lines of `count` values that are written soon: the hardware looks ahead within a page only, and rows of a matrix lie pages
/// apart.
#[inline(always)]
pub(super) fn will_write<T>(at: *const T, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in lines(at, count) {
        // SAFETY: the instruction changes no value and accepts any address; a CPU without it treats it as a no-op.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, readonly, preserves_flags));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, count);
}

/// Prefetches the cache lines of values that are read soon.
#[inline(always)]
pub(super) fn will_read<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in lines(values.as_ptr(), values.len()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch accepts any address and does not even read it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// The cache lines of `count` values.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn lines<T>(at: *const T, count: usize) -> impl Iterator<Item = *const i8> {
    let (begin, bytes) = (at.addr() % LINE, count * size_of::<T>());
    (0..(begin + bytes).div_ceil(LINE)).map(move |line| {
        at.cast::<i8>()
            .wrapping_sub(begin)
            .wrapping_add(line * LINE)
    })
}

/// Copies the first `width` values of a row of results; nearly always that is all 16, which need no call.
#[inline(always)]
pub(super) fn copy<T: Copy>(to: &mut [T], from: &[T], width: usize) {
    match (to.first_chunk_mut::<NR>(), from.first_chunk::<NR>()) {
        (Some(to), Some(from)) if width == NR => *to = *from,
        _ => to[..width].copy_from_slice(&from[..width]),
    }
}

/// Adds `width` values to a row of results.
#[inline(always)]
pub(super) fn add(to: &mut [f32; NR], from: &[f32], width: usize) {
    match from.first_chunk::<NR>() {
        // By value, so that the compiler sees that no sum changes what is added.
        Some(&from) if width == NR => *to = std::array::from_fn(|i| to[i] + from[i]),
        _ => {
            for (to, from) in to.iter_mut().zip(&from[..width]) {
                *to += from;
            }
        }
    }
}
