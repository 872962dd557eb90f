//! The windows of a group of tasks: which begin, and which have all their frames.
//!
//! Invariant: windows come in the order in which they begin, each once.

use std::collections::VecDeque;
use std::iter;

use super::plan::Group;
use super::ring::{Ring, Window};

/// A window whose frames are there.
pub(super) struct Due {
    pub(super) group: usize,
    pub(super) shown: Window,
}

/// The windows of one group of tasks.
pub(super) struct Sliding {
    pub(super) group: Group,
    /// First frames of windows whose last frames have not come.
    begun: VecDeque<u32>,
    windows: u64,
}

impl Sliding {
    pub(super) fn new(group: Group) -> Self {
        Self {
            group,
            begun: VecDeque::new(),
            windows: 0,
        }
    }

    /// Begins a window with a frame.
    pub(super) fn begin(&mut self, index: u32) {
        self.begun.push_back(index);
    }

    /// The first frame that a window needs whose last one has not come.
    pub(super) fn first(&self) -> Option<u32> {
        self.begun.front().copied()
    }

    /// The windows that end with a frame or before, but for those whose frames the ring does not have.
    pub(super) fn up_to(&mut self, last: u32, ring: &Ring) -> impl Iterator<Item = Window> {
        let (step, reach) = (self.group.step, self.group.reach);
        let count = self.group.readers.frames as u32;
        let ended = iter::from_fn(move || {
            let is_over = |begin: &u32| begin.saturating_add(reach) <= last;
            let begin = self.first().filter(is_over)?;
            self.begun.pop_front();
            self.windows += 1;
            Some(begin)
        });
        ended.filter_map(move |begin| ring.window((0..count).map(|frame| begin + frame * step)))
    }

    /// The only window of a video that is shorter than a window: its last frame stands for those that are missing.
    pub(super) fn padded(&self, ring: &Ring) -> Option<Window> {
        let last = ring.last()?;
        let begin = self.first().filter(|_| self.windows == 0)?;
        let (step, count) = (self.group.step, self.group.readers.frames as u32);
        ring.window((0..count).map(|frame| begin.saturating_add(frame * step).min(last)))
    }
}
