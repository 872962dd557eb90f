//! The one table of what is decoded: containers and codecs, with their names in FFmpeg and in the API, and the containers that are refused by name.

use super::codes::coded;

coded! {
    /// A container format that is decoded, known by its content.
    Container {
        /// MP4, QuickTime, 3GP and their kin.
        Mov = 1, "mov";
        /// Matroska and WebM.
        Matroska = 2, "matroska";
        /// AVI.
        Avi = 3, "avi";
        /// MPEG transport stream, also with the time codes of camcorders (MTS, M2TS).
        MpegTs = 4, "mpegts";
        /// Flash video.
        Flv = 5, "flv";
        /// Windows Media.
        Asf = 6, "asf";
        /// Ogg.
        Ogg = 7, "ogg";
    }
}

impl Container {
    /// Whether its packets say when their pictures are shown. Where they only say when they are decoded, the codec alone knows the order.
    pub(crate) fn has_presentation_times(self) -> bool {
        match self {
            Self::Mov | Self::Matroska | Self::MpegTs | Self::Flv | Self::Ogg => true,
            Self::Avi | Self::Asf => false,
        }
    }

    /// The names of all containers, separated.
    pub(crate) fn list(separator: &str) -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|own| own.name()).collect();
        names.join(separator)
    }
}

/// A set of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Containers(u8);

impl Containers {
    /// Every container.
    pub const ALL: Self = Self(0b1111_1110);

    /// Takes a container out.
    pub fn remove(&mut self, container: Container) {
        self.0 &= !(1 << container as u8);
    }

    /// Whether a container is in the set.
    pub fn contains(self, container: Container) -> bool {
        self.0 & (1 << container as u8) != 0
    }

    /// Whether the set has no container.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// `None` for a bit that no container has.
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        (bits & !Self::ALL.0 == 0).then_some(Self(bits))
    }
}

coded! {
    /// A codec that is decoded.
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
        /// MPEG-4 part 2 (Xvid, DivX).
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
        /// H.263, of old phones.
        H263 = 12, "h263";
        /// Sorenson Spark, of Flash video.
        Flv1 = 13, "flv1";
        /// Windows Media Video 7.
        Wmv1 = 14, "wmv1";
        /// Windows Media Video 8.
        Wmv2 = 15, "wmv2";
        /// Microsoft's MPEG-4 version 2.
        MsMpeg4V2 = 16, "msmpeg4v2";
        /// Microsoft's MPEG-4 version 3 (DivX 3).
        MsMpeg4V3 = 17, "msmpeg4v3";
        /// DV, in AVI and MOV.
        Dv = 18, "dvvideo";
        /// Theora.
        Theora = 19, "theora";
    }
}

impl Codec {
    /// The name of FFmpeg's decoder.
    pub(crate) fn decoder(self) -> &'static str {
        if self == Self::Flv1 {
            "flv"
        } else if self == Self::MsMpeg4V3 {
            "msmpeg4"
        } else {
            self.name()
        }
    }

    /// The codec's usual name, for people.
    pub(crate) fn usual_name(self) -> &'static str {
        if self == Self::Av1 {
            "av1"
        } else {
            self.name()
        }
    }

    /// The decoders of all codecs, separated by commas.
    pub(crate) fn decoders() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|own| own.decoder()).collect();
        names.join(",")
    }

    /// The usual names of all codecs, for people.
    pub(crate) fn list() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|own| own.usual_name()).collect();
        names.join(", ")
    }
}

coded! {
    /// A container format that is recognised and refused, as people call it.
    Refused {
        /// Any that is not below.
        Other = 1, "of another kind";
        /// MPEG program streams: DVDs, old camcorders.
        ProgramStream = 2, "mpeg (program stream)";
        /// DV without a container.
        RawDv = 3, "dv (raw)";
        /// Elementary streams.
        Elementary = 4, "none (an elementary stream)";
        /// GIF.
        Gif = 5, "gif";
        /// A still picture.
        Picture = 6, "a still picture";
        /// A playlist that names other files.
        Playlist = 7, "a playlist";
        /// RealMedia.
        RealMedia = 8, "rm (RealMedia)";
        /// MXF, of professional cameras.
        Mxf = 9, "mxf";
        /// Sound.
        Sound = 10, "a sound file";
        /// Text, also subtitles.
        Text = 11, "text";
        /// Formats that are decoded, but not on this machine: see the server's log.
        Here = 12, "one that this server cannot decode";
    }
}

impl Refused {
    /// The refused format of one of FFmpeg's demuxers, by the first of its names.
    pub(crate) fn of_demuxer(name: &str) -> Self {
        if Container::ALL.iter().any(|own| own.name() == name) {
            return Self::Here;
        }
        match name {
            "mpeg" | "vobsub" => Self::ProgramStream,
            "dv" => Self::RawDv,
            "h264" | "hevc" | "mpegvideo" | "m4v" | "h263" | "vc1" | "av1" | "obu" | "ivf"
            | "dirac" | "mjpeg" | "rawvideo" => Self::Elementary,
            "gif" | "apng" => Self::Gif,
            "hls" | "dash" | "concat" | "sdp" | "imf" => Self::Playlist,
            "rm" => Self::RealMedia,
            "mxf" => Self::Mxf,
            "wav" | "mp3" | "flac" | "aac" | "amr" | "aiff" | "au" | "ac3" | "dts" | "ape"
            | "caf" => Self::Sound,
            "srt" | "ass" | "webvtt" | "tty" | "subviewer" | "microdvd" => Self::Text,
            _ if name == "image2" || name.ends_with("_pipe") => Self::Picture,
            _ => Self::Other,
        }
    }
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

    #[test]
    fn the_documented_table_is_the_one_of_the_code() {
        let text = include_str!("../../../../docs/videos.md");
        let row = |name: &str| text.contains(&format!("`{name}`"));
        for container in Container::ALL {
            assert!(row(container.name()), "container {container}");
        }
        for codec in Codec::ALL {
            assert!(row(codec.name()), "codec {codec}");
        }
    }

    #[test]
    fn what_is_accepted_elsewhere_is_refused_as_not_accepted_here() {
        assert_eq!(Refused::of_demuxer("mpeg"), Refused::ProgramStream);
        assert_eq!(Refused::of_demuxer("png_pipe"), Refused::Picture);
        assert_eq!(Refused::of_demuxer("mov"), Refused::Here);
        assert_eq!(Refused::of_demuxer("made up"), Refused::Other);
    }
}
