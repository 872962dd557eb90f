//! Versions' files in memory, bounded by their bytes; the one that was used longest ago goes first.
//!
//! Invariant: what is in here was checked against its record when it came in; the bytes in here never exceed the bound.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Loaded;
use crate::ids::VersionRef;

pub(super) struct Cache {
    bound: u64,
    // A plain mutex: it is held for a look-up, never across an await.
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_version: HashMap<VersionRef, (u64, Loaded)>,
    bytes: u64,
    uses: u64,
}

impl Cache {
    pub(super) fn new(bound: u64) -> Self {
        Self {
            bound,
            entries: Mutex::default(),
        }
    }

    pub(super) fn get(&self, version: &VersionRef) -> Option<Loaded> {
        let mut entries = self.lock();
        entries.uses += 1;
        let uses = entries.uses;
        let (used, loaded) = entries.by_version.get_mut(version)?;
        *used = uses;
        Some(loaded.clone())
    }

    pub(super) fn insert(&self, version: VersionRef, loaded: Loaded) {
        let size = loaded.bytes.len() as u64;
        if size > self.bound {
            return;
        }
        let mut entries = self.lock();
        entries.remove(&version);
        while entries.bytes + size > self.bound {
            let oldest = entries.by_version.iter().min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = oldest.map(|(version, _)| version.clone()) else {
                break;
            };
            entries.remove(&oldest);
        }
        entries.uses += 1;
        entries.bytes += size;
        let uses = entries.uses;
        entries.by_version.insert(version, (uses, loaded));
    }

    pub(super) fn remove(&self, version: &VersionRef) {
        self.lock().remove(version);
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Every change below leaves the entries whole, so a panic elsewhere does not spoil them.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn remove(&mut self, version: &VersionRef) {
        if let Some((_, loaded)) = self.by_version.remove(version) {
            self.bytes -= loaded.bytes.len() as u64;
        }
    }
}
