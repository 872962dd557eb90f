//! From a number of frames to the indices of a clip's frames, as the reference chooses them (ST-Adapter's `video_dataset`). Pure.
//!
//! Invariant: every index is below the number of frames, which is at least 1 (0 is taken as 1).

use std::num::NonZeroU32;

use super::request::Sampling;
use crate::rng::Stream;

/// Python's `round(seg * i)` with `seg = (n - 1) / frames`: half to even.
fn boundary(n: u32, frames: u16, i: u16) -> u32 {
    let segment = f64::from(n.saturating_sub(1)) / f64::from(frames);
    // Within 0 ..= n - 1.
    (segment * f64::from(i)).round_ties_even() as u32
}

/// Indices of `frames` frames spread over `n`: the middle of each of `frames` equal segments.
pub fn uniform(n: u32, frames: u16) -> Vec<u32> {
    (0..frames)
        .map(|i| {
            ((u64::from(boundary(n, frames, i)) + u64::from(boundary(n, frames, i + 1))) / 2) as u32
        })
        .collect()
}

/// Indices of `frames` frames, `rate` apart, per temporal view: one view in the middle, or several from the first to the last possible start.
pub fn strided(n: u32, frames: u16, rate: NonZeroU32, views: u8) -> Vec<Vec<u32>> {
    let (n, rate) = (u64::from(n.max(1)), u64::from(rate.get()));
    let slide = n.saturating_sub(u64::from(frames.saturating_sub(1)) * rate + 1);
    (0..views)
        .map(|view| {
            let start = if views == 1 {
                slide / 2
            } else {
                (slide as f64 / f64::from(views - 1) * f64::from(view)).round_ties_even() as u64
            };
            (0..u64::from(frames))
                .map(|i| (start + rate * i).min(n - 1) as u32)
                .collect()
        })
        .collect()
}

/// A training draw of [`uniform`]: one frame anywhere in each segment, its ends included.
pub fn uniform_training(n: u32, frames: u16, random: &mut Stream) -> Vec<u32> {
    (0..frames)
        .map(|i| {
            let (low, high) = (boundary(n, frames, i), boundary(n, frames, i + 1));
            low + random.below(u64::from(high - low) + 1) as u32
        })
        .collect()
}

/// A training draw of [`strided`]: a random start; when the video is too short, its frames from the first on, the last one taken being repeated.
pub fn strided_training(n: u32, frames: u16, rate: NonZeroU32, random: &mut Stream) -> Vec<u32> {
    let (n, rate) = (u64::from(n.max(1)), u64::from(rate.get()));
    let reach = u64::from(frames.saturating_sub(1)) * rate;
    if reach + 1 >= n {
        let last = (n - 1) / rate;
        return (0..u64::from(frames))
            .map(|i| (rate * i.min(last)) as u32)
            .collect();
    }
    let start = random.below(n - reach);
    (0..u64::from(frames))
        .map(|i| (start + rate * i) as u32)
        .collect()
}

/// The indices that a request selects from `n` frames, temporal views one after the other.
///
/// # Errors
/// The first explicit index that is not below `n`.
pub(super) fn select(
    sampling: &Sampling,
    n: u32,
    frames: u16,
    temporal_views: u8,
) -> Result<Vec<u32>, u32> {
    match sampling {
        Sampling::Uniform => Ok(uniform(n, frames)),
        Sampling::Strided(rate) => Ok(strided(n, frames, *rate, temporal_views).concat()),
        Sampling::Indices(indices) => match indices.iter().find(|&&index| index >= n) {
            Some(&index) => Err(index),
            None => Ok(indices.clone()),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(rate: u32) -> NonZeroU32 {
        NonZeroU32::new(rate).unwrap()
    }

    #[test]
    fn uniform_takes_the_middle_of_each_segment() {
        assert_eq!(uniform(40, 8), [2, 7, 12, 17, 22, 26, 31, 36]);
        assert_eq!(uniform(7, 8), [0, 1, 2, 2, 3, 4, 4, 5]);
        assert_eq!(uniform(1, 4), [0; 4]);
    }

    #[test]
    fn strided_views_span_the_video() {
        let views = strided(40, 8, rate(4), 3);
        assert_eq!(views[0][0], 0);
        assert_eq!(views[1], [6, 10, 14, 18, 22, 26, 30, 34]);
        assert_eq!(views[2][7], 39);
        assert_eq!(strided(9, 8, rate(4), 1), [[0, 4, 8, 8, 8, 8, 8, 8]]);
    }

    #[test]
    fn a_short_video_repeats_the_last_frame_taken_in_training() {
        let mut random = Stream::new(1, "clip");
        assert_eq!(
            strided_training(10, 8, rate(4), &mut random),
            [0, 4, 8, 8, 8, 8, 8, 8]
        );
    }

    proptest! {
        #[test]
        fn indices_stay_inside_and_in_order(n in 1_u32..100_000, frames in 1_u16..=64, step in 1_u32..1000, views in 1_u8..=10, seed: u64) {
            let mut random = Stream::new(seed, "clip");
            let mut all = strided(n, frames, rate(step), views);
            all.push(uniform(n, frames));
            all.push(uniform_training(n, frames, &mut random));
            all.push(strided_training(n, frames, rate(step), &mut random));
            for indices in all {
                prop_assert_eq!(indices.len(), usize::from(frames));
                prop_assert!(indices.iter().all(|&index| index < n));
                prop_assert!(indices.is_sorted());
            }
        }
    }
}
