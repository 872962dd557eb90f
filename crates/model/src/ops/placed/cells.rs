//! Class tokens and a pooled grid of patch tokens in a place, and their gradients.
//!
//! Invariant: a cell's mean is summed in the order of its patches, and a patch's gradient in the order of its cells, with the same bits in every place.

use candle_core::{Result, Tensor};

use super::Array;
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::{read, tensor};

/// Division of a frame's patches into cells. Those of neighbours overlap where the number of cells does not divide the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cells {
    /// Patches along a side.
    pub(crate) grid: usize,
    /// Cells along a side, at most as many as patches.
    pub(crate) side: usize,
}

impl Cells {
    /// Returns the number of rows of a frame: its class token and the cells.
    pub(crate) fn rows(self) -> usize {
        1 + self.side * self.side
    }

    /// Returns the number of tokens of a frame.
    pub(crate) fn tokens(self) -> usize {
        1 + self.grid * self.grid
    }

    /// Returns the patches of each cell.
    fn patches(self) -> Vec<Vec<usize>> {
        let Self { grid, side } = self;
        let span = |cell: usize| cell * grid / side..((cell + 1) * grid).div_ceil(side);
        let of_cell = |cell: usize| {
            let (rows, columns) = (span(cell / side), span(cell % side));
            rows.flat_map(|row| columns.clone().map(move |column| row * grid + column))
                .collect()
        };
        (0..side * side).map(of_cell).collect()
    }
}

/// Returns the class token and the means of the cells of each frame, `[ΣT · rows, C]`, from all tokens `[ΣT, L, C]`.
pub(crate) fn means(tokens: &Array, cells: Cells) -> Result<Array> {
    match tokens {
        Array::Host(tokens) => means_on_host(tokens, cells).map(Array::Host),
        #[cfg(feature = "cuda")]
        Array::Cuda(tokens) => cuda::cells::means(tokens, cells).map(Array::Cuda),
    }
}

fn means_on_host(tokens: &Tensor, cells: Cells) -> Result<Tensor> {
    let (frames, length, c) = tokens.dims3()?;
    let (patches_of, rows) = (cells.patches(), cells.rows());
    let mut out = Vec::with_capacity(frames * rows * c);
    read(tokens, |tokens| {
        for frame in tokens.chunks_exact(length * c) {
            let (class, patches) = frame.split_at(c);
            out.extend_from_slice(class);
            for cell in &patches_of {
                let begin = out.len();
                out.resize(begin + c, 0.0);
                for patch in cell {
                    let patch = &patches[patch * c..][..c];
                    for (mean, x) in out[begin..].iter_mut().zip(patch) {
                        *mean += x;
                    }
                }
                for mean in &mut out[begin..] {
                    *mean /= cell.len() as f32;
                }
            }
        }
    })?;
    tensor(out, (frames * rows, c))
}

/// Returns the gradient of all tokens, `[ΣT, L, C]`, from that of what [`means`] returned.
pub(crate) fn spread(d_rows: &Array, cells: Cells) -> Result<Array> {
    match d_rows {
        Array::Host(d_rows) => spread_on_host(d_rows, cells).map(Array::Host),
        #[cfg(feature = "cuda")]
        Array::Cuda(d_rows) => cuda::cells::spread(d_rows, cells).map(Array::Cuda),
    }
}

fn spread_on_host(d_rows: &Tensor, cells: Cells) -> Result<Tensor> {
    let (count, c) = d_rows.dims2()?;
    let (patches_of, rows, length) = (cells.patches(), cells.rows(), cells.tokens());
    let frames = count / rows;
    let mut out = vec![0.0; frames * length * c];
    read(d_rows, |d_rows| {
        let of_frames = d_rows.chunks_exact(rows * c);
        for (out, d_rows) in out.chunks_exact_mut(length * c).zip(of_frames) {
            let (class, patches) = out.split_at_mut(c);
            class.copy_from_slice(&d_rows[..c]);
            for (cell, d_row) in patches_of.iter().zip(d_rows[c..].chunks_exact(c)) {
                for patch in cell {
                    let patch = &mut patches[patch * c..][..c];
                    for (d, d_mean) in patch.iter_mut().zip(d_row) {
                        *d += d_mean / cell.len() as f32;
                    }
                }
            }
        }
    })?;
    tensor(out, (frames, length, c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(grid: usize) -> Cells {
        Cells {
            grid,
            side: grid.min(4),
        }
    }

    #[test]
    fn cells_cover_the_grid_and_each_has_its_part_of_it() {
        let own = (0..9).map(|patch| vec![patch]).collect::<Vec<_>>();
        assert_eq!(cells(3).patches(), own);
        assert_eq!(cells(8).patches()[5], [18, 19, 26, 27]);
        for grid in 1..20 {
            let patches = cells(grid).patches();
            assert_eq!(patches.len() + 1, cells(grid).rows());
            let mut covered: Vec<usize> = patches.concat();
            covered.sort_unstable();
            covered.dedup();
            assert_eq!(covered, (0..grid * grid).collect::<Vec<_>>(), "{grid}");
        }
    }

    #[test]
    fn gradients_of_the_pooling_are_its_transpose() {
        for grid in [1, 3, 6, 7] {
            let own = cells(grid);
            let values = |count: usize, step: usize| -> Vec<f32> {
                (0..count).map(|i| (i * step % 17) as f32 - 8.0).collect()
            };
            let tokens = values(2 * own.tokens() * 3, 5);
            let x = Array::of(tokens, (2, own.tokens(), 3)).unwrap();
            let dy = Array::of(values(2 * own.rows() * 3, 7), (2 * own.rows(), 3)).unwrap();
            let dot = |a: &Array, b: &Array| {
                let product = (a.host().unwrap() * b.host().unwrap()).unwrap();
                product.sum_all().unwrap().to_scalar::<f32>().unwrap()
            };
            let there = dot(&means(&x, own).unwrap(), &dy);
            let back = dot(&x, &spread(&dy, own).unwrap());
            assert!((there - back).abs() < 1e-2, "{grid}: {there} {back}");
        }
    }
}
