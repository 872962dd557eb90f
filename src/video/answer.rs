//! What a video turned out to be and what was taken from it. Plain values.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::spec::RotationPolicy;

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$item:meta])* $name:ident = $code:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $type {
            $($(#[$item])* $name = $code,)*
        }

        impl $type {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name, as the API spells it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

macro_rules! from_code {
    ($($type:ident),*) => {
        $(impl $type {
            /// The value of a code on the wire.
            pub(super) fn from_code(code: u8) -> Option<Self> {
                Self::ALL.iter().copied().find(|&value| value as u8 == code)
            }
        })*
    };
}

from_code!(Container, Codec, Rotation);

names! {
    /// A container format, known by content.
    Container {
        /// MP4, QuickTime and their kin.
        Mov = 1, "mov";
        /// Matroska and WebM.
        Matroska = 2, "matroska";
        /// AVI.
        Avi = 3, "avi";
        /// MPEG transport stream.
        MpegTs = 4, "mpegts";
        /// Flash video.
        Flv = 5, "flv";
    }
}

/// A set of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Containers(u8);

impl Containers {
    /// Every container.
    pub const ALL: Self = Self(0b11_1110);

    /// Takes one out.
    pub fn remove(&mut self, container: Container) {
        self.0 &= !(1 << container as u8);
    }

    /// Whether it is in the set.
    pub fn contains(self, container: Container) -> bool {
        self.0 & (1 << container as u8) != 0
    }

    /// Whether the set has none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }

    /// `None` for a bit that no container has.
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        (bits & !Self::ALL.0 == 0).then_some(Self(bits))
    }
}

names! {
    /// A decoder.
    Codec {
        /// H.264.
        H264 = 1, "h264";
        /// H.265.
        Hevc = 2, "hevc";
        /// VP8.
        Vp8 = 3, "vp8";
        /// VP9.
        Vp9 = 4, "vp9";
        /// AV1, by dav1d.
        Av1 = 5, "libdav1d";
        /// MPEG-4 part 2.
        Mpeg4 = 6, "mpeg4";
        /// Motion JPEG.
        Mjpeg = 7, "mjpeg";
        /// MPEG-1.
        Mpeg1 = 8, "mpeg1video";
        /// MPEG-2.
        Mpeg2 = 9, "mpeg2video";
        /// ProRes.
        ProRes = 10, "prores";
        /// FFV1, lossless.
        Ffv1 = 11, "ffv1";
    }
}

names! {
    /// What players do to show a picture upright.
    Rotation {
        /// Nothing.
        None = 0, "0";
        /// A quarter turn clockwise.
        Quarter = 1, "90";
        /// Half a turn.
        Half = 2, "180";
        /// A quarter turn counter-clockwise.
        ThreeQuarters = 3, "270";
    }
}

impl Rotation {
    /// Clockwise degrees.
    pub fn degrees(self) -> u32 {
        u32::from(self as u8) * 90
    }

    /// Whether width and height change places.
    pub fn is_sideways(self) -> bool {
        matches!(self, Self::Quarter | Self::ThreeQuarters)
    }
}

names! {
    /// A finding that did not prevent decoding.
    Warning {
        /// A decoder error ended the video early, or pictures are marked as damaged.
        Damaged = 1, "DAMAGED";
        /// The container promises more than there is.
        Truncated = 2, "TRUNCATED";
    }
}

/// A set of warnings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Warnings(u8);

impl Warnings {
    /// Adds one.
    pub(super) fn insert(&mut self, warning: Warning) {
        self.0 |= warning as u8;
    }

    /// Whether it is in the set.
    pub fn contains(self, warning: Warning) -> bool {
        self.0 & warning as u8 != 0
    }

    /// The warnings in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Warning> {
        Warning::ALL
            .iter()
            .copied()
            .filter(move |&warning| self.contains(warning))
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }

    /// `None` for a bit that no warning has.
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        let known = Warning::ALL
            .iter()
            .fold(0, |known, &warning| known | warning as u8);
        (bits & !known == 0).then_some(Self(bits))
    }
}

/// A fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ratio {
    /// Above.
    pub numerator: i32,
    /// Below; 0 when the value is unknown.
    pub denominator: i32,
}

impl Ratio {
    /// The value, 0 when unknown.
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
    /// Container format.
    pub container: Container,
    /// Decoder.
    pub codec: Codec,
    /// Width of the first stored picture in pixels.
    pub width: u32,
    /// Height of the first stored picture in pixels.
    pub height: u32,
    /// Shown frames: distinct time stamps.
    pub frames: u32,
    /// Seconds per unit of time stamps.
    pub time_base: Ratio,
    /// Smallest time stamp.
    pub first_pts: i64,
    /// From the first to the last time stamp.
    pub duration: Duration,
    /// Average frame rate in frames per second.
    pub rate: Ratio,
    /// What players do to show it upright.
    pub rotation: Rotation,
    /// Sample aspect ratio; not applied.
    pub sar: Ratio,
    /// Streams of all kinds.
    pub streams: u16,
    /// Findings that did not prevent decoding.
    pub warnings: Warnings,
}

impl Probe {
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
    /// In the order of the selection.
    pub pictures: Vec<Picture>,
    /// Their indices.
    pub indices: Vec<u32>,
    /// Their time stamps in units of `probe.time_base`.
    pub pts: Vec<i64>,
    /// What the video is.
    pub probe: Probe,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_of_all_containers_has_each_and_nothing_else() {
        let mut left = Containers::ALL;
        for &container in Container::ALL {
            assert!(left.contains(container));
            left.remove(container);
            assert!(!left.contains(container));
        }
        assert!(left.is_empty());
        assert_eq!(Containers::from_bits(1), None);
    }
}
