//! Whether the database takes writes, for whoever tells the operator.
//!
//! Invariant: a write that the disk or a lock made fail is noted; only a write that is on the disk ends the outage.

use std::sync::Arc;

use tokio::sync::watch;

use super::super::Error;

/// State of writes to the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Reason why the first write of the outage failed; `None` while writes work.
    pub failing: Option<Arc<str>>,
    /// Number of writes that failed since the outage began.
    pub failures: u64,
}

/// The condition as the connections of one database note it. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Writes(watch::Sender<Condition>);

impl Writes {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Condition::default()))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Condition> {
        self.0.subscribe()
    }

    /// Notes an error of a write, if it says something of the database and not of the request.
    pub(super) fn note(&self, error: &Error) {
        if error.is_temporary() {
            self.failed(&causes(error));
        }
    }

    /// Notes that a write failed.
    pub(super) fn failed(&self, why: &str) {
        self.0.send_modify(|condition| {
            condition.failures += 1;
            if condition.failing.is_none() {
                condition.failing = Some(why.into());
            }
        });
    }

    /// Ends the outage, unless more writes than so many failed in it.
    pub(super) fn succeeded(&self, failures: u64) {
        self.0.send_if_modified(|condition| {
            let ends = condition.failing.is_some() && condition.failures == failures;
            if ends {
                *condition = Condition::default();
            }
            ends
        });
    }
}

/// An error and its causes in a line.
fn causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Error {
        Error::StorageFull("no room".into())
    }

    #[test]
    fn an_outage_begins_with_a_failed_write_and_keeps_its_first_reason() {
        let writes = Writes::new();
        let condition = writes.subscribe();
        writes.note(&Error::PageToken);
        assert_eq!(*condition.borrow(), Condition::default());
        writes.note(&full());
        writes.note(&Error::Unavailable("away".into()));
        let now = condition.borrow().clone();
        assert_eq!(now.failures, 2);
        let why = now.failing.expect("failing");
        assert_eq!(&*why, "the database's disk is full: no room");
    }

    #[test]
    fn a_failure_beside_a_success_keeps_the_outage() {
        let writes = Writes::new();
        writes.note(&full());
        writes.note(&full());
        writes.succeeded(1);
        assert!(writes.subscribe().borrow().failing.is_some());
        writes.succeeded(2);
        assert_eq!(*writes.subscribe().borrow(), Condition::default());
    }
}
