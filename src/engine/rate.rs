//! How fast the device classifies: over the last minute, or at the warm-up as long as nothing has run since: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O. Memory is one slot for each second of a minute.

use std::time::Duration;

/// Seconds that are looked back on.
const WINDOW: usize = 60;

/// Where a rate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The forward pass of one clip of one frame when the engine warmed up.
    WarmUp,
    /// The batches of the last minute.
    LastMinute,
}

/// Clips and frames for each second that the device worked on them. A server that is half idle reaches half of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Clips for each second of the device.
    pub clips: f64,
    /// Frames for each second of the device.
    pub frames: f64,
    /// Where the figures come from.
    pub origin: Origin,
}

/// What ran in one second.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The second, counted from any common beginning.
    second: u64,
    clips: usize,
    frames: usize,
    took: Duration,
}

/// What ran in the last minute.
#[derive(Debug)]
pub(super) struct Rates {
    warm_up: Option<Duration>,
    slots: [Slot; WINDOW],
}

impl Rates {
    pub(super) fn new() -> Self {
        Self {
            warm_up: None,
            slots: [Slot::default(); WINDOW],
        }
    }

    /// Records how long one clip of one frame took at the warm-up.
    pub(super) fn warmed_up(&mut self, took: Duration) {
        self.warm_up = Some(took);
    }

    /// Records a batch that took `took` and ended at `now`, counted from any common beginning.
    pub(super) fn ran(&mut self, (clips, frames): (usize, usize), took: Duration, now: Duration) {
        let second = now.as_secs();
        let place = (second % WINDOW as u64) as usize;
        let Some(slot) = self.slots.get_mut(place) else {
            return;
        };
        if slot.second != second {
            *slot = Slot {
                second,
                ..Slot::default()
            };
        }
        slot.clips += clips;
        slot.frames += frames;
        slot.took += took;
    }

    /// Returns the rate at the time `now`; `None` before the warm-up.
    pub(super) fn rate(&self, now: Duration) -> Option<Rate> {
        let oldest = now.as_secs().saturating_sub(WINDOW as u64 - 1);
        let recent = self.slots.iter().filter(|slot| slot.second >= oldest);
        let (mut clips, mut frames, mut took) = (0, 0, Duration::ZERO);
        for slot in recent {
            clips += slot.clips;
            frames += slot.frames;
            took += slot.took;
        }
        let each = |count: usize, took: Duration| count as f64 / took.as_secs_f64();
        if !took.is_zero() {
            return Some(Rate {
                clips: each(clips, took),
                frames: each(frames, took),
                origin: Origin::LastMinute,
            });
        }
        let took = self.warm_up.filter(|took| !took.is_zero())?;
        Some(Rate {
            clips: each(1, took),
            frames: each(1, took),
            origin: Origin::WarmUp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_warm_up_counts_until_something_ran_and_again_after_a_quiet_minute() {
        let mut rates = Rates::new();
        assert_eq!(rates.rate(at(0)), None);
        rates.warmed_up(Duration::from_millis(20));
        let warm = Rate {
            clips: 50.0,
            frames: 50.0,
            origin: Origin::WarmUp,
        };
        assert_eq!(rates.rate(at(5)), Some(warm));
        rates.ran((4, 32), Duration::from_millis(100), at(10));
        let ran = Rate {
            clips: 40.0,
            frames: 320.0,
            origin: Origin::LastMinute,
        };
        assert_eq!(rates.rate(at(10)), Some(ran));
        assert_eq!(rates.rate(at(69)), Some(ran));
        assert_eq!(rates.rate(at(70)), Some(warm));
    }

    #[test]
    fn only_the_last_minute_counts() {
        let mut rates = Rates::new();
        for second in 0..180 {
            // The device becomes twice as fast after two minutes.
            let took = if second < 120 { 200 } else { 100 };
            rates.ran((1, 8), Duration::from_millis(took), at(second));
        }
        let rate = rates.rate(at(179)).unwrap();
        assert!((rate.clips - 10.0).abs() < 1e-9, "{rate:?}");
        assert!((rate.frames - 80.0).abs() < 1e-9, "{rate:?}");
        let rate = rates.rate(at(149)).unwrap();
        assert!(rate.clips > 5.0, "{rate:?}");
    }
}
