//! One forward over a batch that mixes tasks, block by block.

use std::ops::Range;
use std::sync::Arc;

use super::{AdapterSet, Backbone, Error, Step};

/// Neighbouring clips of one adapter set.
#[derive(Clone)]
pub struct Segment {
    /// The set.
    pub set: Arc<AdapterSet>,
    /// Its clips in the batch.
    pub clips: Range<usize>,
    /// Frames of each of them.
    pub num_frames: usize,
}

/// A running forward; what a device slice advances.
pub struct Inference;

impl Inference {
    /// `frames`: one buffer a clip, normalised planes `[3, T, S, S]`. Segments follow one another over all clips.
    ///
    /// # Errors
    /// When a clip, a segment or a set does not fit.
    pub fn new(
        _backbone: Arc<Backbone>,
        _frames: Vec<Arc<[f32]>>,
        _segments: Vec<Segment>,
    ) -> Result<Self, Error> {
        todo!()
    }

    /// Runs the patch embedding, one block, or the heads.
    ///
    /// # Errors
    /// When it is called after the end.
    pub fn advance(&mut self) -> Result<Step, Error> {
        todo!()
    }

    /// Logits of each clip, in the order of `frames`.
    ///
    /// # Errors
    /// Before the end.
    pub fn into_logits(self) -> Result<Vec<Vec<f32>>, Error> {
        todo!()
    }
}
