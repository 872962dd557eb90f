//! The views of the frames that windows of a stream need, and the clips that are made of them.
//!
//! Invariant: a frame is transformed once, whatever the number of windows and tasks that show it, and all of them hold the same copy of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::lines::Lines;
use crate::engine::{Kept, Pictures};
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
    frames: VecDeque<Held>,
    most: usize,
    /// Whether the windows have the engine keep tokens of frames.
    keeps: bool,
}

/// A frame, and where the tokens of each view are kept.
#[derive(Debug)]
struct Held {
    seen: Seen,
    kept: Vec<Kept>,
}

/// The clip of one line in a window.
#[derive(Debug)]
pub(super) struct Picked {
    /// Pictures of each view: the frames of the ring.
    pub(super) views: Vec<Pictures>,
    /// What was shown.
    pub(super) frames: Vec<SampledFrame>,
}

impl Ring {
    /// Creates a ring of at most this many frames; `keeps` says whether the engine is to keep their tokens from one window to the next.
    pub(super) fn new(most: u64, keeps: bool) -> Self {
        Self {
            frames: VecDeque::new(),
            most: usize::try_from(most).unwrap_or(usize::MAX).max(1),
            keeps,
        }
    }

    /// Adds the newest frame.
    pub(super) fn push(&mut self, seen: Seen) {
        if self.frames.len() >= self.most {
            self.frames.pop_front();
        }
        let views = seen.views.iter().filter(|_| self.keeps);
        let kept = views.map(|_| Kept::default()).collect();
        self.frames.push_back(Held { seen, kept });
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
    }

    /// Forgets the frames that no later window shows, but the newest. `is_due` says whether one shows anything between two ticks; without a first one, from the
    /// earliest on.
    pub(super) fn keep(&mut self, is_due: impl Fn(Option<i64>, i64) -> bool) {
        let ticks: Vec<i64> = self.frames.iter().map(|own| own.seen.tick).collect();
        // Of two frames that are as near the earlier one is shown.
        let middle = |one: i64, next: i64| one + (next - one) / 2;
        let mut place = 0_usize;
        self.frames.retain(|frame| {
            let before = place.checked_sub(1).and_then(|before| ticks.get(before));
            let tick = frame.seen.tick;
            let from = before.map(|&before| middle(before, tick) + 1);
            let next = ticks.get(place + 1);
            place += 1;
            next.is_none_or(|&next| is_due(from, middle(tick, next)))
        });
    }

    /// The frame that is nearest to a tick, the earlier of two.
    fn nearest(&self, due: i64) -> Option<&Held> {
        let after = self.frames.partition_point(|own| own.seen.tick < due);
        let before = after
            .checked_sub(1)
            .and_then(|place| self.frames.get(place));
        match (before, self.frames.get(after)) {
            (Some(before), Some(after)) => {
                let is_nearer = after.seen.tick - due < due - before.seen.tick;
                Some(if is_nearer { after } else { before })
            }
            (one, other) => one.or(other),
        }
    }

    /// The frames that each line's clips show in a window that ends at a tick; `None` when no frame is there.
    pub(super) fn pick(&self, lines: &Lines, end: i64) -> Option<Vec<Picked>> {
        let of_line = |clips: &super::lines::Clips| {
            let shown: Vec<&Held> = (clips.line.dues(end))
                .map(|due| self.nearest(due))
                .collect::<Option<_>>()?;
            let view = |&place: &usize| -> Option<Pictures> {
                let planes = shown.iter().map(|own| own.seen.views.get(place).cloned());
                if !self.keeps {
                    return planes.collect::<Option<Vec<_>>>().map(Pictures::from);
                }
                let kept = shown.iter().map(|own| own.kept.get(place).cloned());
                planes
                    .zip(kept)
                    .map(|(one, other)| one.zip(other))
                    .collect()
            };
            let frame = |own: &&Held| SampledFrame {
                index: u32::try_from(own.seen.number).unwrap_or(u32::MAX),
                time: own.seen.time,
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

#[cfg(test)]
mod tests {
    use super::super::Pace;
    use super::*;
    use crate::spec::{ClipSampling, Sampling};

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
            sampling: Sampling::Strided(3.try_into().unwrap()),
            ..ClipSampling::uniform(2.try_into().unwrap())
        };
        let pace = Pace::Frames {
            step: None,
            stride: 1,
        };
        Lines::of(&[sampling], pace).unwrap()
    }

    #[test]
    fn windows_hold_the_frames_of_the_ring_and_no_copies() {
        let mut ring = Ring::new(5, true);
        for tick in [1, 2, 4] {
            ring.push(seen(tick));
        }
        let picked = ring.pick(&lines(), 4).unwrap();
        let [view] = &picked[0].views[..] else {
            panic!("one view");
        };
        let own: Vec<&Arc<[f32]>> = (ring.frames.iter())
            .filter(|own| own.seen.tick != 2)
            .map(|own| &own.seen.views[0])
            .collect();
        let shared = view.buffers().iter().zip(&own);
        assert_eq!(view.buffers().len(), 2);
        assert!(shared.into_iter().all(|(one, own)| Arc::ptr_eq(one, own)));
        let shown: Vec<u32> = picked[0].frames.iter().map(|frame| frame.index).collect();
        assert_eq!(shown, [1, 4]);
    }

    #[test]
    fn a_frame_that_is_missing_is_stood_in_for_by_the_nearest() {
        let mut ring = Ring::new(5, true);
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
        let mut ring = Ring::new(4, false);
        for tick in [1, 3, 5, 9] {
            ring.push(seen(tick));
        }
        // Later windows show something at 4, to which 3 is as near as 5, and at 12.
        let is_due = |from: Option<i64>, to: i64| {
            let from = from.unwrap_or(4);
            [4, 12].iter().any(|due| (from..=to).contains(due))
        };
        ring.keep(is_due);
        let left: Vec<i64> = ring.frames.iter().map(|own| own.seen.tick).collect();
        assert_eq!(left, [3, 9]);
        for tick in 10..20 {
            ring.push(seen(tick));
        }
        assert_eq!(ring.frames.len(), 4);
    }
}
