//! The views of the frames that windows of a stream need, and the clips that are made of them.
//!
//! Invariant: a frame is transformed once, whatever the number of windows and tasks that show it; a clip's planes have the bits that the frames of a
//! video would give them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::lines::Lines;
use crate::serving::SampledFrame;

/// A frame that was looked at.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Tick of the frame.
    pub(super) tick: i64,
    /// Number of the frame among all that came.
    pub(super) number: u64,
    /// Time of the frame.
    pub(super) time: Duration,
    /// Planes of each view, [3, S, S].
    pub(super) views: Vec<Arc<[f32]>>,
}

/// Frames in the order of their ticks.
#[derive(Debug)]
pub(super) struct Ring {
    frames: VecDeque<Seen>,
    most: usize,
}

/// The frames that a clip of one line shows, from which its planes are still to be made.
#[derive(Debug)]
pub(super) struct Picked {
    /// Per view the planes of each frame, [T].
    views: Vec<Vec<Arc<[f32]>>>,
    /// What was shown.
    pub(super) frames: Vec<SampledFrame>,
}

impl Ring {
    /// Creates a ring of at most this many frames.
    pub(super) fn new(most: u64) -> Self {
        Self {
            frames: VecDeque::new(),
            most: usize::try_from(most).unwrap_or(usize::MAX).max(1),
        }
    }

    /// Adds the newest frame.
    pub(super) fn push(&mut self, frame: Seen) {
        if self.frames.len() >= self.most {
            self.frames.pop_front();
        }
        self.frames.push_back(frame);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
    }

    /// Forgets the frames that no later window shows, but the newest. `is_due` says whether one shows anything between two ticks; without a first one, from the
    /// earliest on.
    pub(super) fn keep(&mut self, is_due: impl Fn(Option<i64>, i64) -> bool) {
        let ticks: Vec<i64> = self.frames.iter().map(|frame| frame.tick).collect();
        // Of two frames that are as near the earlier one is shown.
        let middle = |one: i64, next: i64| one + (next - one) / 2;
        let mut place = 0_usize;
        self.frames.retain(|frame| {
            let before = place.checked_sub(1).and_then(|before| ticks.get(before));
            let from = before.map(|&before| middle(before, frame.tick) + 1);
            let next = ticks.get(place + 1);
            place += 1;
            next.is_none_or(|&next| is_due(from, middle(frame.tick, next)))
        });
    }

    /// The frame that is nearest to a tick, the earlier of two.
    fn nearest(&self, due: i64) -> Option<&Seen> {
        let after = self.frames.partition_point(|frame| frame.tick < due);
        let before = after
            .checked_sub(1)
            .and_then(|place| self.frames.get(place));
        match (before, self.frames.get(after)) {
            (Some(before), Some(after)) => {
                let is_nearer = after.tick - due < due - before.tick;
                Some(if is_nearer { after } else { before })
            }
            (one, other) => one.or(other),
        }
    }

    /// The frames that each line's clips show in a window that ends at a tick; `None` when no frame is there.
    pub(super) fn pick(&self, lines: &Lines, end: i64) -> Option<Vec<Picked>> {
        let of_line = |clips: &super::lines::Clips| {
            let shown: Vec<&Seen> = (clips.line.dues(end))
                .map(|due| self.nearest(due))
                .collect::<Option<_>>()?;
            let view = |&place: &usize| -> Option<Vec<Arc<[f32]>>> {
                let planes = shown.iter().map(|frame| frame.views.get(place).cloned());
                planes.collect()
            };
            let frame = |frame: &&Seen| SampledFrame {
                index: u32::try_from(frame.number).unwrap_or(u32::MAX),
                time: frame.time,
            };
            Some(Picked {
                views: lines
                    .views_of(*clips)
                    .iter()
                    .map(view)
                    .collect::<Option<_>>()?,
                frames: shown.iter().map(frame).collect(),
            })
        };
        lines.distinct.iter().map(of_line).collect()
    }
}

impl Picked {
    /// The planes `[3, T, S, S]` of each view.
    pub(super) fn planes(&self) -> Vec<Arc<[f32]>> {
        let clip = |frames: &Vec<Arc<[f32]>>| {
            let plane = frames.first().map_or(0, |frame| frame.len() / 3);
            let mut values = Vec::with_capacity(3 * plane * frames.len());
            for channel in 0..3 {
                for frame in frames {
                    values.extend_from_slice(&frame[channel * plane..(channel + 1) * plane]);
                }
            }
            values.into()
        };
        self.views.iter().map(clip).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pace;
    use super::*;
    use crate::spec::{ClipSampling, FrameOrder, RotationPolicy, Sampling, SpatialViews};

    /// A frame whose values say its tick and channel.
    fn seen(tick: i64) -> Seen {
        let values: Vec<f32> = (0..12).map(|at| (tick * 10 + at / 4) as f32).collect();
        Seen {
            tick,
            number: tick.unsigned_abs(),
            time: Duration::from_secs(tick.unsigned_abs()),
            views: vec![values.into()],
        }
    }

    fn lines() -> Lines {
        let sampling = ClipSampling {
            num_frames: 2.try_into().unwrap(),
            sampling: Sampling::Strided(3.try_into().unwrap()),
            temporal_views: 1.try_into().unwrap(),
            spatial_views: SpatialViews::Center,
            rotation: RotationPolicy::Display,
            order: FrameOrder::Display,
        };
        let pace = Pace::Frames {
            step: None,
            stride: 1,
        };
        Lines::of(&[sampling], pace).unwrap()
    }

    #[test]
    fn a_clip_has_each_channel_of_its_frames_in_turn() {
        let mut ring = Ring::new(5);
        for tick in [1, 2, 4] {
            ring.push(seen(tick));
        }
        let picked = ring.pick(&lines(), 4).unwrap();
        let planes = picked[0].planes();
        let expected: Vec<f32> = [10, 40, 11, 41, 12, 42]
            .iter()
            .flat_map(|&value| [value as f32; 4])
            .collect();
        assert_eq!(planes.len(), 1);
        assert_eq!(&planes[0][..], &expected[..]);
        let shown: Vec<u32> = picked[0].frames.iter().map(|frame| frame.index).collect();
        assert_eq!(shown, [1, 4]);
    }

    #[test]
    fn a_frame_that_is_missing_is_stood_in_for_by_the_nearest() {
        let mut ring = Ring::new(5);
        assert!(ring.pick(&lines(), 9).is_none());
        for tick in [2, 5, 9] {
            ring.push(seen(tick));
        }
        let shown = |end| ring.pick(&lines(), end).unwrap()[0].frames.clone();
        // Due at 4 and 7: 5 is nearer to 4, and of 5 and 9 the earlier is shown at 7.
        let indices: Vec<u32> = shown(7).iter().map(|frame| frame.index).collect();
        assert_eq!(indices, [5, 5]);
    }

    #[test]
    fn what_no_window_shows_any_more_is_forgotten() {
        let mut ring = Ring::new(4);
        for tick in [1, 3, 5, 9] {
            ring.push(seen(tick));
        }
        // Later windows show something at 4, to which 3 is as near as 5, and at 12.
        let is_due = |from: Option<i64>, to: i64| {
            let from = from.unwrap_or(4);
            [4, 12].iter().any(|due| (from..=to).contains(due))
        };
        ring.keep(is_due);
        let left: Vec<i64> = ring.frames.iter().map(|frame| frame.tick).collect();
        assert_eq!(left, [3, 9]);
        for tick in 10..20 {
            ring.push(seen(tick));
        }
        assert_eq!(ring.frames.len(), 4);
    }
}
