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
        if dy.dims() != x.dims() {
            candle_core::bail!("a convolution of {x:?}, gradient {dy:?}");
        }
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

    fn form(&self) -> Form {
        match (self.bias.elem_count().is_multiple_of(8), self.kernel) {
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
        let each = Each {
            own: self,
            x,
            extent,
            numbers,
        };
        let mut results = launched(&[each], mirrored)?;
        results
            .pop()
            .map_or_else(|| candle_core::bail!("a convolution without a result"), Ok)
    }
}

/// One segment of a convolution: its weights, its operand `[frames, P, C]`, and the number format of its result.
#[derive(Clone, Copy)]
pub(crate) struct Each<'a> {
    pub(crate) own: &'a Depthwise,
    pub(crate) x: &'a Tensor,
    pub(crate) extent: Extent,
    pub(crate) numbers: Numbers,
}

impl Each<'_> {
    /// Returns what segments of one launch have in common.
    fn common(&self) -> (Form, Numbers, Numbers, usize, usize) {
        let Extent { frames, grid } = self.extent;
        (
            self.own.form(),
            self.x.numbers(),
            self.numbers,
            frames,
            grid,
        )
    }
}

/// Computes the convolutions of segments that have weights of their own, each with the bits that it has alone. Segments whose clips have as many frames and
/// whose weights and numbers are of one kind, as those of most batches are, take one launch.
pub(crate) fn forward_each(segments: &[Each<'_>]) -> Result<Vec<Tensor>> {
    let mut results: Vec<Option<Tensor>> = vec![None; segments.len()];
    for (first, segment) in segments.iter().enumerate() {
        if results[first].is_some() {
            continue;
        }
        let is_like = |other: &usize| segments[*other].common() == segment.common();
        let places: Vec<usize> = (first..segments.len()).filter(is_like).collect();
        let own: Vec<Each<'_>> = places.iter().map(|&place| segments[place]).collect();
        for (place, result) in places.into_iter().zip(launched(&own, false)?) {
            results[place] = Some(result);
        }
    }
    let results: Option<Vec<Tensor>> = results.into_iter().collect();
    results.map_or_else(|| candle_core::bail!("a convolution without a result"), Ok)
}

/// Enqueues the convolutions of segments that have everything of [`Each::common`] in common. Returns their results, parts of one buffer.
fn launched(segments: &[Each<'_>], mirrored: bool) -> Result<Vec<Tensor>> {
    let Some(first) = segments.first() else {
        return Ok(Vec::new());
    };
    let (form, read, written, clip, grid) = first.common();
    let (origin, gpu) = (first.x, first.x.gpu());
    let (mut table, mut parts, mut tiles, mut at) = (Vec::new(), Vec::new(), 0, 0);
    for segment in segments {
        let (frames, c) = segment.own.check(segment.x, segment.extent)?;
        let [kt, kh, kw] = segment.own.kernel;
        // Operands lie wherever they were made: the kernel finds each by its distance from the first.
        let bytes = (segment.x.pointer() as i64).wrapping_sub(origin.pointer() as i64);
        table.push(Convolution {
            taps: segment.own.taps.pointer(),
            bias: segment.own.bias.pointer(),
            at: [bytes / read.bytes() as i64, at as i64],
            frames: int(frames)?,
            tile: int(tiles)?,
            channels: int(c)?,
            kernel: [int(kt)?, int(kh)?, int(kw)?],
        });
        let patches = grid * grid;
        let threads = match form {
            Form::Any => frames * patches * c,
            Form::Eight => frames * patches * (c / 8),
            Form::Time => frames / clip * patches * (c / 8),
        };
        // Kernels count the threads of a segment with 32 bits.
        int(threads)?;
        tiles += threads.div_ceil(THREADS);
        parts.push((at, segment.x));
        // Results begin where kernels read and write eight numbers at a time.
        at += segment.x.elem_count().next_multiple_of(8);
    }
    let table = gpu.table(&table)?;
    let mut y = Tensor::unfilled(gpu, written, &[at])?;
    gpu.launch(name(form, read, written))
        .grid([tiles, 1, 1])
        .threads(THREADS)
        .read(origin)
        .write(&mut y)
        .read(&table)
        .int(segments.len())
        .int(clip)
        .int(grid)
        .int(usize::from(mirrored))
        .run()?;
    let views = parts.into_iter();
    views
        .map(|(at, x)| y.narrow(at, x.elem_count())?.reshape(x.dims()))
        .collect()
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
        .counts(rows * columns)
        .read(x)
        .write(&mut y)
        .int(rows)
        .int(columns)
        .run()?;
    Ok(y)
}
