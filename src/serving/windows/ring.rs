//! Frames of a video or a live stream that later windows may need: pure.
//!
//! Invariant: frames are in ascending order, and a window's pictures are those frames themselves, never copies.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Kept, Pictures};
use crate::serving::SampledFrame;
use crate::video::Frame;

/// The latest frames, the oldest first.
#[derive(Debug)]
pub(in crate::serving) struct Ring {
    frames: VecDeque<Held>,
    /// Whether the windows have the engine keep tokens of frames.
    keeps: bool,
}

/// A frame, and where the tokens of each view are kept.
#[derive(Debug)]
struct Held {
    frame: Frame,
    kept: Vec<Kept>,
}

/// Pictures of one window in each view, and when they are shown.
#[derive(Debug)]
pub(in crate::serving) struct Window {
    /// Pictures of the window in each view of the ring's frames.
    pub(in crate::serving) views: Vec<Pictures>,
    /// The frames of the window.
    pub(in crate::serving) frames: Vec<SampledFrame>,
}

impl Ring {
    /// Creates an empty ring; `keeps` says whether the engine is to keep tokens of frames from one window to the next.
    pub(in crate::serving) fn new(keeps: bool) -> Self {
        let frames = VecDeque::new();
        Self { frames, keeps }
    }

    /// Adds the next frame; one that is not later than the last is left out. Returns whether it was added.
    pub(in crate::serving) fn push(&mut self, frame: Frame) -> bool {
        let is_next = self.last().is_none_or(|last| last < frame.index);
        if is_next {
            let views = frame.views.iter().filter(|_| self.keeps);
            let kept = views.map(|_| Kept::default()).collect();
            self.frames.push_back(Held { frame, kept });
        }
        is_next
    }

    /// Returns the index of the latest frame.
    pub(in crate::serving) fn last(&self) -> Option<u32> {
        self.frames.back().map(|own| own.frame.index)
    }

    /// Lets the frames before an index go.
    pub(in crate::serving) fn release_before(&mut self, index: u32) {
        let gone = self.frames.partition_point(|own| own.frame.index < index);
        self.frames.drain(..gone);
    }

    /// Returns the window of the frames with these indices; `None` when one of them is not there.
    pub(in crate::serving) fn window(
        &self,
        indices: impl IntoIterator<Item = u32>,
    ) -> Option<Window> {
        let frame = |index| {
            let place = self
                .frames
                .binary_search_by_key(&index, |own| own.frame.index);
            place.ok().map(|place| &self.frames[place])
        };
        let frames: Vec<&Held> = indices.into_iter().map(frame).collect::<Option<_>>()?;
        let count = frames.iter().map(|own| own.frame.views.len()).min()?;
        let view = |view: usize| {
            let planes = frames.iter().map(|own| Arc::clone(&own.frame.views[view]));
            match self.keeps {
                true => planes
                    .zip(frames.iter().map(|own| own.kept[view].clone()))
                    .collect(),
                false => Pictures::from(planes.collect::<Vec<_>>()),
            }
        };
        Some(Window {
            views: (0..count).map(view).collect(),
            frames: (frames.iter())
                .map(|Held { frame, .. }| SampledFrame {
                    index: frame.index,
                    time: frame.time,
                })
                .collect(),
        })
    }
}

impl Window {
    /// Returns the time from the first frame of the video to that of the window.
    pub(in crate::serving) fn start(&self) -> Duration {
        self.frames
            .first()
            .map_or(Duration::ZERO, |frame| frame.time)
    }

    /// Returns the time from the first frame of the video to the last of the window.
    pub(in crate::serving) fn end(&self) -> Duration {
        self.frames
            .last()
            .map_or(Duration::ZERO, |frame| frame.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(index: u32) -> Frame {
        Frame {
            index,
            time: Duration::from_millis(u64::from(index) * 40),
            views: vec![vec![0.0; 12].into(), vec![1.0; 12].into()],
        }
    }

    #[test]
    fn windows_share_the_frames_of_the_ring() {
        let mut ring = Ring::new(true);
        assert!(
            [0, 2, 4, 6]
                .into_iter()
                .all(|index| ring.push(frame(index)))
        );
        assert!(!ring.push(frame(6)) && !ring.push(frame(3)));
        assert_eq!(ring.frames.len(), 4);
        let (one, next) = (
            ring.window([0, 2, 4]).unwrap(),
            ring.window([2, 4, 6]).unwrap(),
        );
        assert_eq!((one.views.len(), one.frames.len()), (2, 3));
        for view in 0..2 {
            let (one, next) = (one.views[view].buffers(), next.views[view].buffers());
            assert!(Arc::ptr_eq(&one[1], &next[0]));
            assert!(!Arc::ptr_eq(&one[0], &next[0]));
        }
        assert_eq!(next.start(), Duration::from_millis(80));
        assert_eq!(next.end(), Duration::from_millis(240));
        assert!(ring.window([1, 2]).is_none());
        ring.release_before(3);
        assert!(ring.window([2, 4]).is_none());
        assert_eq!((ring.frames.len(), ring.last()), (2, Some(6)));
    }
}
