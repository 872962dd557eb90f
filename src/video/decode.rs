//! Decodes a video as the reference's Python does: first video stream, one thread, frames keyed and sorted by time stamp, the first error ends it.

pub(super) mod owned;
