//! One forward pass over a batch that mixes tasks, block by block.
//!
//! Invariant: the frozen layers run over the whole batch, whatever the tasks; an adapter runs only over its own segment. Clips that share their planes
//! are computed once, on request, up to the first block in which one of them has an adapter; no bit of a result depends on it.

mod lanes;

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use lanes::Lanes;

use super::block::{Sites, Tokens, class_rows};
use super::ops::Numbers;
use super::ops::depthwise::Extent;
use super::ops::linear::Rows;
use super::{AdapterSet, Backbone, Error, Step, head, ops, vit};

/// Adjacent clips of a batch that use one adapter set.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Adapter set of the clips.
    pub set: Arc<AdapterSet>,
    /// Range of the segment's clips in the batch.
    pub clips: Range<usize>,
    /// Number of frames of each clip.
    pub num_frames: usize,
}

/// What a forward pass gives for each clip of a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Readout {
    /// Logits of the set's head.
    #[default]
    Logits,
    /// Features `[1 + T, C]`, row after row: those of the clip, which are the final norm of the mean of its frames' class tokens and what the head reads;
    /// then the final norm of each frame's own class token.
    Features,
    /// Same as [`Readout::Features`], before the final norm: the first row is the mean of the others.
    ClassTokens,
}

/// Forward pass of a batch; each slice of the device advances it.
pub struct Inference {
    backbone: Arc<Backbone>,
    clips: Vec<Arc<[f32]>>,
    segments: Vec<Segment>,
    /// One for each segment.
    readouts: Vec<Readout>,
    /// Index of each clip's segment.
    places: Vec<usize>,
    lanes: Lanes,
    hidden: Option<Vec<Tensor>>,
    state: State,
}

enum State {
    Begin,
    /// Index of the next block, and its input.
    Block(usize, Tensor),
    /// Class tokens `[ΣT, C]` after the last block.
    Heads(Tensor),
    Done(Vec<Vec<f32>>),
}

impl Inference {
    /// Starts a forward pass over `frames`: one buffer per clip with normalised planes `[3, T, S, S]`. The segments cover all clips one after
    /// another.
    ///
    /// # Errors
    /// When a clip, a segment or an adapter set does not fit.
    pub fn new(
        backbone: Arc<Backbone>,
        frames: Vec<Arc<[f32]>>,
        segments: Vec<Segment>,
    ) -> Result<Self, Error> {
        let mut begin = 0;
        for (index, segment) in segments.iter().enumerate() {
            let (clips, last) = (&segment.clips, index + 1 == segments.len());
            let follows = clips.start == begin && clips.end > begin && clips.end <= frames.len();
            if !follows || segment.num_frames == 0 || (last && clips.end != frames.len()) {
                return Err(Error::Segments {
                    index,
                    got: clips.clone(),
                    begin,
                    clips: frames.len(),
                });
            }
            segment.set.fits(backbone.config())?;
            let expected = segment.num_frames * backbone.config().frame_len();
            for clip in clips.clone() {
                check_clip(clip, &frames[clip], expected)?;
            }
            begin = clips.end;
        }
        if segments.is_empty() {
            return Err(Error::Segments {
                index: 0,
                got: 0..0,
                begin: 0,
                clips: frames.len(),
            });
        }
        let per_clip = |(place, segment): (usize, &Segment)| {
            std::iter::repeat_n((place, segment.num_frames), segment.clips.len())
        };
        let per_clip = segments.iter().enumerate().flat_map(per_clip);
        let (places, counts): (Vec<usize>, Vec<usize>) = per_clip.unzip();
        Ok(Self {
            backbone,
            lanes: Lanes::apart(&counts),
            readouts: vec![Readout::default(); segments.len()],
            places,
            clips: frames,
            segments,
            hidden: None,
            state: State::Begin,
        })
    }

    /// Returns the same forward pass, but with all tokens through the last block and every block's output kept.
    #[must_use]
    pub fn with_hidden_states(mut self) -> Self {
        self.hidden = Some(Vec::new());
        self.lanes = Lanes::apart(&self.counts());
        self
    }

    /// Returns the same forward pass, but with clips that share their planes computed once, up to the first block in which one of them has an
    /// adapter. This changes no result.
    #[must_use]
    pub fn sharing(mut self) -> Self {
        if self.hidden.is_none() {
            self.lanes = Lanes::shared(&self.clips, &self.counts());
        }
        self
    }

    /// Returns the same forward pass, but with these readouts in place of logits, one for each segment.
    #[must_use]
    pub fn reading(mut self, readouts: impl IntoIterator<Item = Readout>) -> Self {
        for (own, readout) in self.readouts.iter_mut().zip(readouts) {
            *own = readout;
        }
        self
    }

    /// Returns the number of frames of each clip.
    fn counts(&self) -> Vec<usize> {
        let places = self.places.iter();
        places
            .map(|&place| self.segments[place].num_frames)
            .collect()
    }

    /// Runs one slice: the patch embedding, one block, or the heads.
    ///
    /// # Errors
    /// When the forward pass is already done.
    pub fn advance(&mut self) -> Result<Step, Error> {
        let state = std::mem::replace(&mut self.state, State::Begin);
        self.state = match state {
            State::Begin => {
                let sources = self.lanes.sources().map(|clip| self.clips[clip].clone());
                let sources: Vec<Arc<[f32]>> = sources.collect();
                let x = vit::embed_clips(&self.backbone.vit, &sources, self.backbone.config())?;
                self.clips = Vec::new();
                State::Block(0, x)
            }
            State::Block(block, x) => self.block(block, x)?,
            State::Heads(class) => State::Done(self.heads(&class)?),
            State::Done(logits) => {
                self.state = State::Done(logits);
                return Err(Error::Order { what: "advance" });
            }
        };
        Ok(match self.state {
            State::Done(_) => Step::Done,
            State::Begin | State::Block(..) | State::Heads(_) => Step::More,
        })
    }

    /// Returns the logits of each clip, in the order of `frames`.
    ///
    /// # Errors
    /// When the forward pass is not done yet.
    pub fn into_logits(self) -> Result<Vec<Vec<f32>>, Error> {
        self.into_rows("into_logits")
    }

    /// Returns the readout of each clip, in the order of `frames`.
    ///
    /// # Errors
    /// When the forward pass is not done yet.
    pub fn into_readouts(self) -> Result<Vec<Vec<f32>>, Error> {
        self.into_rows("into_readouts")
    }

    fn into_rows(self, what: &'static str) -> Result<Vec<Vec<f32>>, Error> {
        match self.state {
            State::Done(rows) => Ok(rows),
            State::Begin | State::Block(..) | State::Heads(_) => Err(Error::Order { what }),
        }
    }

    /// Returns the outputs of the blocks so far, each `[ΣT, L, C]`; empty unless they were requested.
    pub fn hidden_states(&self) -> &[Tensor] {
        self.hidden.as_deref().unwrap_or_default()
    }

    fn block(&mut self, index: usize, x: Tensor) -> Result<State, Error> {
        let first = |clip: usize| self.segments[self.places[clip]].set.first_block();
        let x = match self.lanes.split(|clip| first(clip) <= index) {
            Some(rows) => gathered(&x, &rows)?,
            None => x,
        };
        let blocks = &self.backbone.vit.blocks;
        let last = index + 1 == blocks.len();
        let tokens = if last && self.hidden.is_none() {
            Tokens::Class
        } else {
            Tokens::All
        };
        let x = blocks[index].infer(&x, &self.sites(index), tokens)?;
        if let Some(hidden) = &mut self.hidden {
            hidden.push(x.clone());
        }
        let class = match (last, tokens) {
            (false, _) => return Ok(State::Block(index + 1, x)),
            (true, Tokens::Class) => x,
            (true, Tokens::All) => class_rows(&x)?,
        };
        Ok(State::Heads(match self.lanes.split(|_| true) {
            Some(rows) => gathered(&class, &rows)?,
            None => class,
        }))
    }

    /// Returns the adapters of the batch in one block; empty when no lane has an adapter there.
    fn sites(&self, block: usize) -> Sites<'_> {
        let (mut sites, mut begin) = (Sites::default(), 0);
        let place = |readers: &[usize]| match readers {
            [only] => Some(self.places[*only]),
            // Clips that are still together have no adapter here.
            _ => None,
        };
        let lanes: Vec<_> = (self.lanes.iter())
            .map(|lane| (place(&lane.readers), lane.frames))
            .collect();
        for run in lanes.chunk_by(|(a, _), (b, _)| a == b) {
            let frames = begin..begin + run.iter().map(|(_, frames)| frames).sum::<usize>();
            begin = frames.end;
            let Some(segment) = run
                .first()
                .and_then(|(place, _)| self.segments.get((*place)?))
            else {
                continue;
            };
            let extent = Extent {
                frames: segment.num_frames,
                grid: self.backbone.config().grid(),
            };
            segment.set.push_sites(block, &frames, extent, &mut sites);
        }
        sites
    }

    fn heads(&self, class: &Tensor) -> Result<Vec<Vec<f32>>, Error> {
        let norm = |x: &Tensor| self.backbone.vit.ln_post.forward(x, Numbers::F32);
        let means = head::clip_means(class, &self.counts())?;
        let features = norm(&means)?;
        let mut rows = Vec::with_capacity(self.places.len());
        let mut begin = 0;
        for (segment, readout) in self.segments.iter().zip(&self.readouts) {
            let (clips, frames) = (&segment.clips, segment.num_frames);
            let own = |x: &Tensor| x.narrow(0, clips.start, clips.len());
            let tokens = class.narrow(0, begin, frames * clips.len())?;
            begin += frames * clips.len();
            match readout {
                Readout::Logits => {
                    let fc = &segment.set.fc;
                    let logits = fc.forward(&own(&features)?, Rows::All, Numbers::F32)?;
                    append(&mut rows, &logits, 1)?;
                }
                Readout::Features => {
                    let (features, tokens) = (own(&features)?, norm(&tokens)?);
                    with_frames(&mut rows, &features, &tokens, frames)?;
                }
                Readout::ClassTokens => {
                    with_frames(&mut rows, &own(&means)?, &tokens, frames)?;
                }
            }
        }
        Ok(rows)
    }
}

/// Appends `each` rows of x `[N · each, C]` after one another as one row.
fn append(rows: &mut Vec<Vec<f32>>, x: &Tensor, each: usize) -> Result<(), Error> {
    let len = (each * x.dim(1)?).max(1);
    ops::read(x, |x| rows.extend(x.chunks_exact(len).map(<[f32]>::to_vec)))?;
    Ok(())
}

/// Appends a row for each clip: its features, then those of its frames.
fn with_frames(
    rows: &mut Vec<Vec<f32>>,
    features: &Tensor,
    tokens: &Tensor,
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

/// Returns copies of these rows of x, in order.
fn gathered(x: &Tensor, rows: &[Range<usize>]) -> Result<Tensor, Error> {
    let mut shape = x.dims().to_vec();
    let len: usize = shape.iter().skip(1).product();
    let count: usize = rows.iter().map(Range::len).sum();
    let mut values = Vec::with_capacity(count * len);
    ops::read(x, |x| {
        for rows in rows {
            values.extend_from_slice(&x[rows.start * len..rows.end * len]);
        }
    })?;
    if let Some(first) = shape.first_mut() {
        *first = count;
    }
    Ok(ops::tensor(values, shape)?)
}

/// Returns an error unless one clip's planes have the expected length.
pub(super) fn check_clip(clip: usize, planes: &[f32], expected: usize) -> Result<(), Error> {
    if planes.len() == expected {
        return Ok(());
    }
    Err(Error::ClipSize {
        clip,
        expected,
        got: planes.len(),
    })
}
