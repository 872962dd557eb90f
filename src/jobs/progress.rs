//! When a training step is worth an event, and what its speed says about the end.
//!
//! Invariant: pure; time is given as the span since training began here, so that tests need no clock.

use std::time::Duration;

/// Shortest time between two step events, an epoch's last step aside.
const INTERVAL: Duration = Duration::from_secs(1);

/// Meter of the steps of one stretch of training.
#[derive(Debug, Clone)]
pub struct Meter {
    total: u64,
    first: u64,
    reported: Option<Duration>,
    clips: u64,
}

/// Speed of training, as a reported step shows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Clips per second since the event before.
    pub clips_per_second: f64,
    /// Expected time to the last step.
    pub eta: Duration,
}

impl Meter {
    /// Creates the meter of a stretch that begins after `first` steps of `total`.
    pub fn new(first: u64, total: u64) -> Self {
        Self {
            total,
            first,
            reported: None,
            clips: 0,
        }
    }

    /// Counts a step of `clips` clips, the `done`-th of all, at `now`; `Some` when an event is due: after the first step, the last of an epoch,
    /// and else about once a second.
    pub fn step(
        &mut self,
        done: u64,
        clips: u64,
        now: Duration,
        ends_epoch: bool,
    ) -> Option<Speed> {
        self.clips += clips;
        let due = self.reported.is_none_or(|before| now >= before + INTERVAL);
        if !due && !ends_epoch {
            return None;
        }
        let span = now.saturating_sub(self.reported.unwrap_or_default());
        let here = done.saturating_sub(self.first).max(1);
        let speed = Speed {
            clips_per_second: self.clips as f64 / span.as_secs_f64().max(1e-6),
            eta: now.mul_f64(self.total.saturating_sub(done) as f64 / here as f64),
        };
        self.reported = Some(now);
        self.clips = 0;
        Some(speed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn events_come_about_once_a_second_and_at_the_end_of_an_epoch() {
        let mut meter = Meter::new(0, 100);
        let told: Vec<u64> = (1..=40)
            .filter(|step| {
                meter
                    .step(*step, 8, MS(step * 100), step % 16 == 0)
                    .is_some()
            })
            .collect();
        assert_eq!(told, [1, 11, 16, 26, 32]);
    }

    #[test]
    fn speed_is_of_this_stretch_alone() {
        let mut meter = Meter::new(50, 100);
        meter.step(51, 8, MS(1000), false);
        let speed = meter.step(60, 8, MS(2000), true);
        assert_eq!(
            speed,
            Some(Speed {
                clips_per_second: 8.0,
                eta: MS(8000)
            })
        );
    }
}
