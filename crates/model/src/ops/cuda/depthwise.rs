//! The adapters' convolution over (T, H, W) on the device, forward, backward, and the gradients of its weights.
//!
//! Invariant: a clip's result depends on that clip alone; sums over frames are added in their order.

use candle_core::Result;

use super::Tensor;
use super::sums::Sums;
use super::tables::{Convolution, int};
use crate::ops::Numbers;
use crate::ops::depthwise::Extent;

/// Threads of a block.
const THREADS: usize = 256;

/// Weights of the convolution, with the kernel's size.
#[derive(Debug, Clone)]
pub(crate) struct Depthwise {
    /// Weights `[taps, C]`, with the taps in the order (t, h, w).
    taps: Tensor,
    bias: Tensor,
    kernel: [usize; 3],
}

/// Kernels by what they need: any number of channels, a multiple of 8, or that and no neighbours in space.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Any,
    Eight,
    Time,
}

impl Depthwise {
    /// Takes a `Conv3d` weight `[C, 1, kt, kh, kw]` and bias `[C]` that are on the device.
    pub(crate) fn new(weight: &Tensor, bias: &Tensor, kernel: [usize; 3]) -> Result<Self> {
        let (c, taps) = (bias.elem_count(), kernel.iter().product::<usize>());
        if weight.elem_count() != c * taps {
            candle_core::bail!("a convolution {kernel:?} of {c} channels with {weight:?}");
        }
        Ok(Self {
            taps: transposed(weight, [c, taps])?,
            bias: bias.reshape(&[c])?,
            kernel,
        })
    }

    /// Returns the kernel's size.
    pub(crate) fn kernel(&self) -> [usize; 3] {
        self.kernel
    }

    /// Returns the weight in `Conv3d`'s layout, and the bias.
    pub(crate) fn unpacked(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        let (count, c) = self.taps.dims2()?;
        let weight = transposed(&self.taps, [count, c])?.host()?;
        Ok((
            weight.flatten_all()?.to_vec1()?,
            self.bias.host()?.to_vec1()?,
        ))
    }

    /// Returns the memory of the weights in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        (self.taps.bytes() + self.bias.bytes()) as u64
    }

    /// Computes the convolution of x `[frames, P, C]`, in this number format.
    pub(crate) fn forward(&self, x: &Tensor, extent: Extent, numbers: Numbers) -> Result<Tensor> {
        self.convolve(x, extent, numbers, false)
    }

    /// Computes the gradient of the input from that of the output.
    pub(crate) fn backward(&self, dy: &Tensor, extent: Extent) -> Result<Tensor> {
        self.convolve(dy, extent, Numbers::F32, true)
    }

    /// Computes the gradients of weight `[C, 1, kt, kh, kw]` and bias `[C]`, added to those of earlier clips; the sums are formed frame by frame.
    pub(crate) fn weight_gradient(
        &self,
        x: &Tensor,
        dy: &Tensor,
        extent: Extent,
        earlier: Option<(&Tensor, &Tensor)>,
    ) -> Result<(Tensor, Tensor)> {
        let (frames, c) = self.check(x, extent)?;
        self.check(dy, extent)?;
        let [kt, kh, kw] = self.kernel;
        let taps = kt * kh * kw;
        let name = match (x.numbers(), dy.numbers()) {
            (Numbers::F32, Numbers::F32) => "depthwise_weight_f32_f32",
            (Numbers::F32, Numbers::Bf16) => "depthwise_weight_f32_bf16",
            (Numbers::Bf16, Numbers::F32) => "depthwise_weight_bf16_f32",
            (Numbers::Bf16, Numbers::Bf16) => "depthwise_weight_bf16_bf16",
        };
        let mut partial = Tensor::unfilled(x.gpu(), Numbers::F32, &[frames, taps + 1, c])?;
        x.gpu()
            .launch(name)
            .grid([c.div_ceil(THREADS), taps + 1, frames])
            .threads(THREADS)
            .read(x)
            .read(dy)
            .write(&mut partial)
            .int(extent.frames)
            .int(extent.grid)
            .int(c)
            .int(kt)
            .int(kh)
            .int(kw)
            .run()?;
        let sums = |at, rows, transposed| Sums {
            runs: frames,
            stride: (taps + 1) * c,
            at,
            shape: [rows, c],
            transposed,
        };
        let (of_weight, of_bias) = earlier.unzip();
        let weight = sums(0, taps, true).add(&partial, of_weight, &[c, 1, kt, kh, kw])?;
        let bias = sums(taps * c, 1, false).add(&partial, of_bias, &[c])?;
        Ok((weight, bias))
    }

    /// Returns the number of frames and of channels.
    fn check(&self, x: &Tensor, extent: Extent) -> Result<(usize, usize)> {
        let (frames, patches, c) = x.dims3()?;
        let fits = c == self.bias.elem_count()
            && patches == extent.grid * extent.grid
            && extent.frames > 0
            && frames.is_multiple_of(extent.frames);
        if !fits {
            let own = self.bias.elem_count();
            candle_core::bail!("depthwise convolution of {own} channels on {x:?}, {extent:?}");
        }
        Ok((frames, c))
    }

    fn form(&self, c: usize) -> Form {
        match (c.is_multiple_of(8), self.kernel) {
            (false, _) => Form::Any,
            (true, [3, 1, 1]) => Form::Time,
            (true, _) => Form::Eight,
        }
    }

    fn convolve(
        &self,
        x: &Tensor,
        extent: Extent,
        numbers: Numbers,
        mirrored: bool,
    ) -> Result<Tensor> {
        let (frames, c) = self.check(x, extent)?;
        let form = self.form(c);
        let [kt, kh, kw] = self.kernel;
        let table = x.gpu().table(&[Convolution {
            taps: self.taps.pointer(),
            bias: self.bias.pointer(),
            at: [0; 2],
            frames: int(frames)?,
            tile: 0,
            channels: int(c)?,
            kernel: [int(kt)?, int(kh)?, int(kw)?],
        }])?;
        let patches = extent.grid * extent.grid;
        let threads = match form {
            Form::Any => frames * patches * c,
            Form::Eight => frames * patches * (c / 8),
            Form::Time => frames / extent.frames * patches * (c / 8),
        };
        let mut y = Tensor::unfilled(x.gpu(), numbers, x.dims())?;
        x.gpu()
            .launch(name(form, x.numbers(), numbers))
            .grid([threads.div_ceil(THREADS), 1, 1])
            .threads(THREADS)
            .counts(threads)
            .read(x)
            .write(&mut y)
            .read(&table)
            .int(1)
            .int(extent.frames)
            .int(extent.grid)
            .int(usize::from(mirrored))
            .run()?;
        Ok(y)
    }
}

fn name(form: Form, x: Numbers, y: Numbers) -> &'static str {
    use Numbers::{Bf16, F32};
    match (form, x, y) {
        (Form::Any, F32, F32) => "depthwise_any_f32_f32",
        (Form::Any, F32, Bf16) => "depthwise_any_f32_bf16",
        (Form::Any, Bf16, F32) => "depthwise_any_bf16_f32",
        (Form::Any, Bf16, Bf16) => "depthwise_any_bf16_bf16",
        (Form::Eight, F32, F32) => "depthwise_8_f32_f32",
        (Form::Eight, F32, Bf16) => "depthwise_8_f32_bf16",
        (Form::Eight, Bf16, F32) => "depthwise_8_bf16_f32",
        (Form::Eight, Bf16, Bf16) => "depthwise_8_bf16_bf16",
        (Form::Time, F32, F32) => "depthwise_time_f32_f32",
        (Form::Time, F32, Bf16) => "depthwise_time_f32_bf16",
        (Form::Time, Bf16, F32) => "depthwise_time_bf16_f32",
        (Form::Time, Bf16, Bf16) => "depthwise_time_bf16_bf16",
    }
}

/// Returns the transpose `[columns, rows]` of floats `[rows, columns]`.
fn transposed(x: &Tensor, [rows, columns]: [usize; 2]) -> Result<Tensor> {
    let mut y = Tensor::unfilled(x.gpu(), Numbers::F32, &[columns, rows])?;
    x.gpu()
        .launch("transpose_f32")
        .grid([(rows * columns).div_ceil(THREADS), 1, 1])
        .threads(THREADS)
        .read(x)
        .write(&mut y)
        .int(rows)
        .int(columns)
        .run()?;
    Ok(y)
}
