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
    /// A required tensor is missing.
    #[error("tensor {name} is missing")]
    MissingTensor {
        /// The reference's name of the tensor.
        name: String,
    },
    /// A tensor that is not part of the model.
    #[error("tensor {name} is not part of the model")]
    UnexpectedTensor {
        /// Name of the tensor.
        name: String,
    },
    /// A tensor with another shape than expected.
    #[error("tensor {name}: expected shape {expected:?}, got {got:?}")]
    WrongShape {
        /// The reference's name of the tensor.
        name: String,
        /// Shape that the configuration requires.
        expected: Vec<usize>,
        /// Shape that the tensor has.
        got: Vec<usize>,
    },
    /// A tensor in a number format that is not read.
    #[error("tensor {name}: expected f32, f16 or bf16, got {got}")]
    WrongType {
        /// The reference's name of the tensor.
        name: String,
        /// Number format of the tensor.
        got: String,
    },
    /// A tensor with NaN or infinity.
    #[error("tensor {name}: element {index} is not finite")]
    NotFinite {
        /// The reference's name of the tensor.
        name: String,
        /// Row-major index of the first bad element.
        index: usize,
    },
    /// Bytes that are not a safetensors file.
    #[error("safetensors: {0}")]
    Safetensors(#[source] load::HeaderError),
    /// A clip of another size than its segment says.
    #[error("clip {clip}: expected {expected} values, got {got}")]
    ClipSize {
        /// Index of the clip in the batch.
        clip: usize,
        /// Expected number of values: 3 · frames · side².
        expected: usize,
        /// Number of values in the clip's planes.
        got: usize,
    },
    /// Segments that do not follow one another over all clips.
    #[error("segment {index}: clips {got:?}, expected to begin at {begin} and to end by {clips}")]
    Segments {
        /// Index of the segment.
        index: usize,
        /// Clips of the segment.
        got: Range<usize>,
        /// Where the previous segment ended.
        begin: usize,
        /// Clips in the batch.
        clips: usize,
    },
    /// An adapter set that was made for another backbone.
    #[error("adapter set for width and layers {got:?} does not fit a backbone of {expected:?}")]
    Mismatch {
        /// Width and layers of the backbone.
        expected: (usize, usize),
        /// Width and layers that the set was made for.
        got: (usize, usize),
    },
    /// There is not one label per clip.
    #[error("{clips} clips, but {labels} labels")]
    LabelCount {
        /// Clips in the batch.
        clips: usize,
        /// Labels that were given.
        labels: usize,
    },
    /// A label that the head has no row for.
    #[error("label {label} of clip {clip}: the head has {classes} classes")]
    Label {
        /// Index of the clip in the batch.
        clip: usize,
        /// Label as given.
        label: u32,
        /// Classes of the head.
        classes: usize,
    },
    /// A number outside its range.
    #[error("{0}")]
    Value(#[source] spec::Invalid),
    /// A result was requested before the work was done, or work continued after its end.
    #[error("{what} at the wrong time")]
    Order {
        /// Name of the call.
        what: &'static str,
    },
    /// A file could not be written.
    #[error("write {path}")]
    Write {
        /// Path of the file.
        path: std::path::PathBuf,
        /// Error of the file system.
        #[source]
        source: std::io::Error,
    },
    /// The tensor library failed.
    #[error("tensor operation: {0}")]
    Candle(#[from] candle_core::Error),
}
