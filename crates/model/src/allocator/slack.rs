//! Decides when the memory that malloc keeps is given back: when it was not used for a while.
//!
//! Invariant: pure; memory that a training step or a batch takes again and again is never given back, since fresh pages would cost it time.

/// Memory that stayed unused, from counts that are taken at regular intervals.
#[derive(Debug, Clone)]
pub struct Slack {
    /// Bytes that may stay unused.
    keep: u64,
    /// Counts that make up one decision.
    counts: u32,
    /// Counts since the last decision.
    seen: u32,
    /// Smallest of them.
    least: u64,
}

impl Slack {
    /// Returns a rule that keeps `keep` bytes for reuse and decides after every `counts` counts.
    pub fn new(keep: u64, counts: u32) -> Self {
        Self {
            keep,
            counts,
            seen: 0,
            least: u64::MAX,
        }
    }

    /// Takes a count of unused bytes. Returns how many bytes should go back: those that no count since the last decision found in use, once they are
    /// more than may stay.
    pub fn count(&mut self, unused: u64) -> Option<u64> {
        self.least = self.least.min(unused);
        self.seen += 1;
        if self.seen < self.counts {
            return None;
        }
        let least = std::mem::replace(&mut self.least, u64::MAX);
        self.seen = 0;
        (least > self.keep).then_some(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(counts: &[u64]) -> Vec<Option<u64>> {
        let mut slack = Slack::new(100, 3);
        counts.iter().map(|unused| slack.count(*unused)).collect()
    }

    #[test]
    fn memory_that_nobody_used_for_a_while_goes_back() {
        let went = decided(&[500, 400, 500]);
        assert_eq!(went, [None, None, Some(400)]);
    }

    #[test]
    fn memory_that_is_taken_again_and_again_stays() {
        assert_eq!(decided(&[500, 90, 500]), [None; 3]);
        // Each decision looks at its own counts.
        let went = decided(&[500, 90, 500, 500, 500, 500]);
        assert_eq!(went, [None, None, None, None, None, Some(500)]);
    }

    #[test]
    fn a_little_stays() {
        assert_eq!(decided(&[100, 100, 100]), [None; 3]);
    }
}
