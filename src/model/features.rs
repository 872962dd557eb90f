//! Frozen features for a head without adapters: computed once per clip, whatever the number of epochs.

use std::sync::Arc;

use candle_core::Tensor;

use super::block::{Sites, Tokens};
use super::{Backbone, Error, Step, head, ops, vit};

/// Forward pass of clips through the backbone without adapters.
pub struct Features {
    backbone: Arc<Backbone>,
    clips: Vec<Arc<[f32]>>,
    /// Number of frames of each clip.
    frames: Vec<usize>,
    x: Option<Tensor>,
    /// Index of the next block; the number of blocks when the forward pass is done.
    next: usize,
}

impl Features {
    /// Starts a forward pass over `frames`: one buffer per clip with normalised planes `[3, T, S, S]`; T may differ between clips.
    ///
    /// # Errors
    /// When a clip's length is not a multiple of a frame's length.
    pub fn new(backbone: Arc<Backbone>, frames: Vec<Arc<[f32]>>) -> Result<Self, Error> {
        let len = backbone.config().frame_len();
        for (clip, planes) in frames.iter().enumerate() {
            let expected = planes.len().next_multiple_of(len).max(len);
            super::inference::check_clip(clip, planes, expected)?;
        }
        Ok(Self {
            frames: frames.iter().map(|planes| planes.len() / len).collect(),
            backbone,
            clips: frames,
            x: None,
            next: 0,
        })
    }

    /// Runs one slice: the patch embedding or one block.
    ///
    /// # Errors
    /// When the forward pass is already done.
    pub fn advance(&mut self) -> Result<Step, Error> {
        let vit = &self.backbone.vit;
        let Some(x) = &self.x else {
            if !self.clips.is_empty() {
                self.x = Some(vit::embed_clips(vit, &self.clips, self.backbone.config())?);
                self.clips = Vec::new();
                return Ok(Step::More);
            }
            return Ok(Step::Done);
        };
        let Some(block) = vit.blocks.get(self.next) else {
            return Err(Error::Order { what: "advance" });
        };
        let last = self.next + 1 == vit.blocks.len();
        let tokens = if last { Tokens::Class } else { Tokens::All };
        let x = block.infer(x, &Sites::default(), tokens)?;
        self.x = Some(x);
        self.next += 1;
        Ok(if last { Step::Done } else { Step::More })
    }

    /// Returns the features `[C]` of each clip: the mean over T of the class token before the final norm.
    ///
    /// # Errors
    /// When the forward pass is not done yet.
    pub fn into_features(self) -> Result<Vec<Vec<f32>>, Error> {
        if self.frames.is_empty() {
            return Ok(Vec::new());
        }
        let class = match self.x {
            Some(class) if self.next == self.backbone.vit.blocks.len() => class,
            _ => {
                return Err(Error::Order {
                    what: "into_features",
                });
            }
        };
        let means = head::clip_means(&class, &self.frames)?;
        let c = means.dim(1)?;
        Ok(ops::read(&means, |means| {
            means.chunks_exact(c).map(<[f32]>::to_vec).collect()
        })?)
    }
}
