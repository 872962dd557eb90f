//! Limits the size of batches, so that clips that arrive while one runs wait only briefly: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O. The time of a batch is modelled as a fixed part plus a part per frame; the limit keeps their
//! sum within the target, unless the fixed part would then be more than a fifth of the batch's time.

use std::time::Duration;

/// Weight of a batch relative to the next one: about the last ten batches count.
const MEMORY: f64 = 0.9;
/// Lower bound of the frames' time, as a multiple of the fixed part and regardless of the target: a device with a large fixed part keeps four fifths
/// of its throughput.
const WORTH: f64 = 4.0;
/// Smallest spread of batch sizes, relative to their mean, at which the fixed part of a batch's time can be separated from the part per frame, since
/// times are noisy.
const SPREAD: f64 = 0.4;
/// Factor on the fixed part after each batch that did not reveal it. A wrong value fades; a right one is then measured again, because the sizes of
/// batches change.
const FADE: f64 = 0.95;

/// Factor on the least time of a frame with each batch: one that no batch reaches any more fades.
const SLOWER: f64 = 1.01;

/// Least sum of the remembered batches' weights from which their mean says something: four batches.
const KNOWN: f64 = 3.4;

/// Times of past batches, and the target time.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Pace {
    /// Longest time that a batch should take, in seconds.
    target: f64,
    /// Estimated fixed part of a batch's time, in seconds.
    fixed: f64,
    weight: f64,
    frames: f64,
    seconds: f64,
    frames_squared: f64,
    frames_seconds: f64,
    /// Least seconds of a frame in the batches of late; infinite before the first.
    least: f64,
}

impl Pace {
    pub(in crate::engine) fn new(target: Duration) -> Self {
        Self {
            target: target.as_secs_f64(),
            fixed: 0.0,
            weight: 0.0,
            frames: 0.0,
            seconds: 0.0,
            frames_squared: 0.0,
            frames_seconds: 0.0,
            least: f64::INFINITY,
        }
    }

    /// Records that a batch of `frames` frames took `took`.
    pub(in crate::engine) fn ran(&mut self, frames: usize, took: Duration) {
        let (frames, seconds) = (frames as f64, took.as_secs_f64());
        self.least = (seconds / frames.max(1.0)).min(self.least * SLOWER);
        let add = |sum: &mut f64, value: f64| *sum = *sum * MEMORY + value;
        add(&mut self.weight, 1.0);
        add(&mut self.frames, frames);
        add(&mut self.seconds, seconds);
        add(&mut self.frames_squared, frames * frames);
        add(&mut self.frames_seconds, frames * seconds);
        let (frames, seconds) = self.means();
        let variance = self.frames_squared / self.weight - frames * frames;
        if variance > (SPREAD * frames).powi(2) {
            let covariance = self.frames_seconds / self.weight - frames * seconds;
            self.fixed = (seconds - covariance / variance * frames).clamp(0.0, seconds);
        } else {
            self.fixed *= FADE;
        }
    }

    /// Returns the most frames of the next batch; `usize::MAX` before the first batch has run.
    pub(in crate::engine) fn limit(&self) -> usize {
        self.limit_within(1.0)
    }

    /// Same as [`Pace::limit`] for a part of the target.
    pub(in crate::engine) fn limit_within(&self, part: f64) -> usize {
        if self.weight == 0.0 {
            return usize::MAX;
        }
        let (frames, seconds) = self.means();
        let each = (seconds - self.fixed).max(0.0) / frames.max(1.0);
        let own = (self.target * part - self.fixed).max(WORTH * self.fixed);
        // A cast of an infinity or of a value that is too large gives the largest number.
        ((own / each) as usize).max(1)
    }

    /// Mean time of a frame on the device over the last batches; `None` before the fourth.
    pub(in crate::engine) fn frame(&self) -> Option<Duration> {
        if self.weight < KNOWN {
            return None;
        }
        let (frames, seconds) = self.means();
        Duration::try_from_secs_f64(seconds / frames.max(1.0)).ok()
    }

    /// Frames that the device can do in a time, by its fastest batches of late, so that one that stood still counts for nothing; infinite before the first.
    pub(in crate::engine) fn frames_in(&self, time: Duration) -> f64 {
        match self.least.is_finite() {
            true => time.as_secs_f64() / self.least,
            false => f64::INFINITY,
        }
    }

    fn means(&self) -> (f64, f64) {
        (self.frames / self.weight, self.seconds / self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    const TARGET: Duration = Duration::from_millis(50);

    /// Runs a device under a flood that fills every batch. Returns the limit of the pace; `noise` is relative to each time.
    fn flooded(fixed: f64, each: f64, noise: f32) -> usize {
        let mut pace = Pace::new(TARGET);
        let mut stream = Stream::new(3, "pace");
        for _ in 0..100 {
            let frames = pace.limit().min(256);
            let factor = f64::from(1.0 + stream.range(-noise, noise));
            let seconds = (fixed + each * frames as f64) * factor;
            pace.ran(frames, Duration::from_secs_f64(seconds));
        }
        pace.limit().min(256)
    }

    #[test]
    fn a_batch_takes_the_time_that_is_asked_for() {
        for (fixed, each) in [(0.0, 0.001), (0.005, 0.001), (0.0, 0.0005), (0.002, 0.003)] {
            for noise in [0.0, 0.2] {
                let frames = flooded(fixed, each, noise);
                let took = fixed + each * frames as f64;
                assert!((0.035..0.065).contains(&took), "{fixed} {each}: {took}");
            }
        }
    }

    #[test]
    fn a_device_that_works_in_great_strides_keeps_its_throughput() {
        for (fixed, each) in [(0.03, 0.0001), (0.03, 0.001), (0.2, 0.002), (0.01, 0.0)] {
            let frames = flooded(fixed, each, 0.05) as f64;
            let rate = |frames: f64| frames / (fixed + each * frames);
            let kept = rate(frames) / rate(256.0);
            assert!(kept > 0.75, "{fixed} {each}: {kept} with {frames} frames");
        }
    }

    #[test]
    fn a_slow_device_takes_clip_by_clip_and_a_fast_one_whatever_comes() {
        assert_eq!(flooded(0.0, 0.2, 0.1), 1);
        assert_eq!(flooded(0.0, 0.00001, 0.1), 256);
        assert_eq!(Pace::new(TARGET).limit(), usize::MAX);
    }

    #[test]
    fn a_device_that_slows_down_gets_smaller_batches_soon() {
        let mut pace = Pace::new(TARGET);
        let run = |pace: &mut Pace, each: f64| {
            let frames = pace.limit().min(256);
            pace.ran(frames, Duration::from_secs_f64(each * frames as f64));
        };
        for _ in 0..50 {
            run(&mut pace, 0.0005);
        }
        let before = pace.limit();
        for _ in 0..30 {
            run(&mut pace, 0.002);
        }
        let after = pace.limit();
        assert!((90..=110).contains(&before), "{before}");
        assert!((20..=30).contains(&after), "{after}");
    }

    #[test]
    fn a_part_of_the_target_gives_a_part_of_the_frames_unless_that_costs_throughput() {
        let of = |fixed: f64, each: f64| {
            let mut pace = Pace::new(TARGET);
            for frames in [8, 64, 8, 64, 8, 64] {
                let seconds = fixed + each * frames as f64;
                pace.ran(frames, Duration::from_secs_f64(seconds));
            }
            (pace.limit(), pace.limit_within(0.2))
        };
        let (whole, part) = of(0.0, 0.001);
        assert!(
            (49..=50).contains(&whole) && (9..=10).contains(&part),
            "{whole} {part}"
        );
        // Four fifths of the time are the frames', whatever the target.
        let (whole, part) = of(0.01, 0.001);
        assert!(
            (39..=41).contains(&whole) && (39..=41).contains(&part),
            "{whole} {part}"
        );
    }

    #[test]
    fn the_time_of_a_frame_is_known_after_four_batches() {
        let mut pace = Pace::new(TARGET);
        for _ in 0..4 {
            assert_eq!(pace.frame(), None);
            pace.ran(10, Duration::from_millis(200));
        }
        let frame = pace.frame().expect("four batches ran");
        assert!((frame.as_secs_f64() - 0.02).abs() < 1e-6, "{frame:?}");
    }

    #[test]
    fn what_a_device_can_do_follows_its_fastest_batches() {
        let mut pace = Pace::new(TARGET);
        let second = Duration::from_secs(1);
        assert!(pace.frames_in(second).is_infinite());
        pace.ran(10, Duration::from_millis(10));
        pace.ran(10, Duration::from_secs(1));
        let frames = pace.frames_in(second);
        assert!((980.0..=1000.0).contains(&frames), "{frames}");
        (0..200).for_each(|_| pace.ran(10, Duration::from_millis(40)));
        let frames = pace.frames_in(second);
        assert!((249.0..=251.0).contains(&frames), "{frames}");
    }
}
