//! The loop of a tile, the same for every set of instructions and number format: what differs is a module of six small functions.

/// Defines `tile::<ROWS, VECTORS>`, which keeps ROWS × VECTORS sums in registers. The types `Sum` and `Right` (both `Copy`) must be in scope and,
/// with these CPU features, `zero() -> Sum`, `right(*const u32) -> Right` (a vector of the panel), `value(*const u32) -> Value` (a word of the left
/// operand, in all lanes), `add(Sum, &Value, &Right) -> Sum`, `load(*const f32) -> Sum` and `store(*mut f32, Sum)`.
macro_rules! micro {
    ($features:literal) => {
        /// Steps without a jump and with one set of addresses, where words of a row are neighbours: a thread that shares its core with another can
        /// start only half as many instructions.
        const UNROLLED: usize = 8;

        /// Adds the products of one word of each row.
        ///
        /// # Safety
        /// The rows and vectors exist.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn step<const ROWS: usize, const VECTORS: usize>(
            sums: &mut [[Sum; VECTORS]; ROWS],
            at: *const u32,
            row_stride: usize,
            panel: *const u32,
            apart: usize,
        ) {
            // SAFETY: promised by the caller.
            unsafe {
                let mut vectors: [Right; VECTORS] = [right(panel); VECTORS];
                for (v, vector) in vectors.iter_mut().enumerate().skip(1) {
                    *vector = right(panel.add(v * apart));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let value = value(at.add(row * row_stride));
                    for (sum, right) in sums.iter_mut().zip(&vectors) {
                        *sum = add(*sum, &value, right);
                    }
                }
            }
        }

        /// Computes a tile whose vectors lie `apart.0` words apart in the panels and `apart.1` values apart in the tiles.
        ///
        /// # Safety
        /// Same as `Kernel::tiles`, on a CPU with these features; the vectors are inside panels and tiles.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn tile<const ROWS: usize, const VECTORS: usize>(
            words: usize,
            left: $crate::ops::kernel::Left,
            panel: *const u32,
            out: *mut f32,
            apart: (usize, usize),
            goes_on: bool,
        ) {
            let mut sums = [[zero(); VECTORS]; ROWS];
            if goes_on {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        let at = row * $crate::ops::kernel::NR + v * apart.1;
                        // SAFETY: see where the sums are stored.
                        *sum = unsafe { load(out.add(at)) };
                    }
                }
            }
            let (mut at, mut panel, mut words) = (left.at, panel, words);
            // SAFETY: each panel has 16 words for every step, and the left operand ROWS rows of `words` words.
            unsafe {
                if left.step == 1 {
                    while words >= UNROLLED {
                        for i in 0..UNROLLED {
                            let panel = panel.add(i * $crate::ops::kernel::NR);
                            step(&mut sums, at.add(i), left.row_stride, panel, apart.0);
                        }
                        at = at.add(UNROLLED);
                        panel = panel.add(UNROLLED * $crate::ops::kernel::NR);
                        words -= UNROLLED;
                    }
                }
                for _ in 0..words {
                    // Distances between neighbouring rows are constants.
                    match left.row_stride {
                        1 => step(&mut sums, at, 1, panel, apart.0),
                        row_stride => step(&mut sums, at, row_stride, panel, apart.0),
                    }
                    at = at.wrapping_add(left.step);
                    panel = panel.add($crate::ops::kernel::NR);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    // SAFETY: a row of a tile has 16 values, and the tiles lie one after the other.
                    unsafe { store(out.add(row * $crate::ops::kernel::NR + v * apart.1), sum) };
                }
            }
        }

        /// Adds products of two registers to 12 sums, `steps` times; returns how many sums there are.
        #[target_feature(enable = $features)]
        pub(super) fn registers(steps: usize) -> u64 {
            // Any operands would do, as long as the compiler does not know them.
            let words = std::hint::black_box([0x3F80_3F80_u32; $crate::ops::kernel::NR]);
            // SAFETY: there are 16 words.
            let (value, right) = unsafe { (value(words.as_ptr()), right(words.as_ptr())) };
            let mut sums = [zero(); 12];
            for _ in 0..steps {
                for sum in &mut sums {
                    *sum = add(*sum, &value, &right);
                }
            }
            let mut out = [0.0_f32; $crate::ops::kernel::NR];
            for sum in sums {
                // SAFETY: there is room for 16 values. The compiler cannot see that they are never read.
                unsafe { store(std::hint::black_box(out.as_mut_ptr()), sum) };
            }
            12
        }
    };
}

/// Defines `packed::<ROWS, VECTORS>` beside `micro!`: the same as `tile` for rows that were packed for a tile of this height, `[word][ROWS]`, which are one
/// stream.
#[cfg(target_arch = "x86_64")]
macro_rules! packed {
    ($features:literal) => {
        /// # Safety
        /// Same as for `tile`, with `ROWS` words of the left operand for each step.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn packed<const ROWS: usize, const VECTORS: usize>(
            words: usize,
            left: *const u32,
            panel: *const u32,
            out: *mut f32,
            apart: (usize, usize),
            goes_on: bool,
        ) {
            let mut sums = [[zero(); VECTORS]; ROWS];
            let place = |row: usize, v: usize| row * $crate::ops::kernel::NR + v * apart.1;
            // SAFETY: promised by the caller.
            unsafe {
                if goes_on {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        for (v, sum) in sums.iter_mut().enumerate() {
                            *sum = load(out.add(place(row, v)));
                        }
                    }
                }
                let (mut left, mut panel, mut words) = (left, panel, words);
                while words >= UNROLLED {
                    for i in 0..UNROLLED {
                        let panel = panel.add(i * $crate::ops::kernel::NR);
                        step(&mut sums, left.add(i * ROWS), 1, panel, apart.0);
                    }
                    left = left.add(UNROLLED * ROWS);
                    panel = panel.add(UNROLLED * $crate::ops::kernel::NR);
                    words -= UNROLLED;
                }
                for _ in 0..words {
                    step(&mut sums, left, 1, panel, apart.0);
                    left = left.add(ROWS);
                    panel = panel.add($crate::ops::kernel::NR);
                }
                for (row, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        store(out.add(place(row, v)), sum);
                    }
                }
            }
        }
    };
}

/// Defines `strip::<ROWS, VECTORS>` beside `micro!`: rows whose words are neighbours, `left.1` words apart, times panels `right.1` words apart, with the
/// rows of sums `to.1` values apart.
#[cfg(target_arch = "x86_64")]
macro_rules! strips {
    ($features:literal) => {
        /// # Safety
        /// The operands have these rows, vectors and words, on a CPU with these features, and `to` has room for the sums.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn strip<const ROWS: usize, const VECTORS: usize>(
            words: usize,
            left: (*const u32, usize),
            right: (*const u32, usize),
            to: (*mut f32, usize),
        ) {
            let mut sums = [[zero(); VECTORS]; ROWS];
            // SAFETY: promised by the caller.
            unsafe {
                for i in 0..words {
                    let panel = right.0.add(i * $crate::ops::kernel::NR);
                    step(&mut sums, left.0.add(i), left.1, panel, right.1);
                }
                for (row, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        store(to.0.add(row * to.1 + v * $crate::ops::kernel::NR), sum);
                    }
                }
            }
        }
    };
}

/// Calls a function with a constant number of rows: `tile`, or another one of the module.
macro_rules! by_rows {
    ($rows:expr, [$($known:literal)+], $vectors:literal, $module:ident::$function:ident, $arguments:tt) => {
        match $rows {
            $($known => $module::$function::<$known, $vectors> $arguments,)+
            _ => {}
        }
    };
    ($rows:expr, [$($known:literal)+], $vectors:literal, $module:ident, $arguments:tt) => {
        match $rows {
            $($known => $module::tile::<$known, $vectors> $arguments,)+
            _ => {}
        }
    };
}

/// `Tiles::registers` of a set with `$lanes` words in a vector, by its modules for the formats.
macro_rules! registers {
    ($lanes:literal) => {
        unsafe fn registers(&self, format: Format, steps: usize) -> u64 {
            // SAFETY: promised by the caller.
            let vectors = unsafe {
                match format {
                    Format::F32 => f32s::registers(steps),
                    Format::Bf16 => bf16s::registers(steps),
                    Format::Int8 => int8s::registers(steps),
                }
            };
            $lanes * vectors
        }
    };
}

/// What `Tiles` asks of a set that takes one panel at once, `$lanes` words in each of `$vectors` vectors: as many rows as fit the registers beside the
/// operands, and the products by its modules for the formats.
macro_rules! single_panels {
    ($vectors:literal, $lanes:literal) => {
        fn rows(&self, format: Format) -> usize {
            match format {
                Format::F32 => 6,
                Format::Bf16 | Format::Int8 => 4,
            }
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
                let (out, apart) = (out.as_mut_ptr().cast::<f32>(), ($lanes, $lanes));
                // SAFETY: passed on; a panel's row is these vectors of words, and a tile's as many of values.
                unsafe {
                    match format {
                        Format::F32 => {
                            by_rows!(rows, [1 2 3 4 5 6], $vectors, f32s, (words, left, panel, out, apart, goes_on));
                        }
                        Format::Bf16 => {
                            by_rows!(rows, [1 2 3 4], $vectors, bf16s, (words, left, panel, out, apart, goes_on));
                        }
                        Format::Int8 => {
                            by_rows!(rows, [1 2 3 4], $vectors, int8s, (words, left, panel, out, apart, goes_on));
                        }
                    }
                }
            }
        }

        registers!($lanes);
    };
}

pub(super) use {by_rows, micro, registers, single_panels};
#[cfg(target_arch = "x86_64")]
pub(super) use {packed, strips};
