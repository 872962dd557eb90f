//! What was asked for in a soak, and how it ended.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use tonic::{Code, Status};

use crate::server::reason;

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doing {
    One,
    Inline,
    Many,
    Upload,
    Embed,
    Deadline,
    Flood,
    Swapped,
    Imported,
    Windows,
    Live,
    Shared,
}

impl Doing {
    pub(super) const ALL: [Self; 12] = [
        Self::One,
        Self::Inline,
        Self::Many,
        Self::Upload,
        Self::Embed,
        Self::Deadline,
        Self::Flood,
        Self::Swapped,
        Self::Imported,
        Self::Windows,
        Self::Live,
        Self::Shared,
    ];
}

#[derive(Debug, Default)]
struct Counts {
    /// Requests whose end was seen, by what they were for and how they ended: `right`, or a reason.
    ends: BTreeMap<(Doing, String), u64>,
    /// Requests that their caller gave up.
    given_up: u64,
    /// Answers of tasks, and those that requests which were given up would have had.
    classified: u64,
    may_be_classified: u64,
    /// The version that answered each key.
    keys: BTreeMap<String, usize>,
    /// What happened beside the classifications.
    beside: BTreeMap<&'static str, u64>,
}

/// Counts what was asked for. A plain mutex: it is held for an addition.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counts>);

impl Tally {
    /// Counts a request to the classification service that had the right answer, with the classifications in it.
    pub(super) fn was_right(&self, doing: Doing, classifications: u64) {
        let mut counts = self.0.lock().unwrap();
        *counts.ends.entry((doing, "right".into())).or_default() += 1;
        counts.classified += classifications;
    }

    /// Counts a request that was refused, and panics when that may not happen. `has_deadline` says that the caller set a short one.
    pub(super) fn was_refused(&self, doing: Doing, status: &Status, has_deadline: bool) {
        let reason = reason(status);
        let full = ["QUEUE_FULL", "MESSAGE_MEMORY_FULL", "UPLOAD_MEMORY_FULL"];
        let stopping = ["DRAINING", "NOT_READY", ""];
        let may_be = if status.code() == Code::ResourceExhausted {
            full.contains(&&*reason) || (has_deadline && reason == "DEADLINE_UNREACHABLE")
        } else if status.code() == Code::DeadlineExceeded {
            has_deadline
        } else {
            status.code() == Code::Unavailable && !stopping.contains(&&*reason)
        };
        assert!(may_be, "{doing:?} was refused: {status:?}");
        self.count(doing, format!("{:?} {reason}", status.code()));
    }

    /// Counts an end that is neither right nor a refusal that was not expected.
    pub(super) fn count(&self, doing: Doing, end: String) {
        let mut counts = self.0.lock().unwrap();
        *counts.ends.entry((doing, end)).or_default() += 1;
    }

    /// Counts a request that its caller gave up, which might have had so many classifications.
    pub(super) fn was_given_up(&self, classifications: u64) {
        let mut counts = self.0.lock().unwrap();
        counts.given_up += 1;
        counts.may_be_classified += classifications;
    }

    /// Adds classifications that a refused request may have had: the deadline may have passed on the way back.
    pub(super) fn may_be_classified(&self, classifications: u64) {
        self.0.lock().unwrap().may_be_classified += classifications;
    }

    /// Adds classifications of a stream that ended with an error after them.
    pub(super) fn were_classified(&self, classifications: u64) {
        self.0.lock().unwrap().classified += classifications;
    }

    /// The version that answered a key first; that is `version` when the key is new.
    pub(super) fn key(&self, key: &str, version: usize) -> usize {
        let mut counts = self.0.lock().unwrap();
        *counts.keys.entry(key.to_owned()).or_insert(version)
    }

    /// Counts what happened beside the classifications.
    pub(super) fn beside(&self, what: &'static str) {
        *self.0.lock().unwrap().beside.entry(what).or_default() += 1;
    }

    /// How often something happened beside the classifications.
    pub(super) fn happened(&self, what: &str) -> u64 {
        let counts = self.0.lock().unwrap();
        counts.beside.get(what).copied().unwrap_or(0)
    }

    /// Requests whose end was seen.
    pub(super) fn ended(&self) -> u64 {
        self.0.lock().unwrap().ends.values().sum()
    }

    /// All requests.
    pub(super) fn begun(&self) -> u64 {
        self.ended() + self.0.lock().unwrap().given_up
    }

    /// Classifications whose scores came.
    pub(super) fn classified(&self) -> u64 {
        self.0.lock().unwrap().classified
    }

    /// Classifications that may have been made.
    pub(super) fn most_classified(&self) -> u64 {
        let counts = self.0.lock().unwrap();
        counts.classified + counts.may_be_classified
    }

    /// Requests that had the right answer.
    pub(super) fn right(&self, doing: Doing) -> u64 {
        let counts = self.0.lock().unwrap();
        let right = counts.ends.get(&(doing, "right".into()));
        right.copied().unwrap_or(0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.lock().unwrap();
        for ((doing, end), count) in &counts.ends {
            writeln!(f, "{doing:?} {end}: {count}")?;
        }
        for (what, count) in &counts.beside {
            writeln!(f, "{what}: {count}")?;
        }
        writeln!(f, "given up: {}", counts.given_up)
    }
}
