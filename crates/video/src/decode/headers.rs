//! What a packet says of itself: whether it is exactly one shown picture, whether decoding may begin with it, whether it can be left out. Pure.
//!
//! Invariant: reads stay inside the packet, and a packet that is not understood is a [`Doubt`]: then the whole video is decoded, as the reference does.

mod av1;
mod bits;
mod h264;
mod hevc;
mod intra;
mod mpeg4;
#[cfg(test)]
mod tests;
mod units;
mod vpx;

use self::av1::Av1;
use self::h264::H264;
use self::hevc::Hevc;
use self::intra::Mjpeg;
use self::mpeg4::Mpeg4;
use crate::answer::Codec;

/// Why it is not known which packet gives which picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// The codec's packets do not say it.
    Codec,
    /// A packet is empty.
    Empty,
    /// A packet does not read as its codec's.
    Malformed,
    /// A packet is none or several shown pictures.
    Pictures,
    /// The container says that a packet is damaged.
    Damage,
    /// A packet changes what later ones mean.
    Parameters,
    /// The video, or a part of it, does not begin with a picture that stands alone.
    Start,
    /// The stream has layers.
    Layers,
    /// Time stamps are missing, repeated, or say that a picture is shown before the first.
    TimeStamps,
    /// Pictures are reordered further than the decoder waits for them.
    Reordering,
    /// Pictures may be reordered, but their packets say only when they are decoded.
    Presentation,
}

/// What one packet says of its picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Whether the packet's picture is shown.
    pub(crate) is_shown: bool,
    /// Decoding may begin here, when the container calls it a key packet, too.
    pub(crate) is_entry: bool,
    /// Whether no other picture refers to the packet's, so that the decoder does not miss it.
    pub(crate) is_spare: bool,
}

/// Walks the packets of one stream in their order.
#[derive(Debug)]
pub(crate) struct Walk(Kind);

#[derive(Debug)]
enum Kind {
    H264(H264),
    Hevc(Hevc),
    Av1(Av1),
    Mpeg4(Mpeg4),
    Mjpeg(Mjpeg),
    Plain(fn(&[u8]) -> Result<Facts, Doubt>),
}

impl Walk {
    /// Begins with what the container says of the codec.
    ///
    /// # Errors
    /// When the codec's packets do not tell, or the extradata cannot be read.
    pub(crate) fn new(codec: Codec, extradata: &[u8]) -> Result<Self, Doubt> {
        Ok(Self(match codec {
            Codec::H264 => Kind::H264(H264::new(extradata)?),
            Codec::Hevc => Kind::Hevc(Hevc::new(extradata)?),
            Codec::Av1 => Kind::Av1(Av1::new()),
            Codec::Mpeg4 => Kind::Mpeg4(Mpeg4::new(extradata)?),
            Codec::Mjpeg => Kind::Mjpeg(Mjpeg::default()),
            Codec::Vp8 => Kind::Plain(vpx::vp8),
            Codec::Vp9 => Kind::Plain(vpx::vp9),
            Codec::ProRes => Kind::Plain(intra::prores),
            Codec::Ffv1 => Kind::Plain(intra::ffv1),
            Codec::Dv => Kind::Plain(intra::dv),
            // Fields, pictures of several packets, and packets whose headers are not walked.
            Codec::Mpeg1
            | Codec::Mpeg2
            | Codec::H263
            | Codec::Flv1
            | Codec::Wmv1
            | Codec::Wmv2
            | Codec::MsMpeg4V2
            | Codec::MsMpeg4V3
            | Codec::Theora => return Err(Doubt::Codec),
        }))
    }

    /// Walks one packet that the container calls a key packet, or not.
    pub(crate) fn packet(&mut self, packet: &[u8], is_key: bool) -> Result<Facts, Doubt> {
        if packet.is_empty() {
            return Err(Doubt::Empty);
        }
        match &mut self.0 {
            Kind::H264(walk) => walk.packet(packet),
            Kind::Hevc(walk) => walk.packet(packet),
            Kind::Av1(walk) => walk.packet(packet),
            Kind::Mpeg4(walk) => walk.packet(packet, is_key),
            Kind::Mjpeg(walk) => walk.packet(packet),
            Kind::Plain(walk) => walk(packet),
        }
    }

    /// Whether the decoder may skip the pictures that it finds to be unreferenced, after all packets were walked.
    pub(crate) fn skips_unreferenced(&self) -> bool {
        match &self.0 {
            Kind::H264(_) => true,
            Kind::Hevc(walk) => walk.skips_unreferenced(),
            Kind::Av1(_) | Kind::Mpeg4(_) | Kind::Mjpeg(_) | Kind::Plain(_) => false,
        }
    }

    /// Whether the decoder gives pictures in another order than it gets them, and waits for a number of them that it may have guessed too low.
    pub(crate) fn is_reordered(&self) -> bool {
        matches!(self.0, Kind::H264(_) | Kind::Hevc(_))
    }
}
