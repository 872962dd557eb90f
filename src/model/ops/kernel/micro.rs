//! The loop of a tile, the same for every set of instructions and number format: what differs is a module of five small functions.

/// Defines `tile::<ROWS, VECTORS>`, which keeps ROWS × VECTORS sums in registers. In scope there are the types `Right` (copied), and, with these CPU features, `zero() -> Sum`, `right(*const u32) -> Right` (a vector of the panel), `value(*const u32) -> Value`
/// (a word of the left operand, in all lanes), `add(Sum, &Value, &Right) -> Sum` and `store(*mut f32, Sum)`.
macro_rules! micro {
    ($features:literal) => {
        /// Vectors lie `apart.0` words apart in the panels and `apart.1` values apart in the tiles.
        ///
        /// # Safety
        /// As `Kernel::tiles`, on a CPU with these features; the vectors are inside panels and tiles.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn tile<const ROWS: usize, const VECTORS: usize>(
            words: usize,
            left: $crate::model::ops::kernel::Left,
            panel: *const u32,
            out: *mut f32,
            apart: (usize, usize),
        ) {
            let mut sums = [[zero(); VECTORS]; ROWS];
            let (mut at, mut panel) = (left.at, panel);
            for _ in 0..words {
                // SAFETY: each panel has 16 words for every step, and the left operand ROWS rows of `words` words.
                unsafe {
                    let mut vectors: [Right; VECTORS] = [right(panel); VECTORS];
                    for (v, vector) in vectors.iter_mut().enumerate().skip(1) {
                        *vector = right(panel.add(v * apart.0));
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let value = value(at.add(row * left.row_stride));
                        for (sum, right) in sums.iter_mut().zip(&vectors) {
                            *sum = add(*sum, &value, right);
                        }
                    }
                    panel = panel.add($crate::model::ops::kernel::NR);
                    at = at.wrapping_add(left.step);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    // SAFETY: a row of a tile has 16 values, and the tiles lie one after the other.
                    unsafe {
                        store(
                            out.add(row * $crate::model::ops::kernel::NR + v * apart.1),
                            sum,
                        )
                    };
                }
            }
        }
    };
}

/// Calls `tile` with a constant number of rows.
macro_rules! by_rows {
    ($rows:expr, [$($known:literal)+], $vectors:literal, $module:ident, $arguments:tt) => {
        match $rows {
            $($known => $module::tile::<$known, $vectors> $arguments,)+
            _ => {}
        }
    };
}

pub(super) use {by_rows, micro};
