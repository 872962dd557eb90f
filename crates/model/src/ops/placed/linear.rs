//! Linear layers in a place: y = act(x · Wᵀ + b) over all tokens or some, r + x · Wᵀ + b, and both for the segments of a batch.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::{Array, Matrix, Vector};
use crate::Activation;
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::{Numbers, gelu, linear as host};

pub(crate) use crate::ops::linear::Rows;

/// Options of a product.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options<'a> {
    /// Bias `[n]` of all sections.
    pub(crate) bias: Option<&'a Vector>,
    /// Activation that is applied after the bias.
    pub(crate) activation: Option<Activation>,
    /// Sections of the weight to use; all when `None`.
    pub(crate) sections: Option<Range<usize>>,
    /// Number format of the result.
    pub(crate) numbers: Numbers,
    /// Whether the result must have the bits that [`project_both`] gives. On the host it has them always; a device may have a kernel that ends with the
    /// activation and rounds once less.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(dead_code, reason = "only a device differs")
    )]
    pub(crate) apart: bool,
}

impl<'a> Options<'a> {
    fn on_host(self) -> Result<host::Options<'a>> {
        Ok(host::Options {
            bias: self.bias.map(Vector::on_host).transpose()?,
            activation: self.activation,
            sections: self.sections,
            numbers: self.numbers,
        })
    }

    /// Returns the options of the device's product, and the activation that follows it.
    #[cfg(feature = "cuda")]
    fn on_cuda(self, weight: &Matrix) -> Result<cuda::linear::Options<'a>> {
        Ok(cuda::linear::Options {
            bias: self.bias.map(Vector::on_cuda).transpose()?,
            activation: self.activation,
            sections: self.sections.unwrap_or(0..weight.sections()),
            numbers: self.numbers,
            apart: self.apart,
        })
    }
}

/// Multiplies `rows` of x `[…, L, k]` by Wᵀ. Returns `[…, L, n]`, `[N, L - 1, n]` or `[N, n]`.
pub(crate) fn project(
    x: &Array,
    weight: &Matrix,
    rows: Rows,
    options: Options<'_>,
) -> Result<Array> {
    match x {
        Array::Host(x) => {
            host::project(x, weight.on_host()?, rows, options.on_host()?).map(Array::Host)
        }
        #[cfg(feature = "cuda")]
        Array::Cuda(x) => {
            let options = options.on_cuda(weight)?;
            cuda::linear::project(x, weight.on_cuda()?, rows, options).map(Array::Cuda)
        }
    }
}

/// Multiplies like [`project`] over all rows. Returns the values before the activation, in the format `before`, and those after it.
pub(crate) fn project_both(
    x: &Array,
    weight: &Matrix,
    options: Options<'_>,
    before: Numbers,
) -> Result<(Array, Array)> {
    match x {
        Array::Host(x) => {
            let (before, y) = host::project_both(x, weight.on_host()?, options.on_host()?, before)?;
            Ok((Array::Host(before), Array::Host(y)))
        }
        #[cfg(feature = "cuda")]
        Array::Cuda(x) => {
            let options = options.on_cuda(weight)?;
            let both = cuda::linear::project_both(x, weight.on_cuda()?, options, before)?;
            Ok((Array::Cuda(both.0), Array::Cuda(both.1)))
        }
    }
}

/// Multiplies like [`project`] over all rows, on the host, whose result is rows of integers. Returns the values before the activation as well, if their format is
/// given.
pub(crate) fn project_integers(
    x: &Array,
    weight: &Matrix,
    options: Options<'_>,
    before: Option<Numbers>,
) -> Result<(Option<Array>, Array)> {
    let (x, weight) = (x.on_host()?, weight.on_host()?);
    let (before, y) = host::project_integers(x, weight, options.on_host()?, before)?;
    Ok((before.map(Array::Host), Array::Host(y)))
}

/// Multiplies all rows of dy by a weight's transposed view, and the result by the activation's slope at `before`, the values before it. Returns `[…, L, n]` in this
/// number format.
pub(crate) fn project_slope(
    dy: &Array,
    weight: &Matrix,
    before: &Array,
    activation: Activation,
    numbers: Numbers,
) -> Result<Array> {
    match dy {
        Array::Host(dy) => {
            let options = host::Options::default();
            let d_active = host::project(dy, weight.on_host()?, Rows::All, options)?;
            gelu::backward(before.on_host()?, &d_active, activation, numbers).map(Array::Host)
        }
        #[cfg(feature = "cuda")]
        Array::Cuda(dy) => {
            let (weight, before) = (weight.on_cuda()?, before.on_cuda()?);
            cuda::linear::project_slope(dy, weight, before, activation, numbers).map(Array::Cuda)
        }
    }
}

/// Returns r `[…, L, n]` with x · Wᵀ + b added to `rows`; x has the shape that [`project`] returns for these rows.
pub(crate) fn project_add(
    x: &Array,
    residual: &Array,
    weight: &Matrix,
    rows: Rows,
    bias: Option<&Vector>,
) -> Result<Array> {
    match x {
        Array::Host(x) => {
            let (residual, weight) = (residual.on_host()?, weight.on_host()?);
            let bias = bias.map(Vector::on_host).transpose()?;
            host::project_add(x, residual, weight, rows, bias).map(Array::Host)
        }
        #[cfg(feature = "cuda")]
        Array::Cuda(x) => {
            let (residual, weight) = (residual.on_cuda()?, weight.on_cuda()?);
            let bias = bias.map(Vector::on_cuda).transpose()?;
            cuda::linear::project_add(x, residual, weight, rows, bias).map(Array::Cuda)
        }
    }
}

/// One segment: its frames, and the layer that applies to them.
#[derive(Debug, Clone)]
pub(crate) struct Each<'a> {
    pub(crate) frames: Range<usize>,
    pub(crate) weight: &'a Matrix,
    pub(crate) bias: Option<&'a Vector>,
}

impl<'a> Each<'a> {
    fn on_host(&self) -> Result<host::Each<'a>> {
        Ok(host::Each {
            frames: self.frames.clone(),
            weight: self.weight.on_host()?,
            bias: self.bias.map(Vector::on_host).transpose()?,
        })
    }

    #[cfg(feature = "cuda")]
    fn on_cuda(&self) -> Result<cuda::linear::Each<'a>> {
        Ok(cuda::linear::Each {
            frames: self.frames.clone(),
            weight: self.weight.on_cuda()?,
            bias: self.bias.map(Vector::on_cuda).transpose()?,
        })
    }
}

/// Multiplies the patch rows of each segment of x `[N, L, k]` by the segment's own Wᵀ. Returns `[frames, L - 1, n]` for each segment.
pub(crate) fn project_each(x: &Array, parts: &[Each<'_>]) -> Result<Vec<Array>> {
    match x {
        Array::Host(x) => {
            let parts: Vec<_> = parts.iter().map(Each::on_host).collect::<Result<_>>()?;
            let ys = host::project_each(x, &parts)?;
            Ok(ys.into_iter().map(Array::Host).collect())
        }
        #[cfg(feature = "cuda")]
        Array::Cuda(x) => {
            let parts: Vec<_> = parts.iter().map(Each::on_cuda).collect::<Result<_>>()?;
            let ys = cuda::linear::project_each(x, &parts)?;
            Ok(ys.into_iter().map(Array::Cuda).collect())
        }
    }
}

/// Returns r `[N, L, C]` with x · Wᵀ + b of each segment added to its patch rows; `xs` are the results of [`project_each`]. Frames of no segment are
/// unchanged. Segments follow one another.
pub(crate) fn project_add_each(
    xs: &[Array],
    residual: &Array,
    parts: &[Each<'_>],
) -> Result<Array> {
    match residual {
        Array::Host(residual) => {
            let parts: Vec<_> = parts.iter().map(Each::on_host).collect::<Result<_>>()?;
            let xs = xs.iter().map(|x| x.on_host().cloned());
            let xs: Vec<Tensor> = xs.collect::<Result<_>>()?;
            host::project_add_each(&xs, residual, &parts).map(Array::Host)
        }
        #[cfg(feature = "cuda")]
        Array::Cuda(residual) => {
            let parts: Vec<_> = parts.iter().map(Each::on_cuda).collect::<Result<_>>()?;
            let xs: Vec<_> = xs.iter().map(Array::on_cuda).collect::<Result<_>>()?;
            cuda::linear::project_add_each(&xs, residual, &parts).map(Array::Cuda)
        }
    }
}
