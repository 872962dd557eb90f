//! Tiles in plain loops: for any CPU, and the twin of the others in tests.
#![allow(unsafe_code)]

use super::tiles::{Operands, Tiles};
use super::{Format, Left, NR, Tile};

/// Plain loops, as the compiler translates them.
pub(in crate::ops) struct Portable;

impl Tiles for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn has(&self, _format: Format) -> bool {
        true
    }

    fn rows(&self, _format: Format) -> usize {
        6
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
        for (&panel, out) in panels.iter().zip(out) {
            // SAFETY: passed on.
            unsafe {
                match format {
                    Format::F32 => {
                        sums(rows, words, left, panel, out, goes_on, |a, b, sum: f32| {
                            sum + f32::from_bits(a) * f32::from_bits(b)
                        })
                    }
                    Format::Bf16 => {
                        sums(rows, words, left, panel, out, goes_on, |a, b, sum: f32| {
                            let (low, high) = (halves(a), halves(b));
                            sum + low.0 * high.0 + low.1 * high.1
                        })
                    }
                    Format::Int8 => {
                        sums(rows, words, left, panel, out, goes_on, |a, b, sum: i32| {
                            let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
                            let products = a
                                .iter()
                                .zip(b)
                                .map(|(&a, b)| i32::from(a) * i32::from(b as i8));
                            sum + products.sum::<i32>()
                        })
                    }
                }
            }
        }
    }

    unsafe fn registers(&self, _format: Format, _steps: usize) -> u64 {
        0
    }
}

/// The two bfloat16 of a word.
fn halves(word: u32) -> (f32, f32) {
    (
        f32::from_bits(word << 16),
        f32::from_bits(word & 0xFFFF_0000),
    )
}

/// A sum stored as the bits of a float.
trait Bits: Copy + Default {
    fn bits(self) -> f32;
    fn of(bits: f32) -> Self;
}

impl Bits for f32 {
    fn bits(self) -> f32 {
        self
    }

    fn of(bits: f32) -> Self {
        bits
    }
}

impl Bits for i32 {
    fn bits(self) -> f32 {
        f32::from_bits(self as u32)
    }

    fn of(bits: f32) -> Self {
        bits.to_bits() as i32
    }
}

/// # Safety
/// Same as `Kernel::tiles`.
#[inline(always)]
unsafe fn sums<S: Bits>(
    rows: usize,
    words: usize,
    left: Left,
    panel: *const u32,
    out: &mut Tile,
    goes_on: bool,
    add: impl Fn(u32, u32, S) -> S,
) {
    // SAFETY: passed on; the constant is the number of rows, so that a compiler can keep the sums in registers.
    unsafe {
        match rows {
            1 => fixed::<1, S>(words, left, panel, out, goes_on, add),
            2 => fixed::<2, S>(words, left, panel, out, goes_on, add),
            3 => fixed::<3, S>(words, left, panel, out, goes_on, add),
            4 => fixed::<4, S>(words, left, panel, out, goes_on, add),
            5 => fixed::<5, S>(words, left, panel, out, goes_on, add),
            _ => fixed::<6, S>(words, left, panel, out, goes_on, add),
        }
    }
}

/// # Safety
/// Same as `Kernel::tiles`, with ROWS rows.
unsafe fn fixed<const ROWS: usize, S: Bits>(
    words: usize,
    left: Left,
    panel: *const u32,
    out: &mut Tile,
    goes_on: bool,
    add: impl Fn(u32, u32, S) -> S,
) {
    let mut sums = [[S::default(); NR]; ROWS];
    if goes_on {
        for (sums, out) in sums.iter_mut().zip(out.iter()) {
            *sums = out.map(S::of);
        }
    }
    for i in 0..words {
        // SAFETY: the panel has 16 words for each step.
        let right = unsafe { &*panel.add(i * NR).cast::<[u32; NR]>() };
        for (row, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the left operand has these rows and words.
            let value = unsafe { *left.at.add(row * left.row_stride + i * left.step) };
            for (sum, &right) in sum.iter_mut().zip(right) {
                *sum = add(value, right, *sum);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        *out = sums.map(S::bits);
    }
}
