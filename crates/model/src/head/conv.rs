//! The features of a convolutional head: the mean of a clip's tokens, and the mean of a small separable convolution of them over time.
//!
//! Each channel has its own kernel over three frames; then all channels are mixed to half as many, and activated. The mixing has to lie below the
//! activation: the mean of what a single channel's filter gives cannot tell a movement from its reverse.

use super::{Result, Sums};
use crate::ops::depthwise::Extent;
use crate::ops::placed::linear::Rows;
use crate::ops::placed::{Depthwise, Onto, activation, pool};
use crate::ops::{Array, Numbers};
use crate::weights::{Before, Found, Linear, Mode};
use crate::{Activation, Error};

/// Frames that the convolution reads at a time.
const TAPS: usize = 3;
const KERNEL: [usize; 3] = [TAPS, 1, 1];

/// Layers below the last one.
pub(super) struct Conv {
    depthwise: Depthwise,
    mix: Linear,
}

/// Activations that the backward pass reads.
pub(crate) struct Saved {
    clips: usize,
    /// Output of the convolution, `[clips · T, C]`.
    mixed: Array,
    /// Output of the mixing before its activation, `[clips · T, width]`.
    hidden: Array,
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
        fetch: &mut dyn FnMut(&str) -> Result<Array>,
    ) -> Result<Self> {
        let depthwise = Depthwise::new(
            &fetch("depthwise.weight")?,
            &fetch("depthwise.bias")?,
            KERNEL,
            mode.place(),
        )?;
        let (weight, bias) = (fetch("mix.weight")?, fetch("mix.bias")?);
        let mix = Linear::of(&weight, tokens, &bias, mode)?;
        Ok(Self { depthwise, mix })
    }

    pub(super) fn in_mode(&self, mode: &Mode) -> Result<Self> {
        Ok(Self {
            depthwise: self.depthwise.placed(mode.place())?,
            mix: self.mix.in_mode(mode)?,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.depthwise.bytes() + self.mix.bytes()
    }

    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>> {
        Ok(match name {
            "depthwise.weight" => self.depthwise.unpacked()?.0,
            "depthwise.bias" => self.depthwise.unpacked()?.1,
            "mix.weight" => self.mix.unpacked()?.0,
            "mix.bias" => self.mix.unpacked()?.1,
            _ => Vec::new(),
        })
    }

    /// Computes the features `[clips, C + width]` of normed tokens `[clips · T, C]`.
    pub(super) fn forward(&self, x: &Array, clips: usize) -> Result<(Array, Saved)> {
        let (rows, c) = x.dims2()?;
        let extent = extent(rows, clips);
        let mixed = self
            .depthwise
            .forward(&x.reshape((rows, 1, c))?, extent, Numbers::F32)?;
        let mixed = mixed.reshape((rows, c))?;
        let (active, hidden) = self.mix.forward_active(
            &mixed,
            Activation::Gelu,
            Numbers::F32,
            Before::Kept(Numbers::F32),
        )?;
        let Some(hidden) = hidden else {
            return Err(Error::Order { what: "forward" });
        };
        let frames = vec![extent.frames; clips];
        let features = beside(&pool::means(x, &frames)?, &pool::means(&active, &frames)?)?;
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
        x: &Array,
        saved: &Saved,
        d_features: &Array,
        sums: &Sums<'_>,
        wants_dx: bool,
    ) -> Result<(Option<Array>, Found)> {
        let mut found = Found::new();
        let (rows, c) = x.dims2()?;
        let extent = extent(rows, saved.clips);
        let frames = vec![extent.frames; saved.clips];
        let (all, width) = (d_features.host()?, d_features.dim(1)?);
        let part = |from, len| all.narrow(1, from, len)?.contiguous().map(Array::Host);
        let (d_mean, d_active) = (part(0, c)?, part(c, width - c)?);
        let d_active = pool::spread(&d_active, &frames)?;
        let d_hidden =
            activation::backward(&saved.hidden, &d_active, Activation::Gelu, Numbers::F32)?;
        let names = ["mix.weight", "mix.bias"];
        let onto = |name| {
            Ok::<_, Error>(Onto {
                clip: extent.frames,
                earlier: Some(sums.get(name)?),
            })
        };
        let onto = [onto(names[0])?, onto(names[1])?];
        let names = names.map(|name| sums.name(name));
        let (of_x, of_dy) = ((&saved.mixed, Rows::All), (&d_hidden, Rows::All));
        let names = [names[0].as_str(), names[1].as_str()];
        self.mix
            .gradients_onto(of_x, of_dy, names, onto, &mut found)?;
        let d_mixed = self.mix.backward(&d_hidden, Rows::All)?;
        let d_mixed = d_mixed.reshape((rows, 1, c))?;
        let names = ["depthwise.weight", "depthwise.bias"];
        let (weight, bias) = (sums.get(names[0])?, sums.get(names[1])?);
        let earlier = Some((&weight, &bias));
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
        let of_mean = pool::spread(&d_mean, &frames)?.host()?;
        let dx = (dx.reshape((rows, c))?.host()? + of_mean)?;
        Ok((Some(Array::Host(dx)), found))
    }
}

fn extent(rows: usize, clips: usize) -> Extent {
    Extent {
        frames: rows / clips.max(1),
        grid: 1,
    }
}

/// Returns the rows of a `[N, A]` and b `[N, B]` as `[N, A + B]`.
fn beside(a: &Array, b: &Array) -> Result<Array> {
    let ((n, of_a), (_, of_b)) = (a.dims2()?, b.dims2()?);
    let mut values = Vec::with_capacity(n * (of_a + of_b));
    a.read(|a| {
        b.read(|b| {
            for (a, b) in a.chunks_exact(of_a).zip(b.chunks_exact(of_b)) {
                values.extend_from_slice(a);
                values.extend_from_slice(b);
            }
        })
    })??;
    Ok(Array::of(values, (n, of_a + of_b))?)
}
