//! What a task's head reads of a clip.
//!
//! Invariant: a record without a head was stored before there was a choice, and has [`Head::Mean`].

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::Invalid;

/// Most frames of a clip.
const MAX_FRAMES: u16 = 64;

/// How a head turns the tokens of a clip's frames into logits. A number of frames is that of the clips whose order the head's weights know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// One linear layer over the mean of the class tokens, which knows no order: the paper's.
    #[default]
    Mean,
    /// One linear layer over all class tokens, in the order of the frames.
    Frames(NonZeroU16),
    /// A linear layer over the mean of the class tokens, and over the mean of what a small separable convolution over time makes of them.
    Conv,
    /// A linear layer over what one attention layer finds in class tokens and pooled patch tokens of all frames, whose positions it learns.
    Attention(NonZeroU16),
}

impl Head {
    /// Whether it is the paper's head.
    pub fn is_mean(&self) -> bool {
        *self == Self::Mean
    }

    /// The number of frames that a clip must have; `None` when clips of any length have logits.
    pub fn num_frames(self) -> Option<NonZeroU16> {
        match self {
            Self::Mean | Self::Conv => None,
            Self::Frames(frames) | Self::Attention(frames) => Some(frames),
        }
    }

    /// Whether it reads patch tokens of the last block, and not class tokens alone.
    pub fn reads_patches(self) -> bool {
        matches!(self, Self::Attention(_))
    }

    /// Checks that the head fits the number of a clip's frames.
    ///
    /// # Errors
    /// When its weights know the order of another number of frames.
    pub fn check(self, num_frames: NonZeroU16) -> Result<(), Invalid> {
        match self.num_frames() {
            Some(own) if own != num_frames => {
                let problem =
                    format!("the head is for clips of {own} frames, got clips of {num_frames}");
                Err(Invalid::new("head", problem))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn validate(self) -> Result<(), Invalid> {
        match self.num_frames() {
            Some(frames) if frames.get() > MAX_FRAMES => {
                let problem = format!("expected at most {MAX_FRAMES} frames, got {frames}");
                Err(Invalid::new("head", problem))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => f.write_str("a head on the mean of the frames"),
            Self::Frames(frames) => write!(f, "a head on {frames} frames in order"),
            Self::Conv => f.write_str("a head on a convolution over the frames"),
            Self::Attention(frames) => write!(f, "a head on attention over {frames} frames"),
        }
    }
}
