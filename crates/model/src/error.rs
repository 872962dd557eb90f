//! Errors of the model; each names the tensor, field or clip.

use std::ops::Range;

use super::load;
use super::ops::Failure;
use crate::spec;

/// An error of the model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is not one of a backbone.
    #[error("backbone configuration: {0}")]
    Config(#[source] spec::Invalid),
    /// The adapter configuration is not valid or does not fit the backbone.
    #[error("adapter configuration: {0}")]
    Adapter(#[source] spec::Invalid),
    /// A required tensor is missing.
    #[error("tensor {name} is missing")]
    MissingTensor {
        /// Name of the tensor, as in the reference.
        name: String,
    },
    /// A tensor is not part of the model.
    #[error("tensor {name} is not part of the model")]
    UnexpectedTensor {
        /// Name of the tensor.
        name: String,
    },
    /// A tensor has a shape other than expected.
    #[error("tensor {name}: expected shape {expected:?}, got {got:?}")]
    WrongShape {
        /// Name of the tensor, as in the reference.
        name: String,
        /// Shape that the configuration requires.
        expected: Vec<usize>,
        /// Shape that the tensor has.
        got: Vec<usize>,
    },
    /// A tensor has a number format that is not supported.
    #[error("tensor {name}: expected f32, f16 or bf16, got {got}")]
    WrongType {
        /// Name of the tensor, as in the reference.
        name: String,
        /// Number format of the tensor.
        got: String,
    },
    /// A tensor contains NaN or infinity.
    #[error("tensor {name}: element {index} is not finite")]
    NotFinite {
        /// Name of the tensor, as in the reference.
        name: String,
        /// Row-major index of the first value that is not finite.
        index: usize,
    },
    /// The bytes are not a safetensors file.
    #[error("safetensors: {0}")]
    Safetensors(#[source] load::HeaderError),
    /// A clip differs in size from what its segment requires.
    #[error("clip {clip}: expected {expected} values, got {got}")]
    ClipSize {
        /// Index of the clip in the batch.
        clip: usize,
        /// Expected number of values: 3 · frames · side².
        expected: usize,
        /// Number of values in the clip's planes.
        got: usize,
    },
    /// The head of a set knows the order of another number of frames.
    #[error("clips of {got} frames, but the head is for clips of {expected}")]
    HeadFrames {
        /// Number of frames that the head is for.
        expected: usize,
        /// Number of frames of the clips.
        got: usize,
    },
    /// The segments do not cover all clips one after another.
    #[error("segment {index}: clips {got:?}, expected to begin at {begin} and to end by {clips}")]
    Segments {
        /// Index of the segment.
        index: usize,
        /// Clips of the segment.
        got: Range<usize>,
        /// Index of the clip after the previous segment.
        begin: usize,
        /// Number of clips in the batch.
        clips: usize,
    },
    /// The adapter set was made for another backbone.
    #[error("adapter set for width and layers {got:?} does not fit a backbone of {expected:?}")]
    Mismatch {
        /// Width and layers of the backbone.
        expected: (usize, usize),
        /// Width and layers that the set was made for.
        got: (usize, usize),
    },
    /// The number of labels differs from the number of clips.
    #[error("{clips} clips, but {labels} labels")]
    LabelCount {
        /// Number of clips in the batch.
        clips: usize,
        /// Number of labels that were given.
        labels: usize,
    },
    /// A label has no row in the head.
    #[error("label {label} of clip {clip}: the head has {classes} classes")]
    Label {
        /// Index of the clip in the batch.
        clip: usize,
        /// Label that was given.
        label: u32,
        /// Number of classes of the head.
        classes: usize,
    },
    /// A number is outside its range.
    #[error("{0}")]
    Value(#[source] spec::Invalid),
    /// A result was requested before the computation was done, or the computation was advanced after its end.
    #[error("{what} at the wrong time")]
    Order {
        /// Name of the call.
        what: &'static str,
    },
    /// A file cannot be written.
    #[error("write {path}")]
    Write {
        /// Path of the file.
        path: std::path::PathBuf,
        /// Error of the file system.
        #[source]
        source: std::io::Error,
    },
    /// The accelerator has no room for what a computation needs; less of it at a time may fit.
    #[error("the device has no room for {bytes} bytes")]
    OutOfMemory {
        /// Bytes that were asked for; 0 when the driver does not tell.
        bytes: u64,
    },
    /// The accelerator cannot be used any more by this process.
    #[error("{0}")]
    DeviceLost(#[source] Failure),
    /// The accelerator's driver or a library refused a call, which says nothing about the weights or the clips; a later call may succeed.
    #[error("{0}")]
    DeviceRefused(#[source] Failure),
    /// The tensor library failed.
    #[error("tensor operation: {0}")]
    Candle(#[source] candle_core::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        match Failure::inside(&error) {
            Some(Failure::OutOfMemory { bytes }) => Self::OutOfMemory { bytes: *bytes },
            Some(failure @ Failure::Lost { .. }) => Self::DeviceLost(failure.clone()),
            Some(failure @ Failure::Refused { .. }) => Self::DeviceRefused(failure.clone()),
            None => Self::Candle(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_device_are_told_apart_from_others() {
        let of = |failure: Failure| Error::from(candle_core::Error::from(failure));
        let full = of(Failure::OutOfMemory { bytes: 3 });
        assert!(matches!(full, Error::OutOfMemory { bytes: 3 }), "{full}");
        let (what, reason) = ("cuLaunchKernel", "no".into());
        let lost = of(Failure::Lost { what, reason });
        assert!(matches!(lost, Error::DeviceLost(_)), "{lost}");
        let reason = "no".into();
        let refused = of(Failure::Refused { what, reason });
        assert!(matches!(refused, Error::DeviceRefused(_)), "{refused}");
        let other = Error::from(candle_core::Error::Msg("no".to_owned()));
        assert!(matches!(other, Error::Candle(_)), "{other}");
    }
}
