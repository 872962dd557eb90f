//! The features of a convolutional head: the mean of a clip's tokens, and the mean of a small separable convolution of them over time.
//!
//! Each channel has its own kernel over three frames; then all channels are mixed to half as many, and activated. The mixing has to lie below the
//! activation: the mean of what a single channel's filter gives cannot tell a movement from its reverse.

use candle_core::{Result, Tensor};

use super::{Sums, clip_means, spread};
use crate::model::ops::depthwise::{Depthwise, Extent};
use crate::model::ops::linear::Rows;
use crate::model::ops::{Numbers, Onto, gelu, read, tensor};
use crate::model::weights::{Found, Linear, Mode};
use crate::model::{Activation, Error};

/// Frames that the convolution reads at a time.
const TAPS: usize = 3;
const KERNEL: [usize; 3] = [TAPS, 1, 1];

/// Layers below the last one.
pub(super) struct Conv {
    depthwise: Depthwise,
    mix: Linear,
}

/// Activations that the backward pass reads.
pub(in crate::model) struct Saved {
    clips: usize,
    /// Output of the convolution, `[clips · T, C]`.
    mixed: Tensor,
    /// Output of the mixing before its activation, `[clips · T, width]`.
    hidden: Tensor,
}

/// Returns the number of channels after the mixing, for tokens of this width.
pub(super) fn width(tokens: usize) -> usize {
    tokens.div_ceil(2)
}

/// Returns the names and shapes of the weights below the last layer.
pub(super) fn weights(tokens: usize) -> Vec<super::Named> {
    let width = width(tokens);
    let weights = [
        ("depthwise.weight", vec![tokens, 1, TAPS, 1, 1]),
        ("depthwise.bias", vec![tokens]),
        ("mix.weight", vec![width, tokens]),
        ("mix.bias", vec![width]),
    ];
    weights
        .map(|(name, shape)| (name.to_owned(), shape))
        .to_vec()
}

impl Conv {
    pub(super) fn build(
        tokens: usize,
        mode: &Mode,
        fetch: &mut dyn FnMut(&str) -> std::result::Result<Vec<f32>, Error>,
    ) -> std::result::Result<Self, Error> {
        let depthwise = Depthwise::new(
            &fetch("depthwise.weight")?,
            &fetch("depthwise.bias")?,
            KERNEL,
        );
        let weight = fetch("mix.weight")?;
        let mix = Linear::new(&weight, tokens, 1, Some(fetch("mix.bias")?), mode);
        Ok(Self { depthwise, mix })
    }

    pub(super) fn in_mode(&self, mode: &Mode) -> Self {
        Self {
            depthwise: self.depthwise.clone(),
            mix: self.mix.in_mode(mode),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.depthwise.bytes() + self.mix.bytes()
    }

    pub(super) fn values(&self, name: &str) -> Vec<f32> {
        match name {
            "depthwise.weight" => self.depthwise.unpacked().0,
            "depthwise.bias" => self.depthwise.unpacked().1.to_vec(),
            "mix.weight" => self.mix.unpacked().0,
            "mix.bias" => self.mix.unpacked().1.to_vec(),
            _ => Vec::new(),
        }
    }

    /// Computes the features `[clips, C + width]` of normed tokens `[clips · T, C]`.
    pub(super) fn forward(&self, x: &Tensor, clips: usize) -> Result<(Tensor, Saved)> {
        let (rows, c) = x.dims2()?;
        let extent = extent(rows, clips);
        let mixed = self
            .depthwise
            .forward(&x.reshape((rows, 1, c))?, extent, Numbers::F32)?;
        let mixed = mixed.reshape((rows, c))?;
        let (active, hidden) =
            self.mix
                .forward_active(&mixed, Activation::Gelu, Numbers::F32, Some(Numbers::F32))?;
        let Some(hidden) = hidden else {
            candle_core::bail!("the mixing kept nothing");
        };
        let frames = vec![extent.frames; clips];
        let features = beside(&clip_means(x, &frames)?, &clip_means(&active, &frames)?)?;
        let saved = Saved {
            clips,
            mixed,
            hidden,
        };
        Ok((features, saved))
    }

    /// Computes the gradients of the weights, added to those of earlier clips, and that of x, if it is wanted.
    pub(super) fn backward(
        &self,
        x: &Tensor,
        saved: &Saved,
        d_features: &Tensor,
        sums: &Sums<'_>,
        wants_dx: bool,
    ) -> Result<(Option<Tensor>, Found)> {
        let mut found = Found::new();
        let (rows, c) = x.dims2()?;
        let extent = extent(rows, saved.clips);
        let frames = vec![extent.frames; saved.clips];
        let part = |from, len| d_features.narrow(1, from, len)?.contiguous();
        let (d_mean, d_active) = (part(0, c)?, part(c, d_features.dim(1)? - c)?);
        let d_active = spread(&d_active, &frames)?;
        let d_hidden = gelu::backward(&saved.hidden, &d_active, Activation::Gelu, Numbers::F32)?;
        let names = ["mix.weight", "mix.bias"];
        let onto = names.map(|name| Onto {
            clip: extent.frames,
            earlier: sums.get(name),
        });
        let names = names.map(|name| sums.name(name));
        let (of_x, of_dy) = ((&saved.mixed, Rows::All), (&d_hidden, Rows::All));
        let names = [names[0].as_str(), names[1].as_str()];
        self.mix
            .gradients_onto(of_x, of_dy, names, onto, &mut found)?;
        let d_mixed = self.mix.backward(&d_hidden, Rows::All)?;
        let d_mixed = d_mixed.reshape((rows, 1, c))?;
        let names = ["depthwise.weight", "depthwise.bias"];
        let earlier = sums.get(names[0]).zip(sums.get(names[1]));
        let x = x.reshape((rows, 1, c))?;
        let (weight, bias) = self
            .depthwise
            .weight_gradient(&x, &d_mixed, extent, earlier)?;
        found.push((sums.name(names[0]), weight));
        found.push((sums.name(names[1]), bias));
        if !wants_dx {
            return Ok((None, found));
        }
        let dx = self.depthwise.backward(&d_mixed, extent)?;
        let dx = (dx.reshape((rows, c))? + spread(&d_mean, &frames)?)?;
        Ok((Some(dx), found))
    }
}

fn extent(rows: usize, clips: usize) -> Extent {
    Extent {
        frames: rows / clips.max(1),
        grid: 1,
    }
}

/// Returns the rows of a `[N, A]` and b `[N, B]` as `[N, A + B]`.
fn beside(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ((n, of_a), (_, of_b)) = (a.dims2()?, b.dims2()?);
    let mut values = Vec::with_capacity(n * (of_a + of_b));
    read(a, |a| {
        read(b, |b| {
            for (a, b) in a.chunks_exact(of_a).zip(b.chunks_exact(of_b)) {
                values.extend_from_slice(a);
                values.extend_from_slice(b);
            }
        })
    })??;
    tensor(values, (n, of_a + of_b))
}
