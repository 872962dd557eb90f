//! Character converters that the MPEG-TS demuxer opens for service names: opened before any worker is forked, and never closed.
//!
//! glibc reads files and loads a library for each; a confined worker that did so would be ended at the first transport stream.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};

/// The names in libavformat's table (`mpegts.c`, `getstr8`).
const NAMES: [&CStr; 21] = [
    c"ISO6937",
    c"ISO-8859-1",
    c"ISO-8859-2",
    c"ISO-8859-3",
    c"ISO-8859-4",
    c"ISO-8859-5",
    c"ISO-8859-6",
    c"ISO-8859-7",
    c"ISO-8859-8",
    c"ISO-8859-9",
    c"ISO-8859-10",
    c"ISO-8859-11",
    c"ISO-8859-13",
    c"ISO-8859-14",
    c"ISO-8859-15",
    c"ISO-8859-16",
    c"UCS-2BE",
    c"KSC_5601",
    c"GB2312",
    c"BIG5",
    c"UTF-8",
];

unsafe extern "C" {
    fn iconv_open(to: *const c_char, from: *const c_char) -> *mut c_void;
}

/// Opens them all; one that this system lacks is lacking for the demuxer, too.
pub(super) fn open() {
    for name in NAMES {
        // SAFETY: both names end with a zero. What is returned stays open for the life of the process.
        unsafe { iconv_open(c"UTF-8".as_ptr(), name.as_ptr()) };
    }
}
