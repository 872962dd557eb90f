//! Encodes RGB pictures into a container in memory, for demonstrations and tests.

/// What to encode as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// H.264 in MP4 when this FFmpeg has libx264, else MPEG-4 part 2 in MP4.
    Mp4,
    /// Lossless: FFV1 in Matroska.
    Lossless,
}

/// Why there is no encoded video.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A step failed.
    #[error("cannot {action}: {reason}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// What FFmpeg says.
        reason: String,
    },
    /// A picture has another size.
    #[error("expected {expected} bytes of RGB, got {got}")]
    PictureSize {
        /// Width × height × 3.
        expected: usize,
        /// What came.
        got: usize,
    },
}

/// Encodes one video, picture by picture.
pub struct Encoder {}

impl Encoder {
    /// Begins a video of this size and whole frame rate.
    ///
    /// # Errors
    /// When FFmpeg has no such encoder or refuses the size (MP4 wants even sides).
    pub fn new(_format: Format, _width: u32, _height: u32, _rate: u32) -> Result<Self, Error> {
        todo!()
    }

    /// The encoder's name: `libx264`, `mpeg4` or `ffv1`.
    pub fn codec(&self) -> &str {
        todo!()
    }

    /// Adds a picture: RGB triples, u8 [height, width, 3].
    ///
    /// # Errors
    /// When its size is wrong or FFmpeg fails.
    pub fn push(&mut self, _rgb: &[u8]) -> Result<(), Error> {
        todo!()
    }

    /// Ends the video and returns the file.
    ///
    /// # Errors
    /// When FFmpeg fails.
    pub fn finish(self) -> Result<Vec<u8>, Error> {
        todo!()
    }
}
