//! How many workers were ended, or ended themselves, while they had an input, by the reason that is told of it.
//!
//! Invariant: every worker counts once at most, whether or not the input is given to another one afterwards.

use std::sync::atomic::{AtomicU64, Ordering};

use super::exchange::{Ended, verdict};
use crate::Reject;

/// Reasons for which a worker is lost.
const REASONS: [Reject; 5] = [
    Reject::SandboxViolation,
    Reject::CpuTime,
    Reject::WallTime,
    Reject::Memory,
    Reject::DecoderCrashed,
];

/// Workers lost since the start.
#[derive(Debug, Default)]
pub(super) struct Losses([AtomicU64; REASONS.len()]);

impl Losses {
    /// Counts the worker if this is how it was lost; one whose caller left, or that went with its zygote, says nothing of an input.
    pub(super) fn count(&self, ended: &Ended) {
        let reason = match ended {
            Ended::Answered(_) | Ended::Abandoned => None,
            Ended::Lied => Some(Reject::DecoderCrashed),
            Ended::TimedOut(reject) => Some(*reject),
            Ended::Died(end) => verdict(*end),
        };
        let counts = REASONS.iter().zip(&self.0);
        for (_, count) in counts.filter(|(own, _)| Some(**own) == reason) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The workers by reason; every reason is there.
    pub(super) fn so_far(&self) -> Vec<(Reject, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        REASONS.into_iter().zip(counts).collect()
    }
}
