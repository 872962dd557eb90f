//! Weights in the kernel's panel layout.
//!
//! Invariant: packed once when they are loaded (frozen) or at the begin of a step (trainable); one copy serves forward and backward of frozen weights.

use rayon::prelude::*;

use super::kernel::NR;

/// The right operand of y = x · Wᵀ: panels of 16 columns (rows of W), each `[k][16]`.
///
/// The columns may fall into equal sections (query, key, value) that can be used apart; the last panel of a section is filled up with zeros.
#[derive(Debug, Clone)]
pub(in crate::model) struct Packed {
    panels: Vec<f32>,
    k: usize,
    /// Columns of a section.
    section: usize,
    sections: usize,
}

/// A panel's place among the columns.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) column: usize,
    pub(super) width: usize,
}

impl Packed {
    /// Packs W `[n, k]`; `sections` divides n.
    pub(in crate::model) fn new(weight: &[f32], k: usize, sections: usize) -> Self {
        let n = weight.len() / k.max(1);
        Self::filled(n, k, sections, |place, panel| {
            for (i, row) in weight[place.column * k..]
                .chunks_exact(k)
                .take(place.width)
                .enumerate()
            {
                for (p, &value) in row.iter().enumerate() {
                    panel[p * NR + i] = value;
                }
            }
        })
    }

    /// Packs the transpose of `weight` `[k, n]`, the right operand of y = x · W.
    pub(in crate::model) fn new_transposed(weight: &[f32], n: usize) -> Self {
        Self::filled(n, weight.len() / n.max(1), 1, |place, panel| {
            let (panel, _) = panel.as_chunks_mut::<NR>();
            for (row, out) in weight.chunks_exact(n).zip(panel) {
                out[..place.width].copy_from_slice(&row[place.column..][..place.width]);
            }
        })
    }

    /// The right operand of the backward, dx = dy · W, where dy has the columns of `sections` only.
    pub(in crate::model) fn transposed(&self, sections: std::ops::Range<usize>) -> Self {
        let reduced = sections.len() * self.section;
        let (first, per_section) = (
            sections.start * self.per_section(),
            self.section.div_ceil(NR),
        );
        Self::filled(self.k, reduced, 1, |place, panel| {
            for j in 0..sections.len() * per_section {
                let own = self.place(j);
                let from = &self.panels[(first + j) * self.k * NR..][place.column * NR..];
                for i in 0..place.width {
                    for p in 0..own.width {
                        panel[(own.column + p) * NR + i] = from[i * NR + p];
                    }
                }
            }
        })
    }

    /// W `[n, k]`, as it was packed.
    pub(in crate::model) fn unpacked(&self) -> Vec<f32> {
        let mut weight = vec![0.0; self.n() * self.k];
        for j in 0..self.panel_count() {
            let (place, panel) = (self.place(j), self.panel(j));
            for i in 0..place.width {
                let row = &mut weight[(place.column + i) * self.k..][..self.k];
                for (p, value) in row.iter_mut().enumerate() {
                    *value = panel[p * NR + i];
                }
            }
        }
        weight
    }

    fn filled(
        n: usize,
        k: usize,
        sections: usize,
        fill: impl Fn(Place, &mut [f32]) + Sync,
    ) -> Self {
        let section = n / sections.max(1);
        let mut packed = Self {
            panels: Vec::new(),
            k,
            section,
            sections,
        };
        let mut panels = vec![0.0; packed.panel_count() * k * NR];
        panels
            .par_chunks_mut((k * NR).max(1))
            .enumerate()
            .for_each(|(j, panel)| fill(packed.place(j), panel));
        packed.panels = panels;
        packed
    }

    /// Columns of the product.
    pub(in crate::model) fn n(&self) -> usize {
        self.section * self.sections
    }

    /// Elements of each sum.
    pub(in crate::model) fn k(&self) -> usize {
        self.k
    }

    /// Columns of a section.
    pub(in crate::model) fn section(&self) -> usize {
        self.section
    }

    /// How many sections.
    pub(in crate::model) fn sections(&self) -> usize {
        self.sections
    }

    /// Memory.
    pub(in crate::model) fn bytes(&self) -> u64 {
        (self.panels.len() * size_of::<f32>()) as u64
    }

    /// Address of the first value.
    pub(in crate::model) fn pointer(&self) -> usize {
        self.panels.as_ptr() as usize
    }

    /// Panels of a section.
    pub(super) fn per_section(&self) -> usize {
        self.section.div_ceil(NR)
    }

    fn panel_count(&self) -> usize {
        self.sections * self.per_section()
    }

    /// Panel j: `[k][16]`.
    pub(super) fn panel(&self, j: usize) -> &[f32] {
        &self.panels[j * self.k * NR..][..self.k * NR]
    }

    /// The columns of panel j.
    pub(super) fn place(&self, j: usize) -> Place {
        let (section, within) = (j / self.per_section(), j % self.per_section() * NR);
        Place {
            column: section * self.section + within,
            width: NR.min(self.section - within),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_come_back_as_they_were_packed() {
        for (n, k, sections) in [(15, 7, 3), (48, 16, 3), (33, 5, 1), (1, 1, 1)] {
            let weight: Vec<f32> = (0..n * k).map(|i| i as f32).collect();
            let packed = Packed::new(&weight, k, sections);
            assert_eq!(packed.unpacked(), weight);
            let whole = packed.transposed(0..sections).unpacked();
            let direct = Packed::new_transposed(&weight, k).unpacked();
            assert_eq!(whole, direct);
            assert_eq!(whole[n.min(2) - 1], weight[(n.min(2) - 1) * k]);
        }
    }
}
