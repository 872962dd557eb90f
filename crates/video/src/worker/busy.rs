//! Counts which workers decode at the same time: pure.
//!
//! Invariant: a turn that says it was alone had no other beside it from its beginning on.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The turns that run.
#[derive(Debug, Default)]
pub(super) struct Busy {
    running: AtomicUsize,
    begun: AtomicU64,
}

/// One worker's turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    busy: &'a Busy,
    /// Turns that had begun when this one did, itself included.
    begun: u64,
    /// Whether no other turn was under way when it began.
    was_first: bool,
}

impl Busy {
    /// Begins a turn.
    pub(super) fn begin(&self) -> Turn<'_> {
        let was_first = self.running.fetch_add(1, Ordering::SeqCst) == 0;
        let begun = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        Turn {
            busy: self,
            begun,
            was_first,
        }
    }
}

impl Turn<'_> {
    /// Whether no other turn ran beside this one so far.
    pub(super) fn is_alone(&self) -> bool {
        self.was_first && self.busy.begun.load(Ordering::SeqCst) == self.begun
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.busy.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_alone_when_none_was_before_it_or_began_beside_it() {
        let busy = Busy::default();
        let first = busy.begin();
        assert!(first.is_alone());
        let second = busy.begin();
        assert!(!first.is_alone() && !second.is_alone());
        drop(first);
        assert!(!second.is_alone());
        drop(second);
        assert!(busy.begin().is_alone());
    }
}
