//! A unit of a product as an instruction set may compute it by itself: rows times panels, in an order of its own, with their epilogues.
//!
//! Invariant: a value depends only on its own row, its own column and the layer's parameters.

use super::Left;
use crate::Activation;
use crate::ops::packed::{Columns, Place};

/// Operand of a unit that stays in the second-level cache while the other one is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Stays {
    /// A block of rows; panels are streamed.
    Rows,
    /// A few panels; rows are streamed, one tile at a time. The hardware prefetches each row of a tile that is read in place, but of a panel only one
    /// stream: this order waits less for memory.
    Panels,
}

/// How a product is divided into units, and in which order the tiles of a unit are computed. Neither changes a result.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Order {
    /// Operand of a unit that stays in the cache.
    pub(in crate::ops) stays: Stays,
    /// Rows and panels of a tile.
    pub(in crate::ops) tile: (usize, usize),
    /// Most rows of a unit.
    pub(in crate::ops) rows: usize,
    /// Words of the panels that stay.
    pub(in crate::ops) part_words: usize,
    /// Most panels of a unit whose rows stay.
    pub(in crate::ops) panels: usize,
    /// Blocks of rows that stay for each thread, if there are enough rows: with more, threads that are held up take fewer.
    pub(in crate::ops) blocks: usize,
}

/// Address of a result, with the format of its numbers.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) enum Target {
    F32(*mut f32),
    Bf16(*mut u16),
}

/// Rows times panels, with bias, residual and activation.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Unit<'a> {
    /// Operand that stays in the cache.
    pub(in crate::ops) stays: Stays,
    /// Words of each row and each panel's column.
    pub(in crate::ops) words: usize,
    /// The rows, and how many there are.
    pub(in crate::ops) left: Left,
    pub(in crate::ops) rows: usize,
    /// Panels of `words` · 16 words, one after the other.
    pub(in crate::ops) panels: &'a [u32],
    /// Position of each panel among the layer's columns.
    pub(in crate::ops) places: &'a [Place],
    /// Scales and sums of each panel's columns, for 8-bit integers.
    pub(in crate::ops) columns: &'a [Columns],
    /// Scale of each row, for 8-bit integers.
    pub(in crate::ops) scales: &'a [f32],
    /// Bias of all of the layer's columns.
    pub(in crate::ops) bias: Option<&'a [f32]>,
    pub(in crate::ops) activation: Option<Activation>,
    /// The layer's column that is the first of the result.
    pub(in crate::ops) first_column: usize,
    /// First row of the results: of the residual, of the values before the activation, and of those after it.
    pub(in crate::ops) residual: Option<*const f32>,
    pub(in crate::ops) before: Option<Target>,
    pub(in crate::ops) y: Target,
    /// Values between rows of the results.
    pub(in crate::ops) stride: usize,
}

/// Products of one number format that an instruction set computes unit by unit.
pub(in crate::ops) trait Units: Sync {
    /// Computes a unit; `spare` is a buffer that the thread reuses.
    ///
    /// # Safety
    /// The unit has words of the length that `Tiles::units` was asked for, and those of a row are neighbours; its operands and results have the rows and
    /// panels that it states, and no other thread touches its results.
    unsafe fn unit(&self, unit: &Unit<'_>, spare: &mut Vec<u32>);
}

/// Heads of attention that an instruction set computes one by one.
pub(in crate::ops) trait Heads: Sync {
    /// Computes a head.
    ///
    /// # Safety
    /// The head has the width that `Tiles::heads` was asked for; its operands and its result have the rows that it states, and no other thread touches
    /// its result.
    unsafe fn head(&self, head: &Head);
}

/// Backward passes of heads of attention that an instruction set computes one by one, from bfloat16.
pub(in crate::ops) trait Backs: Sync {
    /// Computes the gradients of a head.
    ///
    /// # Safety
    /// The head has the width that `Tiles::backs` was asked for; its operands and its gradients have the rows that it states, and no other thread touches
    /// its gradients.
    unsafe fn back(&self, back: &Back);
}

impl Stays {
    /// Strip and tile that are computed as number `at` of `strips` · `tiles`.
    #[inline]
    pub(in crate::ops) fn nth(self, at: usize, strips: usize, tiles: usize) -> (usize, usize) {
        match self {
            Self::Rows => (at / tiles, at % tiles),
            Self::Panels => (at % strips, at / strips),
        }
    }
}

/// Evenly spaced rows of words: the address of the first, which those of bfloat16 may have at any even address, and the words between rows.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Matrix {
    pub(in crate::ops) at: *const u32,
    pub(in crate::ops) row: usize,
}

/// One head of attention within a frame.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Head {
    /// Numbers of queries and of keys, and width of a head.
    pub(in crate::ops) queries: usize,
    pub(in crate::ops) keys: usize,
    pub(in crate::ops) width: usize,
    /// Factor of the scores before softmax.
    pub(in crate::ops) scale: f32,
    pub(in crate::ops) q: Matrix,
    pub(in crate::ops) k: Matrix,
    pub(in crate::ops) v: Matrix,
    /// First row of the result, and values between its rows.
    pub(in crate::ops) y: Target,
    pub(in crate::ops) stride: usize,
}

/// Address of values that are read, with the format of their numbers.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) enum Source {
    F32(*const f32),
    Bf16(*const u16),
}

/// The backward pass of one head of attention within a frame.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Back {
    /// The head, with the gradients of its queries as its result.
    pub(in crate::ops) head: Head,
    /// First row of the result's gradient, and values between its rows.
    pub(in crate::ops) dy: Source,
    pub(in crate::ops) dy_row: usize,
    /// First rows of the gradients of keys and values, and values between their rows.
    pub(in crate::ops) dk: Target,
    pub(in crate::ops) dv: Target,
    pub(in crate::ops) stride: usize,
}
