//! Division of a product into units of parallel work, and the order in which a unit's tiles are computed.
//!
//! Invariant: neither the division nor the order changes a result.

use std::ops::Range;

use super::Grid;
use crate::ops::kernel::Kernel;
use crate::ops::kernel::unit::{Order, Stays};

/// Smallest number of rows of a unit.
const FEW: usize = 24;

/// Units of a product.
#[derive(Debug, Clone)]
pub(super) struct Split {
    stays: Stays,
    rows: usize,
    /// Rows of a block; `blocks` is the number of blocks of a group.
    block: usize,
    blocks: usize,
    groups: usize,
    panels: usize,
    /// Number of panels that a tile takes at a time.
    wide: usize,
    /// Number of panels of a part.
    per_part: usize,
}

impl Split {
    /// Divides the rows of `input`, of `words` words each, and `panels` panels; neither is empty.
    pub(super) fn new(
        is_in_place: bool,
        kernel: Kernel,
        words: usize,
        input: Grid,
        panels: usize,
    ) -> Self {
        let (all, threads) = (input.count(), rayon::current_num_threads());
        let (order, part_panels) = kernel.order(words, is_in_place);
        let (per_part, share) = match order.stays {
            Stays::Rows => (
                order.panels.min(panels),
                all.div_ceil(order.blocks * threads),
            ),
            Stays::Panels => {
                let per_part = part_panels.min(panels);
                let units = all * panels.div_ceil(per_part);
                (per_part, units.div_ceil(4 * threads))
            }
        };
        let (stays, most) = (order.stays, order.rows.min(share));
        let blocks = input.rows.div_ceil(most.max(FEW));
        let block = input.rows.div_ceil(blocks).next_multiple_of(order.tile.0);
        Self {
            stays,
            rows: input.rows,
            block,
            blocks: input.rows.div_ceil(block),
            groups: input.groups,
            panels,
            wide: order.tile.1,
            per_part,
        }
    }

    /// Divides the rows alone, into units of at most `most` rows with all panels; `None` when there are too few rows for the threads.
    pub(super) fn whole_rows(
        (order, threads): (Order, usize),
        most: usize,
        input: Grid,
        panels: usize,
    ) -> Option<Self> {
        let (tall, wide) = order.tile;
        let share = input.count().div_ceil(order.blocks * threads);
        let most = order.rows.min(most).min(share).max(FEW);
        let block = (most - most % tall).max(tall);
        let split = Self {
            stays: Stays::Rows,
            rows: input.rows,
            block,
            blocks: input.rows.div_ceil(block),
            groups: input.groups,
            panels,
            wide,
            per_part: panels,
        };
        (split.blocks() >= order.blocks * threads).then_some(split)
    }

    /// Returns the same division with at least `parts` parts of the panels, if there are as many panels.
    pub(super) fn parts_at_least(self, parts: usize) -> Self {
        let per_part = self.panels.div_ceil(parts.max(1));
        Self {
            per_part: per_part.next_multiple_of(self.wide).min(self.per_part),
            ..self
        }
    }

    /// Returns the operand of a unit that stays in the cache.
    pub(super) fn stays(&self) -> Stays {
        self.stays
    }

    /// Returns the number of blocks of all groups.
    pub(super) fn blocks(&self) -> usize {
        self.blocks * self.groups
    }

    fn parts(&self) -> usize {
        self.panels.div_ceil(self.per_part)
    }

    /// Returns the number of units.
    pub(super) fn units(&self) -> usize {
        self.blocks() * self.parts()
    }

    /// Returns the group of a unit, its rows in that group, and its panels.
    pub(super) fn unit(&self, unit: usize) -> (usize, Range<usize>, Range<usize>) {
        let (part, unit) = (unit % self.parts(), unit / self.parts());
        let (group, first) = (unit / self.blocks, unit % self.blocks * self.block);
        let panel = part * self.per_part;
        (
            group,
            first..self.rows.min(first + self.block),
            panel..self.panels.min(panel + self.per_part),
        )
    }

    /// Returns all pairs of a strip of panels and a tile of rows, in the order in which they are computed.
    pub(super) fn tiles(
        &self,
        strips: usize,
        tiles: usize,
    ) -> impl Iterator<Item = (usize, usize)> + use<> {
        let stays = self.stays;
        (0..strips * tiles).map(move |at| stays.nth(at, strips, tiles))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::kernel::Format;

    /// Asserts that a division's units have each row and panel once.
    fn assert_covers(split: &Split, (rows, groups, panels): (usize, usize, usize)) {
        let mut seen = vec![0; groups * rows * panels];
        for unit in 0..split.units() {
            let (group, rows_of, panels_of) = split.unit(unit);
            assert!(!rows_of.is_empty() && !panels_of.is_empty());
            let (strips, tiles) = (panels_of.len(), rows_of.len());
            for (strip, tile) in split.tiles(strips, tiles) {
                let row = group * rows + rows_of.start + tile;
                seen[row * panels + panels_of.start + strip] += 1;
            }
        }
        assert!(seen.iter().all(|&times| times == 1), "{split:?}");
    }

    #[test]
    fn units_cover_each_row_and_panel_once() {
        let kernels = [Format::F32, Format::Bf16, Format::Int8].map(Kernel::best);
        for (kernel, is_in_place) in kernels.iter().flat_map(|&of| [(of, false), (of, true)]) {
            for (rows, groups, panels, words) in [
                (1, 1, 1, 1),
                (5, 3, 7, 64),
                (197, 8, 48, 768),
                (1576, 1, 48, 3072),
                (1001, 2, 3, 40),
            ] {
                let input = Grid {
                    groups,
                    ..Grid::dense(rows, words)
                };
                let size = (rows, groups, panels);
                for parts in [1, 2, 5, 1000] {
                    let split =
                        Split::new(is_in_place, kernel, words, input, panels).parts_at_least(parts);
                    assert_covers(&split, size);
                }
                for (most, threads) in [(1, 1), (64, 2), (1 << 20, 7)] {
                    let order = kernel.order(words, is_in_place).0;
                    if let Some(split) = Split::whole_rows((order, threads), most, input, panels) {
                        assert_covers(&split, size);
                    }
                }
            }
        }
    }
}
