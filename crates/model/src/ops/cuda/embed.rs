//! The first rows of a forward pass on the device: pictures are uploaded as they are, and cut into patches there.

use std::sync::Arc;

use candle_core::Result;
use half::bf16;
use rayon::prelude::*;

use super::tables::Place;
use super::{Gpu, Tensor};
use crate::ops::Numbers;
use crate::ops::placed::embed::{Cut, Picture};

/// Threads of a block.
const THREADS: usize = 256;
/// Numbers that a thread of the host writes at a time.
const PART: usize = 32_768;

/// Splits pictures into patches `[N, P, 3 · patch²]` in this number format, to which pixels are rounded on the host: the product would round them.
pub(crate) fn patches(
    gpu: &Arc<Gpu>,
    pictures: &[Picture<'_>],
    cut: Cut,
    numbers: Numbers,
) -> Result<Tensor> {
    let Cut { grid, side, patch } = cut;
    let plane = side * side;
    let dims = [pictures.len(), 3 * plane];
    let planes = Planes { pictures, plane };
    let count = pictures.len() * 3 * plane;
    let buffer = match numbers {
        Numbers::F32 => gpu.stage_by(count, |begin, to| planes.write(begin, to, |x| x)),
        Numbers::Bf16 => gpu.stage_by(count, |begin, to| planes.write(begin, to, bf16::from_f32)),
    };
    let uploaded = Tensor::around(buffer?, &dims, numbers)?;
    let places = (0..pictures.len()).map(|i| Place {
        at: (i * 3 * plane) as i64,
        channel: plane as i64,
    });
    let table = gpu.table(&places.collect::<Vec<_>>())?;
    let dims = [pictures.len(), grid * grid, cut.len()];
    let mut y = Tensor::unfilled(gpu, numbers, &dims)?;
    let name = match numbers {
        Numbers::F32 => "patches_f32_f32",
        Numbers::Bf16 => "patches_bf16_bf16",
    };
    gpu.launch(name)
        .grid([(dims[1] * dims[2]).div_ceil(THREADS), dims[0], 1])
        .threads(THREADS)
        .counts(dims[1] * dims[2])
        .read(&uploaded)
        .write(&mut y)
        .read(&table)
        .int(grid)
        .int(patch)
        .run()?;
    Ok(y)
}

/// Planes of all pictures, one after another.
struct Planes<'a> {
    pictures: &'a [Picture<'a>],
    /// Numbers of a plane.
    plane: usize,
}

impl Planes<'_> {
    /// Writes the numbers from `begin` on, each as `of` makes it, on all threads.
    fn write<T: Send>(&self, begin: usize, to: &mut [T], of: impl Fn(f32) -> T + Sync) {
        let parts = to.par_chunks_mut(PART).enumerate();
        parts.for_each(|(part, mut to)| {
            let mut at = begin + part * PART;
            while !to.is_empty() {
                let (number, within) = (at / self.plane, at % self.plane);
                let picture = &self.pictures[number / 3];
                let from = &picture.values[number % 3 * picture.channel + within..];
                let (own, rest) = to.split_at_mut(to.len().min(self.plane - within));
                at += own.len();
                for (to, &x) in own.iter_mut().zip(from) {
                    *to = of(x);
                }
                to = rest;
            }
        });
    }
}

/// Returns the embeddings `[L, C]` of a frame with each frame's patches `[N, L - 1, C]` added to its patch rows.
pub(crate) fn added(patches: &Tensor, base: &Tensor) -> Result<Tensor> {
    let (n, count, c) = patches.dims3()?;
    let tokens = count + 1;
    if base.elem_count() != tokens * c || patches.numbers() != Numbers::F32 {
        candle_core::bail!("embeddings {base:?} of patches {patches:?}");
    }
    let mut y = Tensor::unfilled(patches.gpu(), Numbers::F32, &[n, tokens, c])?;
    patches
        .gpu()
        .launch("embed")
        .grid([(n * tokens * c).div_ceil(THREADS), 1, 1])
        .threads(THREADS)
        .counts(n * tokens * c)
        .read(patches)
        .read(base)
        .write(&mut y)
        .int(n)
        .int(tokens)
        .int(c)
        .run()?;
    Ok(y)
}
