//! Why a video is refused: one value per cause, each with a reason that clients can rely on.

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
    /// No bytes.
    Empty = 1, "EMPTY", "it is empty";
    /// More bytes than allowed.
    TooLarge = 2, "TOO_LARGE", "it has too many bytes";
    /// No known container.
    Unrecognised = 3, "UNRECOGNISED", "its container format is not recognised";
    /// A container that is not decoded here.
    ContainerNotAllowed = 4, "CONTAINER_NOT_ALLOWED", "its container format is not accepted";
    /// A codec that is not decoded here.
    CodecNotAllowed = 5, "CODEC_NOT_ALLOWED", "its codec is not accepted";
    /// Only sound, subtitles or cover pictures.
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
}
