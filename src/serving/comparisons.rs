//! Results of shadow versions, compared with what was answered.
//!
//! Invariant: bounded: of the shadow versions, the last [`VERSIONS`] are known.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ids::{TaskId, TenantId, VersionRef};

/// Most versions whose comparisons are kept, some 200 bytes each.
const VERSIONS: usize = 4096;

/// Outcomes of requests that a shadow version ran on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Requests whose answer was compared.
    pub compared: u64,
    /// Compared requests for which both versions gave the same best label.
    pub agreed: u64,
    /// Requests that failed with the shadow version.
    pub failed: u64,
    /// Requests that were not shown to the version, or not answered by it, because others needed the server or its set was not resident.
    pub dropped: u64,
    /// Time that the version took on the device for the requests that were compared, all together.
    pub device: Duration,
    /// Time that the answering versions took on the device for them.
    pub answer_device: Duration,
}

/// What came of showing one request to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Both versions gave a best label.
    Compared {
        /// Whether it was the same.
        agreed: bool,
        /// Time of the shadow version on the device.
        device: Duration,
        /// Time of the answering version on the device.
        answer_device: Duration,
    },
    /// The version failed.
    Failed,
    /// Others needed the server.
    Dropped,
    /// The version's set was not resident.
    NotResident,
}

impl Outcome {
    /// The outcome's label in the metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Compared { agreed: true, .. } => "agreed",
            Self::Compared { agreed: false, .. } => "disagreed",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
            Self::NotResident => "not_resident",
        }
    }
}

/// Comparisons of all shadow versions.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    // A plain mutex: it is held for a look-up, never across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    of: HashMap<VersionRef, (u64, Comparison)>,
    clock: u64,
}

impl Comparisons {
    pub(super) fn add(&self, version: &VersionRef, outcome: Outcome) {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        if state.of.len() >= VERSIONS && !state.of.contains_key(version) {
            let oldest = state.of.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(version, _)| version.clone()) {
                state.of.remove(&oldest);
            }
        }
        let (used, own) = state.of.entry(version.clone()).or_default();
        *used = now;
        match outcome {
            Outcome::Compared {
                agreed,
                device,
                answer_device,
            } => {
                own.compared += 1;
                own.agreed += u64::from(agreed);
                own.device += device;
                own.answer_device += answer_device;
            }
            Outcome::Failed => own.failed += 1,
            Outcome::Dropped | Outcome::NotResident => own.dropped += 1,
        }
    }

    pub(super) fn of(&self, version: &VersionRef) -> Comparison {
        let state = self.lock();
        state
            .of
            .get(version)
            .map_or_else(Comparison::default, |own| own.1)
    }

    /// Starts the comparisons of a task's versions over.
    pub(super) fn forget(&self, tenant: &TenantId, task: &TaskId) {
        let is_of = |own: &VersionRef| own.tenant == *tenant && own.task == *task;
        self.lock().of.retain(|own, _| !is_of(own));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AdapterVersion;

    fn version(task: &str, number: u32) -> VersionRef {
        VersionRef {
            tenant: TenantId::anonymous(),
            task: task.parse().unwrap(),
            version: AdapterVersion::new(number).unwrap(),
        }
    }

    #[test]
    fn outcomes_are_counted_by_version_until_the_task_begins_anew() {
        let comparisons = Comparisons::default();
        let (own, other) = (version("t", 1), version("u", 1));
        let second = Duration::from_secs(1);
        for agreed in [true, true, false] {
            let outcome = Outcome::Compared {
                agreed,
                device: second,
                answer_device: 2 * second,
            };
            comparisons.add(&own, outcome);
        }
        for outcome in [Outcome::Failed, Outcome::Dropped, Outcome::NotResident] {
            comparisons.add(&own, outcome);
            comparisons.add(&other, outcome);
        }
        let expected = Comparison {
            compared: 3,
            agreed: 2,
            failed: 1,
            dropped: 2,
            device: 3 * second,
            answer_device: 6 * second,
        };
        assert_eq!(comparisons.of(&own), expected);
        comparisons.forget(&own.tenant, &own.task);
        assert_eq!(comparisons.of(&own), Comparison::default());
        assert_eq!(comparisons.of(&other).failed, 1);
    }

    #[test]
    fn the_version_that_watched_longest_ago_makes_room() {
        let comparisons = Comparisons::default();
        for number in 1..=VERSIONS as u32 {
            comparisons.add(&version("t", number), Outcome::Failed);
        }
        comparisons.add(&version("t", 1), Outcome::Failed);
        comparisons.add(&version("u", 1), Outcome::Failed);
        let failed = |task, number| comparisons.of(&version(task, number)).failed;
        assert_eq!((failed("t", 1), failed("t", 2), failed("u", 1)), (2, 0, 1));
    }
}
