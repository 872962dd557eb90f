//! What can go wrong in the model, each naming the tensor, field or clip.

use std::ops::Range;

use super::load;
use crate::spec;

/// An error of the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that no backbone can have.
    #[error("backbone configuration: {0}")]
    Config(#[source] spec::Invalid),
    /// An adapter configuration that does not fit the backbone.
    #[error("adapter configuration: {0}")]
    Adapter(#[source] spec::Invalid),
    /// A tensor that has to be there.
    #[error("tensor {name} is missing")]
    MissingTensor {
        /// The reference's name.
        name: String,
    },
    /// A tensor that must not be there.
    #[error("tensor {name} is not part of the model")]
    UnexpectedTensor {
        /// Its name.
        name: String,
    },
    /// A tensor of another shape.
    #[error("tensor {name}: expected shape {expected:?}, got {got:?}")]
    WrongShape {
        /// The reference's name.
        name: String,
        /// What the configuration asks for.
        expected: Vec<usize>,
        /// What is there.
        got: Vec<usize>,
    },
    /// A tensor of a number format that is not read.
    #[error("tensor {name}: expected f32, f16 or bf16, got {got}")]
    WrongType {
        /// The reference's name.
        name: String,
        /// Its format.
        got: String,
    },
    /// A tensor with NaN or infinity.
    #[error("tensor {name}: element {index} is not finite")]
    NotFinite {
        /// The reference's name.
        name: String,
        /// Row-major.
        index: usize,
    },
    /// Bytes that are no safetensors file.
    #[error("safetensors: {0}")]
    Safetensors(#[source] load::HeaderError),
    /// A clip of another size than its segment says.
    #[error("clip {clip}: expected {expected} values, got {got}")]
    ClipSize {
        /// Its index in the batch.
        clip: usize,
        /// 3 · frames · side².
        expected: usize,
        /// Length of its planes.
        got: usize,
    },
    /// Segments that do not follow one another over all clips.
    #[error("segment {index}: clips {got:?}, expected to begin at {begin} and to end by {clips}")]
    Segments {
        /// Its index.
        index: usize,
        /// Its clips.
        got: Range<usize>,
        /// Where the one before ended.
        begin: usize,
        /// Clips in the batch.
        clips: usize,
    },
    /// An adapter set that was made for another backbone.
    #[error("adapter set for width and layers {got:?} does not fit a backbone of {expected:?}")]
    Mismatch {
        /// The backbone's width and layers.
        expected: (usize, usize),
        /// The set's.
        got: (usize, usize),
    },
    /// As many labels as clips are needed.
    #[error("{clips} clips, but {labels} labels")]
    LabelCount {
        /// In the batch.
        clips: usize,
        /// Given.
        labels: usize,
    },
    /// A label that the head has no row for.
    #[error("label {label} of clip {clip}: the head has {classes} classes")]
    Label {
        /// Its index in the batch.
        clip: usize,
        /// As given.
        label: u32,
        /// Rows of the head.
        classes: usize,
    },
    /// A number that must lie in a range.
    #[error("{0}")]
    Value(#[source] spec::Invalid),
    /// A result was asked for before the work was done, or work went on after its end.
    #[error("{what} at the wrong time")]
    Order {
        /// The call.
        what: &'static str,
    },
    /// A file could not be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The tensor library failed.
    #[error("tensor operation: {0}")]
    Candle(#[from] candle_core::Error),
}
