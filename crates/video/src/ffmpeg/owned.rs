//! Owners of FFmpeg's allocations: packets, frames, options, scalers; each is freed exactly once.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int};
use std::ptr::{self, NonNull};

use ffmpeg_sys_the_third as ff;

/// FFmpeg's error code, always negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) c_int);

impl Code {
    /// Out of memory.
    pub(crate) const NO_MEMORY: Self = Self(ff::AVERROR(libc::ENOMEM));
    /// More input is wanted first.
    pub(crate) const AGAIN: Self = Self(ff::AVERROR(libc::EAGAIN));
    /// The end.
    pub(crate) const END: Self = Self(ff::AVERROR_EOF);

    /// FFmpeg's description of the error.
    pub(crate) fn text(self) -> String {
        let mut text = [0; 128];
        // SAFETY: the buffer is writable for the length that is passed; FFmpeg ends the text with a zero.
        unsafe {
            ff::av_strerror(self.0, text.as_mut_ptr(), text.len());
            CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
        }
    }
}

/// A result of FFmpeg as a `Result`.
pub(crate) fn check(result: c_int) -> Result<c_int, Code> {
    if result < 0 {
        Err(Code(result))
    } else {
        Ok(result)
    }
}

/// Silences FFmpeg: what it prints comes from a stranger's file.
pub(crate) fn silence() {
    // SAFETY: sets an atomic integer.
    unsafe { ff::av_log_set_level(ff::AV_LOG_QUIET) }
}

macro_rules! owner {
    ($(#[$doc:meta])* $name:ident, $type:ident, $alloc:ident, $free:ident) => {
        $(#[$doc])*
        pub(crate) struct $name(NonNull<ff::$type>);

        impl $name {
            /// Allocates an empty one.
            pub(crate) fn new() -> Result<Self, Code> {
                // SAFETY: has no preconditions.
                NonNull::new(unsafe { ff::$alloc() })
                    .map(Self)
                    .ok_or(Code::NO_MEMORY)
            }

            /// For a call of FFmpeg.
            pub(crate) fn as_ptr(&self) -> *mut ff::$type {
                self.0.as_ptr()
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: this is the only owner, and the pointer came from the matching allocator.
                unsafe { ff::$free(&mut self.0.as_ptr()) }
            }
        }
    };
}

owner!(
    /// A compressed packet.
    Packet, AVPacket, av_packet_alloc, av_packet_free
);
owner!(
    /// A decoded picture.
    Frame, AVFrame, av_frame_alloc, av_frame_free
);

impl Packet {
    /// Allocates a packet with a payload of this many bytes, and the padding that decoders want after it.
    pub(crate) fn of_size(bytes: usize) -> Result<Self, Code> {
        let packet = Self::new()?;
        let size = c_int::try_from(bytes).map_err(|_| Code::NO_MEMORY)?;
        // SAFETY: the packet is alive and empty. What is allocated is written before it is read as bytes.
        unsafe {
            check(ff::av_new_packet(packet.as_ptr(), size))?;
            ptr::write_bytes((*packet.as_ptr()).data, 0, bytes);
        }
        Ok(packet)
    }

    /// The payload of a packet that was made by [`Packet::of_size`] and given to nobody.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let size = self.size();
        // SAFETY: the packet is alive and its payload has one owner; the data, when there is any, is as long as it says.
        unsafe {
            let data = (*self.as_ptr()).data;
            if data.is_null() {
                return &mut [];
            }
            std::slice::from_raw_parts_mut(data, size)
        }
    }

    /// Size of the payload in bytes.
    pub(crate) fn size(&self) -> usize {
        // SAFETY: the packet is alive.
        usize::try_from(unsafe { (*self.as_ptr()).size }).unwrap_or(0)
    }

    /// Drops the payload.
    pub(crate) fn clear(&mut self) {
        // SAFETY: the packet is alive.
        unsafe { ff::av_packet_unref(self.as_ptr()) }
    }
}

/// Options by name.
pub(crate) struct Options(*mut ff::AVDictionary);

impl Options {
    /// No options.
    pub(crate) fn new() -> Self {
        Self(ptr::null_mut())
    }

    /// Sets one; what does not fit into memory is left out by FFmpeg, and then the open call that needs it fails.
    pub(crate) fn set(mut self, name: &CStr, value: &str) -> Self {
        if let Ok(value) = CString::new(value) {
            // SAFETY: both texts end with a zero, and FFmpeg copies them.
            unsafe { ff::av_dict_set(&mut self.0, name.as_ptr(), value.as_ptr(), 0) };
        }
        self
    }

    /// For a call that takes options and leaves those that it did not know.
    pub(crate) fn as_mut_ptr(&mut self) -> &mut *mut ff::AVDictionary {
        &mut self.0
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: this is the only owner; null is allowed.
        unsafe { ff::av_dict_free(&mut self.0) }
    }
}

/// A codec context, for decoding or encoding.
pub(crate) struct Context(NonNull<ff::AVCodecContext>);

// SAFETY: the context is only reached through this owner, and FFmpeg ties none of its state to a thread (it runs with one thread).
unsafe impl Send for Context {}
// SAFETY: as for `Context`.
unsafe impl Send for Packet {}
// SAFETY: as for `Context`.
unsafe impl Send for Frame {}

impl Context {
    /// A context of a codec.
    pub(crate) fn new(codec: NonNull<ff::AVCodec>) -> Result<Self, Code> {
        // SAFETY: the codec is one of FFmpeg's static descriptions.
        NonNull::new(unsafe { ff::avcodec_alloc_context3(codec.as_ptr()) })
            .map(Self)
            .ok_or(Code::NO_MEMORY)
    }

    /// For a call of FFmpeg.
    pub(crate) fn as_ptr(&self) -> *mut ff::AVCodecContext {
        self.0.as_ptr()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        unsafe { ff::avcodec_free_context(&mut self.0.as_ptr()) }
    }
}

/// A colour converter.
pub(crate) struct Scaler(NonNull<ff::SwsContext>);

// SAFETY: as for `Context`.
unsafe impl Send for Scaler {}

impl Scaler {
    /// A scaler from one pixel format to another at the same size; `None` when FFmpeg has no way.
    pub(crate) fn new(
        (width, height): (c_int, c_int),
        from: ff::AVPixelFormat,
        to: ff::AVPixelFormat,
    ) -> Option<Self> {
        // SAFETY: filters and parameters may be null; sizes and formats are checked by FFmpeg.
        let context = unsafe {
            ff::sws_getContext(
                width,
                height,
                from,
                width,
                height,
                to,
                ff::SWS_BILINEAR as _,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null(),
            )
        };
        NonNull::new(context).map(Self)
    }

    /// For a call of FFmpeg.
    pub(crate) fn as_ptr(&self) -> *mut ff::SwsContext {
        self.0.as_ptr()
    }
}

impl Drop for Scaler {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        unsafe { ff::sws_freeContext(self.0.as_ptr()) }
    }
}
