//! What a video turned out to be and what was taken from it. Plain values.

mod codes;
mod findings;
mod formats;

use std::sync::Arc;
use std::time::Duration;

use super::sampling::time_since;
use crate::spec::RotationPolicy;

pub use findings::{Orientation, Rotation, Warning, Warnings};
pub use formats::{Codec, Container, Containers, Refused};

/// A fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ratio {
    /// The number above the line.
    pub numerator: i32,
    /// The number below the line; 0 when the value is unknown.
    pub denominator: i32,
}

impl Ratio {
    /// The fraction's value, 0 when it is unknown.
    pub fn value(self) -> f64 {
        if self.denominator == 0 {
            0.0
        } else {
            f64::from(self.numerator) / f64::from(self.denominator)
        }
    }
}

/// What a video is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Container of the video.
    pub container: Container,
    /// Codec of the video stream.
    pub codec: Codec,
    /// Width of the first stored picture in pixels.
    pub width: u32,
    /// Height of the first stored picture in pixels.
    pub height: u32,
    /// Shown frames, in the order that was asked for.
    pub frames: u32,
    /// Frames that the order of the reference keeps: distinct time stamps.
    pub reference_frames: u32,
    /// Seconds per unit of time stamps.
    pub time_base: Ratio,
    /// Time stamp of the first frame.
    pub first_pts: i64,
    /// Time from the first to the last frame, by time stamps.
    pub duration: Duration,
    /// Average frame rate in frames per second.
    pub rate: Ratio,
    /// How players turn the picture to show it upright, after they have mirrored it if it is `mirrored`.
    pub rotation: Rotation,
    /// Whether players mirror the stored picture left to right, before they turn it.
    pub mirrored: bool,
    /// Sample aspect ratio; not applied.
    pub sar: Ratio,
    /// Streams of all kinds.
    pub streams: u16,
    /// Findings that did not prevent decoding.
    pub warnings: Warnings,
}

impl Probe {
    /// Time from the first frame to one with this time stamp.
    pub fn time_of(&self, pts: i64) -> Duration {
        time_since(pts, self.first_pts, self.time_base)
    }

    /// Width and height of a picture as a clip of this policy sees it.
    pub fn picture_size(&self, policy: RotationPolicy) -> (u32, u32) {
        match policy {
            RotationPolicy::Display if self.rotation.is_sideways() => (self.height, self.width),
            RotationPolicy::Display | RotationPolicy::Stored => (self.width, self.height),
        }
    }
}

/// A clip, in all its views.
#[derive(Debug, Clone)]
pub struct Clip {
    /// Per view the normalised planes, f32 [3, T, S, S]; spatial-major, temporal-minor. Finite, within ±64.
    pub planes: Vec<Arc<[f32]>>,
    /// Per temporal view the indices of its frames, [T].
    pub indices: Vec<Vec<u32>>,
    /// Per temporal view the time stamps of its frames in units of `probe.time_base`, [T].
    pub pts: Vec<Vec<i64>>,
    /// What the video is.
    pub probe: Probe,
}

impl Clip {
    /// The clip whose temporal views are this one's and then `later`'s, of so many spatial views each; `None` when the two are not of one video.
    pub(super) fn followed_by(mut self, later: Self, spatial: usize) -> Option<Self> {
        let (own, more) = (self.indices.len(), later.indices.len());
        let is_whole = |clip: &Self| clip.planes.len() == spatial * clip.indices.len();
        if self.probe.frames != later.probe.frames || !is_whole(&self) || !is_whole(&later) {
            return None;
        }
        let (mut first, mut second) = (self.planes.into_iter(), later.planes.into_iter());
        let mut planes = Vec::with_capacity(spatial * (own + more));
        for _ in 0..spatial {
            planes.extend(first.by_ref().take(own));
            planes.extend(second.by_ref().take(more));
        }
        self.planes = planes;
        self.indices.extend(later.indices);
        self.pts.extend(later.pts);
        Some(self)
    }
}

/// A picture of RGB triples, u8 [height, width, 3].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The pixels, row by row.
    pub rgb: Vec<u8>,
}

/// Whole pictures.
#[derive(Debug, Clone)]
pub struct Pictures {
    /// The pictures in the order of the selection.
    pub pictures: Vec<Picture>,
    /// Indices of the pictures.
    pub indices: Vec<u32>,
    /// Time stamps of the pictures in units of `probe.time_base`.
    pub pts: Vec<i64>,
    /// What the video is.
    pub probe: Probe,
}
