//! The rest of something that was chosen and then refused: a plan of the product library, or a kernel.
//!
//! Invariant: nothing that was chosen is given up for good. It is left out for a rest, after which it is tried again; the rest grows with each refusal in a
//! row, so that trying costs next to nothing where it will never work, and begins anew once it has worked.

use std::time::{Duration, Instant};

/// Rest after the first refusal.
const FIRST: Duration = Duration::from_secs(10);
/// How often the rest doubles, to 640 s.
const DOUBLINGS: u32 = 6;

/// Whether something may be tried. The default is something that was never refused.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rest {
    /// Refusals since it last worked.
    refusals: u32,
    until: Option<Instant>,
}

impl Rest {
    /// Begins a rest at the time of a refusal.
    pub(super) fn begin(&mut self, now: Instant) {
        let pause = FIRST * 2_u32.pow(self.refusals.min(DOUBLINGS));
        self.refusals = self.refusals.saturating_add(1);
        self.until = Some(now + pause);
    }

    /// Returns how long the rest still takes; `None` when there is none, or it is over.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.until?.checked_duration_since(now)?;
        (!left.is_zero()).then_some(left)
    }

    /// Returns whether it was refused since it last worked.
    pub(super) fn was_refused(&self) -> bool {
        self.refusals > 0
    }

    /// Ends the rest before its time.
    #[cfg(test)]
    pub(super) fn cut_short(&mut self) {
        self.until = None;
    }
}

/// Returns a time that is left in whole seconds, for people.
pub(super) fn words(left: Duration) -> String {
    format!("it is tried again in {} s", left.as_secs() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_in_a_row_doubles_the_rest_up_to_640_s() {
        let now = Instant::now();
        let mut rest = Rest::default();
        assert!(rest.left(now).is_none() && !rest.was_refused());
        for seconds in [10, 20, 40, 80, 160, 320, 640, 640] {
            let pause = Duration::from_secs(seconds);
            rest.begin(now);
            assert_eq!(rest.left(now), Some(pause));
            assert_eq!(rest.left(now + pause), None);
            assert!(rest.was_refused(), "until it has worked");
        }
        rest = Rest::default();
        rest.begin(now);
        assert_eq!(rest.left(now), Some(FIRST));
    }
}
