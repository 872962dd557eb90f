//! The head of a set: what it reads of a clip, its features, its logits, and their gradients; and dropout before its last layer.
//!
//! Invariant: a clip's logits depend on that clip alone, and gradients are summed clip by clip, so that the division of a step changes no bit.

mod attention;
mod conv;

use std::ops::Range;

use self::attention::Attention;
use self::conv::Conv;
use super::block::Tokens;
use super::ops::placed::pool;
use super::ops::{Array, Place};
use super::weights::{Found, Linear, Mode};
use super::{Error, Gradients};
use crate::rng::Stream;
use crate::spec;

type Result<T> = std::result::Result<T, Error>;

/// Name and shape of a weight.
type Named = (String, Vec<usize>);

/// Sizes that determine a head's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) kind: spec::Head,
    /// Width of a token.
    pub(super) width: usize,
    /// Number of the backbone's attention heads.
    pub(super) heads: usize,
    pub(super) classes: usize,
}

/// A head's layers.
pub(super) struct Head {
    sizes: Sizes,
    below: Below,
    /// Last layer, from features to logits.
    fc: Linear,
}

/// Layers below the last one.
enum Below {
    /// There are none: the last layer reads the tokens.
    Nothing,
    Conv(Box<Conv>),
    Attention(Box<Attention>),
}

/// Activations that the backward pass through a head's layers below the last one reads.
pub(super) enum Saved {
    /// There are no such layers.
    Nothing,
    Conv(conv::Saved),
    Attention(attention::Saved),
}

impl Sizes {
    /// Returns what the names of the head's weights begin with. The paper's has the reference's names.
    fn prefix(&self) -> &'static str {
        match self.kind {
            spec::Head::Mean => "",
            spec::Head::Frames(_) => "head.frames.",
            spec::Head::Conv => "head.conv.",
            spec::Head::Attention(_) => "head.attention.",
        }
    }

    /// Returns the number of values that the last layer reads of a clip.
    pub(super) fn features(&self) -> usize {
        match self.kind {
            spec::Head::Mean | spec::Head::Attention(_) => self.width,
            spec::Head::Frames(frames) => usize::from(frames.get()) * self.width,
            spec::Head::Conv => self.width + conv::width(self.width),
        }
    }

    /// Returns the names and shapes of the weights, the last layer's at the end.
    pub(super) fn weights(&self) -> Vec<Named> {
        let mut weights = match self.kind {
            spec::Head::Mean | spec::Head::Frames(_) => Vec::new(),
            spec::Head::Conv => conv::weights(self.width),
            spec::Head::Attention(frames) => attention::weights(frames.get().into(), self.width),
        };
        weights.push(("fc.weight".to_owned(), vec![self.classes, self.features()]));
        weights.push(("fc.bias".to_owned(), vec![self.classes]));
        let prefix = self.prefix();
        for (name, _) in &mut weights {
            name.insert_str(0, prefix);
        }
        weights
    }

    /// Returns the values that a weight begins with: biases and what is added to the mean are 0, the last layer and positions are normal, the other layers
    /// are uniform within 1 / √inputs.
    pub(super) fn initial(&self, name: &str, shape: &[usize], stream: &mut Stream) -> Vec<f32> {
        let count = shape.iter().product();
        if name.ends_with(".bias") || name.ends_with("out.weight") {
            return vec![0.0; count];
        }
        if name.ends_with("positions") {
            return (0..count).map(|_| 0.02 * stream.normal()).collect();
        }
        if name.ends_with("fc.weight") {
            // Logits have the same spread, however many frames the layer reads.
            let scale = (self.width as f32 / self.features() as f32).sqrt();
            let deviation = match self.kind {
                spec::Head::Mean => 0.02,
                spec::Head::Frames(_) | spec::Head::Conv | spec::Head::Attention(_) => 0.02 * scale,
            };
            return (0..count).map(|_| deviation * stream.normal()).collect();
        }
        let inputs: usize = shape.iter().skip(1).product();
        let bound = 1.0 / (inputs as f32).sqrt();
        (0..count).map(|_| stream.range(-bound, bound)).collect()
    }
}

impl Head {
    pub(super) fn build(
        sizes: Sizes,
        mode: &Mode,
        mut fetch: impl FnMut(&str) -> Result<Array>,
    ) -> Result<Self> {
        let prefix = sizes.prefix();
        let mut own = |name: &str| Ok(Array::Host(fetch(&format!("{prefix}{name}"))?.host()?));
        let below = match sizes.kind {
            spec::Head::Mean | spec::Head::Frames(_) => Below::Nothing,
            spec::Head::Conv => Below::Conv(Box::new(Conv::build(sizes.width, mode, &mut own)?)),
            spec::Head::Attention(_) => {
                let of = (sizes.width, sizes.heads);
                Below::Attention(Box::new(Attention::build(of, mode, &mut own)?))
            }
        };
        let (weight, bias) = (own("fc.weight")?, own("fc.bias")?);
        let fc = Linear::of(&weight, sizes.features(), &bias, mode)?;
        Ok(Self { sizes, below, fc })
    }

    /// Returns the same head, frozen, in this mode.
    pub(super) fn in_mode(&self, mode: &Mode) -> Result<Self> {
        Ok(Self {
            sizes: self.sizes,
            below: match &self.below {
                Below::Nothing => Below::Nothing,
                Below::Conv(conv) => Below::Conv(Box::new(conv.in_mode(mode)?)),
                Below::Attention(attention) => Below::Attention(Box::new(attention.in_mode(mode)?)),
            },
            fc: self.fc.in_mode(mode)?,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        let below = match &self.below {
            Below::Nothing => 0,
            Below::Conv(conv) => conv.bytes(),
            Below::Attention(attention) => attention.bytes(),
        };
        self.fc.bytes() + below
    }

    /// Returns the values of a weight; empty when there is none of this name.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>> {
        let Some(own) = name.strip_prefix(self.sizes.prefix()) else {
            return Ok(Vec::new());
        };
        match (own, &self.below) {
            ("fc.weight", _) => Ok(self.fc.unpacked()?.0),
            ("fc.bias", _) => Ok(self.fc.unpacked()?.1),
            (_, Below::Nothing) => Ok(Vec::new()),
            (_, Below::Conv(conv)) => conv.values(own),
            (_, Below::Attention(attention)) => attention.values(own),
        }
    }

    /// Returns whether the head has weights below its last layer.
    pub(super) fn is_deep(&self) -> bool {
        !matches!(self.below, Below::Nothing)
    }

    /// Returns the last layer.
    pub(super) fn last(&self) -> &Linear {
        &self.fc
    }

    /// Returns the names of the last layer's weight and bias.
    pub(super) fn last_names(&self) -> [String; 2] {
        ["fc.weight", "fc.bias"].map(|name| format!("{}{name}", self.sizes.prefix()))
    }

    /// Computes what the last layer reads, `[clips, F]`, from the final norm of what [`gathered`] returned, `[clips · R, C]`.
    pub(super) fn features(&self, x: &Array, clips: usize) -> Result<(Array, Saved)> {
        let each = x.dims().iter().product::<usize>() / clips.max(1);
        Ok(match &self.below {
            Below::Nothing => (x.reshape((clips, each))?, Saved::Nothing),
            Below::Conv(conv) => {
                let (features, saved) = conv.forward(x, clips)?;
                (features, Saved::Conv(saved))
            }
            Below::Attention(attention) => {
                let (features, saved) = attention.forward(x, clips)?;
                (features, Saved::Attention(saved))
            }
        })
    }

    /// Computes the gradients of the layers below the last one, added to those of earlier clips, and that of x, if it is wanted.
    pub(super) fn backward(
        &self,
        x: &Array,
        saved: &Saved,
        d_features: &Array,
        earlier: &Gradients,
        wants_dx: bool,
    ) -> Result<(Option<Array>, Found)> {
        let sums = Sums {
            earlier,
            prefix: self.sizes.prefix(),
        };
        match (&self.below, saved) {
            (Below::Conv(conv), Saved::Conv(saved)) => {
                conv.backward(x, saved, d_features, &sums, wants_dx)
            }
            (Below::Attention(attention), Saved::Attention(saved)) => {
                attention.backward(saved, d_features, &sums, wants_dx)
            }
            (Below::Nothing | Below::Conv(_) | Below::Attention(_), _) => {
                let dx = wants_dx.then(|| d_features.reshape(x.dims())).transpose();
                Ok((dx?, Found::new()))
            }
        }
    }
}

/// Gradients of earlier clips, in which those of one head have names with a prefix.
struct Sums<'a> {
    earlier: &'a Gradients,
    prefix: &'static str,
}

impl Sums<'_> {
    fn name(&self, own: &str) -> String {
        format!("{}{own}", self.prefix)
    }

    /// Returns the gradient of earlier clips, on the host.
    fn get(&self, own: &str) -> Result<Array> {
        Ok(self.earlier.get(&self.name(own))?.to(&Place::Host)?)
    }
}

/// Returns the number of rows of [`gathered`] for a clip of so many frames, of grid² patches each.
pub(super) fn rows(kind: spec::Head, frames: usize, grid: usize) -> usize {
    match kind {
        spec::Head::Mean => 1,
        spec::Head::Frames(_) | spec::Head::Conv => frames,
        spec::Head::Attention(_) => frames * attention::rows(grid),
    }
}

/// Returns the tokens of the last block that a head reads.
pub(super) fn tokens(kind: spec::Head) -> Tokens {
    if kind.reads_patches() {
        Tokens::All
    } else {
        Tokens::Class
    }
}

/// Returns on the host what a head reads of each clip, `[clips · R, C]`, from the tokens of the last block that it reads: class tokens `[ΣT, C]`, or all
/// `[ΣT, L, C]`; `frames` holds the number of frames of each clip.
pub(super) fn gathered(
    kind: spec::Head,
    last: &Array,
    frames: &[usize],
    grid: usize,
) -> Result<Array> {
    match kind {
        spec::Head::Mean => Ok(pool::means(last, frames)?.to(&Place::Host)?),
        spec::Head::Frames(_) | spec::Head::Conv => Ok(last.to(&Place::Host)?),
        spec::Head::Attention(_) => Ok(pooled(last, grid)?.to(&Place::Host)?),
    }
}

/// Returns what a head that reads patches reads of each clip, `[clips · R, C]`, from all tokens `[ΣT, L, C]` of the last block, in their place.
pub(super) fn pooled(last: &Array, grid: usize) -> Result<Array> {
    attention::pooled(last, grid)
}

/// Returns the gradient of the tokens of the last block that a head reads, in this place, from that of what [`gathered`] returned.
pub(super) fn scattered(
    kind: spec::Head,
    d_rows: &Array,
    frames: &[usize],
    (grid, place): (usize, &Place),
) -> Result<Array> {
    match kind {
        spec::Head::Mean => Ok(pool::spread(&d_rows.to(place)?, frames)?),
        spec::Head::Frames(_) | spec::Head::Conv => Ok(d_rows.to(place)?),
        spec::Head::Attention(_) => attention::unpooled(&d_rows.to(place)?, grid),
    }
}

/// Returns the factors of dropout `[rows, C]`, each 0 or 1 / (1 - rate); row i of the batch uses part i of the stream.
pub(super) fn dropout(rate: f64, stream: &Stream, rows: Range<usize>, c: usize) -> Result<Array> {
    let (threshold, factor) = (rate as f32, (1.0 / (1.0 - rate)) as f32);
    let count = rows.len();
    let mut factors = Vec::with_capacity(count * c);
    for row in rows {
        let mut own = stream.fork(row as u64);
        factors.extend((0..c).map(|_| if own.unit() < threshold { 0.0 } else { factor }));
    }
    Ok(Array::of(factors, (count, c))?)
}
