//! Linear layers of several segments of one batch, each with its own weight, as one grouped product.
//!
//! Invariant: a segment's rows are multiplied only by its own weight, and their values equal those of the segment alone.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::product::{Product, Results, run_all};
use super::{Grid, Rows};
use crate::ops::activations::{Values, ValuesMut};
use crate::ops::buffers::{read, tensor, unfilled};
use crate::ops::packed::Packed;

/// One segment: its frames, and the layer that applies to them.
#[derive(Debug, Clone)]
pub(crate) struct Each<'a> {
    pub(crate) frames: Range<usize>,
    pub(crate) weight: &'a Packed,
    pub(crate) bias: Option<&'a [f32]>,
}

impl<'a> Each<'a> {
    fn product(&self, x: Values<'a>, input: Grid, output: Grid) -> Product<'a> {
        Product {
            weight: self.weight,
            sections: 0..self.weight.sections(),
            bias: self.bias,
            activation: None,
            x: x.into(),
            input,
            output,
            residual: None,
        }
    }
}

/// Multiplies the patch rows of each segment of x `[N, L, k]` by the segment's own Wᵀ. Returns `[frames, L - 1, n]` for each segment.
pub(crate) fn project_each(x: &Tensor, parts: &[Each<'_>]) -> Result<Vec<Tensor>> {
    let (frames, tokens, k) = x.dims3()?;
    check(frames, parts.iter().map(|part| &part.frames))?;
    let mut shapes = Vec::with_capacity(parts.len());
    let mut buffers = Vec::with_capacity(parts.len());
    for part in parts {
        let shape = (part.frames.len(), tokens - 1, part.weight.n());
        buffers.push(unfilled(shape.0 * shape.1 * shape.2));
        shapes.push(shape);
    }
    read(x, |x| {
        let mut products = Vec::with_capacity(parts.len());
        for (part, buffer) in parts.iter().zip(&mut buffers) {
            let own = &x[part.frames.start * tokens * k..part.frames.end * tokens * k];
            let input = Grid::new(&(part.frames.len(), tokens, k).into(), Rows::Patches)?;
            let output = input.packed(part.weight.n());
            let product = part.product(Values::F32(own), input, output);
            products.push((product, Results::only(ValuesMut::F32(buffer))));
        }
        run_all(products)
    })??;
    let tensors = buffers.into_iter().zip(shapes);
    tensors
        .map(|(buffer, shape)| tensor(buffer, shape))
        .collect()
}

/// Returns r `[N, L, C]` with x · Wᵀ + b of each segment added to its patch rows; `xs` are the results of [`project_each`]. Frames of no segment are
/// unchanged. Segments follow one another.
pub(crate) fn project_add_each(
    xs: &[Tensor],
    residual: &Tensor,
    parts: &[Each<'_>],
) -> Result<Tensor> {
    let (frames, tokens, c) = residual.dims3()?;
    check(frames, parts.iter().map(|part| &part.frames))?;
    if xs.len() != parts.len() {
        candle_core::bail!("{} segments, operands for {}", parts.len(), xs.len());
    }
    let mut xs_values = Vec::with_capacity(xs.len());
    for x in xs {
        xs_values.push(x.contiguous()?);
    }
    let mut y = unfilled(residual.elem_count());
    read(residual, |residual| {
        add_each(&xs_values, residual, parts, (tokens, c), &mut y)
    })??;
    tensor(y, (frames, tokens, c))
}

fn add_each(
    xs: &[Tensor],
    residual: &[f32],
    parts: &[Each<'_>],
    (tokens, c): (usize, usize),
    mut y: &mut [f32],
) -> Result<()> {
    let storages: Vec<_> = xs.iter().map(Tensor::storage_and_layout).collect();
    let frame = tokens * c;
    let (mut products, mut done) = (Vec::with_capacity(parts.len()), 0);
    for (part, (storage, layout)) in parts.iter().zip(&storages) {
        let (before, rest) = y.split_at_mut((part.frames.start - done) * frame);
        before.copy_from_slice(&residual[done * frame..part.frames.start * frame]);
        let (own, rest) = rest.split_at_mut(part.frames.len() * frame);
        y = rest;
        done = part.frames.end;
        let residual = &residual[part.frames.start * frame..part.frames.end * frame];
        // Class tokens are copied; the other rows are written once, by the product.
        for (y, r) in own
            .chunks_exact_mut(frame)
            .zip(residual.chunks_exact(frame))
        {
            y[..c].copy_from_slice(&r[..c]);
        }
        let candle_core::Storage::Cpu(storage) = &**storage else {
            candle_core::bail!("expected a CPU tensor");
        };
        let x = Values::new(storage, layout)?;
        let output = Grid::new(&(part.frames.len(), tokens, c).into(), Rows::Patches)?;
        let input = output.packed(part.weight.k());
        let mut product = part.product(x, input, output);
        product.residual = Some(residual);
        products.push((product, Results::only(ValuesMut::F32(own))));
    }
    y.copy_from_slice(&residual[done * frame..]);
    run_all(products)
}

/// Returns an error unless the segments follow one another inside the batch.
pub(in crate::ops) fn check<'a>(
    frames: usize,
    segments: impl IntoIterator<Item = &'a Range<usize>>,
) -> Result<()> {
    let mut begin = 0;
    for own in segments {
        if own.start < begin || own.end < own.start {
            candle_core::bail!("segment {own:?} begins before {begin}");
        }
        begin = own.end;
    }
    if begin > frames {
        candle_core::bail!("segments end at {begin}, after {frames} frames");
    }
    Ok(())
}
