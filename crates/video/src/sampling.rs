//! From a number of frames, or their times, to the indices of a clip's frames; by number as the reference chooses them (ST-Adapter's `video_dataset`). Pure.
//!
//! Invariant: every index is below the number of frames, which is at least 1 (0 is taken as 1).

use std::num::NonZeroU32;
use std::time::Duration;

use super::answer::Ratio;
use super::request::{Sampling, StridedPart, Windows};
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

/// Those of [`strided`]'s views that a part of them names.
fn strided_part(n: u32, frames: u16, part: StridedPart, views: u8) -> Vec<Vec<u32>> {
    let all = strided(n, frames, part.rate, part.of.get());
    let views = all.into_iter().skip(part.first.into()).take(views.into());
    views.collect()
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

/// A time stamp that is a time: a frame may come without one, which is the smallest number.
pub fn time_stamp(pts: i64) -> Option<i64> {
    (pts != i64::MIN).then_some(pts)
}

/// Those of ascending time stamps that are times.
pub(super) fn known(pts: &[i64]) -> &[i64] {
    &pts[pts.partition_point(|&pts| time_stamp(pts).is_none())..]
}

/// Time from the first frame to one with this time stamp; none for one without.
pub(super) fn time_since(pts: i64, first: i64, time_base: Ratio) -> Duration {
    let since = pts.saturating_sub(first).max(0) as f64;
    Duration::try_from_secs_f64(since * time_base.value()).unwrap_or_default()
}

/// When the frames of a video are shown.
#[derive(Debug, Clone, Copy)]
pub struct Timeline<'a> {
    /// Time stamps of the frames, ascending; at least one.
    pub pts: &'a [i64],
    /// Seconds per unit of time stamps.
    pub time_base: Ratio,
}

impl Timeline<'_> {
    /// Frames without a time stamp (they come first), and the time stamps of the others relative to the first of these.
    fn relative(&self) -> (usize, i64, &[i64]) {
        let known = known(self.pts);
        let unknown = self.pts.len() - known.len();
        (unknown, known.first().copied().unwrap_or(0), known)
    }

    /// The last frame that is shown at or before a time after the first: `time.0 / time.1` units.
    fn at(&self, time: (i128, i128)) -> u32 {
        let (unknown, first, known) = self.relative();
        let shown = known.partition_point(|&pts| {
            let since = i128::from(pts) - i128::from(first);
            since.saturating_mul(time.1) <= time.0
        });
        (unknown + shown).saturating_sub(1) as u32
    }

    /// From the first time stamp to the last.
    fn length(&self) -> i128 {
        let (_, first, known) = self.relative();
        known
            .last()
            .map_or(0, |&last| i128::from(last) - i128::from(first))
    }
}

/// Indices of `frames` frames at `rate` a second, per temporal view, as [`strided`] would take them from a video of that rate.
pub fn by_rate(timeline: &Timeline<'_>, frames: u16, rate: Ratio, views: u8) -> Vec<Vec<u32>> {
    // Moment k is k · unit.0 / unit.1 units of time after the first frame.
    let base = timeline.time_base;
    let unit = (
        i128::from(rate.denominator) * i128::from(base.denominator),
        i128::from(rate.numerator) * i128::from(base.numerator),
    );
    let moments = if unit.0 > 0 && unit.1 > 0 {
        timeline.length().saturating_mul(unit.1) / unit.0 + 1
    } else {
        1
    };
    let moments = u32::try_from(moments).unwrap_or(u32::MAX);
    let mut views = strided(moments, frames, NonZeroU32::MIN, views);
    for moment in views.iter_mut().flatten() {
        *moment = timeline.at((i128::from(*moment) * unit.0, unit.1));
    }
    views
}

/// Indices of `frames` frames spread over each of `count` windows.
///
/// # Errors
/// The number of windows that begin inside the video, when not all of the wanted ones do.
pub fn by_window(
    timeline: &Timeline<'_>,
    frames: u16,
    windows: &Windows,
    count: u8,
) -> Result<Vec<Vec<u32>>, u32> {
    const NANOSECONDS: i128 = 1_000_000_000;
    let nanoseconds = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
    let (length, stride) = (nanoseconds(windows.length), nanoseconds(windows.stride));
    // So many nanoseconds are `scale.0` / `scale.1` units of time each.
    let base = timeline.time_base;
    let scale = (
        i128::from(base.denominator),
        i128::from(base.numerator) * NANOSECONDS,
    );
    let whole = if scale.0 > 0 {
        timeline.length().saturating_mul(scale.1) / scale.0
    } else {
        0
    };
    // More than 32 bits can count is no less a number of windows.
    let total = whole / stride.max(1) + 1;
    let wanted = i128::from(windows.first)..i128::from(windows.first) + i128::from(count);
    if wanted.end > total {
        return Err(u32::try_from(total).unwrap_or(u32::MAX));
    }
    let (unknown, first, known) = timeline.relative();
    let before = |time: i128| {
        let shown = known.partition_point(|&pts| {
            let since = i128::from(pts) - i128::from(first);
            since.saturating_mul(scale.1) < time.saturating_mul(scale.0)
        });
        (unknown + shown) as u32
    };
    Ok(wanted
        .map(|window| {
            let start = stride.saturating_mul(window);
            let (low, high) = (before(start), before(start.saturating_add(length)));
            if low < high {
                let inside = uniform(high - low, frames);
                inside.iter().map(|index| low + index).collect()
            } else {
                vec![low.saturating_sub(1); frames.into()]
            }
        })
        .collect())
}

/// What a request asks for is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfRange {
    /// The first index, or window, that is not there.
    pub(super) index: u32,
    /// How many there are.
    pub(super) count: u32,
}

/// The indices that a request selects, temporal views one after the other.
pub(super) fn select(
    sampling: &Sampling,
    timeline: &Timeline<'_>,
    frames: u16,
    temporal_views: u8,
) -> Result<Vec<u32>, OutOfRange> {
    match sampling {
        Sampling::Fps(rate) => Ok(by_rate(timeline, frames, *rate, temporal_views).concat()),
        Sampling::Windows(windows) => by_window(timeline, frames, windows, temporal_views)
            .map(|views| views.concat())
            .map_err(|count| OutOfRange {
                index: windows.first.max(count),
                count,
            }),
        Sampling::Uniform
        | Sampling::Strided(_)
        | Sampling::StridedPart(_)
        | Sampling::Indices(_) => {
            let n = timeline.pts.len() as u32;
            select_by_count(sampling, n, frames, temporal_views).unwrap_or_else(|| Ok(Vec::new()))
        }
    }
}

/// The indices that a request selects from `n` frames; `None` when they depend on the frames' times.
pub(super) fn select_by_count(
    sampling: &Sampling,
    n: u32,
    frames: u16,
    temporal_views: u8,
) -> Option<Result<Vec<u32>, OutOfRange>> {
    Some(match sampling {
        Sampling::Uniform => Ok(uniform(n, frames)),
        Sampling::Strided(rate) => Ok(strided(n, frames, *rate, temporal_views).concat()),
        Sampling::StridedPart(part) => Ok(strided_part(n, frames, *part, temporal_views).concat()),
        Sampling::Indices(indices) => match indices.iter().find(|&&index| index >= n) {
            Some(&index) => Err(OutOfRange { index, count: n }),
            None => Ok(indices.clone()),
        },
        Sampling::Fps(_) | Sampling::Windows(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

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
    fn parts_of_strided_views_are_the_whole() {
        for n in [1, 7, 40, 300] {
            let of = NonZeroU8::new(10).unwrap();
            let rate = rate(4);
            let part = |first, views| strided_part(n, 8, StridedPart { rate, of, first }, views);
            let parts = [part(0, 4), part(4, 4), part(8, 2)].concat();
            assert_eq!(parts, strided(n, 8, rate, 10), "{n} frames");
        }
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

    const THIRTY: Ratio = Ratio {
        numerator: 30,
        denominator: 1,
    };
    const MILLISECONDS: Ratio = Ratio {
        numerator: 1,
        denominator: 1000,
    };

    fn milliseconds(pts: &[i64]) -> Timeline<'_> {
        Timeline {
            pts,
            time_base: MILLISECONDS,
        }
    }

    fn windows(length: u64, stride: u64, first: u32) -> Windows {
        Windows {
            length: Duration::from_millis(length),
            stride: Duration::from_millis(stride),
            first,
        }
    }

    #[test]
    fn by_its_own_rate_a_video_gives_the_same_frames_as_by_index() {
        let pts: Vec<i64> = (0..90).map(|i| 5000 + i * 512).collect();
        let timeline = Timeline {
            pts: &pts,
            time_base: Ratio {
                numerator: 1,
                denominator: 15360,
            },
        };
        assert_eq!(
            by_rate(&timeline, 16, THIRTY, 3),
            strided(90, 16, rate(1), 3)
        );
        let half = Ratio {
            numerator: 15,
            denominator: 1,
        };
        assert_eq!(by_rate(&timeline, 3, half, 1), [[42, 44, 46]]);
    }

    #[test]
    fn a_moment_shows_the_frame_that_a_player_shows_then() {
        // A long pause after 100 ms.
        let timeline = milliseconds(&[0, 50, 100, 900, 950, 1000]);
        let ten = Ratio {
            numerator: 10,
            denominator: 1,
        };
        assert_eq!(
            by_rate(&timeline, 11, ten, 1),
            [[0, 2, 2, 2, 2, 2, 2, 2, 2, 3, 5]]
        );
        let unknown = Timeline {
            pts: &[i64::MIN],
            time_base: MILLISECONDS,
        };
        assert_eq!(by_rate(&unknown, 2, ten, 1), [[0, 0]]);
    }

    #[test]
    fn windows_hold_the_frames_that_begin_inside() {
        let pts: Vec<i64> = (0..100).map(|i| 7 + i * 40).collect();
        let timeline = milliseconds(&pts);
        let found = by_window(&timeline, 4, &windows(1000, 500, 1), 2).unwrap();
        let inside = |low: u32, n| {
            uniform(n, 4)
                .iter()
                .map(|index| low + index)
                .collect::<Vec<_>>()
        };
        assert_eq!(found, [inside(13, 25), inside(25, 25)]);
        // The last frame begins 3.96 s after the first.
        assert!(by_window(&timeline, 4, &windows(1000, 500, 7), 1).is_ok());
        assert_eq!(by_window(&timeline, 4, &windows(1000, 500, 7), 2), Err(8));
        let pause = milliseconds(&[0, 40, 5000]);
        assert_eq!(
            by_window(&pause, 2, &windows(500, 1000, 2), 1),
            Ok(vec![vec![1, 1]])
        );
        // More windows than 32 bits can number.
        let endless = Timeline {
            pts: &[0, i64::MAX],
            time_base: Ratio {
                numerator: i32::MAX,
                denominator: 1,
            },
        };
        let last = windows(1000, 1000, u32::MAX);
        assert_eq!(
            by_window(&endless, 2, &last, 2),
            Ok(vec![vec![0, 0], vec![0, 0]])
        );
    }

    proptest! {
        #[test]
        fn times_give_indices_of_frames_in_order(
            steps in prop::collection::vec(1_i64..1_000_000, 0..60),
            start: i64,
            base in (1_i32..=i32::MAX, 1_i32..=i32::MAX),
            fps in (1_i32..=i32::MAX, 1_i32..=i32::MAX),
            length in 1_u64..10_000,
            first in 0_u32..50,
        ) {
            let start = start / 4;
            let pts: Vec<i64> = std::iter::once(start)
                .chain(steps.iter().scan(start, |pts, step| {
                    *pts += step;
                    Some(*pts)
                }))
                .collect();
            let time_base = Ratio { numerator: base.0, denominator: base.1 };
            let timeline = Timeline { pts: &pts, time_base };
            let fps = Ratio { numerator: fps.0, denominator: fps.1 };
            let mut all = by_rate(&timeline, 8, fps, 3);
            all.extend(by_window(&timeline, 8, &windows(length, length, first), 2).unwrap_or_default());
            for indices in all {
                prop_assert_eq!(indices.len(), 8);
                prop_assert!(indices.iter().all(|&index| (index as usize) < pts.len()));
                prop_assert!(indices.is_sorted());
            }
        }

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
