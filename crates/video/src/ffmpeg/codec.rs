//! The codec: packets in, pictures out, one thread.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int};
use std::ptr::{self, NonNull};

use ffmpeg_sys_the_third as ff;

use super::io::Demuxer;
use super::owned::{Code, Context, Frame, Packet, check};
use crate::answer::{Codec, Ratio};
use crate::reject::{Evidence, Reject, Rejection};

/// FFmpeg's "no value" of time stamps.
pub(crate) const NO_TIME: i64 = ff::AV_NOPTS_VALUE;

/// Time stamps, place and flags of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    /// Time of presentation; [`NO_TIME`] when the packet does not say.
    pub(crate) pts: i64,
    /// Time of decoding; [`NO_TIME`] when the packet does not say.
    pub(crate) dts: i64,
    /// Byte of the file where it begins; negative when unknown.
    pub(crate) position: i64,
    /// Whether the container calls it a key packet.
    pub(crate) is_key: bool,
    /// Whether its picture is decoded but not shown: that is how edit lists arrive.
    pub(crate) is_discarded: bool,
    /// Whether the container knows that it is damaged, for example cut off.
    pub(crate) is_damaged: bool,
    /// Index of the packet's stream.
    pub(crate) stream: usize,
}

impl Packet {
    /// Time stamps, place and flags.
    pub(crate) fn header(&self) -> Header {
        // SAFETY: the packet is alive.
        unsafe {
            let packet = &*self.as_ptr();
            Header {
                pts: packet.pts,
                dts: packet.dts,
                position: packet.pos,
                is_key: packet.flags & ff::AV_PKT_FLAG_KEY as c_int != 0,
                is_discarded: packet.flags & ff::AV_PKT_FLAG_DISCARD as c_int != 0,
                is_damaged: packet.flags & ff::AV_PKT_FLAG_CORRUPT as c_int != 0,
                stream: usize::try_from(packet.stream_index).unwrap_or(usize::MAX),
            }
        }
    }

    /// Makes the decoder give the packet's picture this number in place of its time stamp: decoders hand time stamps on unread, and two packets may have
    /// the same one.
    pub(crate) fn number(&self, place: usize) {
        // SAFETY: the packet is alive, and nothing else refers to its fields.
        unsafe { (*self.as_ptr()).pts = i64::try_from(place).unwrap_or(NO_TIME) }
    }

    /// The payload.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the packet is alive, and its data, when there is any, is as long as it says.
        unsafe {
            let data = (*self.as_ptr()).data;
            if data.is_null() {
                return &[];
            }
            std::slice::from_raw_parts(data, self.size())
        }
    }

    /// Whether it comes with other parameters for the decoder.
    pub(crate) fn changes_parameters(&self) -> bool {
        let kinds = [
            ff::AVPacketSideDataType::NEW_EXTRADATA,
            ff::AVPacketSideDataType::PARAM_CHANGE,
        ];
        kinds.into_iter().any(|kind| {
            // SAFETY: the packet is alive; the size may be null.
            let data = unsafe { ff::av_packet_get_side_data(self.as_ptr(), kind, ptr::null_mut()) };
            !data.is_null()
        })
    }
}

impl Frame {
    /// Time stamp; [`NO_TIME`] when it has none.
    pub(crate) fn pts(&self) -> i64 {
        // SAFETY: the frame is alive.
        unsafe { (*self.as_ptr()).pts }
    }

    /// Whether the codec says that the picture is damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        // SAFETY: the frame is alive.
        unsafe {
            let frame = &*self.as_ptr();
            frame.decode_error_flags != 0 || frame.flags & ff::AV_FRAME_FLAG_CORRUPT as c_int != 0
        }
    }

    /// The first plane as the reference's tests see it: as many bytes of each row as the width has samples.
    #[cfg(test)]
    pub(crate) fn luma(&self) -> Vec<u8> {
        let (width, height) = self.size();
        // SAFETY: the frame is alive; its first plane has `height` rows, `linesize` bytes apart, with `width` samples of `step` bytes each.
        unsafe {
            let frame = &*self.as_ptr();
            let description = ff::av_pix_fmt_desc_get(ff::AVPixelFormat(frame.format as _));
            let step = usize::try_from((*description).comp[0].step).unwrap_or(1);
            (0..height as isize)
                .flat_map(|y| {
                    let row = frame.data[0].offset(y * frame.linesize[0] as isize);
                    std::slice::from_raw_parts(row, width as usize * step)
                })
                .copied()
                .collect()
        }
    }

    /// Another owner of the same picture.
    pub(crate) fn reference(&self) -> Result<Self, Code> {
        let other = Self::new()?;
        // SAFETY: both frames are alive, and the new one is empty.
        check(unsafe { ff::av_frame_ref(other.as_ptr(), self.as_ptr()) })?;
        Ok(other)
    }

    /// Width and height in pixels.
    pub(crate) fn size(&self) -> (u32, u32) {
        // SAFETY: the frame is alive.
        let (width, height) = unsafe { ((*self.as_ptr()).width, (*self.as_ptr()).height) };
        (
            u32::try_from(width).unwrap_or(0),
            u32::try_from(height).unwrap_or(0),
        )
    }
}

/// An open decoder.
pub(crate) struct Decoder {
    context: Context,
    /// The decoder's codec.
    pub(crate) codec: Codec,
}

impl Decoder {
    /// Opens the decoder of a stream.
    pub(crate) fn open(
        demuxer: &Demuxer<'_>,
        stream: usize,
        (time_base, pixels): (Ratio, u32),
    ) -> Result<Self, Rejection> {
        let parameters = demuxer.parameters(stream);
        // SAFETY: the parameters live as long as the demuxer.
        let id = unsafe { (*parameters).codec_id };
        let refused_codec = Rejection::of(Reject::CodecNotAllowed, Evidence::Codec(id.0));
        // SAFETY: the result is a static description or null.
        let description = unsafe { ff::avcodec_find_decoder(id) };
        let description = NonNull::new(description.cast_mut()).ok_or(refused_codec)?;
        // SAFETY: names of descriptions end with a zero.
        let name = unsafe { CStr::from_ptr((*description.as_ptr()).name) };
        let codec = Codec::ALL
            .iter()
            .copied()
            .find(|codec| name.to_bytes() == codec.decoder().as_bytes())
            .ok_or(refused_codec)?;
        let context = Context::new(description).map_err(|_| Reject::Memory)?;
        // SAFETY: context, parameters and description are alive and belong together; nothing else uses the context.
        unsafe {
            let pointer = context.as_ptr();
            check(ff::avcodec_parameters_to_context(pointer, parameters)).map_err(refused)?;
            (*pointer).pkt_timebase = ff::AVRational {
                num: time_base.numerator,
                den: time_base.denominator,
            };
        }
        Self::started(context, description, (codec, pixels))
    }

    /// Opens the decoder of a codec whose pictures stand alone, for pictures without a container. Damage that decoders of videos conceal is an error.
    pub(crate) fn of_pictures(codec: Codec, pixels: u32) -> Result<Self, Rejection> {
        let name = CString::new(codec.decoder()).map_err(|_| Reject::CodecNotAllowed)?;
        // SAFETY: the name ends with a zero; the result is a static description or null.
        let description = unsafe { ff::avcodec_find_decoder_by_name(name.as_ptr()) };
        let description = NonNull::new(description.cast_mut()).ok_or(Reject::CodecNotAllowed)?;
        let context = Context::new(description).map_err(|_| Reject::Memory)?;
        // SAFETY: context and description are alive and belong together; nothing else uses the context.
        unsafe {
            let pointer = context.as_ptr();
            (*pointer).err_recognition |= ff::AV_EF_EXPLODE as c_int;
        }
        Self::started(context, description, (codec, pixels))
    }

    /// Starts a decoder with one thread, for pictures of at most so many pixels.
    fn started(
        context: Context,
        description: NonNull<ff::AVCodec>,
        (codec, pixels): (Codec, u32),
    ) -> Result<Self, Rejection> {
        // SAFETY: context and description are alive and belong together; nothing else uses the context.
        unsafe {
            let pointer = context.as_ptr();
            (*pointer).thread_count = 1;
            (*pointer).max_pixels = i64::from(pixels);
            check(ff::avcodec_open2(
                pointer,
                description.as_ptr(),
                ptr::null_mut(),
            ))
            .map_err(refused)?;
        }
        Ok(Self { context, codec })
    }

    /// Says whether pictures that no other refers to are wanted, from the next packet on.
    pub(crate) fn skip_unreferenced(&mut self, is_skipped: bool) {
        let discard = if is_skipped {
            ff::AVDiscard::NONREF
        } else {
            ff::AVDiscard::DEFAULT
        };
        // SAFETY: the context is open, and the field may be set at any time.
        unsafe { (*self.context.as_ptr()).skip_frame = discard }
    }

    /// Sends a packet, or the end.
    pub(crate) fn send(&mut self, packet: Option<&Packet>) -> Result<(), Code> {
        let packet = packet.map_or(ptr::null(), |packet| packet.as_ptr().cast_const());
        // SAFETY: the context is open; the packet is alive or null.
        check(unsafe { ff::avcodec_send_packet(self.context.as_ptr(), packet) }).map(drop)
    }

    /// Receives a picture; `false` when there is none now.
    pub(crate) fn receive(&mut self, frame: &mut Frame) -> Result<bool, Code> {
        // SAFETY: the context is open and the frame alive; FFmpeg drops what the frame held.
        match check(unsafe { ff::avcodec_receive_frame(self.context.as_ptr(), frame.as_ptr()) }) {
            Ok(_) => Ok(true),
            Err(Code::AGAIN | Code::END) => Ok(false),
            Err(code) => Err(code),
        }
    }

    /// Forgets everything that was decoded, to start over.
    pub(crate) fn flush(&mut self) {
        // SAFETY: the context is open.
        unsafe { ff::avcodec_flush_buffers(self.context.as_ptr()) }
    }
}

/// FFmpeg's name of a codec by its number: a look into a table, which reads nothing of a video.
pub(crate) fn name_of(id: u32) -> Option<&'static str> {
    // SAFETY: any number may be looked for; the result is a static description or null, and its name ends with a zero.
    unsafe {
        let description = ff::avcodec_descriptor_get(ff::AVCodecID(id));
        let description = description.as_ref()?;
        CStr::from_ptr(description.name).to_str().ok()
    }
}

/// The major version of libavcodec.
#[cfg(test)]
pub(crate) fn version() -> u32 {
    // SAFETY: has no preconditions.
    unsafe { ff::avcodec_version() >> 16 }
}

fn refused(code: Code) -> Reject {
    if code == Code::NO_MEMORY {
        Reject::Memory
    } else {
        Reject::Undecodable
    }
}
