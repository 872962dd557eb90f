//! The features of an attentive head: one attention layer whose query is the mean of a clip's class tokens, over the class tokens and a pooled grid of
//! patch tokens, to which learnt positions of their frames are added. After STEP (arXiv 2503.24298).
//!
//! Deviations from it: the grid is pooled, the query is not learnt, and the result is added to the mean, so that a fresh head is the paper's.

use candle_core::{Result, Tensor};

use super::{Sums, clip_means};
use crate::model::Error;
use crate::model::ops::attention::{self, How};
use crate::model::ops::linear::Rows;
use crate::model::ops::{Format, Numbers, Onto, read, tensor};
use crate::model::weights::{Found, Linear, Mode};

/// Most cells along a side of the pooled grid.
const CELLS: usize = 4;

/// Layers below the last one.
pub(super) struct Attention {
    /// Position of each frame, `[T, C]`.
    positions: Vec<f32>,
    query: Linear,
    /// Keys, then values.
    key_value: Linear,
    out: Linear,
    heads: usize,
}

/// Activations that the backward pass reads.
pub(in crate::model) struct Saved {
    clips: usize,
    /// Means of the class tokens, `[clips, C]`.
    means: Tensor,
    /// Tokens with their frames' positions, `[clips, R, C]`.
    placed: Tensor,
    /// Queries, `[clips, C]`.
    q: Tensor,
    /// Keys and values, `[clips, R, 2C]`.
    kv: Tensor,
    /// Output of the attention, `[clips, C]`.
    mixed: Tensor,
}

/// Returns the names and shapes of the weights below the last layer, for clips of so many frames and tokens of this width.
pub(super) fn weights(frames: usize, c: usize) -> Vec<super::Named> {
    let weights = [
        ("positions", vec![frames, c]),
        ("query.weight", vec![c, c]),
        ("query.bias", vec![c]),
        ("key_value.weight", vec![2 * c, c]),
        ("key_value.bias", vec![2 * c]),
        ("out.weight", vec![c, c]),
        ("out.bias", vec![c]),
    ];
    weights
        .map(|(name, shape)| (name.to_owned(), shape))
        .to_vec()
}

/// Returns the number of cells along a side of the pooled grid.
fn side(grid: usize) -> usize {
    grid.min(CELLS)
}

/// Returns the number of rows of a frame: its class token and the cells.
pub(super) fn rows(grid: usize) -> usize {
    1 + side(grid) * side(grid)
}

/// Returns the patches of each cell. Those of neighbours overlap where the number of cells does not divide the grid.
fn cells(grid: usize) -> Vec<Vec<usize>> {
    let count = side(grid);
    let span = |cell: usize| cell * grid / count..((cell + 1) * grid).div_ceil(count);
    let of_cell = |cell: usize| {
        let (rows, columns) = (span(cell / count), span(cell % count));
        rows.flat_map(|row| columns.clone().map(move |column| row * grid + column))
            .collect()
    };
    (0..count * count).map(of_cell).collect()
}

/// Returns the class token and the means of the cells of each frame, `[ΣT · rows, C]`, from all tokens `[ΣT, L, C]`.
pub(super) fn pooled(tokens: &Tensor, grid: usize) -> Result<Tensor> {
    let (frames, length, c) = tokens.dims3()?;
    let (cells, rows) = (cells(grid), rows(grid));
    let mut out = Vec::with_capacity(frames * rows * c);
    read(tokens, |tokens| {
        for frame in tokens.chunks_exact(length * c) {
            let (class, patches) = frame.split_at(c);
            out.extend_from_slice(class);
            for cell in &cells {
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

/// Returns the gradient of all tokens, `[ΣT, L, C]`, from that of what [`pooled`] returned.
pub(super) fn unpooled(d_rows: &Tensor, grid: usize) -> Result<Tensor> {
    let (count, c) = d_rows.dims2()?;
    let (cells, rows, length) = (cells(grid), rows(grid), 1 + grid * grid);
    let frames = count / rows;
    let mut out = vec![0.0; frames * length * c];
    read(d_rows, |d_rows| {
        let of_frames = d_rows.chunks_exact(rows * c);
        for (out, d_rows) in out.chunks_exact_mut(length * c).zip(of_frames) {
            let (class, patches) = out.split_at_mut(c);
            class.copy_from_slice(&d_rows[..c]);
            for (cell, d_row) in cells.iter().zip(d_rows[c..].chunks_exact(c)) {
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

impl Attention {
    pub(super) fn build(
        (c, heads): (usize, usize),
        mode: &Mode,
        fetch: &mut dyn FnMut(&str) -> std::result::Result<Vec<f32>, Error>,
    ) -> std::result::Result<Self, Error> {
        let mut linear = |name: &str| {
            let weight = fetch(&format!("{name}.weight"))?;
            let bias = fetch(&format!("{name}.bias"))?;
            Ok::<_, Error>(Linear::new(&weight, c, 1, Some(bias), mode))
        };
        let (query, key_value, out) = (linear("query")?, linear("key_value")?, linear("out")?);
        Ok(Self {
            positions: fetch("positions")?,
            query,
            key_value,
            out,
            heads,
        })
    }

    pub(super) fn in_mode(&self, mode: &Mode) -> Self {
        Self {
            positions: self.positions.clone(),
            query: self.query.in_mode(mode),
            key_value: self.key_value.in_mode(mode),
            out: self.out.in_mode(mode),
            heads: self.heads,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        let linears = [&self.query, &self.key_value, &self.out];
        let positions = (self.positions.len() * size_of::<f32>()) as u64;
        positions + linears.map(Linear::bytes).iter().sum::<u64>()
    }

    pub(super) fn values(&self, name: &str) -> Vec<f32> {
        let linear = match name.split('.').next() {
            Some("positions") => return self.positions.clone(),
            Some("query") => &self.query,
            Some("key_value") => &self.key_value,
            Some("out") => &self.out,
            Some(_) | None => return Vec::new(),
        };
        let (weight, bias) = linear.unpacked();
        match name.ends_with(".weight") {
            true => weight,
            false => bias.to_vec(),
        }
    }

    fn how(&self) -> How {
        How {
            heads: self.heads,
            format: Format::F32,
            numbers: Numbers::F32,
        }
    }

    /// Returns the number of frames of a clip, and of rows of a frame, when a clip has so many rows.
    fn division(&self, rows: usize, c: usize) -> (usize, usize) {
        let frames = (self.positions.len() / c.max(1)).max(1);
        (frames, rows / frames)
    }

    /// Computes the features `[clips, C]` of normed tokens `[clips · R, C]`.
    pub(super) fn forward(&self, x: &Tensor, clips: usize) -> Result<(Tensor, Saved)> {
        let (all, c) = x.dims2()?;
        let rows = all / clips.max(1);
        let (frames, of_frame) = self.division(rows, c);
        let mut class = Vec::with_capacity(clips * frames * c);
        let mut placed = Vec::with_capacity(all * c);
        read(x, |x| {
            for (i, frame) in x.chunks_exact((of_frame * c).max(1)).enumerate() {
                class.extend_from_slice(&frame[..c]);
                let position = &self.positions[i % frames * c..][..c];
                for row in frame.chunks_exact(c) {
                    placed.extend(row.iter().zip(position).map(|(x, p)| x + p));
                }
            }
        })?;
        let class = tensor(class, (clips * frames, c))?;
        let means = clip_means(&class, &vec![frames; clips])?;
        let placed = tensor(placed, (clips, rows, c))?;
        let q = self.query.forward(&means, Rows::All, Numbers::F32)?;
        let kv = self.key_value.forward(&placed, Rows::All, Numbers::F32)?;
        let mixed = attention::class_forward(&q, &kv, self.how())?;
        let features = self.out.forward_add(&mixed, &means, Rows::All)?;
        let saved = Saved {
            clips,
            means,
            placed,
            q,
            kv,
            mixed,
        };
        Ok((features, saved))
    }

    /// Computes the gradients of the weights, added to those of earlier clips, and that of x `[clips · R, C]`, if it is wanted.
    pub(super) fn backward(
        &self,
        saved: &Saved,
        d_features: &Tensor,
        sums: &Sums<'_>,
        wants_dx: bool,
    ) -> Result<(Option<Tensor>, Found)> {
        let mut found = Found::new();
        let (_, rows, c) = saved.placed.dims3()?;
        let mut gradients = |linear: &Linear, name: &str, (x, dy): (&Tensor, &Tensor), clip| {
            let names = ["weight", "bias"].map(|part| format!("{name}.{part}"));
            let onto = [0, 1].map(|i: usize| Onto {
                clip,
                earlier: sums.get(&names[i]),
            });
            let full = names.map(|name| sums.name(&name));
            let full = [full[0].as_str(), full[1].as_str()];
            linear.gradients_onto((x, Rows::All), (dy, Rows::All), full, onto, &mut found)
        };
        gradients(&self.out, "out", (&saved.mixed, d_features), 1)?;
        let d_mixed = self.out.backward(d_features, Rows::All)?;
        let (dq, d_kv) = attention::class_backward(&saved.q, &saved.kv, &d_mixed, self.how())?;
        gradients(&self.query, "query", (&saved.means, &dq), 1)?;
        gradients(&self.key_value, "key_value", (&saved.placed, &d_kv), rows)?;
        let d_placed = self.key_value.backward(&d_kv, Rows::All)?;
        let earlier = sums.get("positions");
        let positions = self.d_positions(&d_placed, (rows, c), earlier)?;
        found.push((sums.name("positions"), positions));
        if !wants_dx {
            return Ok((None, found));
        }
        let d_means = self.query.backward_add(&dq, d_features, Rows::All)?;
        let (frames, of_frame) = self.division(rows, c);
        let mut dx = read(&d_placed, <[f32]>::to_vec)?;
        read(&d_means, |d_means| {
            for (clip, d_mean) in dx.chunks_exact_mut(rows * c).zip(d_means.chunks_exact(c)) {
                for frame in clip.chunks_exact_mut(of_frame * c) {
                    for (d, d_mean) in frame[..c].iter_mut().zip(d_mean) {
                        *d += d_mean / frames as f32;
                    }
                }
            }
        })?;
        Ok((Some(tensor(dx, (saved.clips * rows, c))?), found))
    }

    /// Computes the gradient of the positions: sums over the rows of a frame, then over the clips in order.
    fn d_positions(
        &self,
        d_placed: &Tensor,
        (rows, c): (usize, usize),
        earlier: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (frames, of_frame) = self.division(rows, c);
        let mut sums = match earlier {
            Some(earlier) => read(earlier, <[f32]>::to_vec)?,
            None => vec![0.0; frames * c],
        };
        read(d_placed, |d_placed| {
            let mut own = vec![0.0; c];
            for (i, frame) in d_placed.chunks_exact((of_frame * c).max(1)).enumerate() {
                own.fill(0.0);
                for row in frame.chunks_exact(c) {
                    own.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
                }
                let sums = &mut sums[i % frames * c..][..c];
                sums.iter_mut().zip(&own).for_each(|(sum, own)| *sum += own);
            }
        })?;
        tensor(sums, (frames, c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cover_the_grid_and_each_has_its_part_of_it() {
        assert_eq!(
            cells(3),
            (0..9).map(|patch| vec![patch]).collect::<Vec<_>>()
        );
        assert_eq!(cells(8)[5], [18, 19, 26, 27]);
        for grid in 1..20 {
            let cells = cells(grid);
            assert_eq!(cells.len() + 1, rows(grid));
            let mut covered: Vec<usize> = cells.concat();
            covered.sort_unstable();
            covered.dedup();
            assert_eq!(covered, (0..grid * grid).collect::<Vec<_>>(), "{grid}");
        }
    }

    #[test]
    fn gradients_of_the_pooling_are_its_transpose() {
        for grid in [1, 3, 6, 7] {
            let length = 1 + grid * grid;
            let values = |count: usize, step: usize| -> Vec<f32> {
                (0..count).map(|i| (i * step % 17) as f32 - 8.0).collect()
            };
            let x = tensor(values(2 * length * 3, 5), (2, length, 3)).unwrap();
            let dy = tensor(values(2 * rows(grid) * 3, 7), (2 * rows(grid), 3)).unwrap();
            let dot = |a: &Tensor, b: &Tensor| {
                let product = (a * b).unwrap().flatten_all().unwrap();
                product.sum_all().unwrap().to_scalar::<f32>().unwrap()
            };
            let there = dot(&pooled(&x, grid).unwrap(), &dy);
            let back = dot(&x, &unpooled(&dy, grid).unwrap());
            assert!((there - back).abs() < 1e-2, "{grid}: {there} {back}");
        }
    }
}
