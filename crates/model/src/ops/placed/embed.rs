//! The first rows of a forward pass in a place: patches cut from pictures, and the class and positional embeddings that they are added to.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Array, Matrix, Place, Vector};
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::linear::{self, Rows};
use crate::ops::{Numbers, tensor};

/// Position of one picture in memory: its first value, and the distance between its channels.
#[derive(Clone, Copy)]
pub(crate) struct Picture<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) channel: usize,
}

/// Sizes of pictures and patches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// Number of patches along a side.
    pub(crate) grid: usize,
    /// Side of a picture.
    pub(crate) side: usize,
    /// Side of a patch.
    pub(crate) patch: usize,
}

impl Cut {
    /// Returns the number of values of a patch.
    pub(crate) fn len(self) -> usize {
        3 * self.patch * self.patch
    }
}

/// Splits pictures into patches `[N, P, 3 · patch²]`, each patch as (channel, row, column), the order of the convolution's weight. A device gets the pixels in
/// the number format that the convolution reads; on the host it reads floats.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub(crate) fn patches(
    pictures: &[Picture<'_>],
    cut: Cut,
    reads: Numbers,
    place: &Place,
) -> Result<Array> {
    match place {
        Place::Host => patches_on_host(pictures, cut).map(Array::Host),
        #[cfg(feature = "cuda")]
        Place::Cuda(gpu) => cuda::embed::patches(gpu, pictures, cut, reads).map(Array::Cuda),
    }
}

fn patches_on_host(pictures: &[Picture<'_>], cut: Cut) -> Result<Tensor> {
    let Cut { grid, side, patch } = cut;
    let len = cut.len();
    let mut values = vec![0.0; pictures.len() * grid * grid * len];
    values
        .par_chunks_mut(grid * grid * len)
        .zip(pictures)
        .for_each(|(out, picture)| {
            for (i, out) in out.chunks_exact_mut(len).enumerate() {
                let corner = i / grid * patch * side + i % grid * patch;
                for (line, out) in out.chunks_exact_mut(patch).enumerate() {
                    let from = line / patch * picture.channel + corner + line % patch * side;
                    out.copy_from_slice(&picture.values[from..from + patch]);
                }
            }
        });
    tensor(values, (pictures.len(), grid * grid, len))
}

/// Returns the embeddings `[L, C]` of a frame for each of N frames, with x · Wᵀ + b of its patches `[N, L - 1, k]` added to its patch rows.
pub(crate) fn embed(
    patches: &Array,
    base: &Vector,
    weight: &Matrix,
    bias: Option<&Vector>,
) -> Result<Array> {
    match patches {
        Array::Host(patches) => {
            let (frames, count, _) = patches.dims3()?;
            let (base, bias) = (base.on_host()?, bias.map(Vector::on_host).transpose()?);
            let shape = (frames, count + 1, base.len() / (count + 1));
            let base = tensor(base.repeat(frames), shape)?;
            let weight = weight.on_host()?;
            linear::project_add(patches, &base, weight, Rows::Patches, bias).map(Array::Host)
        }
        #[cfg(feature = "cuda")]
        Array::Cuda(patches) => {
            let options = cuda::linear::Options {
                bias: bias.map(Vector::on_cuda).transpose()?,
                activation: None,
                sections: 0..weight.sections(),
                numbers: Numbers::F32,
                apart: false,
            };
            let weight = weight.on_cuda()?;
            let x = cuda::linear::project(patches, weight, Rows::All, options)?;
            cuda::embed::added(&x, base.on_cuda()?).map(Array::Cuda)
        }
    }
}
