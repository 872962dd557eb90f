//! Rows of tokens in a place: the class tokens, tokens that are zero but for the class token, and copies of chosen rows.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::Array;
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::integers::of as of_integers;
use crate::ops::{read, tensor};

/// Returns the class tokens `[N, C]` of tokens `[N, L, C]`.
pub(crate) fn class(x: &Array) -> Result<Array> {
    match x {
        Array::Host(x) => Ok(Array::Host(x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)),
        #[cfg(feature = "cuda")]
        Array::Cuda(x) => cuda::rows::class(x).map(Array::Cuda),
    }
}

/// Returns rows of floats `[…, k]`, on the host, as rows of integers with their scales, which only products with integers read.
pub(crate) fn integers(x: &Array) -> Result<Array> {
    of_integers(x.on_host()?).map(Array::Host)
}

/// Returns class tokens `[N, C]` as tokens `[N, L, C]` that are zero elsewhere.
pub(crate) fn only_class(class: &Array, tokens: usize) -> Result<Array> {
    match class {
        Array::Host(class) => on_host(class, tokens).map(Array::Host),
        #[cfg(feature = "cuda")]
        Array::Cuda(class) => cuda::rows::only_class(class, tokens).map(Array::Cuda),
    }
}

fn on_host(class: &Tensor, tokens: usize) -> Result<Tensor> {
    let (n, c) = class.dims2()?;
    let mut values = vec![0.0; n * tokens * c];
    read(class, |class| {
        for (out, row) in values
            .chunks_exact_mut(tokens * c)
            .zip(class.chunks_exact(c))
        {
            out[..c].copy_from_slice(row);
        }
    })?;
    tensor(values, (n, tokens, c))
}

/// Returns copies of these rows of x, in order.
pub(crate) fn gathered(x: &Array, rows: &[Range<usize>]) -> Result<Array> {
    match x {
        Array::Host(x) => gathered_on_host(x, rows).map(Array::Host),
        #[cfg(feature = "cuda")]
        Array::Cuda(x) => {
            let parts = rows.iter().map(|rows| x.narrow(rows.start, rows.len()));
            let parts: Vec<cuda::Tensor> = parts.collect::<Result<_>>()?;
            let parts: Vec<&cuda::Tensor> = parts.iter().collect();
            cuda::Tensor::cat(&parts).map(Array::Cuda)
        }
    }
}

fn gathered_on_host(x: &Tensor, rows: &[Range<usize>]) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let len: usize = shape.iter().skip(1).product();
    let count: usize = rows.iter().map(Range::len).sum();
    let mut values = Vec::with_capacity(count * len);
    read(x, |x| {
        for rows in rows {
            values.extend_from_slice(&x[rows.start * len..rows.end * len]);
        }
    })?;
    if let Some(first) = shape.first_mut() {
        *first = count;
    }
    tensor(values, shape)
}
