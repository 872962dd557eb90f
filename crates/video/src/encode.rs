//! Encodes RGB pictures into a container in memory, for demonstrations and tests.
//!
//! Invariant: the same pictures give the same bytes (one thread, no time stamps of the clock).

#![allow(unsafe_code)]

use std::ffi::{CString, c_int};
use std::ptr::{self, NonNull};

use ffmpeg_sys_the_third as ff;

use super::ffmpeg::owned::{Code, Context, Frame, Options, Packet, Scaler, check, silence};

/// Codec and container of an encoded video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// H.264 in MP4 when this FFmpeg has libx264, else MPEG-4 part 2 in MP4. Wants even sides.
    Mp4,
    /// Lossless: FFV1 in Matroska.
    Lossless,
}

/// How a video is encoded, in FFmpeg's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The encoder's name.
    pub encoder: &'static str,
    /// The container's short name.
    pub muxer: &'static str,
    /// Frames from one key frame to the next, at most.
    pub group: u32,
    /// B-frames in a row, at most.
    pub b_frames: u8,
    /// Options of the encoder by name.
    pub options: Vec<(String, String)>,
    /// Options of the container by name.
    pub muxer_options: Vec<(String, String)>,
}

impl Settings {
    /// An encoder and a container with FFmpeg's defaults.
    pub fn new(encoder: &'static str, muxer: &'static str) -> Self {
        Self {
            encoder,
            muxer,
            group: 250,
            b_frames: 0,
            options: Vec::new(),
            muxer_options: Vec::new(),
        }
    }

    /// The settings with one more option of the encoder.
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The settings with one more option of the container.
    pub fn muxer_option(mut self, name: &str, value: &str) -> Self {
        self.muxer_options.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The pixel format that the encoder takes.
    fn pixels(&self) -> ff::AVPixelFormat {
        match self.encoder {
            "ffv1" => ff::AVPixelFormat::BGR0,
            "mjpeg" => ff::AVPixelFormat::YUVJ420P,
            "prores" | "prores_ks" | "prores_aw" => ff::AVPixelFormat::YUV422P10LE,
            _ => ff::AVPixelFormat::YUV420P,
        }
    }
}

impl Format {
    /// The first of its encoders that this FFmpeg has.
    fn settings(self) -> Settings {
        match self {
            Self::Mp4 if find("libx264").is_some() => Settings::new("libx264", "mp4")
                .option("preset", "veryfast")
                .option("crf", "20"),
            Self::Mp4 => Settings::new("mpeg4", "mp4"),
            Self::Lossless => Settings::new("ffv1", "matroska"),
        }
    }
}

/// Why a video could not be encoded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A step failed.
    #[error("cannot {action}: {reason}")]
    Failed {
        /// The step that failed.
        action: &'static str,
        /// FFmpeg's description of the error.
        reason: String,
    },
    /// The size or the rate cannot be encoded.
    #[error("cannot encode {width} x {height} at {rate} frames a second")]
    Geometry {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Frames a second.
        rate: u32,
    },
    /// A picture has another size.
    #[error("expected {expected} bytes of RGB, got {got}")]
    PictureSize {
        /// Width × height × 3.
        expected: usize,
        /// Bytes of the picture that was given.
        got: usize,
    },
}

fn failed(action: &'static str) -> impl Fn(Code) -> Error {
    move |code| Error::Failed {
        action,
        reason: code.text(),
    }
}

/// A muxer that writes into memory.
struct Muxer(NonNull<ff::AVFormatContext>);

// SAFETY: the context is only reached through this owner, and FFmpeg ties none of its state to a thread.
unsafe impl Send for Muxer {}

impl Muxer {
    fn new(name: &str) -> Result<Self, Code> {
        let name = CString::new(name).map_err(|_| Code::END)?;
        let mut context = ptr::null_mut();
        // SAFETY: the name ends with a zero; format and file name may be null.
        check(unsafe {
            ff::avformat_alloc_output_context2(
                &mut context,
                ptr::null_mut(),
                name.as_ptr(),
                ptr::null(),
            )
        })?;
        NonNull::new(context).map(Self).ok_or(Code::NO_MEMORY)
    }

    fn as_ptr(&self) -> *mut ff::AVFormatContext {
        self.0.as_ptr()
    }

    /// Takes the bytes that were written; none when nothing was opened.
    fn take(&mut self) -> Vec<u8> {
        // SAFETY: `pb`, when set, was opened by `avio_open_dyn_buf`; it is closed once. What it holds is copied before, since closing writes zeros at the
        // place where the muxer left off, which is in the middle when it went back to fill in its header.
        unsafe {
            let output = (*self.as_ptr()).pb;
            if output.is_null() {
                return Vec::new();
            }
            (*self.as_ptr()).pb = ptr::null_mut();
            let mut buffer = ptr::null_mut();
            let length = usize::try_from(ff::avio_get_dyn_buf(output, &mut buffer)).unwrap_or(0);
            let bytes = if buffer.is_null() {
                Vec::new()
            } else {
                std::slice::from_raw_parts(buffer, length).to_vec()
            };
            ff::avio_close_dyn_buf(output, &mut buffer);
            ff::av_free(buffer.cast());
            bytes
        }
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        self.take();
        // SAFETY: this is the only owner.
        unsafe { ff::avformat_free_context(self.as_ptr()) }
    }
}

/// Encodes one video, picture by picture.
pub struct Encoder {
    codec: &'static str,
    context: Context,
    muxer: Muxer,
    frame: Frame,
    packet: Packet,
    /// `None` when pictures are stored as RGB.
    scaler: Option<Scaler>,
    size: (usize, usize),
    next: i64,
}

/// An encoder by name, when this FFmpeg has it.
fn find(name: &str) -> Option<NonNull<ff::AVCodec>> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero; the result is a static description or null.
    NonNull::new(unsafe { ff::avcodec_find_encoder_by_name(name.as_ptr()) }.cast_mut())
}

impl Encoder {
    /// Begins a video of this size and whole frame rate.
    ///
    /// # Errors
    /// When the size or rate cannot be encoded (MP4 wants even sides) or FFmpeg has no such encoder.
    pub fn new(format: Format, width: u32, height: u32, rate: u32) -> Result<Self, Error> {
        Self::with(&format.settings(), width, height, rate)
    }

    /// Begins a video with settings of one's own.
    ///
    /// # Errors
    /// As [`Encoder::new`], and when encoder or container refuse their options.
    pub fn with(settings: &Settings, width: u32, height: u32, rate: u32) -> Result<Self, Error> {
        silence();
        let pixels = settings.pixels();
        let is_stored = pixels == ff::AVPixelFormat::BGR0;
        let odd = !is_stored && (!width.is_multiple_of(2) || !height.is_multiple_of(2));
        if odd
            || !(2..=8192).contains(&width)
            || !(2..=8192).contains(&height)
            || !(1..=1000).contains(&rate)
        {
            return Err(Error::Geometry {
                width,
                height,
                rate,
            });
        }
        let missing = || Error::Failed {
            action: "find an encoder",
            reason: format!("this FFmpeg has no {}", settings.encoder),
        };
        let description = find(settings.encoder).ok_or_else(missing)?;
        let size = (width as c_int, height as c_int);
        let muxer = Muxer::new(settings.muxer).map_err(failed("open a muxer"))?;
        let context = Context::new(description).map_err(failed("open an encoder"))?;
        configure(&context, &muxer, size, (rate as c_int, pixels));
        open(&context, description, settings).map_err(failed("open an encoder"))?;
        begin(&context, &muxer, settings).map_err(failed("begin the file"))?;
        let scaler = if is_stored {
            None
        } else {
            Some(Scaler::new(size, ff::AVPixelFormat::RGB24, pixels).ok_or_else(missing)?)
        };
        Ok(Self {
            codec: settings.encoder,
            frame: picture(size, pixels).map_err(failed("allocate a picture"))?,
            packet: Packet::new().map_err(failed("allocate a packet"))?,
            context,
            muxer,
            scaler,
            size: (width as usize, height as usize),
            next: 0,
        })
    }

    /// The encoder's name: `libx264`, `mpeg4` or `ffv1`.
    pub fn codec(&self) -> &'static str {
        self.codec
    }

    /// Sets the time of the next picture, in units of one over the rate; the ones after it follow it.
    pub fn set_time(&mut self, time: i64) {
        self.next = time;
    }

    /// Adds a picture: RGB triples, u8 [height, width, 3].
    ///
    /// # Errors
    /// When its size is wrong or FFmpeg fails.
    pub fn push(&mut self, rgb: &[u8]) -> Result<(), Error> {
        let (width, height) = self.size;
        if rgb.len() != width * height * 3 {
            return Err(Error::PictureSize {
                expected: width * height * 3,
                got: rgb.len(),
            });
        }
        let frame = self.frame.as_ptr();
        // SAFETY: the frame is alive and has buffers of its own.
        check(unsafe { ff::av_frame_make_writable(frame) }).map_err(failed("write a picture"))?;
        match &self.scaler {
            Some(scaler) => convert(scaler, rgb, self.size, &self.frame),
            None => store(rgb, self.size, &self.frame),
        }
        // SAFETY: the frame is alive.
        unsafe { (*frame).pts = self.next };
        self.next += 1;
        self.send(frame)
    }

    /// Ends the video and returns the file.
    ///
    /// # Errors
    /// When FFmpeg fails.
    pub fn finish(mut self) -> Result<Vec<u8>, Error> {
        self.send(ptr::null())?;
        // SAFETY: the header was written, and this is the only call.
        check(unsafe { ff::av_write_trailer(self.muxer.as_ptr()) })
            .map_err(failed("end the file"))?;
        Ok(self.muxer.take())
    }

    /// Sends a picture, or the end (null), and writes the packets that come out.
    fn send(&mut self, frame: *const ff::AVFrame) -> Result<(), Error> {
        // SAFETY: context, packet and muxer are alive, the stream was added in `begin`, and the frame is null or alive.
        unsafe {
            check(ff::avcodec_send_frame(self.context.as_ptr(), frame))
                .map_err(failed("encode a picture"))?;
            let packet = self.packet.as_ptr();
            loop {
                match check(ff::avcodec_receive_packet(self.context.as_ptr(), packet)) {
                    Ok(_) => {}
                    Err(Code::AGAIN | Code::END) => return Ok(()),
                    Err(code) => return Err(failed("encode a picture")(code)),
                }
                (*packet).stream_index = 0;
                if (*packet).duration == 0 {
                    (*packet).duration = 1;
                }
                let stream = *(*self.muxer.as_ptr()).streams;
                ff::av_packet_rescale_ts(
                    packet,
                    (*self.context.as_ptr()).time_base,
                    (*stream).time_base,
                );
                check(ff::av_interleaved_write_frame(self.muxer.as_ptr(), packet))
                    .map_err(failed("write a packet"))?;
            }
        }
    }
}

fn configure(
    context: &Context,
    muxer: &Muxer,
    (width, height): (c_int, c_int),
    (rate, pixels): (c_int, ff::AVPixelFormat),
) {
    // SAFETY: both contexts are alive, and nothing else uses them yet.
    unsafe {
        let context = &mut *context.as_ptr();
        context.width = width;
        context.height = height;
        context.pix_fmt = pixels;
        context.time_base = ff::AVRational { num: 1, den: rate };
        context.framerate = ff::AVRational { num: rate, den: 1 };
        context.thread_count = 1;
        context.flags |= ff::AV_CODEC_FLAG_BITEXACT as c_int;
        let muxer = &mut *muxer.as_ptr();
        muxer.flags |= ff::AVFMT_FLAG_BITEXACT as c_int;
        if (*muxer.oformat).flags & ff::AVFMT_GLOBALHEADER as c_int != 0 {
            context.flags |= ff::AV_CODEC_FLAG_GLOBAL_HEADER as c_int;
        }
    }
}

fn options(pairs: &[(String, String)]) -> Options {
    (pairs.iter()).fold(
        Options::new(),
        |options, (name, value)| match CString::new(name.as_str()) {
            Ok(name) => options.set(&name, value),
            Err(_) => options,
        },
    )
}

fn open(
    context: &Context,
    description: NonNull<ff::AVCodec>,
    settings: &Settings,
) -> Result<(), Code> {
    // SAFETY: the context is alive, and nothing else uses it yet.
    unsafe {
        let context = &mut *context.as_ptr();
        context.gop_size = settings.group as c_int;
        context.max_b_frames = c_int::from(settings.b_frames);
        if matches!(settings.encoder, "mpeg4" | "mjpeg") {
            context.flags |= ff::AV_CODEC_FLAG_QSCALE as c_int;
            context.global_quality = 3 * ff::FF_QP2LAMBDA as c_int;
        }
    }
    let mut options = options(&settings.options);
    // SAFETY: context and description are alive and belong together.
    check(unsafe {
        ff::avcodec_open2(context.as_ptr(), description.as_ptr(), options.as_mut_ptr())
    })?;
    Ok(())
}

/// Adds the stream and writes the header.
fn begin(context: &Context, muxer: &Muxer, settings: &Settings) -> Result<(), Code> {
    let mut options = options(&settings.muxer_options);
    // SAFETY: the contexts are alive; the stream belongs to the muxer.
    unsafe {
        let stream = ff::avformat_new_stream(muxer.as_ptr(), ptr::null());
        if stream.is_null() {
            return Err(Code::NO_MEMORY);
        }
        check(ff::avcodec_parameters_from_context(
            (*stream).codecpar,
            context.as_ptr(),
        ))?;
        (*stream).time_base = (*context.as_ptr()).time_base;
        check(ff::avio_open_dyn_buf(&mut (*muxer.as_ptr()).pb))?;
        check(ff::avformat_write_header(
            muxer.as_ptr(),
            options.as_mut_ptr(),
        ))?;
    }
    Ok(())
}

/// An empty picture with buffers.
fn picture((width, height): (c_int, c_int), pixels: ff::AVPixelFormat) -> Result<Frame, Code> {
    let frame = Frame::new()?;
    // SAFETY: the frame is alive; size and format are set before its buffers are asked for.
    unsafe {
        (*frame.as_ptr()).format = pixels.0 as c_int;
        (*frame.as_ptr()).width = width;
        (*frame.as_ptr()).height = height;
        check(ff::av_frame_get_buffer(frame.as_ptr(), 0))?;
    }
    Ok(frame)
}

fn convert(scaler: &Scaler, rgb: &[u8], (width, height): (usize, usize), frame: &Frame) {
    let planes = [rgb.as_ptr(), ptr::null(), ptr::null(), ptr::null()];
    let strides = [(width * 3) as c_int, 0, 0, 0];
    // SAFETY: `rgb` holds `height` rows of the stride, and the frame has buffers of the size and format that the scaler was made for.
    unsafe {
        ff::sws_scale(
            scaler.as_ptr(),
            planes.as_ptr(),
            strides.as_ptr(),
            0,
            height as c_int,
            (*frame.as_ptr()).data.as_ptr(),
            (*frame.as_ptr()).linesize.as_ptr(),
        );
    }
}

/// Stores RGB triples as they are, as B, G, R, 0.
fn store(rgb: &[u8], (width, height): (usize, usize), frame: &Frame) {
    for (y, row) in rgb.chunks_exact(width * 3).enumerate().take(height) {
        // SAFETY: the frame is writable and has `height` rows of at least 4 · `width` bytes, `linesize` apart.
        let target = unsafe {
            let stride = (*frame.as_ptr()).linesize[0] as isize;
            let start = (*frame.as_ptr()).data[0].offset(y as isize * stride);
            std::slice::from_raw_parts_mut(start, width * 4)
        };
        let (target, _) = target.as_chunks_mut();
        for (to, from) in target.iter_mut().zip(row.as_chunks::<3>().0) {
            *to = [from[2], from[1], from[0], 0];
        }
    }
}

#[cfg(test)]
mod tests;
