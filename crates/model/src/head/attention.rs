//! The features of an attentive head: one attention layer whose query is the mean of a clip's class tokens, over the class tokens and a pooled grid of
//! patch tokens, to which learnt positions of their frames are added. After STEP (arXiv 2503.24298).
//!
//! Deviations from it: the grid is pooled, the query is not learnt, and the result is added to the mean, so that a fresh head is the paper's.

use super::{Result, Sums};
use crate::Error;
use crate::ops::placed::attention::{self, How};
use crate::ops::placed::cells::{self, Cells};
use crate::ops::placed::linear::Rows;
use crate::ops::placed::{Onto, pool};
use crate::ops::{Array, Format, Numbers};
use crate::weights::{Found, Linear, Mode};

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
pub(crate) struct Saved {
    clips: usize,
    /// Means of the class tokens, `[clips, C]`.
    means: Array,
    /// Tokens with their frames' positions, `[clips, R, C]`.
    placed: Array,
    /// Queries, `[clips, C]`.
    q: Array,
    /// Keys and values, `[clips, R, 2C]`.
    kv: Array,
    /// Output of the attention, `[clips, C]`.
    mixed: Array,
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

/// Returns how the patches of a frame are pooled.
fn division(grid: usize) -> Cells {
    Cells {
        grid,
        side: grid.min(CELLS),
    }
}

/// Returns the number of rows of a frame: its class token and the cells.
pub(super) fn rows(grid: usize) -> usize {
    division(grid).rows()
}

/// Returns the class token and the means of the cells of each frame, `[ΣT · rows, C]`, from all tokens `[ΣT, L, C]`, in the place of the tokens.
pub(super) fn pooled(tokens: &Array, grid: usize) -> Result<Array> {
    Ok(cells::means(tokens, division(grid))?)
}

/// Returns the gradient of all tokens, `[ΣT, L, C]`, from that of what [`pooled`] returned, in its place.
pub(super) fn unpooled(d_rows: &Array, grid: usize) -> Result<Array> {
    Ok(cells::spread(d_rows, division(grid))?)
}

impl Attention {
    pub(super) fn build(
        (c, heads): (usize, usize),
        mode: &Mode,
        fetch: &mut dyn FnMut(&str) -> Result<Array>,
    ) -> Result<Self> {
        let mut linear = |name: &str| {
            let weight = fetch(&format!("{name}.weight"))?;
            let bias = fetch(&format!("{name}.bias"))?;
            Ok::<_, Error>(Linear::of(&weight, c, &bias, mode)?)
        };
        let (query, key_value, out) = (linear("query")?, linear("key_value")?, linear("out")?);
        Ok(Self {
            positions: fetch("positions")?.read(<[f32]>::to_vec)?,
            query,
            key_value,
            out,
            heads,
        })
    }

    pub(super) fn in_mode(&self, mode: &Mode) -> Result<Self> {
        Ok(Self {
            positions: self.positions.clone(),
            query: self.query.in_mode(mode)?,
            key_value: self.key_value.in_mode(mode)?,
            out: self.out.in_mode(mode)?,
            heads: self.heads,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        let linears = [&self.query, &self.key_value, &self.out];
        let positions = (self.positions.len() * size_of::<f32>()) as u64;
        positions + linears.map(Linear::bytes).iter().sum::<u64>()
    }

    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>> {
        let linear = match name.split('.').next() {
            Some("positions") => return Ok(self.positions.clone()),
            Some("query") => &self.query,
            Some("key_value") => &self.key_value,
            Some("out") => &self.out,
            Some(_) | None => return Ok(Vec::new()),
        };
        let (weight, bias) = linear.unpacked()?;
        Ok(match name.ends_with(".weight") {
            true => weight,
            false => bias,
        })
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
    pub(super) fn forward(&self, x: &Array, clips: usize) -> Result<(Array, Saved)> {
        let (all, c) = x.dims2()?;
        let rows = all / clips.max(1);
        let (frames, of_frame) = self.division(rows, c);
        let mut class = Vec::with_capacity(clips * frames * c);
        let mut placed = Vec::with_capacity(all * c);
        x.read(|x| {
            for (i, frame) in x.chunks_exact((of_frame * c).max(1)).enumerate() {
                class.extend_from_slice(&frame[..c]);
                let position = &self.positions[i % frames * c..][..c];
                for row in frame.chunks_exact(c) {
                    placed.extend(row.iter().zip(position).map(|(x, p)| x + p));
                }
            }
        })?;
        let class = Array::of(class, (clips * frames, c))?;
        let means = pool::means(&class, &vec![frames; clips])?;
        let placed = Array::of(placed, (clips, rows, c))?;
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
        d_features: &Array,
        sums: &Sums<'_>,
        wants_dx: bool,
    ) -> Result<(Option<Array>, Found)> {
        let mut found = Found::new();
        let (_, rows, c) = saved.placed.dims3()?;
        let mut gradients = |linear: &Linear, name: &str, (x, dy): (&Array, &Array), clip| {
            let names = ["weight", "bias"].map(|part| format!("{name}.{part}"));
            let onto = |name: &str| {
                Ok::<_, Error>(Onto {
                    clip,
                    earlier: Some(sums.get(name)?),
                })
            };
            let onto = [onto(&names[0])?, onto(&names[1])?];
            let full = names.map(|name| sums.name(&name));
            let full = [full[0].as_str(), full[1].as_str()];
            let (x, dy) = ((x, Rows::All), (dy, Rows::All));
            linear.gradients_onto(x, dy, full, onto, &mut found)?;
            Ok::<_, Error>(())
        };
        gradients(&self.out, "out", (&saved.mixed, d_features), 1)?;
        let d_mixed = self.out.backward(d_features, Rows::All)?;
        let (dq, d_kv) = attention::class_backward(&saved.q, &saved.kv, &d_mixed, self.how())?;
        gradients(&self.query, "query", (&saved.means, &dq), 1)?;
        gradients(&self.key_value, "key_value", (&saved.placed, &d_kv), rows)?;
        let d_placed = self.key_value.backward(&d_kv, Rows::All)?;
        let earlier = sums.get("positions")?;
        let positions = self.d_positions(&d_placed, (rows, c), &earlier)?;
        found.push((sums.name("positions"), positions));
        if !wants_dx {
            return Ok((None, found));
        }
        let d_means = self.query.backward_add(&dq, d_features, Rows::All)?;
        let (frames, of_frame) = self.division(rows, c);
        let mut dx = d_placed.read(<[f32]>::to_vec)?;
        d_means.read(|d_means| {
            for (clip, d_mean) in dx.chunks_exact_mut(rows * c).zip(d_means.chunks_exact(c)) {
                for frame in clip.chunks_exact_mut(of_frame * c) {
                    for (d, d_mean) in frame[..c].iter_mut().zip(d_mean) {
                        *d += d_mean / frames as f32;
                    }
                }
            }
        })?;
        Ok((Some(Array::of(dx, (saved.clips * rows, c))?), found))
    }

    /// Computes the gradient of the positions: sums over the rows of a frame, then over the clips in order.
    fn d_positions(
        &self,
        d_placed: &Array,
        (rows, c): (usize, usize),
        earlier: &Array,
    ) -> Result<Array> {
        let (frames, of_frame) = self.division(rows, c);
        let mut sums = earlier.read(<[f32]>::to_vec)?;
        d_placed.read(|d_placed| {
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
        Ok(Array::of(sums, (frames, c))?)
    }
}
