//! Frames of a video with which windows begin: pure.
//!
//! Invariant: the answer is the same whether every frame is seen or only those with which windows begin.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::Error;

/// Shortest and longest time from one window to the next.
const MIN_STRIDE: Duration = Duration::from_millis(1);
const MAX_STRIDE: Duration = Duration::from_secs(3 * 3600);

/// Distance from the first frame of a window to that of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stride {
    /// So many frames.
    Frames(NonZeroU32),
    /// So much time: window k begins with the first frame at or after k strides, and windows that would begin with the same frame are one.
    Time(Duration),
}

impl Stride {
    /// Checks that the stride is in range.
    pub(super) fn validate(self) -> Result<(), Error> {
        match self {
            Self::Time(time) if !(MIN_STRIDE..=MAX_STRIDE).contains(&time) => {
                let problem = format!("expected {MIN_STRIDE:?} to {MAX_STRIDE:?}, got {time:?}");
                Err(invalid("stride", problem))
            }
            Self::Time(_) | Self::Frames(_) => Ok(()),
        }
    }
}

pub(super) fn invalid(field: &'static str, problem: impl Into<String>) -> Error {
    Error::InvalidRequest {
        field,
        problem: problem.into(),
    }
}

/// Where the next window begins.
#[derive(Debug, Clone, Copy)]
enum Next {
    Index(u32),
    Time(Duration),
}

/// Finds the frames with which windows begin among frames that come in order.
#[derive(Debug, Clone)]
pub struct Steps {
    stride: Stride,
    start: Duration,
    next: Option<Next>,
}

impl Steps {
    /// Windows of this stride from the time `start` on.
    pub fn new(stride: Stride, start: Duration) -> Self {
        Self {
            stride,
            start,
            next: None,
        }
    }

    /// Returns whether a window begins with the next frame.
    pub fn begins(&mut self, index: u32, time: Duration) -> bool {
        let begins = time >= self.start
            && match self.next {
                None => true,
                Some(Next::Index(next)) => index >= next,
                Some(Next::Time(next)) => time >= next,
            };
        if begins {
            self.next = Some(match self.stride {
                Stride::Frames(frames) => Next::Index(index.saturating_add(frames.get())),
                Stride::Time(stride) => Next::Time(self.after(time, stride)),
            });
        }
        begins
    }

    /// The first multiple of the stride after a time.
    fn after(&self, time: Duration, stride: Duration) -> Duration {
        let (since, stride) = ((time - self.start).as_nanos(), stride.as_nanos().max(1));
        let next = (since / stride + 1).saturating_mul(stride);
        let next = u64::try_from(next).unwrap_or(u64::MAX);
        self.start.saturating_add(Duration::from_nanos(next))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The frames with which windows begin, among these.
    fn begins(stride: Stride, frames: &[(u32, Duration)]) -> Vec<(u32, Duration)> {
        let mut steps = Steps::new(stride, Duration::from_millis(100));
        let frames = frames.iter().copied();
        let found = frames.filter(|&(index, time)| steps.begins(index, time));
        found.collect()
    }

    proptest! {
        #[test]
        fn who_sees_only_the_first_frames_of_windows_finds_the_same_ones(
            times in prop::collection::vec(0_u64..50, 1..80),
            stride in 1_u32..60,
            is_timed: bool,
            skipped in 0_usize..4,
        ) {
            let mut now = 0;
            let frames: Vec<(u32, Duration)> = (0..)
                .zip(&times)
                .map(|(index, step)| {
                    now += step;
                    (index, Duration::from_millis(now))
                })
                .collect();
            let stride = match is_timed {
                true => Stride::Time(Duration::from_millis(stride.into())),
                false => Stride::Frames(NonZeroU32::new(stride).unwrap()),
            };
            let all = begins(stride, &frames);
            prop_assert_eq!(&begins(stride, &all), &all);
            // One who goes on after some of them finds the rest.
            let rest = all.get(skipped..).unwrap_or_default();
            prop_assert_eq!(&begins(stride, rest), rest);
            let ascending = all.windows(2).all(|pair| pair[0].0 < pair[1].0);
            prop_assert!(ascending);
            let first = frames.iter().find(|(_, time)| time.as_millis() >= 100);
            prop_assert_eq!(all.first(), first);
        }
    }
}
