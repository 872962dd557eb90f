//! Sums over rows on the device: gradients of weights and biases.
//!
//! Invariant: rows are added up in runs, none of which has rows of two clips, and runs are added in their order: how a step is divided changes no bit.

use candle_core::Result;

use super::Tensor;
use crate::ops::linear::Rows;
use crate::ops::{Format, Numbers};

/// Most rows that are added up in one run when all rows are one clip.
const DEPTH: usize = 512;
/// Threads of a block.
const THREADS: usize = 256;

/// Starting point of a sum over rows.
pub(crate) struct Onto<'a> {
    /// Number of rows of a clip.
    pub(crate) clip: usize,
    /// Sum over the earlier clips; zeros when `None`.
    pub(crate) earlier: Option<&'a Tensor>,
}

/// Division of rows into runs, of which each is added up by itself; no run has rows of two clips.
#[derive(Clone, Copy)]
struct Runs {
    count: usize,
    clip: usize,
    most: usize,
}

impl Runs {
    /// Divides rows in whole clips of `clip` rows into runs of at most `most`. Fewer rows than a clip's are one clip, in runs of a fixed length, so that blocks
    /// have enough to do.
    fn of(rows: usize, clip: usize, most: usize) -> Self {
        let (clip, most) = match clip <= rows {
            true => (clip.max(1), most.min(clip).max(1)),
            false => (rows.max(1), DEPTH),
        };
        Self {
            count: rows.div_ceil(clip) * clip.div_ceil(most),
            clip,
            most,
        }
    }
}

/// Returns the number of rows that are multiplied, of how many tokens of a frame, and the number of tokens: of all rows, a frame is one.
fn spread(dims: &[usize], rows: Rows) -> Result<[usize; 3]> {
    let lead = dims.split_last().map_or(&[][..], |(_, lead)| lead);
    match (rows, lead) {
        (Rows::All, _) => Ok([lead.iter().product(), 1, 1]),
        (Rows::Patches, &[n, l]) => Ok([n * (l - 1), l - 1, l]),
        (Rows::Class | Rows::Patches, _) => {
            candle_core::bail!("sums over {rows:?} of {dims:?} on the device")
        }
    }
}

/// Computes the gradient `[n, k]` of a weight in this format from some rows of x and as many rows of dy.
pub(crate) fn weight_gradient(
    (x, of_x): (&Tensor, Rows),
    (dy, of_dy): (&Tensor, Rows),
    onto: &Onto<'_>,
    format: Format,
) -> Result<Tensor> {
    let ([rows, own, x_tokens], [dy_rows, dy_own, dy_tokens]) =
        (spread(x.dims(), of_x)?, spread(dy.dims(), of_dy)?);
    let (Some(&k), Some(&n)) = (x.dims().last(), dy.dims().last()) else {
        candle_core::bail!("weight gradient of a scalar");
    };
    if rows != dy_rows {
        candle_core::bail!("weight gradient of {of_x:?} of {x:?} and {of_dy:?} of {dy:?}");
    }
    // Rows without class rows count as frames of as many tokens as patches.
    let patches = own.max(dy_own);
    let tokens = |of: Rows, tokens: usize| if of == Rows::All { patches } else { tokens };
    let runs = Runs::of(rows, onto.clip, onto.clip);
    let is_aligned = n.is_multiple_of(8) && k.is_multiple_of(8);
    let is_exact = format == Format::F32 || !is_aligned;
    let (name, side, shared) = match (is_exact, x.numbers(), dy.numbers()) {
        (true, Numbers::F32, Numbers::F32) => ("exact_weight_gradient", 64, 8_704),
        (false, Numbers::F32, Numbers::F32) => ("weight_gradient_f32_f32", 128, 49_152),
        (false, Numbers::F32, Numbers::Bf16) => ("weight_gradient_f32_bf16", 128, 49_152),
        (false, Numbers::Bf16, Numbers::F32) => ("weight_gradient_bf16_f32", 128, 49_152),
        (false, Numbers::Bf16, Numbers::Bf16) => ("weight_gradient_bf16_bf16", 128, 49_152),
        // Adapters, whose weights alone are trained on a device, have operands in floats.
        (true, _, _) => candle_core::bail!("weight gradient of {x:?} and {dy:?}"),
    };
    let mut partial = Tensor::unfilled(x.gpu(), Numbers::F32, &[runs.count, n, k])?;
    x.gpu()
        .launch(name)
        .grid([n.div_ceil(side), k.div_ceil(side), runs.count])
        .threads(THREADS)
        .shared(shared)
        .read(x)
        .read(dy)
        .write(&mut partial)
        .int(rows)
        .int(runs.clip)
        .int(runs.most)
        .int(n)
        .int(k)
        .int(patches)
        .int(tokens(of_x, x_tokens))
        .int(tokens(of_dy, dy_tokens))
        .run()?;
    let sums = Sums {
        runs: runs.count,
        stride: n * k,
        at: 0,
        shape: [n, k],
        transposed: false,
    };
    sums.add(&partial, onto.earlier, &[n, k])
}

/// Returns the column sums `[n]` over some rows of x `[…, n]`.
pub(crate) fn columns(x: &Tensor, rows: Rows, onto: &Onto<'_>) -> Result<Tensor> {
    let [count, patches, tokens] = spread(x.dims(), rows)?;
    let n = x.dims().last().copied().unwrap_or(0);
    let runs = Runs::of(count, onto.clip, DEPTH / 2);
    let name = match x.numbers() {
        Numbers::F32 => "column_sums_f32",
        Numbers::Bf16 => "column_sums_bf16",
    };
    let mut partial = Tensor::unfilled(x.gpu(), Numbers::F32, &[runs.count, n])?;
    x.gpu()
        .launch(name)
        .grid([n.div_ceil(THREADS), runs.count, 1])
        .threads(THREADS)
        .read(x)
        .write(&mut partial)
        .int(count)
        .int(runs.clip)
        .int(runs.most)
        .int(n)
        .int(patches)
        .int(tokens)
        .run()?;
    let sums = Sums {
        runs: runs.count,
        stride: n,
        at: 0,
        shape: [1, n],
        transposed: false,
    };
    sums.add(&partial, onto.earlier, &[n])
}

/// Addition of partial sums, one after the other.
pub(super) struct Sums {
    pub(super) runs: usize,
    /// Elements from one partial sum to the next.
    pub(super) stride: usize,
    /// Elements before the first.
    pub(super) at: usize,
    /// Rows and columns of a partial sum.
    pub(super) shape: [usize; 2],
    /// Whether the result is the transpose.
    pub(super) transposed: bool,
}

impl Sums {
    /// Returns the sum of the partial sums, added to an earlier one.
    pub(super) fn add(
        &self,
        partial: &Tensor,
        earlier: Option<&Tensor>,
        dims: &[usize],
    ) -> Result<Tensor> {
        let gpu = partial.gpu();
        let count = self.shape.iter().product::<usize>();
        let fits = earlier.is_none_or(|earlier| earlier.elem_count() == count);
        if !fits || self.runs == 0 {
            candle_core::bail!("{earlier:?} does not fit sums {:?}", self.shape);
        }
        let mut out = Tensor::unfilled(gpu, Numbers::F32, dims)?;
        gpu.launch("add_runs")
            .grid([count.div_ceil(THREADS), 1, 1])
            .threads(THREADS)
            .counts(count)
            .read_from(partial, self.at)
            .read_or_null(earlier)
            .write(&mut out)
            .int(self.runs)
            .long(self.stride)
            .int(self.shape[0])
            .int(self.shape[1])
            .int(usize::from(self.transposed))
            .run()?;
        Ok(out)
    }
}
