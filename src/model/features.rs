//! Frozen features for a head without adapters, which are what it reads: computed once per clip, whatever the number of epochs.

use std::sync::Arc;

use candle_core::Tensor;

use super::block::{Sites, Tokens};
use super::{Backbone, BackboneConfig, Error, Step, head, ops, vit};
use crate::spec::Head;

/// Forward pass of clips through the backbone without adapters.
pub struct Features {
    backbone: Arc<Backbone>,
    clips: Vec<Arc<[f32]>>,
    /// Number of frames of each clip.
    frames: Vec<usize>,
    head: Head,
    x: Option<Tensor>,
    /// Index of the next block; the number of blocks when the forward pass is done.
    next: usize,
}

impl Features {
    /// Returns the number of values of a clip's features.
    pub fn width(backbone: &BackboneConfig, head: Head, num_frames: usize) -> usize {
        head::rows(head, num_frames, backbone.grid()) * backbone.width
    }

    /// Starts a forward pass over `frames`: one buffer per clip with normalised planes `[3, T, S, S]`; T may differ between clips.
    ///
    /// # Errors
    /// When a clip's length is not a multiple of a frame's length.
    pub fn new(
        backbone: Arc<Backbone>,
        frames: Vec<Arc<[f32]>>,
        head: Head,
    ) -> Result<Self, Error> {
        let len = backbone.config().frame_len();
        for (clip, planes) in frames.iter().enumerate() {
            let expected = planes.len().next_multiple_of(len).max(len);
            super::inference::check_clip(clip, planes, expected)?;
        }
        Ok(Self {
            frames: frames.iter().map(|planes| planes.len() / len).collect(),
            backbone,
            clips: frames,
            head,
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
        let tokens = if last {
            head::tokens(self.head)
        } else {
            Tokens::All
        };
        let x = block.infer(x, &Sites::default(), tokens)?;
        self.x = Some(x);
        self.next += 1;
        Ok(if last { Step::Done } else { Step::More })
    }

    /// Returns the features `[R · C]` of each clip, before the final norm: for the paper's head the mean over T of the class tokens, for others the class
    /// tokens in the order of the frames, each followed by the pooled patch tokens that the head reads.
    ///
    /// # Errors
    /// When the forward pass is not done yet.
    pub fn into_features(self) -> Result<Vec<Vec<f32>>, Error> {
        if self.frames.is_empty() {
            return Ok(Vec::new());
        }
        let tokens = match self.x {
            Some(tokens) if self.next == self.backbone.vit.blocks.len() => tokens,
            _ => {
                return Err(Error::Order {
                    what: "into_features",
                });
            }
        };
        let grid = self.backbone.config().grid();
        let read = head::gathered(self.head, &tokens, &self.frames, grid)?;
        let c = read.dim(1)?;
        Ok(ops::read(&read, |values| {
            let mut rest = values;
            let of_clip = |frames: &usize| {
                let (own, after) = rest.split_at(head::rows(self.head, *frames, grid) * c);
                rest = after;
                own.to_vec()
            };
            self.frames.iter().map(of_clip).collect()
        })?)
    }
}
