//! Limits a log line that many calls would repeat to one per minute.
//!
//! Invariant: the first line is always due.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shortest time between two lines.
const PAUSE: Duration = Duration::from_secs(60);

/// Time when a log line was last due; one value per line, at the place that logs it.
#[derive(Debug)]
pub struct Sparse(Mutex<Option<Instant>>);

impl Default for Sparse {
    fn default() -> Self {
        Self::new()
    }
}

impl Sparse {
    /// Creates the limit of a line that was never logged.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Returns whether the line is due now; if it is, it is not due again for a minute.
    pub fn is_due(&self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.duration_since(last) >= PAUSE);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_once_a_minute() {
        let line = Sparse::new();
        let start = Instant::now();
        for (seconds, is_due) in [(0, true), (0, false), (59, false), (60, true), (61, false)] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(line.is_due_at(now), is_due, "{seconds}");
        }
    }
}
