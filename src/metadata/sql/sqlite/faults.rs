//! A full disk on demand, for tests.
//!
//! Invariant: without a test's word nothing is limited.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// SQLite's own largest number of pages.
const UNLIMITED: u32 = u32::MAX - 1;

/// Limit of the database's size, for tests. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Most pages; 0 when no test ever set a limit.
    pages: Arc<AtomicU32>,
}

impl Faults {
    /// Makes the database's disk full: no page can be added from now on.
    pub fn fill_disk(&self) {
        // SQLite takes the pages that there are for the least.
        self.pages.store(1, Ordering::SeqCst);
    }

    /// Makes room again.
    pub fn free_disk(&self) {
        self.pages.store(UNLIMITED, Ordering::SeqCst);
    }

    pub(super) fn pages(&self) -> Option<u32> {
        let pages = self.pages.load(Ordering::SeqCst);
        (pages > 0).then_some(pages)
    }
}
