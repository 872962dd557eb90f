//! Versions that have passed a warm-up in this process: when one of them is loaded again with the same file, its forward pass is not repeated.
//!
//! Invariant: a version that came under suspicion or was quarantined is not among them until it has passed another warm-up. Memory is bounded.

use std::collections::{HashMap, VecDeque};

use crate::ids::VersionRef;
use crate::spec::Digest;

/// Most versions that are remembered, some 100 bytes each; beyond it the first ones are forgotten, and warmed up again when they are loaded.
const MOST: usize = 10_000;

/// Versions that have passed a warm-up.
#[derive(Default)]
pub(super) struct Proven {
    /// The versions, and sha256 of the file that passed: a number is given again when a failover of the database lost its version.
    versions: HashMap<VersionRef, Digest>,
    /// The versions in the order in which they were added, and some that were removed since.
    order: VecDeque<VersionRef>,
}

impl Proven {
    /// Returns whether a version has passed a warm-up with the file of this sha256.
    pub(super) fn has(&self, version: &VersionRef, sha256: Digest) -> bool {
        self.versions.get(version) == Some(&sha256)
    }

    /// Returns whether a version has passed a warm-up with any file.
    pub(super) fn knows(&self, version: &VersionRef) -> bool {
        self.versions.contains_key(version)
    }

    /// Adds a version that has passed a warm-up with the file of this sha256, in place of any file before.
    pub(super) fn add(&mut self, version: &VersionRef, sha256: Digest) {
        if self.versions.insert(version.clone(), sha256).is_some() {
            return;
        }
        self.order.push_back(version.clone());
        if self.order.len() > MOST
            && let Some(first) = self.order.pop_front()
        {
            self.versions.remove(&first);
        }
    }

    /// Removes a version whose warm-up does not count any more.
    pub(super) fn remove(&mut self, version: &VersionRef) {
        self.versions.remove(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::version;

    const FILE: Digest = Digest([1; 32]);

    #[test]
    fn a_proof_is_of_one_file() {
        let (mut proven, own, other) = (Proven::default(), version("a"), Digest([2; 32]));
        proven.add(&own, FILE);
        assert!(proven.has(&own, FILE) && !proven.has(&own, other));
        proven.add(&own, other);
        assert!(!proven.has(&own, FILE) && proven.has(&own, other));
        assert_eq!(proven.order.len(), 1);
        assert!(proven.knows(&own) && !proven.knows(&version("b")));
    }

    #[test]
    fn the_first_ones_are_forgotten_beyond_the_bound() {
        let mut proven = Proven::default();
        let name = |number: usize| version(&format!("t{number}"));
        for number in 0..MOST {
            proven.add(&name(number), FILE);
        }
        assert!(proven.has(&name(0), FILE));
        proven.remove(&name(1));
        assert!(!proven.has(&name(1), FILE));
        proven.add(&name(MOST), FILE);
        assert!(
            !proven.has(&name(0), FILE)
                && proven.has(&name(2), FILE)
                && proven.has(&name(MOST), FILE)
        );
        for round in 0..3 * MOST {
            proven.add(&name(round % 2), FILE);
            proven.remove(&name(round % 2));
        }
        assert!(proven.order.len() <= MOST && proven.versions.len() <= MOST);
    }
}
