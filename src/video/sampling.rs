//! From a number of frames to the indices of a clip's frames, as the reference chooses them. Pure.

use std::num::NonZeroU32;

use crate::rng::Stream;

/// Indices of `frames` frames spread over `n`: the middle of each of `frames` equal segments.
pub fn uniform(_n: u32, _frames: u16) -> Vec<u32> {
    todo!()
}

/// Indices of `frames` frames, `rate` apart, per temporal view.
pub fn strided(_n: u32, _frames: u16, _rate: NonZeroU32, _views: u8) -> Vec<Vec<u32>> {
    todo!()
}

/// A training draw of [`uniform`]: one frame anywhere in each segment.
pub fn uniform_training(_n: u32, _frames: u16, _random: &mut Stream) -> Vec<u32> {
    todo!()
}

/// A training draw of [`strided`]: a random start.
pub fn strided_training(
    _n: u32,
    _frames: u16,
    _rate: NonZeroU32,
    _random: &mut Stream,
) -> Vec<u32> {
    todo!()
}
