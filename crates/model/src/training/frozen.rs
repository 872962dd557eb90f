//! Frozen blocks of a step's frames, from tokens that earlier steps kept.
//!
//! Invariant: no bit of a result depends on it; the tokens are those before the lowest block with an adapter.

use std::collections::VecDeque;

use crate::kept::Prefix;
use crate::ops::Array;
use crate::ops::placed::rows;
use crate::{Error, Kept};

/// Where the tokens of a step's frames are kept.
pub(super) struct Frozen {
    /// The places of each clip that is to come, one for each frame; fewer when the tokens of a frame are not kept.
    clips: VecDeque<Vec<Option<Kept>>>,
    /// The frames of the micro-batch, until they are in one array.
    frames: Vec<Frame>,
    /// The lowest block with an adapter.
    block: usize,
    resumed: usize,
}

struct Frame {
    kept: Option<Kept>,
    known: Option<Array>,
}

impl Frozen {
    pub(super) fn new(clips: Vec<Vec<Option<Kept>>>, block: usize) -> Self {
        Self {
            clips: clips.into(),
            frames: Vec::new(),
            block,
            resumed: 0,
        }
    }

    /// Begins a micro-batch of so many clips. Returns the frames that have to be computed, in their order.
    pub(super) fn begin(&mut self, clips: usize, num_frames: usize) -> Vec<usize> {
        let block = self.block;
        self.frames = Vec::with_capacity(clips * num_frames);
        for _ in 0..clips {
            let mut places = self.clips.pop_front().unwrap_or_default().into_iter();
            for _ in 0..num_frames {
                let kept = places.next().flatten();
                let known = kept.as_ref().and_then(Kept::tokens);
                let known = known.filter(|own| own.block == block).map(|own| own.x);
                self.frames.push(Frame { kept, known });
            }
        }
        let numbered = self.frames.iter().enumerate();
        let missing = numbered.filter_map(|(at, frame)| frame.known.is_none().then_some(at));
        let missing: Vec<usize> = missing.collect();
        self.resumed += self.frames.len() - missing.len();
        missing
    }

    /// Whether the tokens before a block are not in one array yet.
    pub(super) fn joins(&self, block: usize) -> bool {
        block == self.block && !self.frames.is_empty()
    }

    /// Returns the tokens of all frames of the micro-batch, `[ΣT, L, C]`, and keeps those that were computed.
    ///
    /// # Errors
    /// When there are other tokens than those of the missing frames.
    pub(super) fn joined(&mut self, computed: Option<&Array>) -> Result<Array, Error> {
        let what = "tokens of frozen blocks";
        let (mut at, mut parts) = (0, Vec::with_capacity(self.frames.len()));
        for frame in self.frames.drain(..) {
            let x = match (frame.known, computed) {
                (Some(known), _) => known,
                (None, Some(computed)) => {
                    let own = rows::gathered(computed, std::slice::from_ref(&(at..at + 1)))?;
                    at += 1;
                    if let Some(kept) = frame.kept {
                        let (block, x) = (self.block, own.clone());
                        kept.keep(Prefix { block, x });
                    }
                    own
                }
                (None, None) => return Err(Error::Order { what }),
            };
            parts.push(x);
        }
        Ok(Array::cat(&parts)?)
    }

    /// Returns the number of frames so far that were not computed again.
    pub(super) fn resumed(&self) -> usize {
        self.resumed
    }
}
