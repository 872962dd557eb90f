//! Which state of a job may follow which: the whole table, and what a worker does when it stops early.
//!
//! Invariant: pure, and the only place that knows the order; a job ends at most once, and nothing follows an end.

use crate::spec::JobState;

/// Reason why a worker lets go of a job before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The process drains: the job is put back and goes on elsewhere, or after the restart.
    Drain,
    /// The job's owner cancelled it.
    Cancel,
    /// The job's owner paused it: it is put back and waits until it is resumed.
    Pause,
    /// Another worker may have it: nothing may be written any more.
    LostLease,
}

impl Stop {
    /// Returns the state that the worker writes; `None` when it must not write.
    pub fn target(self) -> Option<JobState> {
        match self {
            Self::Drain | Self::Pause => Some(JobState::Queued),
            Self::Cancel => Some(JobState::Cancelled),
            Self::LostLease => None,
        }
    }
}

/// Returns the next state on the way to success; `None` at an end.
pub fn next(state: JobState) -> Option<JobState> {
    match state {
        JobState::Queued => Some(JobState::Validating),
        JobState::Validating => Some(JobState::Running),
        JobState::Running => Some(JobState::Evaluating),
        JobState::Evaluating => Some(JobState::Publishing),
        JobState::Publishing => Some(JobState::Succeeded),
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => None,
    }
}

/// Returns whether a worker has a job in this state.
pub fn is_held(state: JobState) -> bool {
    !state.is_final() && state != JobState::Queued
}

/// Returns whether `to` may follow `from`: the way to success, FAILED and CANCELLED from anywhere before an end, and back to QUEUED from a worker.
pub fn may_follow(from: JobState, to: JobState) -> bool {
    if from.is_final() {
        return false;
    }
    match to {
        JobState::Failed | JobState::Cancelled => true,
        JobState::Queued => is_held(from),
        JobState::Validating
        | JobState::Running
        | JobState::Evaluating
        | JobState::Publishing
        | JobState::Succeeded => next(from) == Some(to),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [JobState; 8] = [
        JobState::Queued,
        JobState::Validating,
        JobState::Running,
        JobState::Evaluating,
        JobState::Publishing,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
    ];

    #[test]
    fn the_table_is_the_one_of_the_api() {
        // Rows and columns in the order of `ALL`.
        let table = [
            "01000011", // queued
            "10100011", // validating
            "10010011", // running
            "10001011", // evaluating
            "10000111", // publishing
            "00000000", "00000000", "00000000",
        ];
        for (from, row) in ALL.into_iter().zip(table) {
            for (to, allowed) in ALL.into_iter().zip(row.chars()) {
                assert_eq!(may_follow(from, to), allowed == '1', "{from:?} → {to:?}");
            }
        }
    }

    #[test]
    fn a_stop_writes_what_may_follow() {
        for from in ALL.into_iter().filter(|state| is_held(*state)) {
            for stop in [Stop::Drain, Stop::Cancel, Stop::Pause] {
                assert!(stop.target().is_some_and(|to| may_follow(from, to)));
            }
        }
        assert_eq!(Stop::LostLease.target(), None);
    }

    proptest! {
        #[test]
        fn a_walk_ends_at_most_once_and_succeeds_only_through_every_stage(picks in prop::collection::vec(0_usize..8, 0..60)) {
            let mut state = JobState::Queued;
            let mut since_queued = vec![state];
            let mut ends = 0;
            for pick in picks {
                let to = ALL[pick];
                if !may_follow(state, to) {
                    continue;
                }
                if to == JobState::Queued {
                    since_queued.clear();
                }
                since_queued.push(to);
                state = to;
                ends += usize::from(to.is_final());
            }
            prop_assert!(ends <= 1);
            if state == JobState::Succeeded {
                prop_assert_eq!(&since_queued[..], &ALL[..6]);
            }
        }
    }
}
