//! Weights in the kernel's panel layout and number format.
//!
//! Invariant: weights are packed once, when they are loaded (frozen) or when a step begins (trainable); forward and backward share one copy of frozen
//! weights.

mod code;

use std::ops::Range;

use rayon::prelude::*;

pub(super) use self::code::{SHIFT, encode_row, join, pair, rounded};
use self::code::{decode, encode};
use super::buffers::{floats_mut, zeroed};
use super::kernel::{Format, Kernel, NR};

/// Number of elements of the sums that are packed at a time: their part of a panel stays in the first-level cache while its columns are written one
/// by one.
const PART: usize = 128;

/// Right operand of y = x · Wᵀ: panels of 16 columns (rows of W), each `[words of k][16]`.
///
/// The columns may form equal sections (query, key, value) that can be used separately; the last panel of a section is padded with zeros.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    words: Vec<u32>,
    /// Scales and sums of each panel's columns, for 8-bit integers; empty for other formats.
    columns: Vec<Columns>,
    /// Position of each panel.
    places: Vec<Place>,
    format: Format,
    /// Kernel that multiplies by these weights.
    kernel: Kernel,
    k: usize,
    /// Number of columns of a section.
    section: usize,
    sections: usize,
}

/// Scales and sums of the columns of one panel, which turn its integers into values.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Columns {
    /// Scale of each column: the value of the integer 1.
    pub(super) scales: [f32; NR],
    /// Sum of each column's integers over k.
    pub(super) sums: [i32; NR],
}

/// Position of a panel among the columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) column: usize,
    pub(super) width: usize,
}

impl Packed {
    /// Packs W `[n, k]`; `sections` divides n.
    pub(crate) fn new(format: Format, weight: &[f32], k: usize, sections: usize) -> Self {
        let n = weight.len() / k.max(1);
        Self::filled(format, (n, k), sections, |place, panel| {
            let rows = &weight[place.column * k..][..place.width * k];
            for (part, panel) in panel.chunks_mut(PART * NR).enumerate() {
                for (i, row) in rows.chunks_exact(k).enumerate() {
                    let row = &row[part * PART..];
                    for (&value, out) in row.iter().zip(panel.as_chunks_mut::<NR>().0.iter_mut()) {
                        out[i] = value;
                    }
                }
            }
        })
    }

    /// Packs the transpose of `weight` `[k, n]`, the right operand of y = x · W.
    pub(crate) fn new_transposed(format: Format, weight: &[f32], n: usize) -> Self {
        Self::filled(format, (n, weight.len() / n.max(1)), 1, |place, panel| {
            for (row, out) in weight
                .chunks_exact(n)
                .zip(panel.as_chunks_mut::<NR>().0.iter_mut())
            {
                out[..place.width].copy_from_slice(&row[place.column..][..place.width]);
            }
        })
    }

    /// Packs the right operand of the backward product, dx = dy · W, where dy has only the columns of `sections`. Integers become bfloat16, since
    /// gradients have too wide a range for 8 bits.
    pub(crate) fn transposed(&self, sections: std::ops::Range<usize>) -> Self {
        let reduced = sections.len() * self.section;
        let (first, per_section) = (sections.start * self.per_section(), self.per_section());
        Self::filled(self.format.float(), (self.k, reduced), 1, |place, panel| {
            let mut block = [0.0; NR * NR];
            for j in 0..sections.len() * per_section {
                let own = self.place(first + j);
                let column = own.column - sections.start * self.section;
                let block = &mut block[..place.width * NR];
                self.decode_rows(first + j, place.column, block);
                for (i, row) in block.as_chunks::<NR>().0.iter().enumerate() {
                    for (p, value) in row[..own.width].iter().enumerate() {
                        panel[(column + p) * NR + i] = *value;
                    }
                }
            }
        })
    }

    /// Returns W `[n, k]` as it was packed; in formats other than f32, with the rounded values.
    pub(crate) fn unpacked(&self) -> Vec<f32> {
        let mut weight = vec![0.0; self.n() * self.k];
        let mut panel = vec![0.0; self.k * NR];
        for j in 0..self.panel_count() {
            let place = self.place(j);
            self.decode_rows(j, 0, &mut panel);
            for i in 0..place.width {
                let row = &mut weight[(place.column + i) * self.k..][..self.k];
                for (value, packed) in row.iter_mut().zip(panel.as_chunks::<NR>().0.iter()) {
                    *value = packed[i];
                }
            }
        }
        weight
    }

    /// Returns the same weights in another format.
    pub(crate) fn in_format(&self, format: Format) -> Self {
        if format == self.format {
            return self.clone();
        }
        let (shape, per_section) = ((self.n(), self.k), self.per_section());
        Self::filled(format, shape, self.sections, |place, panel| {
            let (section, within) = (place.column / self.section, place.column % self.section);
            self.decode_rows(section * per_section + within / NR, 0, panel);
        })
    }

    /// Packs panels; `fill` writes the values of a panel to a buffer of zeros, `[k][16]`.
    fn filled(
        format: Format,
        (n, k): (usize, usize),
        sections: usize,
        fill: impl Fn(Place, &mut [f32]) + Sync,
    ) -> Self {
        let mut packed = Self {
            words: Vec::new(),
            columns: Vec::new(),
            places: Vec::new(),
            format,
            kernel: Kernel::best(format),
            k,
            section: n / sections.max(1),
            sections,
        };
        let (count, length) = (packed.panel_count(), packed.panel_words().max(1));
        for section in 0..sections {
            packed
                .places
                .extend((0..packed.section).step_by(NR).map(|within| Place {
                    column: section * packed.section + within,
                    width: NR.min(packed.section - within),
                }));
        }
        let mut words = zeroed(count * packed.panel_words());
        if format == Format::F32 {
            let panels = words.par_chunks_mut(length).enumerate();
            panels.for_each(|(j, panel)| fill(packed.place(j), floats_mut(panel)));
        } else {
            let mut columns = vec![Columns::default(); count];
            words
                .par_chunks_mut(length)
                .zip(&mut columns)
                .enumerate()
                .for_each_init(Vec::new, |values, (j, (panel, columns))| {
                    values.clear();
                    values.resize(k * NR, 0.0);
                    fill(packed.place(j), values);
                    encode(format, values, panel, columns);
                });
            if format == Format::Int8 {
                packed.columns = columns;
            }
        }
        packed.words = words;
        packed
    }

    /// Decodes the rows of panel j from row `first` on, `[rows][16]`, as floats; `first` is a multiple of 16.
    fn decode_rows(&self, j: usize, first: usize, out: &mut [f32]) {
        let words = &self.panel(j)[first / self.format.group() * NR..];
        decode(self.format, words, self.columns(j), out);
    }

    /// Returns the number of columns of the product.
    pub(crate) fn n(&self) -> usize {
        self.section * self.sections
    }

    /// Returns the number of elements of each sum.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Returns the number of columns of a section.
    pub(crate) fn section(&self) -> usize {
        self.section
    }

    /// Returns the number of sections.
    pub(crate) fn sections(&self) -> usize {
        self.sections
    }

    /// Returns the number format of the weights.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Returns the kernel that multiplies by these weights.
    pub(super) fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Returns the same weights, multiplied with this instruction set; `None` when the CPU lacks it.
    #[cfg(test)]
    pub(super) fn on(mut self, isa: super::isa::Isa) -> Option<Self> {
        self.kernel = Kernel::on(self.format, isa)?;
        Some(self)
    }

    /// Returns the memory of the packed weights in bytes, scales and sums included.
    pub(crate) fn bytes(&self) -> u64 {
        (size_of_val(self.words.as_slice()) + size_of_val(self.columns.as_slice())) as u64
    }

    /// Returns the address of the first value.
    pub(crate) fn pointer(&self) -> usize {
        self.words.as_ptr() as usize
    }

    /// Returns the number of panels of a section.
    pub(super) fn per_section(&self) -> usize {
        self.section.div_ceil(NR)
    }

    fn panel_count(&self) -> usize {
        self.sections * self.per_section()
    }

    fn panel_words(&self) -> usize {
        self.format.words(self.k) * NR
    }

    /// Returns panel j, `[words of k][16]`.
    pub(super) fn panel(&self, j: usize) -> &[u32] {
        &self.words[j * self.panel_words()..][..self.panel_words()]
    }

    /// Returns the scales and sums of panel j, for 8-bit integers; `None` for other formats.
    pub(super) fn columns(&self, j: usize) -> Option<&Columns> {
        self.columns.get(j)
    }

    /// Returns the words, the columns' scales and sums, and the positions of neighbouring panels.
    pub(super) fn strips(&self, panels: Range<usize>) -> (&[u32], &[Columns], &[Place]) {
        let words = self.panel_words();
        (
            &self.words[panels.start * words..panels.end * words],
            self.columns.get(panels.clone()).unwrap_or_default(),
            &self.places[panels],
        )
    }

    /// Returns the columns of panel j.
    pub(super) fn place(&self, j: usize) -> Place {
        self.places[j]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [(usize, usize, usize); 5] =
        [(15, 7, 3), (48, 16, 3), (33, 5, 1), (1, 1, 1), (40, 35, 2)];

    fn weight(n: usize, k: usize) -> Vec<f32> {
        (0..n * k).map(|i| (i % 200) as f32 - 99.0).collect()
    }

    #[test]
    fn weights_come_back_as_they_were_packed() {
        for (n, k, sections) in SIZES {
            let weight = weight(n, k);
            // Integers below 2^8 are exact in bfloat16.
            for format in [Format::F32, Format::Bf16] {
                let packed = Packed::new(format, &weight, k, sections);
                assert_eq!(packed.unpacked(), weight);
                let whole = packed.transposed(0..sections).unpacked();
                let direct = Packed::new_transposed(format, &weight, k).unpacked();
                assert_eq!(whole, direct);
                assert_eq!(whole[n.min(2) - 1], weight[(n.min(2) - 1) * k]);
                let changed = Packed::new(Format::F32, &weight, k, sections).in_format(format);
                assert_eq!(changed.unpacked(), weight);
            }
        }
    }

    #[test]
    fn integers_are_within_half_a_step_of_their_column() {
        for (n, k, sections) in SIZES {
            let weight = weight(n, k);
            let packed = Packed::new(Format::Int8, &weight, k, sections);
            let back = packed.unpacked();
            for (row, back) in weight.chunks(k).zip(back.chunks(k)) {
                let step = row.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / 127.0;
                for (x, back) in row.iter().zip(back) {
                    assert!((x - back).abs() <= 0.5001 * step, "{x} came back as {back}");
                }
            }
            assert_eq!(packed.transposed(0..sections).format(), Format::Bf16);
        }
    }

    #[test]
    fn a_section_is_transposed_alone() {
        let (n, k) = (3 * 20, 18);
        let weight = weight(n, k);
        let packed = Packed::new(Format::F32, &weight, k, 3);
        let part = packed.transposed(1..3);
        let direct = Packed::new_transposed(Format::F32, &weight[20 * k..], k);
        assert_eq!(part.unpacked(), direct.unpacked());
    }
}
