//! Depthwise convolution over (T, H, W) on tokens-last features, with any odd kernel and "same" padding: forward, dx, and the gradients of its
//! weights.
//!
//! Invariant: a clip's result depends on that clip alone.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::activations::{Buffer, Numbers, ValuesMut, narrow};
use super::buffers::{output, read, slice};
use super::simd::wide;
use super::sum::{add_runs, runs};

/// Weights of the convolution, with the kernel's size.
#[derive(Debug, Clone)]
pub(crate) struct Depthwise {
    /// Weights `[taps][C]`, with the taps in the order (t, h, w).
    taps: Vec<f32>,
    bias: Vec<f32>,
    kernel: [usize; 3],
}

/// Arrangement of tokens `[frames, P, C]` in clips.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Number of frames of a clip.
    pub(crate) frames: usize,
    /// Number of patches along a side; P = grid².
    pub(crate) grid: usize,
}

impl Depthwise {
    /// Packs a `Conv3d` weight `[C, 1, kt, kh, kw]` and bias `[C]`.
    pub(crate) fn new(weight: &[f32], bias: &[f32], kernel: [usize; 3]) -> Self {
        let (count, c) = (kernel.iter().product::<usize>(), bias.len());
        let mut taps = vec![0.0; count * c];
        for (channel, row) in weight.chunks_exact(count.max(1)).enumerate() {
            for (tap, &value) in row.iter().enumerate() {
                taps[tap * c + channel] = value;
            }
        }
        Self {
            taps,
            bias: bias.to_vec(),
            kernel,
        }
    }

    /// Returns the weight in `Conv3d`'s layout, and the bias.
    pub(crate) fn unpacked(&self) -> (Vec<f32>, &[f32]) {
        (transposed(&self.taps, self.bias.len()), &self.bias)
    }

    /// Returns the kernel's size.
    #[cfg(feature = "cuda")]
    pub(crate) fn kernel(&self) -> [usize; 3] {
        self.kernel
    }

    /// Returns the memory of the weights in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        ((self.taps.len() + self.bias.len()) * size_of::<f32>()) as u64
    }

    /// Returns the offsets (t, h, w) of each tap.
    fn offsets(&self) -> Vec<[isize; 3]> {
        let [kt, kh, kw] = self.kernel.map(|size| size as isize);
        let mut offsets = Vec::with_capacity(self.kernel.iter().product());
        for t in 0..kt {
            for h in 0..kh {
                for w in 0..kw {
                    offsets.push([t - kt / 2, h - kh / 2, w - kw / 2]);
                }
            }
        }
        offsets
    }

    /// Computes the convolution of x `[frames, P, C]`, in this number format.
    pub(crate) fn forward(&self, x: &Tensor, extent: Extent, numbers: Numbers) -> Result<Tensor> {
        x.apply_op1_no_bwd(&Convolve {
            own: self,
            extent,
            back: false,
            numbers,
        })
    }

    /// Computes the gradient of the input from that of the output.
    pub(crate) fn backward(&self, dy: &Tensor, extent: Extent) -> Result<Tensor> {
        dy.apply_op1_no_bwd(&Convolve {
            own: self,
            extent,
            back: true,
            numbers: Numbers::F32,
        })
    }

    /// Computes the gradients of weight `[C, 1, kt, kh, kw]` and bias `[C]`, added to those of earlier clips; the sums are formed frame by frame.
    pub(crate) fn weight_gradient(
        &self,
        x: &Tensor,
        dy: &Tensor,
        extent: Extent,
        earlier: Option<(&Tensor, &Tensor)>,
    ) -> Result<(Tensor, Tensor)> {
        let (c, [kt, kh, kw]) = (self.bias.len(), self.kernel);
        let earlier = match earlier {
            Some((weight, bias)) => {
                let mut both = read(weight, |weight| transposed(weight, kt * kh * kw))?;
                read(bias, |bias| both.extend_from_slice(bias))?;
                Some(both)
            }
            None => None,
        };
        let gradient = WeightGradient {
            own: self,
            extent,
            earlier: earlier.as_deref(),
        };
        let both = x.apply_op2_no_bwd(dy, &gradient)?;
        let weight = both.narrow(0, 0, self.taps.len())?;
        let bias = both.narrow(0, self.taps.len(), c)?;
        Ok((weight.reshape((c, 1, kt, kh, kw))?, bias))
    }

    fn check(&self, shape: &Shape, extent: Extent) -> Result<()> {
        let (frames, patches, c) = shape.dims3()?;
        let ok = c == self.bias.len()
            && patches == extent.grid * extent.grid
            && extent.frames > 0
            && frames % extent.frames == 0;
        if !ok {
            candle_core::bail!(
                "depthwise convolution of {} channels on {shape:?}, {extent:?}",
                self.bias.len()
            );
        }
        Ok(())
    }
}

/// Returns the transpose `[c][rows]` of `[rows][c]`.
fn transposed(rows: &[f32], c: usize) -> Vec<f32> {
    let count = rows.len() / c.max(1);
    let mut out = vec![0.0; rows.len()];
    for (i, row) in rows.chunks_exact(c.max(1)).enumerate() {
        for (channel, &value) in row.iter().enumerate() {
            out[channel * count + i] = value;
        }
    }
    out
}

/// Returns the token that a tap reads for frame `frame` (of all) and patch `patch`; `None` when it lies outside the clip.
fn neighbour(frame: usize, patch: usize, offset: [isize; 3], extent: Extent) -> Option<usize> {
    let side = extent.grid as isize;
    let within = (frame % extent.frames) as isize + offset[0];
    let (row, column) = (
        (patch / extent.grid) as isize + offset[1],
        (patch % extent.grid) as isize + offset[2],
    );
    let inside = (0..extent.frames as isize).contains(&within)
        && (0..side).contains(&row)
        && (0..side).contains(&column);
    inside.then(|| {
        let frame = frame as isize + offset[0];
        ((frame * side + row) * side + column) as usize
    })
}

wide! {
    fn add_product(y: &mut [f32], x: &[f32], weight: &[f32]) {
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y += x * weight;
        }
    }

    fn add_to(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

struct Convolve<'a> {
    own: &'a Depthwise,
    extent: Extent,
    /// Whether to compute the transposed convolution: mirrored taps, no bias.
    back: bool,
    /// Number format of the result.
    numbers: Numbers,
}

impl Convolve<'_> {
    /// Computes the result of one token, given the offsets of the taps.
    fn token(
        &self,
        x: &[f32],
        (frame, patch): (usize, usize),
        offsets: &[[isize; 3]],
        y: &mut [f32],
    ) {
        let c = y.len();
        if self.back {
            y.fill(0.0);
        } else {
            y.copy_from_slice(&self.own.bias);
        }
        for (&offset, tap) in offsets.iter().zip(self.own.taps.chunks_exact(c)) {
            if let Some(token) = neighbour(frame, patch, offset, self.extent) {
                add_product(y, &x[token * c..][..c], tap);
            }
        }
    }
}

impl CustomOp1 for Convolve<'_> {
    fn name(&self) -> &'static str {
        if self.back {
            "depthwise-backward"
        } else {
            "depthwise"
        }
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.own.check(layout.shape(), self.extent)?;
        let x = slice(storage, layout)?;
        let c = self.own.bias.len();
        let mut offsets = self.own.offsets();
        if self.back {
            offsets = offsets.into_iter().map(|o| o.map(|d| -d)).collect();
        }
        let grid = self.extent.grid;
        let mut y = Buffer::unfilled(self.numbers, x.len());
        let lines = y.as_mut().chunks((c * grid).max(1)).into_par_iter();
        lines.enumerate().for_each_init(
            || vec![0.0; c],
            |row, (i, line)| {
                let place = |column: usize| (i / grid, i % grid * grid + column);
                match line {
                    ValuesMut::F32(line) => {
                        for (column, y) in line.chunks_exact_mut(c).enumerate() {
                            self.token(x, place(column), &offsets, y);
                        }
                    }
                    ValuesMut::Bf16(line) => {
                        for (column, y) in line.chunks_exact_mut(c).enumerate() {
                            self.token(x, place(column), &offsets, row);
                            narrow(row, y);
                        }
                    }
                }
            },
        );
        Ok(y.output(layout.shape()))
    }
}

struct WeightGradient<'a> {
    own: &'a Depthwise,
    extent: Extent,
    /// Gradients of earlier clips, `[taps + 1][C]`.
    earlier: Option<&'a [f32]>,
}

impl CustomOp2 for WeightGradient<'_> {
    fn name(&self) -> &'static str {
        "depthwise-weight-gradient"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.own.check(l1.shape(), self.extent)?;
        self.own.check(l2.shape(), self.extent)?;
        let (x, dy) = (slice(s1, l1)?, slice(s2, l2)?);
        let (c, taps) = (self.own.bias.len(), self.own.taps.len());
        let (patches, offsets) = (self.extent.grid * self.extent.grid, self.own.offsets());
        let frames = x.len() / (patches * c).max(1);
        // The layout is `[taps + 1][C]`; the last row belongs to the bias.
        if self
            .earlier
            .is_some_and(|earlier| earlier.len() != taps + c)
        {
            candle_core::bail!("earlier sums of other than {taps} taps and {c} channels");
        }
        let sums = add_runs(
            &runs(frames, 1, 1),
            taps + c,
            self.earlier,
            |frames, sums| {
                let (weight, bias) = sums.split_at_mut(taps);
                for token in frames.start * patches..frames.end * patches {
                    let (frame, patch) = (token / patches, token % patches);
                    let dy = &dy[token * c..][..c];
                    add_to(bias, dy);
                    for (&offset, sum) in offsets.iter().zip(weight.chunks_exact_mut(c)) {
                        if let Some(from) = neighbour(frame, patch, offset, self.extent) {
                            add_product(sum, &x[from * c..][..c], dy);
                        }
                    }
                }
            },
        );
        let mut both = transposed(&sums[..taps], c);
        both.extend_from_slice(&sums[taps..]);
        Ok(output(both, taps + c))
    }
}
