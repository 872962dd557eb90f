//! The steps between class tokens and the head: the mean over a clip's frames, and dropout.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::ops::{read, tensor};
use crate::rng::Stream;

/// Returns the mean of each clip, `[clips, C]`, of class tokens `[ΣT, C]`; `frames` holds the number of frames of each clip, in order.
pub(super) fn clip_means(class: &Tensor, frames: &[usize]) -> Result<Tensor> {
    let c = class.dim(1)?;
    let mut means = Vec::with_capacity(frames.len() * c);
    read(class, |class| {
        let mut rest = class;
        for &count in frames {
            let (clip, after) = rest.split_at(count * c);
            rest = after;
            let begin = means.len();
            means.resize(begin + c, 0.0);
            for frame in clip.chunks_exact(c) {
                for (mean, x) in means[begin..].iter_mut().zip(frame) {
                    *mean += x;
                }
            }
            for mean in &mut means[begin..] {
                *mean /= count as f32;
            }
        }
    })?;
    tensor(means, (frames.len(), c))
}

/// Returns the gradient of the class tokens, `[ΣT, C]`, from the gradient of the means.
pub(super) fn spread(d_means: &Tensor, frames: &[usize]) -> Result<Tensor> {
    let c = d_means.dim(1)?;
    let total: usize = frames.iter().sum();
    let mut out = Vec::with_capacity(total * c);
    read(d_means, |d_means| {
        for (&count, row) in frames.iter().zip(d_means.chunks_exact(c)) {
            for _ in 0..count {
                out.extend(row.iter().map(|d| d / count as f32));
            }
        }
    })?;
    tensor(out, (total, c))
}

/// Returns the factors of dropout `[rows, C]`, each 0 or 1 / (1 - rate); row i of the batch uses part i of the stream.
pub(super) fn dropout(rate: f64, stream: &Stream, rows: Range<usize>, c: usize) -> Result<Tensor> {
    let (threshold, factor) = (rate as f32, (1.0 / (1.0 - rate)) as f32);
    let count = rows.len();
    let mut factors = Vec::with_capacity(count * c);
    for row in rows {
        let mut own = stream.fork(row as u64);
        factors.extend((0..c).map(|_| if own.unit() < threshold { 0.0 } else { factor }));
    }
    tensor(factors, (count, c))
}
