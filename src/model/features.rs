//! Frozen features for a head without adapters: needed once a clip, whatever the number of epochs.

use std::sync::Arc;

use super::{Backbone, Error, Step};

/// A running forward of the bare backbone.
pub struct Features;

impl Features {
    /// `frames`: one buffer a clip, normalised planes `[3, T, S, S]`, each with its own T.
    ///
    /// # Errors
    /// When a clip's length is no multiple of a frame's.
    pub fn new(_backbone: Arc<Backbone>, _frames: Vec<Arc<[f32]>>) -> Result<Self, Error> {
        todo!()
    }

    /// Runs the patch embedding or one block.
    ///
    /// # Errors
    /// When it is called after the end.
    pub fn advance(&mut self) -> Result<Step, Error> {
        todo!()
    }

    /// The mean over T of the class token before the final norm, `[C]` for each clip.
    ///
    /// # Errors
    /// Before the end.
    pub fn into_features(self) -> Result<Vec<Vec<f32>>, Error> {
        todo!()
    }
}
