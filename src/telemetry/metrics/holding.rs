//! Whether this process has a duty that one process at a time does for all.
//!
//! Invariant: only a process that had the duty, and still wants it, loses it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{LeaseKind, Metrics};

/// A duty of this process, whose loss to another one is counted.
#[derive(Debug)]
pub struct Holding {
    metrics: Metrics,
    is_held: AtomicBool,
}

impl Holding {
    /// A duty that this process does not have yet.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            is_held: AtomicBool::new(false),
        }
    }

    /// Notes whether the duty was taken, or kept, just now, and returns that.
    pub fn after(&self, taken: bool) -> bool {
        if self.is_held.swap(taken, Ordering::Relaxed) && !taken {
            tracing::warn!("another process has a duty that this one had");
            self.metrics.lease_lost(LeaseKind::Duty);
        }
        taken
    }

    /// Gives the duty up, since there is nothing to do.
    pub fn let_go(&self) {
        self.is_held.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duty_is_lost_only_by_whom_had_it_and_still_wants_it() {
        let metrics = Metrics::new();
        let lost = |number| {
            let line = format!("frameshift_leases_lost_total{{kind=\"duty\"}} {number}\n");
            metrics.text().contains(&line)
        };
        let holding = Holding::new(metrics.clone());
        assert!(lost(0), "the series begins before the first loss");
        assert!(!holding.after(false));
        assert!(lost(0), "another one had it from the start");
        assert!(holding.after(true) && holding.after(true));
        holding.let_go();
        assert!(!holding.after(false));
        assert!(lost(0), "it was given up");
        assert!(holding.after(true));
        assert!(!holding.after(false) && !holding.after(false));
        assert!(lost(1), "it is lost once");
    }
}
