//! How often the two halves of a gate are measured: as often as was asked for, or as often as the time allows.
//!
//! Invariant: a gate that is begun is measured once at least.

use std::time::Duration;

use tokio::time::Instant;

/// The pairs of a gate, numbered from 0.
#[derive(Debug)]
pub(super) struct Turns {
    next: usize,
    most: usize,
    until: Option<Instant>,
    began: Option<Instant>,
    longest: Duration,
}

impl Turns {
    /// So many pairs, or fewer when another one would not be over by a time.
    pub(super) fn new(most: usize, until: Option<Instant>) -> Self {
        Self {
            next: 0,
            most,
            until,
            began: None,
            longest: Duration::ZERO,
        }
    }
}

impl Iterator for Turns {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let now = Instant::now();
        if let Some(began) = self.began.replace(now) {
            self.longest = self.longest.max(now.duration_since(began));
        }
        let is_late = self.until.is_some_and(|until| now + self.longest > until);
        if self.next >= self.most || (self.next > 0 && is_late) {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn another_pair_is_measured_while_it_fits_into_the_time() {
        assert_eq!(Turns::new(3, None).count(), 3);
        let second = Duration::from_secs(1);
        let mut turns = Turns::new(10, Some(Instant::now() + 5 * second));
        let mut measured = 0;
        while turns.next().is_some() {
            tokio::time::advance(2 * second).await;
            measured += 1;
        }
        // A third one would end a second too late.
        assert_eq!(measured, 2);
        let late = Turns::new(3, Some(Instant::now()));
        assert!(late.count() >= 1);
    }
}
