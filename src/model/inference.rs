//! One forward pass over a batch that mixes tasks, block by block.
//!
//! Invariant: the frozen layers run over the whole batch, whatever the tasks; an adapter runs only over its own segment.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

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

/// Forward pass of a batch; each slice of the device advances it.
pub struct Inference {
    backbone: Arc<Backbone>,
    clips: Vec<Arc<[f32]>>,
    segments: Vec<Segment>,
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
        Ok(Self {
            backbone,
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
        self
    }

    /// Runs one slice: the patch embedding, one block, or the heads.
    ///
    /// # Errors
    /// When the forward pass is already done.
    pub fn advance(&mut self) -> Result<Step, Error> {
        let state = std::mem::replace(&mut self.state, State::Begin);
        self.state = match state {
            State::Begin => {
                let x = vit::embed_clips(&self.backbone.vit, &self.clips, self.backbone.config())?;
                self.clips = Vec::new();
                State::Block(0, x)
            }
            State::Block(block, x) => self.block(block, &x)?,
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
        match self.state {
            State::Done(logits) => Ok(logits),
            State::Begin | State::Block(..) | State::Heads(_) => Err(Error::Order {
                what: "into_logits",
            }),
        }
    }

    /// Returns the outputs of the blocks so far, each `[ΣT, L, C]`; empty unless they were requested.
    pub fn hidden_states(&self) -> &[Tensor] {
        self.hidden.as_deref().unwrap_or_default()
    }

    fn block(&mut self, index: usize, x: &Tensor) -> Result<State, Error> {
        let blocks = &self.backbone.vit.blocks;
        let last = index + 1 == blocks.len();
        let tokens = if last && self.hidden.is_none() {
            Tokens::Class
        } else {
            Tokens::All
        };
        let sites = sites(&self.segments, index, self.backbone.config().grid());
        let x = blocks[index].infer(x, &sites, tokens)?;
        if let Some(hidden) = &mut self.hidden {
            hidden.push(x.clone());
        }
        Ok(match (last, tokens) {
            (false, _) => State::Block(index + 1, x),
            (true, Tokens::Class) => State::Heads(x),
            (true, Tokens::All) => State::Heads(class_rows(&x)?),
        })
    }

    fn heads(&self, class: &Tensor) -> Result<Vec<Vec<f32>>, Error> {
        let frames: Vec<usize> = self
            .segments
            .iter()
            .flat_map(|s| std::iter::repeat_n(s.num_frames, s.clips.len()))
            .collect();
        let features = head::clip_means(class, &frames)?;
        let features = self.backbone.vit.ln_post.forward(&features, Numbers::F32)?;
        let mut logits = Vec::with_capacity(frames.len());
        for segment in &self.segments {
            let own = features.narrow(0, segment.clips.start, segment.clips.len())?;
            let rows = segment.set.fc.forward(&own, Rows::All, Numbers::F32)?;
            let classes = segment.set.classes();
            ops::read(&rows, |rows| {
                logits.extend(rows.chunks_exact(classes).map(<[f32]>::to_vec));
            })?;
        }
        Ok(logits)
    }
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

/// Returns the adapters of a batch in one block; empty when no segment has an adapter there.
fn sites(segments: &[Segment], block: usize, grid: usize) -> Sites<'_> {
    let (mut sites, mut begin) = (Sites::default(), 0);
    for segment in segments {
        let frames = begin..begin + segment.clips.len() * segment.num_frames;
        let extent = Extent {
            frames: segment.num_frames,
            grid,
        };
        segment.set.push_sites(block, &frames, extent, &mut sites);
        begin = frames.end;
    }
    sites
}
