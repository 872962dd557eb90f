//! FFmpeg behind safe types: its allocations, containers and codecs, which decoding, probing and encoding use.
//!
//! Invariant: every allocation has one owner, which frees it once; no path, URL or protocol reaches FFmpeg, and a codec has one thread.

pub(crate) mod codec;
pub(crate) mod io;
pub(crate) mod owned;
