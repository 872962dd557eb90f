//! Why a video is refused: one value per cause, each with a reason that clients can rely on, and the numbers that show why.

use std::fmt;

use super::answer::{Codec, Container, Refused};
use super::request::Limits;

macro_rules! rejects {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $reason:literal, $message:literal;)*) => {
        /// Why a video is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
        #[repr(u16)]
        pub enum Reject {
            $($(#[$doc])* #[error($message)] $name = $code,)*
        }

        impl Reject {
            /// Every cause.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable reason of the API's error details.
            pub fn reason(self) -> &'static str {
                match self { $(Self::$name => concat!("VIDEO_", $reason),)* }
            }

            /// The cause of a code on the wire.
            pub(super) fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

rejects! {
    /// The file has no bytes.
    Empty = 1, "EMPTY", "it is empty";
    /// More bytes than allowed.
    TooLarge = 2, "TOO_LARGE", "it has too many bytes";
    /// The container is not known.
    Unrecognised = 3, "UNRECOGNISED", "its container format is not recognised";
    /// A container that is not decoded here.
    ContainerNotAllowed = 4, "CONTAINER_NOT_ALLOWED", "its container format is not accepted";
    /// A codec that is not decoded here.
    CodecNotAllowed = 5, "CODEC_NOT_ALLOWED", "its codec is not accepted";
    /// The file has only sound, subtitles or cover pictures.
    NoVideoStream = 6, "NO_VIDEO_STREAM", "it has no video stream";
    /// More streams than allowed.
    TooManyStreams = 7, "TOO_MANY_STREAMS", "it has too many streams";
    /// Larger pictures than allowed.
    TooManyPixels = 8, "TOO_MANY_PIXELS", "its pictures have too many pixels";
    /// More packets than allowed.
    TooManyPackets = 9, "TOO_MANY_PACKETS", "it has too many packets";
    /// More frames than allowed.
    TooManyFrames = 10, "TOO_MANY_FRAMES", "it has too many frames";
    /// Longer than allowed.
    TooLong = 11, "TOO_LONG", "it is too long";
    /// Not one frame could be decoded.
    NoFrames = 12, "NO_FRAMES", "not one frame could be decoded";
    /// The container is recognised but cannot be read.
    Undecodable = 13, "UNDECODABLE", "it cannot be decoded";
    /// Decoding took too long.
    WallTime = 14, "WALL_TIME", "decoding it takes too long";
    /// Decoding took too much processor time.
    CpuTime = 15, "CPU_TIME", "decoding it takes too much processor time";
    /// Decoding took too much memory.
    Memory = 16, "MEMORY", "decoding it takes too much memory";
    /// The decoder crashed.
    DecoderCrashed = 17, "DECODER_CRASHED", "the decoder crashed on it";
    /// The decoder tried something that is forbidden.
    SandboxViolation = 18, "SANDBOX_VIOLATION", "the decoder tried something forbidden on it";
}

impl Reject {
    /// The setting that is broken, with its value and unit.
    fn limit(self, limits: &Limits) -> Option<Limit> {
        let (setting, value, unit) = match self {
            Self::TooLarge => ("upload_limit", limits.bytes, "bytes"),
            Self::TooManyStreams => ("video_streams", limits.streams.into(), "streams"),
            Self::TooManyPixels => ("video_pixels", limits.pixels.into(), "pixels"),
            Self::TooManyPackets => ("video_packets", limits.packets.into(), "packets"),
            Self::TooManyFrames => ("video_frames", limits.frames.into(), "frames"),
            Self::TooLong => ("video_duration", limits.duration.as_secs(), "seconds"),
            Self::WallTime => ("video_wall_time", limits.wall.as_secs(), "seconds"),
            Self::CpuTime => ("video_cpu_time", limits.cpu.as_secs(), "seconds"),
            Self::Memory => ("video_memory", limits.memory, "bytes"),
            Self::Empty
            | Self::Unrecognised
            | Self::ContainerNotAllowed
            | Self::CodecNotAllowed
            | Self::NoVideoStream
            | Self::NoFrames
            | Self::Undecodable
            | Self::DecoderCrashed
            | Self::SandboxViolation => return None,
        };
        Some(Limit {
            setting,
            value,
            unit,
        })
    }

    /// Whether the video has more of the limit's unit than the limit allows.
    fn is_count(self) -> bool {
        matches!(
            self,
            Self::TooLarge
                | Self::TooManyStreams
                | Self::TooManyPackets
                | Self::TooManyFrames
                | Self::TooLong
        )
    }

    /// The command that makes an acceptable file of the video, where there is one.
    fn way_out(self) -> Option<&'static str> {
        match self {
            Self::ContainerNotAllowed | Self::CodecNotAllowed => {
                Some("ffmpeg -i FILE -c:v libx264 out.mp4")
            }
            Self::TooManyPixels => Some("ffmpeg -i FILE -vf scale=1280:-2 -c:v libx264 out.mp4"),
            Self::TooManyStreams => Some("ffmpeg -i FILE -map 0:v:0 -c copy out.mp4"),
            Self::TooManyFrames | Self::TooManyPackets | Self::TooLong => {
                Some("ffmpeg -i FILE -t 600 -c copy out.mp4")
            }
            Self::Empty
            | Self::TooLarge
            | Self::Unrecognised
            | Self::NoVideoStream
            | Self::NoFrames
            | Self::Undecodable
            | Self::WallTime
            | Self::CpuTime
            | Self::Memory
            | Self::DecoderCrashed
            | Self::SandboxViolation => None,
        }
    }
}

/// A limit of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    /// The configuration's key.
    pub setting: &'static str,
    /// The largest value that is accepted.
    pub value: u64,
    /// What the value counts.
    pub unit: &'static str,
}

/// What was found in a refused video. Numbers and codes only: a worker sends no texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Evidence {
    /// No known reason.
    #[default]
    Nothing,
    /// A number of bytes, streams or seconds.
    Count(u64),
    /// Pictures of this width and height.
    Size(u32, u32),
    /// FFmpeg's number of the codec.
    Codec(u32),
    /// The container.
    Container(Refused),
    /// A container that is accepted, of a file that cannot be opened.
    Unreadable(Container),
}

/// The refusal of a video: its cause, what was found, and the limit that it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rejection {
    /// The cause of the refusal.
    pub reject: Reject,
    /// What was found in the video.
    pub evidence: Evidence,
    /// The limit that was in force, where the cause is one.
    pub limit: Option<Limit>,
}

impl std::error::Error for Rejection {}

impl From<Reject> for Rejection {
    fn from(reject: Reject) -> Self {
        Self {
            reject,
            evidence: Evidence::Nothing,
            limit: None,
        }
    }
}

impl PartialEq<Reject> for Rejection {
    fn eq(&self, other: &Reject) -> bool {
        self.reject == *other
    }
}

impl Rejection {
    /// A refusal with what was found.
    pub(super) fn of(reject: Reject, evidence: Evidence) -> Self {
        Self {
            evidence,
            ..reject.into()
        }
    }

    /// The refusal with the limit that was in force.
    pub(super) fn under(self, limits: &Limits) -> Self {
        Self {
            limit: self.reject.limit(limits),
            ..self
        }
    }

    /// Whether what was found is of the cause's kind and breaks its limit. A worker may lie.
    pub(super) fn is_plausible(&self) -> bool {
        let is_beyond = |found: u64| self.limit.is_some_and(|limit| found > limit.value);
        match self.evidence {
            Evidence::Nothing => true,
            // Seconds are rounded up.
            Evidence::Count(count) => self.reject.is_count() && is_beyond(count),
            Evidence::Size(width, height) => {
                self.reject == Reject::TooManyPixels && is_beyond(pixels(width, height))
            }
            Evidence::Codec(_) => self.reject == Reject::CodecNotAllowed,
            Evidence::Container(_) => self.reject == Reject::ContainerNotAllowed,
            Evidence::Unreadable(_) => self.reject == Reject::Undecodable,
        }
    }

    /// The stable reason of the API's error details.
    pub fn reason(&self) -> &'static str {
        self.reject.reason()
    }

    /// The command that makes an acceptable file of the video, where there is one.
    fn way_out(&self) -> Option<&'static str> {
        match self.evidence {
            // Its pictures are accepted, in another container, and stay as they are.
            Evidence::Container(Refused::RawDv) => Some("ffmpeg -i FILE -c copy out.mov"),
            Evidence::Nothing
            | Evidence::Count(_)
            | Evidence::Size(..)
            | Evidence::Codec(_)
            | Evidence::Unreadable(_)
            | Evidence::Container(_) => self.reject.way_out(),
        }
    }

    /// What programs read: `found`, `limit` and `setting`, each where it is known.
    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        let found = match self.evidence {
            Evidence::Nothing => None,
            Evidence::Count(count) => Some(count.to_string()),
            Evidence::Size(width, height) => Some(pixels(width, height).to_string()),
            Evidence::Codec(id) => Some(codec(id)),
            Evidence::Container(container) => Some(container.name().to_owned()),
            Evidence::Unreadable(container) => Some(container.name().to_owned()),
        };
        let accepted = if self.reject == Reject::CodecNotAllowed {
            Some(Codec::list())
        } else {
            (self.reject == Reject::ContainerNotAllowed).then(|| Container::list(", "))
        };
        let limit = self.limit.map(|limit| limit.value.to_string()).or(accepted);
        let setting = self.limit.map(|limit| limit.setting.to_owned());
        [("found", found), ("limit", limit), ("setting", setting)]
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }
}

fn pixels(width: u32, height: u32) -> u64 {
    u64::from(width) * u64::from(height)
}

/// The name of a codec. It comes from a table; nothing of the video is read.
fn codec(id: u32) -> String {
    super::ffmpeg::codec::name_of(id).map_or_else(|| format!("number {id}"), str::to_owned)
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reject = self.reject;
        match (self.evidence, self.limit) {
            (Evidence::Codec(id), _) => {
                let (found, accepted) = (codec(id), Codec::list());
                write!(f, "its codec is {found}; accepted are {accepted}")?;
            }
            (Evidence::Container(found), _) => {
                let accepted = Container::list(", ");
                write!(f, "its container is {found}; accepted are {accepted}")?;
            }
            (Evidence::Unreadable(Container::Mov), _) => {
                write!(
                    f,
                    "{reject}: its mov index (moov) is missing or damaged, as when a file was cut off or its recording was not finished"
                )?;
            }
            (Evidence::Unreadable(found), _) => {
                write!(
                    f,
                    "{reject}: the header of its {found} is damaged or cut off"
                )?;
            }
            (Evidence::Nothing, None) | (Evidence::Count(_) | Evidence::Size(..), None) => {
                write!(f, "{reject}")?;
            }
            (Evidence::Size(width, height), Some(limit)) => {
                write!(f, "its pictures have {width} × {height} pixels, {limit}")?;
            }
            (Evidence::Count(count), Some(limit)) => {
                write!(f, "it has {count} {}, {limit}", limit.unit)?;
            }
            (Evidence::Nothing, Some(limit)) if reject.is_count() => {
                let Limit {
                    setting,
                    value,
                    unit,
                } = limit;
                write!(f, "it has more than {value} {unit} ({setting})")?;
            }
            (Evidence::Nothing, Some(limit)) => {
                write!(f, "{reject}: {limit}, in {}", limit.unit)?;
            }
        }
        match self.way_out() {
            Some(command) => write!(f, "; `{command}` makes a file that is accepted"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the limit is {} ({})", self.value, self.setting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_reads_back_from_its_code_and_has_its_own_reason() {
        let mut reasons = std::collections::HashSet::new();
        for &reject in Reject::ALL {
            assert_eq!(Reject::from_code(reject as u16), Some(reject));
            assert!(reject.reason().starts_with("VIDEO_") && reasons.insert(reject.reason()));
        }
        assert_eq!(Reject::from_code(0), None);
    }

    #[test]
    fn a_refusal_names_what_was_found_what_is_allowed_and_the_setting() {
        let limits = Limits::default();
        for (reject, evidence, begins) in [
            (
                Reject::TooManyPixels,
                Evidence::Size(5312, 2988),
                "its pictures have 5312 × 2988 pixels, the limit is 9437184 (video_pixels)",
            ),
            (
                Reject::TooManyStreams,
                Evidence::Count(19),
                "it has 19 streams, the limit is 16 (video_streams)",
            ),
            (
                Reject::TooManyFrames,
                Evidence::Nothing,
                "it has more than 216000 frames (video_frames)",
            ),
            (
                Reject::TooLong,
                Evidence::Count(12_000),
                "it has 12000 seconds, the limit is 10800 (video_duration)",
            ),
            (
                Reject::WallTime,
                Evidence::Nothing,
                "decoding it takes too long: the limit is 30 (video_wall_time), in seconds",
            ),
            (
                Reject::ContainerNotAllowed,
                Evidence::Container(Refused::ProgramStream),
                "its container is mpeg (program stream); accepted are mov, matroska, avi, mpegts, flv",
            ),
            (
                Reject::Undecodable,
                Evidence::Unreadable(Container::Mov),
                "it cannot be decoded: its mov index (moov) is missing or damaged, ",
            ),
            (
                Reject::Undecodable,
                Evidence::Unreadable(Container::Avi),
                "it cannot be decoded: the header of its avi is damaged or cut off",
            ),
            (
                Reject::NoFrames,
                Evidence::Nothing,
                "not one frame could be decoded",
            ),
        ] {
            let rejection = Rejection::of(reject, evidence).under(&limits);
            let text = rejection.to_string();
            assert!(text.starts_with(begins), "{text}");
            assert!(rejection.is_plausible(), "{text}");
            let metadata = rejection.metadata();
            let is_there = |key| metadata.iter().any(|own| own.0 == key);
            assert_eq!(is_there("setting"), rejection.limit.is_some(), "{text}");
            assert_eq!(is_there("found"), evidence != Evidence::Nothing, "{text}");
        }
    }

    #[test]
    fn raw_dv_is_put_into_a_container_without_a_loss() {
        let found = Evidence::Container(Refused::RawDv);
        let text = Rejection::of(Reject::ContainerNotAllowed, found).to_string();
        assert!(text.contains("its container is dv (raw)"), "{text}");
        assert!(text.contains("`ffmpeg -i FILE -c copy out.mov`"), "{text}");
    }

    #[test]
    fn a_refusal_whose_numbers_break_no_limit_is_a_lie() {
        let limits = Limits::default();
        for (reject, evidence) in [
            (Reject::TooManyPixels, Evidence::Size(10, 10)),
            (Reject::TooManyStreams, Evidence::Count(16)),
            (Reject::NoFrames, Evidence::Count(u64::MAX)),
            (Reject::NoFrames, Evidence::Codec(7)),
            (Reject::Empty, Evidence::Container(Refused::Gif)),
            (Reject::NoFrames, Evidence::Unreadable(Container::Mov)),
        ] {
            assert!(
                !Rejection::of(reject, evidence)
                    .under(&limits)
                    .is_plausible()
            );
        }
    }
}
