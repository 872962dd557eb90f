//! The readouts: what the heads read of the last block's tokens, brought home, and what they make of it.
//!
//! Invariant: heads compute on the host in every place.

use super::{Array, Error, Inference, Last};
use crate::ops::Numbers;
use crate::ops::placed::linear::Rows;
use crate::ops::placed::{Later, pool};
use crate::{head, spec};

/// What a forward pass gives for each clip of a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Readout {
    /// Logits of the set's head.
    #[default]
    Logits,
    /// Features `[1 + T, C]`, row after row: those of the clip, which are the final norm of the mean of its frames' class tokens, the paper's head's
    /// input; then the final norm of each frame's own class token.
    Features,
    /// Same as [`Readout::Features`], before the final norm: the first row is the mean of the others.
    ClassTokens,
}

/// What the heads read, on its way to the host.
pub(super) struct Reading {
    /// Means of the clips' class tokens, `[clips, C]`.
    means: Later,
    /// Class tokens `[ΣT, C]`, if a readout needs them.
    class: Option<Later>,
    /// What each segment's head reads of all tokens, `[clips · R, C]`, if it does.
    pooled: Vec<Option<Later>>,
}

impl Reading {
    pub(super) fn is_ready(&self) -> bool {
        let pooled = self.pooled.iter().flatten();
        let others = self.class.iter().chain(pooled);
        self.means.is_ready() && others.into_iter().all(Later::is_ready)
    }
}

impl Inference {
    /// Returns whether a segment's readout reads the class token of each frame.
    fn reads_frames(&self, place: usize) -> bool {
        let head = self.segments[place].set.config().head;
        match self.readouts[place] {
            Readout::Logits => matches!(head, spec::Head::Frames(_) | spec::Head::Conv),
            Readout::Features | Readout::ClassTokens => true,
        }
    }

    /// Starts to bring home what the heads read.
    pub(super) fn read(&self, last: &Last) -> Result<Reading, Error> {
        let is_read = (0..self.segments.len()).any(|place| self.reads_frames(place));
        let class = is_read.then(|| last.class.later()).transpose()?;
        let grid = self.backbone.config().grid();
        let mut pooled = Vec::with_capacity(last.whole.len());
        for (segment, whole) in self.segments.iter().zip(&last.whole) {
            let reads = segment.set.config().head.reads_patches();
            pooled.push(match whole {
                Some(whole) if reads => Some(head::pooled(whole, grid)?.later()?),
                Some(_) | None => None,
            });
        }
        Ok(Reading {
            means: pool::means(&last.class, &self.counts())?.later()?,
            class,
            pooled,
        })
    }

    /// Computes the readouts, on the host in every place.
    pub(super) fn heads(&self, reading: Reading) -> Result<Vec<Vec<f32>>, Error> {
        // On the host like what it reads: a device has no use for a few rows.
        let norm = |x: &Array| self.backbone.vit.ln_post.forward(x, Numbers::F32);
        let means = reading.means.wait()?;
        let class = reading.class.map(Later::wait).transpose()?;
        let pooled = reading.pooled.into_iter();
        let pooled: Vec<Option<Array>> = pooled
            .map(|pooled| pooled.map(Later::wait).transpose())
            .collect::<candle_core::Result<_>>()?;
        let features = norm(&means)?;
        let mut rows = Vec::with_capacity(self.places.len());
        let mut begin = 0;
        for (place, (segment, pooled)) in self.segments.iter().zip(&pooled).enumerate() {
            let (clips, frames) = (&segment.clips, segment.num_frames);
            let own = |x: &Array| x.rows(clips.clone());
            let from = begin..begin + frames * clips.len();
            begin = from.end;
            let tokens = || match &class {
                Some(class) => class.rows(from),
                None => candle_core::bail!("class tokens of nobody"),
            };
            match self.readouts[place] {
                Readout::Logits => {
                    let own_head = &segment.set.head;
                    let kind = segment.set.config().head;
                    let read = match (kind, pooled) {
                        (spec::Head::Mean, _) => own(&features)?,
                        (spec::Head::Attention(_), Some(pooled)) => norm(pooled)?,
                        (spec::Head::Attention(_), None) => {
                            return Err(Error::Order { what: "heads" });
                        }
                        (spec::Head::Frames(_) | spec::Head::Conv, _) => norm(&tokens()?)?,
                    };
                    let (features, _) = own_head.features(&read, clips.len())?;
                    let logits = own_head
                        .last()
                        .forward(&features, Rows::All, Numbers::F32)?;
                    append(&mut rows, &logits, 1)?;
                }
                Readout::Features => {
                    let (features, tokens) = (own(&features)?, norm(&tokens()?)?);
                    with_frames(&mut rows, &features, &tokens, frames)?;
                }
                Readout::ClassTokens => {
                    with_frames(&mut rows, &own(&means)?, &tokens()?, frames)?;
                }
            }
        }
        Ok(rows)
    }
}

/// Appends `each` rows of x `[N · each, C]` after one another as one row.
fn append(rows: &mut Vec<Vec<f32>>, x: &Array, each: usize) -> Result<(), Error> {
    let len = (each * x.dim(1)?).max(1);
    x.read(|x| rows.extend(x.chunks_exact(len).map(<[f32]>::to_vec)))?;
    Ok(())
}

/// Appends a row for each clip: its features, then those of its frames.
fn with_frames(
    rows: &mut Vec<Vec<f32>>,
    features: &Array,
    tokens: &Array,
    frames: usize,
) -> Result<(), Error> {
    let begin = rows.len();
    append(rows, features, 1)?;
    let mut of_frames = Vec::new();
    append(&mut of_frames, tokens, frames)?;
    for (row, frames) in rows[begin..].iter_mut().zip(of_frames) {
        row.extend(frames);
    }
    Ok(())
}
