//! Frames of a stream that wait to be looked at, in bounded room.
//!
//! Invariant: neither the frames nor their bytes exceed the room; what is left out follows from the policy alone.

use std::collections::VecDeque;

use super::{Coming, Policy};

/// Frames that wait, the oldest first.
#[derive(Debug)]
pub(super) struct Pending {
    frames: VecDeque<Coming>,
    bytes: usize,
    most_frames: usize,
    most_bytes: usize,
    policy: Policy,
}

impl Pending {
    /// Creates a queue for this many frames and bytes; two frames of the largest size always fit.
    pub(super) fn new(most_frames: usize, most_bytes: usize, policy: Policy) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            most_frames,
            most_bytes,
            policy,
        }
    }

    /// Whether another frame of this many bytes fits.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.frames.len() < self.most_frames && self.bytes + bytes <= self.most_bytes
    }

    /// Adds the newest frame. Returns how many others made room for it.
    pub(super) fn push(&mut self, frame: Coming) -> u64 {
        let mut dropped = 0;
        while !self.fits(frame.bytes.len()) && !self.frames.is_empty() {
            match self.policy {
                Policy::SkipToLive => {
                    dropped += self.frames.len() as u64;
                    self.frames.clear();
                    self.bytes = 0;
                }
                // The reader checks whether a frame fits before it reads the next one.
                Policy::DropOldest | Policy::Wait => {
                    dropped += u64::from(self.pop().is_some());
                }
            }
        }
        self.bytes += frame.bytes.len();
        self.frames.push_back(frame);
        dropped
    }

    /// Takes the oldest frame.
    pub(super) fn pop(&mut self) -> Option<Coming> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.bytes.len();
        Some(frame)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn frame(number: u64, bytes: usize) -> Coming {
        Coming {
            number,
            time: Duration::from_secs(number),
            bytes: vec![0; bytes].into(),
            arrived: Instant::now(),
        }
    }

    /// Numbers that are left of frames of these sizes, and how many were dropped.
    fn left(policy: Policy, sizes: &[usize]) -> (Vec<u64>, u64) {
        let mut pending = Pending::new(4, 100, policy);
        let mut dropped = 0;
        for (number, &bytes) in (0..).zip(sizes) {
            dropped += pending.push(frame(number, bytes));
            assert!(pending.bytes <= 100 && pending.frames.len() <= 4);
        }
        let rest = std::iter::from_fn(|| pending.pop()).map(|frame| frame.number);
        (rest.collect(), dropped)
    }

    #[test]
    fn the_oldest_frame_makes_room_or_all_but_the_newest_do() {
        let sizes = [10; 6];
        assert_eq!(left(Policy::DropOldest, &sizes), (vec![2, 3, 4, 5], 2));
        assert_eq!(left(Policy::SkipToLive, &sizes), (vec![4, 5], 4));
        // By bytes as by number.
        let sizes = [40, 40, 50, 60];
        assert_eq!(left(Policy::DropOldest, &sizes), (vec![3], 3));
        assert_eq!(left(Policy::SkipToLive, &sizes), (vec![3], 3));
        assert_eq!(left(Policy::DropOldest, &[50, 50]), (vec![0, 1], 0));
    }
}
