//! What an instruction set decides about tiles, in one trait: each set implements it in its own file.
//!
//! Invariant: nothing outside the implementations asks which set it is; a new set is one file and one line in `Isa::tiles`.
#![allow(unsafe_code)]

use super::unit::{Backs, Heads, Order, Stays, Units};
use super::{Format, Left, NR, Tile};

/// What a tile multiplies.
pub(in crate::ops) struct Operands<'a> {
    /// Words of each row and each panel's column.
    pub(super) words: usize,
    /// The rows.
    pub(super) left: Left,
    /// The panels, at most as many as a tile takes at once.
    pub(super) panels: &'a [*const u32],
}

/// The tiles of one instruction set: their shape, what of the operands should stay in which cache, and the products themselves.
pub(in crate::ops) trait Tiles: Sync {
    /// The set's name, as `bench compute` prints it.
    fn name(&self) -> &'static str;

    /// Whether this CPU has what the format needs of the set.
    fn has(&self, format: Format) -> bool;

    /// Rows of a whole tile.
    fn rows(&self, format: Format) -> usize;

    /// Number of panels that a tile takes at once.
    fn panels(&self) -> usize {
        1
    }

    /// Whether products of bfloat16 and 8-bit integers are faster than those of floats on this CPU.
    fn beats_floats(&self) -> bool {
        false
    }

    /// Words to which a sum's operands are filled up with zeros.
    fn word_multiple(&self) -> usize {
        1
    }

    /// Words of packed panels that stay in the second-level cache while rows pass by: 144 KiB, for cores with 512 KiB.
    fn part_words(&self) -> usize {
        9 << 12
    }

    /// How a product with `words` words a row is divided and computed.
    fn order(&self, format: Format, words: usize, is_in_place: bool) -> Order {
        self.default_order(format, words, is_in_place)
    }

    /// The order of sets without their own. Rows that had to be encoded stay in the cache: 256 KiB of them, beside a panel. So do rows of integers, whoever
    /// encoded them.
    fn default_order(&self, format: Format, words: usize, is_in_place: bool) -> Order {
        let passes = is_in_place && format != Format::Int8;
        Order {
            stays: if passes { Stays::Panels } else { Stays::Rows },
            tile: (self.rows(format), self.panels()),
            // With more rows than 400 the time to load the panels hardly matters.
            rows: if passes {
                400
            } else {
                ((1 << 16) / words).min(96)
            },
            part_words: self.part_words(),
            panels: usize::MAX,
            blocks: 2,
        }
    }

    /// What computes units of products of this format and length together with their epilogues, if the set has it.
    fn units(&self, _format: Format, _words: usize) -> Option<&dyn Units> {
        None
    }

    /// What computes heads of attention of this width from operands in this format, if the set has it.
    fn heads(&self, _format: Format, _width: usize) -> Option<&dyn Heads> {
        None
    }

    /// What computes the backward pass of heads of attention of this width from bfloat16, if the set has it and it is faster than that of floats.
    fn backs(&self, _width: usize) -> Option<&dyn Backs> {
        None
    }

    /// Steps of a sum that are added up before those of the next tile: where a panel is read from the first-level cache, its share nearly fits there.
    fn chunk_steps(&self) -> usize {
        48
    }

    /// Computes tiles as `Kernel::tiles` states.
    ///
    /// # Safety
    /// Same as `Kernel::tiles`, on a CPU that [`Tiles::has`] the format.
    unsafe fn tiles(
        &self,
        format: Format,
        rows: usize,
        operands: &Operands<'_>,
        out: &mut [Tile],
        goes_on: bool,
    );

    /// Runs `steps` steps of multiply-adds on registers alone; returns how many words a step multiplies, or 0 where that is not measured.
    ///
    /// # Safety
    /// The CPU [`Tiles::has`] the format.
    unsafe fn registers(&self, format: Format, steps: usize) -> u64;
}

/// Panels of `words` words a column that hold at most `most` words: at least one tile's, and whole tiles' only.
pub(super) fn whole_panels(most: usize, words: usize, panels: usize) -> usize {
    (most / (words * NR)).next_multiple_of(panels).max(panels)
}
