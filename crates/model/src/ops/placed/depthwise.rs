//! The adapters' convolution over (T, H, W) in a place.

use candle_core::Result;

#[cfg(feature = "cuda")]
use super::apart;
use super::{Array, Place};
use crate::ops::Numbers;
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::depthwise::{self as host, Extent};

/// Weights of the convolution, with the kernel's size.
#[derive(Debug, Clone)]
pub(crate) enum Depthwise {
    /// On the host.
    Host(host::Depthwise),
    /// On a GPU.
    #[cfg(feature = "cuda")]
    Cuda(cuda::depthwise::Depthwise),
}

impl Depthwise {
    /// Puts a `Conv3d` weight `[C, 1, kt, kh, kw]` and bias `[C]` where they are used.
    pub(crate) fn new(
        weight: &Array,
        bias: &Array,
        kernel: [usize; 3],
        place: &Place,
    ) -> Result<Self> {
        match place {
            Place::Host => weight.read(|weight| {
                let own = bias.read(|bias| host::Depthwise::new(weight, bias, kernel))?;
                Ok(Self::Host(own))
            })?,
            #[cfg(feature = "cuda")]
            Place::Cuda(_) => {
                let (weight, bias) = (weight.to(place)?, bias.to(place)?);
                let own =
                    cuda::depthwise::Depthwise::new(weight.on_cuda()?, bias.on_cuda()?, kernel)?;
                Ok(Self::Cuda(own))
            }
        }
    }

    /// Returns the same weights in another place.
    pub(crate) fn placed(&self, place: &Place) -> Result<Self> {
        match (self, place) {
            (Self::Host(_), Place::Host) => Ok(self.clone()),
            #[cfg(feature = "cuda")]
            (Self::Host(_) | Self::Cuda(_), _) => {
                let (weight, bias) = self.unpacked()?;
                let (count, taps) = (bias.len(), weight.len());
                let (weight, bias) = (Array::of(weight, taps)?, Array::of(bias, count)?);
                Self::new(&weight, &bias, self.kernel(), place)
            }
        }
    }

    #[cfg(feature = "cuda")]
    fn kernel(&self) -> [usize; 3] {
        match self {
            Self::Host(own) => own.kernel(),
            Self::Cuda(own) => own.kernel(),
        }
    }

    /// Returns the weight in `Conv3d`'s layout, and the bias.
    pub(crate) fn unpacked(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        match self {
            Self::Host(own) => {
                let (weight, bias) = own.unpacked();
                Ok((weight, bias.to_vec()))
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.unpacked(),
        }
    }

    /// Returns the memory of the weights in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Host(own) => own.bytes(),
            #[cfg(feature = "cuda")]
            Self::Cuda(own) => own.bytes(),
        }
    }

    fn on_host(&self) -> Result<&host::Depthwise> {
        match self {
            Self::Host(own) => Ok(own),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => apart(),
        }
    }

    #[cfg(feature = "cuda")]
    fn on_cuda(&self) -> Result<&cuda::depthwise::Depthwise> {
        match self {
            Self::Cuda(own) => Ok(own),
            Self::Host(_) => apart(),
        }
    }

    /// Computes the convolution of x `[frames, P, C]`, in this number format.
    pub(crate) fn forward(&self, x: &Array, extent: Extent, numbers: Numbers) -> Result<Array> {
        match x {
            Array::Host(x) => self.on_host()?.forward(x, extent, numbers).map(Array::Host),
            #[cfg(feature = "cuda")]
            Array::Cuda(x) => self.on_cuda()?.forward(x, extent, numbers).map(Array::Cuda),
        }
    }

    /// Computes the gradient of the input from that of the output.
    pub(crate) fn backward(&self, dy: &Array, extent: Extent) -> Result<Array> {
        match dy {
            Array::Host(dy) => self.on_host()?.backward(dy, extent).map(Array::Host),
            #[cfg(feature = "cuda")]
            Array::Cuda(dy) => self.on_cuda()?.backward(dy, extent).map(Array::Cuda),
        }
    }

    /// Computes the gradients of weight `[C, 1, kt, kh, kw]` and bias `[C]`, added to those of earlier clips.
    pub(crate) fn weight_gradient(
        &self,
        x: &Array,
        dy: &Array,
        extent: Extent,
        earlier: Option<(&Array, &Array)>,
    ) -> Result<(Array, Array)> {
        match x {
            Array::Host(x) => {
                let earlier = match earlier {
                    Some((weight, bias)) => Some((weight.on_host()?, bias.on_host()?)),
                    None => None,
                };
                let own = self.on_host()?;
                let (weight, bias) = own.weight_gradient(x, dy.on_host()?, extent, earlier)?;
                Ok((Array::Host(weight), Array::Host(bias)))
            }
            #[cfg(feature = "cuda")]
            Array::Cuda(x) => {
                let earlier = match earlier {
                    Some((weight, bias)) => Some((weight.on_cuda()?, bias.on_cuda()?)),
                    None => None,
                };
                let own = self.on_cuda()?;
                let (weight, bias) = own.weight_gradient(x, dy.on_cuda()?, extent, earlier)?;
                Ok((Array::Cuda(weight), Array::Cuda(bias)))
            }
        }
    }
}

/// One segment of a convolution: its weights, its operand `[frames, P, C]`, and the number format of its result.
#[derive(Clone, Copy)]
pub(crate) struct Convolved<'a> {
    pub(crate) weights: &'a Depthwise,
    pub(crate) x: &'a Array,
    pub(crate) extent: Extent,
    pub(crate) numbers: Numbers,
}

/// Computes the convolutions of segments that have weights of their own. Each result has the bits that [`Depthwise::forward`] gives; a device computes all
/// that are of one kind in one launch.
pub(crate) fn convolve_each(segments: &[Convolved<'_>]) -> Result<Vec<Array>> {
    #[cfg(feature = "cuda")]
    if segments
        .first()
        .is_some_and(|first| matches!(first.x, Array::Cuda(_)))
    {
        let mut own = Vec::with_capacity(segments.len());
        for segment in segments {
            own.push(cuda::depthwise::Each {
                own: segment.weights.on_cuda()?,
                x: segment.x.on_cuda()?,
                extent: segment.extent,
                numbers: segment.numbers,
            });
        }
        let results = cuda::depthwise::forward_each(&own)?;
        return Ok(results.into_iter().map(Array::Cuda).collect());
    }
    let alone = segments.iter();
    alone
        .map(|own| own.weights.forward(own.x, own.extent, own.numbers))
        .collect()
}
