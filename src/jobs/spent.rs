//! Where the time of a job goes besides its steps.
//!
//! Invariant: times are measured only; nothing that a job trains or publishes depends on them.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::metadata::JobTimes;

/// What a job does besides its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The data set is checked.
    Checks,
    /// Frozen features are computed.
    Features,
    /// A step waits for its clips.
    Clips,
    /// The validation split is evaluated; features that are computed for that are counted as such.
    Evaluations,
}

/// Time of each phase so far, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Spent {
    checks: AtomicU64,
    features: AtomicU64,
    clips: AtomicU64,
    evaluations: AtomicU64,
}

impl Spent {
    /// Does work and adds its time to a phase, whatever comes of it.
    pub(super) async fn during<T>(&self, phase: Phase, work: impl Future<Output = T>) -> T {
        let (began, features) = (Instant::now(), self.times().features);
        let done = work.await;
        let inner = match phase {
            Phase::Evaluations => self.times().features.saturating_sub(features),
            Phase::Checks | Phase::Features | Phase::Clips => 0,
        };
        self.add(
            phase,
            began.elapsed().saturating_sub(Duration::from_micros(inner)),
        );
        done
    }

    /// Adds time to a phase.
    pub(super) fn add(&self, phase: Phase, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.of(phase).fetch_add(micros, Ordering::Relaxed);
    }

    /// Adds what an earlier claim took.
    pub(super) fn go_on(&self, earlier: JobTimes) {
        for (phase, micros) in [
            (Phase::Checks, earlier.checks),
            (Phase::Features, earlier.features),
            (Phase::Clips, earlier.clips),
            (Phase::Evaluations, earlier.evaluations),
        ] {
            self.of(phase).fetch_add(micros, Ordering::Relaxed);
        }
    }

    /// The times so far.
    pub(super) fn times(&self) -> JobTimes {
        let of = |phase| self.of(phase).load(Ordering::Relaxed);
        JobTimes {
            checks: of(Phase::Checks),
            features: of(Phase::Features),
            clips: of(Phase::Clips),
            evaluations: of(Phase::Evaluations),
        }
    }

    fn of(&self, phase: Phase) -> &AtomicU64 {
        match phase {
            Phase::Checks => &self.checks,
            Phase::Features => &self.features,
            Phase::Clips => &self.clips,
            Phase::Evaluations => &self.evaluations,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_is_counted_once_and_goes_on_after_an_interruption() {
        let spent = Spent::default();
        let wait = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        let seconds = |micros: u64| (micros + 500_000) / 1_000_000;
        spent.during(Phase::Clips, wait(3)).await;
        let evaluation = async {
            wait(5).await;
            spent.during(Phase::Features, wait(20)).await;
        };
        spent.during(Phase::Evaluations, evaluation).await;
        let times = spent.times();
        assert_eq!(seconds(times.clips), 3);
        assert_eq!(seconds(times.evaluations), 5);
        assert_eq!(seconds(times.features), 20);
        let next = Spent::default();
        next.go_on(times);
        next.add(Phase::Checks, Duration::from_secs(7));
        let times = next.times();
        assert_eq!(
            seconds(times.clips + times.evaluations + times.features),
            28
        );
        assert_eq!(seconds(times.checks), 7);
    }
}
