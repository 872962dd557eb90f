//! Means of the frames of a clip in a place, and their gradients.
//!
//! Invariant: a clip's mean depends on that clip alone, and is summed in the order of its frames.

use candle_core::{Result, Tensor};

use super::Array;
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::{read, tensor};

/// Returns the mean of each clip, `[clips, C]`, of class tokens `[ΣT, C]`; `frames` holds the number of frames of each clip, in order.
pub(crate) fn means(class: &Array, frames: &[usize]) -> Result<Array> {
    match class {
        Array::Host(class) => means_on_host(class, frames).map(Array::Host),
        #[cfg(feature = "cuda")]
        Array::Cuda(class) => cuda::pool::means(class, frames).map(Array::Cuda),
    }
}

fn means_on_host(class: &Tensor, frames: &[usize]) -> Result<Tensor> {
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
pub(crate) fn spread(d_means: &Array, frames: &[usize]) -> Result<Array> {
    match d_means {
        Array::Host(d_means) => spread_on_host(d_means, frames).map(Array::Host),
        #[cfg(feature = "cuda")]
        Array::Cuda(d_means) => cuda::pool::spread(d_means, frames).map(Array::Cuda),
    }
}

fn spread_on_host(d_means: &Tensor, frames: &[usize]) -> Result<Tensor> {
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
