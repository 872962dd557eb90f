//! Which frames a clip has, and in which views a video is classified.
//!
//! Invariant: what was stored before a policy existed reads as what it was then.

use std::fmt;
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};

use serde::{Deserialize, Serialize};

use super::Invalid;

/// Largest distance of two sampled frames: as many frames as a video has at most by default (`video_frames`).
pub const MAX_SAMPLING_RATE: u32 = 216_000;

/// Which frames of a video make a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Spread over the whole video, one from each of `num_frames` equal segments.
    Uniform,
    /// One frame in every this many, around the middle of the video.
    Strided(NonZeroU32),
}

/// Spatial crops at classification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpatialViews {
    /// The crop in the centre.
    Center,
    /// Three along the longer side.
    Three,
}

impl SpatialViews {
    /// How many.
    pub fn count(self) -> usize {
        match self {
            Self::Center => 1,
            Self::Three => 3,
        }
    }
}

/// What to do with a container's rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationPolicy {
    /// Upright, as players show it.
    Display,
    /// As stored, as the reference reads it.
    Stored,
}

/// In which order the frames of a video are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameOrder {
    /// The order in which players show the frames: that of the decoder. No frame is left out.
    Display,
    /// The order of the reference: sorted by time stamps; of frames with equal ones, the last decoded is kept.
    Reference,
}

impl FrameOrder {
    /// The order of what was stored before there was a choice.
    fn of_older_records() -> Self {
        Self::Reference
    }
}

/// How clips are taken from a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClipSampling {
    /// Frames per clip, 1 to 64.
    pub num_frames: NonZeroU16,
    /// Choice of the frames.
    pub sampling: Sampling,
    /// Temporal views at classification; more than one only with strided sampling.
    pub temporal_views: NonZeroU8,
    /// Spatial views at classification.
    pub spatial_views: SpatialViews,
    /// Whether the container's rotation is applied.
    pub rotation: RotationPolicy,
    /// The order of the frames.
    #[serde(default = "FrameOrder::of_older_records")]
    pub order: FrameOrder,
}

impl fmt::Display for ClipSampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames", self.num_frames)?;
        match self.sampling {
            Sampling::Uniform => f.write_str(" uniformly")?,
            Sampling::Strided(rate) => write!(f, ", one of every {rate}")?,
        }
        let (spatial, temporal) = (self.spatial_views.count(), self.temporal_views);
        write!(f, ", in {spatial} spatial and {temporal} temporal views")?;
        if self.rotation == RotationPolicy::Stored {
            f.write_str(", rotated as stored")?;
        }
        match self.order {
            FrameOrder::Display => Ok(()),
            FrameOrder::Reference => f.write_str(", in the order of the reference"),
        }
    }
}

impl ClipSampling {
    /// Clips of frames that are spread over the whole video, in one view: the centre of the pictures as they are displayed.
    pub const fn uniform(num_frames: NonZeroU16) -> Self {
        Self {
            num_frames,
            sampling: Sampling::Uniform,
            temporal_views: NonZeroU8::MIN,
            spatial_views: SpatialViews::Center,
            rotation: RotationPolicy::Display,
            order: FrameOrder::Display,
        }
    }

    /// Views of one video: spatial × temporal.
    pub fn views(&self) -> usize {
        self.spatial_views.count() * usize::from(self.temporal_views.get())
    }

    /// Checks the counts.
    ///
    /// # Errors
    /// Names the first field that is out of range.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.num_frames.get() > 64 {
            return Err(Invalid::new(
                "num_frames",
                format!("expected 1 to 64, got {}", self.num_frames),
            ));
        }
        if let Sampling::Strided(rate) = self.sampling
            && rate.get() > MAX_SAMPLING_RATE
        {
            return Err(Invalid::new(
                "sampling_rate",
                format!("expected at most {MAX_SAMPLING_RATE}, got {rate}"),
            ));
        }
        if self.temporal_views.get() > 10 {
            return Err(Invalid::new(
                "num_temporal_views",
                format!("expected 1 to 10, got {}", self.temporal_views),
            ));
        }
        if self.sampling == Sampling::Uniform && self.temporal_views.get() != 1 {
            return Err(Invalid::new(
                "num_temporal_views",
                "uniform sampling has one temporal view",
            ));
        }
        Ok(())
    }
}
