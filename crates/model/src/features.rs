//! Frozen features for a head without adapters, which are what it reads: computed once per clip, whatever the number of epochs.

use std::sync::Arc;

use super::block::{Sites, Tokens};
use super::ops::linear::Rows;
use super::ops::{Array, Numbers};
use super::{AdapterSet, Backbone, BackboneConfig, Error, Step, head, inference, threads, vit};
use crate::spec::{Head, Invalid};

/// Forward pass of clips through the backbone without adapters.
pub struct Features {
    backbone: Arc<Backbone>,
    clips: Vec<Arc<[f32]>>,
    /// Number of frames of each clip.
    frames: Vec<usize>,
    head: Head,
    x: Option<Array>,
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
            inference::check_clip(clip, planes, expected)?;
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
        match self.backbone.place().is_host() {
            true => threads::within(|| self.slice()),
            false => self.slice(),
        }
    }

    fn slice(&mut self) -> Result<Step, Error> {
        let vit = &self.backbone.vit;
        let Some(x) = &self.x else {
            if !self.clips.is_empty() {
                self.x = Some(vit::embed_clips(vit, &self.clips, self.backbone.config())?);
                self.clips = Vec::new();
                self.backbone.place().pace()?;
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
        self.backbone.place().pace()?;
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
        Ok(read.read(|values| {
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

/// Logits of a set without adapters from features that were computed before, with the bits that the set's clips get.
///
/// `features` holds, for each clip, the row `[R · C]` that [`Features`] computed for the set's head.
///
/// # Errors
/// When the set has adapters, or rows or the set do not fit.
pub fn logits(
    backbone: &Backbone,
    set: &AdapterSet,
    features: &[Vec<f32>],
) -> Result<Vec<Vec<f32>>, Error> {
    set.fits(backbone.config())?;
    if set.config().has_sites() {
        let problem = "a set with adapters has no logits of frozen features";
        return Err(Error::Adapter(Invalid::new("adapter_layers", problem)));
    }
    let Some(first) = features.first() else {
        return Ok(Vec::new());
    };
    let (c, grid) = (backbone.config().width, backbone.config().grid());
    let kind = set.config().head;
    let of_frame = head::rows(kind, 1, grid) * c;
    // The paper's head reads one row, whatever the number of frames.
    let num_frames = match kind.is_mean() {
        true => 1,
        false => first.len().div_ceil(of_frame).max(1),
    };
    for (clip, row) in features.iter().enumerate() {
        inference::check_clip(clip, row, num_frames * of_frame)?;
    }
    if !kind.is_mean() {
        set.reads_frames(num_frames)?;
    }
    let (clips, rows) = (features.len(), head::rows(kind, num_frames, grid));
    let read = Array::of(features.concat(), (clips * rows, c))?;
    let normed = backbone.vit.ln_post.forward(&read, Numbers::F32)?;
    let (read, _) = set.head.features(&normed, clips)?;
    let logits = set.head.last().forward(&read, Rows::All, Numbers::F32)?;
    Ok(logits.host()?.to_vec2()?)
}

/// Features that `head` reads of a clip from the row that the head `of` reads of it, bit for bit: those of a head that reads each frame hold those of the
/// heads that read less.
///
/// # Errors
/// When the row is not one of a clip of so many frames, or does not hold what the head reads.
pub fn narrowed(
    backbone: &BackboneConfig,
    (row, num_frames): (&[f32], usize),
    (of, head): (Head, Head),
) -> Result<Vec<f32>, Error> {
    if head == of {
        return Ok(row.to_vec());
    }
    if of.is_mean() || (head.reads_patches() && !of.reads_patches()) {
        let problem = format!("the features of {of} do not hold those of {head}");
        return Err(Error::Adapter(Invalid::new("head", problem)));
    }
    let c = backbone.width;
    let of_frame = head::rows(of, 1, backbone.grid()) * c;
    inference::check_clip(0, row, num_frames * of_frame)?;
    let classes = row.chunks_exact(of_frame).map(|frame| &frame[..c]);
    Ok(match head {
        Head::Attention(_) => row.to_vec(),
        Head::Frames(_) | Head::Conv => classes.flatten().copied().collect(),
        Head::Mean => {
            let class: Vec<f32> = classes.flatten().copied().collect();
            let tokens = Array::of(class, (num_frames, c))?;
            head::gathered(head, &tokens, &[num_frames], backbone.grid())?.read(<[f32]>::to_vec)?
        }
    })
}
