//! What a batch runs through: the model, or a stand-in for it in tests.

use std::sync::Arc;

use crate::model::{Backbone, Error, Inference, Pictures, Readout, Segment, Step};

/// Forward pass of a batch.
pub(in crate::engine) trait Forward: Send {
    /// Runs one slice.
    fn advance(&mut self) -> Result<Step, Error>;

    /// Returns the number of frames that go on from tokens which earlier batches kept. Asked for before the first slice.
    fn resumed_frames(&self) -> usize;

    /// Returns whether the result is there, after `advance` has returned [`Step::Pending`].
    fn is_ready(&self) -> bool;

    /// Returns the readout of each clip.
    fn finish(self: Box<Self>) -> Result<Vec<Vec<f32>>, Error>;
}

/// Clips of a batch and what runs on them.
pub(in crate::engine) struct Input {
    /// Pictures of each clip.
    pub(in crate::engine) pictures: Vec<Pictures>,
    /// Segments, which cover all clips.
    pub(in crate::engine) segments: Vec<Segment>,
    /// Readout of each segment.
    pub(in crate::engine) readouts: Vec<Readout>,
}

/// Starts forward passes.
pub(in crate::engine) trait Model: Send + Sync {
    /// Starts one.
    fn begin(&self, input: Input) -> Result<Box<dyn Forward>, Error>;
}

impl Model for Arc<Backbone> {
    fn begin(&self, input: Input) -> Result<Box<dyn Forward>, Error> {
        let Input {
            pictures,
            segments,
            readouts,
        } = input;
        let inference = Inference::new(self.clone(), pictures, segments)?;
        Ok(Box::new(inference.reading(readouts).sharing()))
    }
}

impl Forward for Inference {
    fn advance(&mut self) -> Result<Step, Error> {
        self.advance()
    }

    fn resumed_frames(&self) -> usize {
        self.resumed_frames()
    }

    fn is_ready(&self) -> bool {
        self.is_ready()
    }

    fn finish(self: Box<Self>) -> Result<Vec<Vec<f32>>, Error> {
        self.into_readouts()
    }
}
