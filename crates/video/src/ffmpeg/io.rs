//! The container: FFmpeg's demuxer over an open file, read by position. No path, no URL, no protocol.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};

use ffmpeg_sys_the_third as ff;

use super::owned::{Code, Options, Packet, check};
use crate::answer::{Codec, Container, Orientation, Ratio};

/// Read buffer; the demuxer's own default.
const BUFFER: usize = 32 * 1024;

/// Where the demuxer reads.
struct Reader<'a> {
    file: &'a File,
    length: u64,
    position: u64,
}

/// Fills a buffer, as FFmpeg wants it: bytes read, or an error code.
unsafe extern "C" fn read(reader: *mut c_void, buffer: *mut u8, size: c_int) -> c_int {
    // SAFETY: FFmpeg passes the pointer that `Demuxer::open` registered, on the one thread that uses the demuxer.
    let reader = unsafe { &mut *reader.cast::<Reader<'_>>() };
    let rest = reader.length.saturating_sub(reader.position);
    let size = u64::try_from(size).unwrap_or(0).min(rest) as usize;
    if size == 0 {
        return Code::END.0;
    }
    // SAFETY: FFmpeg passes a buffer that is writable for `size` bytes.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, size) };
    match reader.file.read_at(buffer, reader.position) {
        Ok(0) => Code::END.0,
        Ok(count) => {
            reader.position += count as u64;
            // At most `size`, which came as a `c_int`.
            count as c_int
        }
        Err(_) => ff::AVERROR(libc::EIO),
    }
}

/// Moves, or says the length.
unsafe extern "C" fn seek(reader: *mut c_void, offset: i64, whence: c_int) -> i64 {
    // SAFETY: as in `read`.
    let reader = unsafe { &mut *reader.cast::<Reader<'_>>() };
    if whence & ff::AVSEEK_SIZE as c_int != 0 {
        return reader.length as i64;
    }
    let base = match whence & 0xff {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => reader.position as i64,
        libc::SEEK_END => reader.length as i64,
        _ => return -1,
    };
    match base.checked_add(offset) {
        Some(target) if (0..=reader.length as i64).contains(&target) => {
            reader.position = target as u64;
            target
        }
        Some(_) | None => -1,
    }
}

/// What a stream says of itself, after the demuxer has looked into it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    pub(crate) time_base: Ratio,
    pub(crate) rate: Ratio,
    pub(crate) sar: Ratio,
    pub(crate) orientation: Orientation,
    /// Frames that the header promises, 0 when it does not say.
    pub(crate) promised_frames: i64,
    /// Duration of the stream that the header promises, in units of the time base; `None` when it does not say.
    pub(crate) promised_duration: Option<i64>,
    /// Duration of the whole container, of which another stream may be the longest, in the same units.
    pub(crate) container_duration: Option<i64>,
    pub(crate) width: i32,
    pub(crate) height: i32,
}

/// An open container.
pub(crate) struct Demuxer<'a> {
    format: *mut ff::AVFormatContext,
    io: NonNull<ff::AVIOContext>,
    file: (&'a File, u64),
    /// What `io` points to.
    _reader: Box<Reader<'a>>,
}

/// A container's format, recognised by content.
pub(crate) struct Format(NonNull<ff::AVInputFormat>);

impl Format {
    /// The first of its names.
    pub(crate) fn name(&self) -> &str {
        // SAFETY: formats are static descriptions whose names end with a zero.
        let names = unsafe { CStr::from_ptr((*self.0.as_ptr()).name) };
        names
            .to_str()
            .unwrap_or_default()
            .split(',')
            .next()
            .unwrap_or_default()
    }
}

impl<'a> Demuxer<'a> {
    /// Prepares to read a file of this length.
    pub(crate) fn new(file: &'a File, length: u64) -> Result<Self, Code> {
        let mut reader = Box::new(Reader {
            file,
            length,
            position: 0,
        });
        // SAFETY: the buffer is FFmpeg's own and handed over to the context, which `drop` frees; the reader outlives it.
        let io = unsafe {
            let buffer = ff::av_malloc(BUFFER).cast();
            let io = ff::avio_alloc_context(
                buffer,
                BUFFER as c_int,
                0,
                (&raw mut *reader).cast(),
                Some(read),
                None,
                Some(seek),
            );
            if io.is_null() {
                ff::av_free(buffer.cast());
            }
            NonNull::new(io).ok_or(Code::NO_MEMORY)?
        };
        Ok(Self {
            format: ptr::null_mut(),
            io,
            file: (file, length),
            _reader: reader,
        })
    }

    /// Bytes of the whole file.
    pub(crate) fn length(&self) -> u64 {
        self.file.1
    }

    /// Reads bytes of the file without the demuxer; `None` when they are not all there.
    pub(crate) fn bytes_at(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        self.file.0.read_exact_at(buffer, offset).ok()
    }

    /// Recognises the format by content.
    pub(crate) fn recognise(&mut self) -> Result<Format, Code> {
        let mut format = ptr::null();
        // SAFETY: the I/O context is alive; name, log context may be null; sizes of 0 are the defaults.
        check(unsafe {
            ff::av_probe_input_buffer2(
                self.io.as_ptr(),
                &mut format,
                c"".as_ptr(),
                ptr::null_mut(),
                0,
                0,
            )
        })?;
        NonNull::new(format.cast_mut())
            .map(Format)
            .ok_or(Code::NO_MEMORY)
    }

    /// Opens the container as this format.
    pub(crate) fn open(&mut self, format: &Format) -> Result<(), Code> {
        let mut options = Options::new()
            // Demuxers by the first of their names; nested demuxers are held to them, too.
            .set(c"format_whitelist", &Container::list(","))
            // Decoders by name, for those that the demuxer opens on its own while it looks at a stream.
            .set(c"codec_whitelist", &Codec::decoders())
            .set(c"protocol_whitelist", "none")
            // A backstop (FFmpeg 7 caps silently); the limit is checked by the caller.
            .set(c"max_streams", "256")
            .set(c"probesize", "1048576");
        // SAFETY: the format context is ours until `avformat_open_input` frees it on failure and sets it to null.
        unsafe {
            self.format = ff::avformat_alloc_context();
            if self.format.is_null() {
                return Err(Code::NO_MEMORY);
            }
            (*self.format).pb = self.io.as_ptr();
            // PyAV's habit: time stamps that the container lacks are made from decoding times.
            (*self.format).flags |= ff::AVFMT_FLAG_GENPTS as c_int;
            check(ff::avformat_open_input(
                &mut self.format,
                ptr::null(),
                format.0.as_ptr(),
                options.as_mut_ptr(),
            ))?;
        }
        Ok(())
    }

    fn stream_ptr(&self, index: usize) -> *mut ff::AVStream {
        debug_assert!(index < self.streams());
        // SAFETY: callers pass an index below `streams()`, which is 0 before the container is open.
        unsafe { *(*self.format).streams.add(index) }
    }

    /// Number of streams of all kinds.
    pub(crate) fn streams(&self) -> usize {
        if self.format.is_null() {
            return 0;
        }
        // SAFETY: the context is open.
        unsafe { (*self.format).nb_streams as usize }
    }

    /// The container's own first video stream that is not a cover picture; the others are switched off.
    ///
    /// `av_find_best_stream` would take the largest.
    pub(crate) fn select_video(&mut self) -> Option<usize> {
        let found = (0..self.streams()).find(|&index| {
            let stream = self.stream_ptr(index);
            // SAFETY: a stream of an open context is alive, as are its parameters.
            unsafe {
                (*(*stream).codecpar).codec_type == ff::AVMediaType::VIDEO
                    && (*stream).disposition & ff::AV_DISPOSITION_ATTACHED_PIC as c_int == 0
            }
        })?;
        for index in 0..self.streams() {
            // SAFETY: as above.
            unsafe {
                (*self.stream_ptr(index)).discard = if index == found {
                    ff::AVDiscard::DEFAULT
                } else {
                    ff::AVDiscard::ALL
                };
            }
        }
        Some(found)
    }

    /// Looks into the streams' first packets. Each is decoded by a context of its own, which needs the limits too: a bomb would get its memory there.
    pub(crate) fn look_inside(&mut self, pixels: u32) -> Result<(), Code> {
        let mut options: Vec<Options> = (0..self.streams())
            .map(|_| {
                Options::new()
                    .set(c"max_pixels", &pixels.to_string())
                    .set(c"threads", "1")
            })
            .collect();
        let mut pointers: Vec<*mut ff::AVDictionary> = options
            .iter_mut()
            .map(|options| *options.as_mut_ptr())
            .collect();
        // SAFETY: there is one dictionary per stream. FFmpeg may free or replace each, so that the pointers are taken back whatever comes out.
        let result = unsafe { ff::avformat_find_stream_info(self.format, pointers.as_mut_ptr()) };
        for (options, pointer) in options.iter_mut().zip(pointers) {
            *options.as_mut_ptr() = pointer;
        }
        check(result).map(drop)
    }

    /// What a stream says of itself.
    pub(crate) fn stream(&self, index: usize) -> Stream {
        let stream = self.stream_ptr(index);
        // SAFETY: a stream of an open context is alive, as are its parameters.
        unsafe {
            let parameters = &*(*stream).codecpar;
            Stream {
                time_base: ratio((*stream).time_base),
                rate: ratio((*stream).avg_frame_rate),
                sar: ratio(ff::av_guess_sample_aspect_ratio(
                    self.format,
                    stream,
                    ptr::null_mut(),
                )),
                orientation: orientation(stream),
                promised_frames: (*stream).nb_frames,
                promised_duration: ((*stream).duration != ff::AV_NOPTS_VALUE)
                    .then_some((*stream).duration),
                container_duration: self.container_duration(stream),
                width: parameters.width,
                height: parameters.height,
            }
        }
    }

    /// The container's promised duration in units of a stream's time base.
    ///
    /// # Safety
    /// The stream is one of this context's.
    unsafe fn container_duration(&self, stream: *mut ff::AVStream) -> Option<i64> {
        // SAFETY: the context is open and the stream alive.
        unsafe {
            let duration = (*self.format).duration;
            (duration != ff::AV_NOPTS_VALUE && duration > 0).then(|| {
                let microseconds = ff::AVRational {
                    num: 1,
                    den: ff::AV_TIME_BASE as c_int,
                };
                ff::av_rescale_q(duration, microseconds, (*stream).time_base)
            })
        }
    }

    /// Packets of a stream that the container's own index lists by now; an edit list has taken out those that no player needs.
    pub(crate) fn indexed_packets(&self, index: usize) -> usize {
        // SAFETY: a stream of an open context is alive.
        let count = unsafe { ff::avformat_index_get_entries_count(self.stream_ptr(index)) };
        usize::try_from(count).unwrap_or(0)
    }

    /// A stream's codec parameters, for as long as the container is open.
    pub(crate) fn parameters(&self, index: usize) -> *const ff::AVCodecParameters {
        // SAFETY: a stream of an open context is alive.
        unsafe { (*self.stream_ptr(index)).codecpar }
    }

    /// What the container gives a stream's decoder beforehand.
    pub(crate) fn extradata(&self, index: usize) -> &[u8] {
        // SAFETY: the parameters are alive as long as the container is open, and their data is as long as they say.
        unsafe {
            let parameters = &*self.parameters(index);
            match usize::try_from(parameters.extradata_size) {
                Ok(size) if !parameters.extradata.is_null() => {
                    std::slice::from_raw_parts(parameters.extradata, size)
                }
                Ok(_) | Err(_) => &[],
            }
        }
    }

    /// How many pictures a stream's decoder waits for before it shows one.
    pub(crate) fn delay(&self, index: usize) -> usize {
        // SAFETY: the parameters are alive as long as the container is open.
        usize::try_from(unsafe { (*self.parameters(index)).video_delay }).unwrap_or(0)
    }

    /// Goes to the last place at or before a decoding time where a stream can be read from.
    pub(crate) fn seek(&mut self, stream: usize, dts: i64) -> Result<(), Code> {
        let stream = c_int::try_from(stream).map_err(|_| Code::END)?;
        let backward = ff::AVSEEK_FLAG_BACKWARD as c_int;
        // SAFETY: the context is open, and FFmpeg checks the stream's index.
        check(unsafe { ff::av_seek_frame(self.format, stream, dts, backward) }).map(drop)
    }

    /// Reads the next packet of any stream that is switched on; `false` at the end, which a read error is too.
    pub(crate) fn read(&mut self, packet: &mut Packet) -> Result<bool, Code> {
        packet.clear();
        // SAFETY: context and packet are alive.
        match check(unsafe { ff::av_read_frame(self.format, packet.as_ptr()) }) {
            Ok(_) => Ok(true),
            Err(Code::NO_MEMORY) => Err(Code::NO_MEMORY),
            Err(_) => Ok(false),
        }
    }
}

impl Drop for Demuxer<'_> {
    fn drop(&mut self) {
        // SAFETY: both are ours. FFmpeg does not free an I/O context that the caller made, and may have replaced its buffer.
        unsafe {
            ff::avformat_close_input(&mut self.format);
            let mut io = self.io.as_ptr();
            ff::av_freep((&raw mut (*io).buffer).cast());
            ff::avio_context_free(&mut io);
        }
    }
}

fn ratio(ratio: ff::AVRational) -> Ratio {
    Ratio {
        numerator: ratio.num,
        denominator: ratio.den,
    }
}

/// What the display matrix asks of players: right angles only, mirrored or not.
///
/// # Safety
/// The stream is alive.
unsafe fn orientation(stream: *mut ff::AVStream) -> Orientation {
    const MATRIX_BYTES: usize = 9 * 4;
    let mut size = 0_usize;
    // SAFETY: the stream is alive; FFmpeg writes the size of what it returns.
    #[cfg(not(ffmpeg_6_1))]
    let matrix = unsafe {
        ff::av_stream_get_side_data(
            stream,
            ff::AVPacketSideDataType::DISPLAYMATRIX,
            (&raw mut size).cast(),
        )
    };
    // SAFETY: the stream is alive, and so are its parameters and their side data.
    #[cfg(ffmpeg_6_1)]
    let matrix = unsafe {
        let parameters = (*stream).codecpar;
        let found = ff::av_packet_side_data_get(
            (*parameters).coded_side_data,
            (*parameters).nb_coded_side_data,
            ff::AVPacketSideDataType::DISPLAYMATRIX,
        );
        if found.is_null() {
            ptr::null_mut()
        } else {
            size = (*found).size as usize;
            (*found).data
        }
    };
    if matrix.is_null() || size < MATRIX_BYTES {
        return Orientation::STORED;
    }
    // SAFETY: the matrix has nine 32-bit entries.
    Orientation::of_matrix(unsafe { matrix.cast::<[i32; 9]>().read_unaligned() })
}
