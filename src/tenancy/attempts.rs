//! Refused credentials of each address: a full bucket refuses unknown credentials from there without a look-up, and many different ones are told of.
//!
//! Invariant: credentials that are known are never slowed, whatever others at the same address try; memory is bounded.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Source;

/// Time in which a full bucket lets one more credential be looked up.
const INTERVAL: Duration = Duration::from_secs(1);
/// Most addresses with a bucket of their own: some 100 bytes each, and 1 kB while somebody guesses.
const SOURCES: usize = 16_384;
/// Different refused credentials of one address, within [`WINDOW`], that are told of.
const GUESSES: usize = 100;
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// What an address has tried.
#[derive(Debug)]
struct Attempt {
    /// When the bucket will be empty again.
    empty: Instant,
    since: Instant,
    /// Hashes of the different credentials that were refused since then, until there are enough to tell of.
    different: HashSet<u64>,
    is_told: bool,
}

/// Attempts by source.
#[derive(Debug)]
pub(super) struct Attempts {
    /// Time that a full bucket takes to be empty.
    depth: Duration,
    hasher: RandomState,
    sources: Mutex<HashMap<Source, Attempt>>,
}

impl Attempts {
    /// Buckets that hold `burst` refused credentials.
    pub(super) fn new(burst: NonZeroU32) -> Self {
        Self {
            depth: INTERVAL.saturating_mul(burst.get()),
            hasher: RandomState::new(),
            sources: Mutex::default(),
        }
    }

    /// Whether a credential from a source may be looked up.
    pub(super) fn may(&self, source: Source) -> bool {
        self.may_at(source, Instant::now())
    }

    fn may_at(&self, source: Source, now: Instant) -> bool {
        let sources = self.sources();
        let is_crowded = sources.len() >= SOURCES && !sources.contains_key(&source);
        let attempt = sources.get(if is_crowded { &Source::Others } else { &source });
        // One more has to fit.
        let filled = |attempt: &Attempt| attempt.empty.saturating_duration_since(now);
        attempt.is_none_or(|attempt| filled(attempt) + INTERVAL <= self.depth)
    }

    /// Notes a refused credential. Returns the number of different ones, when it is time to tell of them.
    pub(super) fn failed(&self, source: Source, credential: &str) -> Option<usize> {
        let hash = self.hasher.hash_one(credential);
        self.failed_at(source, hash, Instant::now())
    }

    fn failed_at(&self, source: Source, hash: u64, now: Instant) -> Option<usize> {
        let mut sources = self.sources();
        if sources.len() >= SOURCES && !sources.contains_key(&source) {
            sources.retain(|_, attempt| {
                attempt.empty > now || now.saturating_duration_since(attempt.since) < WINDOW
            });
        }
        let is_crowded = sources.len() >= SOURCES && !sources.contains_key(&source);
        let source = if is_crowded { Source::Others } else { source };
        let attempt = sources.entry(source).or_insert_with(|| Attempt {
            empty: now,
            since: now,
            different: HashSet::new(),
            is_told: false,
        });
        // A bucket that is full stays so for its depth, and no longer, however many more come.
        attempt.empty = (attempt.empty.max(now) + INTERVAL).min(now + self.depth);
        if now.saturating_duration_since(attempt.since) >= WINDOW {
            attempt.since = now;
            attempt.different.clear();
            attempt.is_told = false;
        }
        if attempt.is_told {
            return None;
        }
        attempt.different.insert(hash);
        if attempt.different.len() < GUESSES {
            return None;
        }
        attempt.is_told = true;
        attempt.different = HashSet::new();
        Some(GUESSES)
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<Source, Attempt>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn source(number: u32) -> Source {
        Source::of(IpAddr::V4(number.into()))
    }

    fn attempts() -> Attempts {
        Attempts::new(NonZeroU32::new(20).unwrap())
    }

    #[test]
    fn after_a_burst_one_credential_a_second_is_looked_up() {
        let (attempts, start) = (attempts(), Instant::now());
        for number in 0..20 {
            assert!(attempts.may_at(source(1), start), "{number}");
            attempts.failed_at(source(1), number, start);
        }
        assert!(!attempts.may_at(source(1), start));
        assert!(attempts.may_at(source(2), start), "another address");
        let soon = start + INTERVAL;
        assert!(attempts.may_at(source(1), soon));
        attempts.failed_at(source(1), 99, soon);
        assert!(!attempts.may_at(source(1), soon));
        // A flood keeps the bucket full, and no longer.
        for number in 0..100_000 {
            attempts.failed_at(source(1), number, soon);
        }
        assert!(attempts.may_at(source(1), soon + INTERVAL));
    }

    #[test]
    fn a_hundred_different_credentials_of_one_address_are_told_of_once_in_a_window() {
        let (attempts, start) = (attempts(), Instant::now());
        let told = |range: std::ops::Range<u64>, now: Instant| {
            let told = range.filter_map(|hash| attempts.failed_at(source(1), hash, now));
            told.collect::<Vec<usize>>()
        };
        for _ in 0..50 {
            assert!(told(0..99, start).is_empty(), "the same ones again");
        }
        assert_eq!(told(99..1000, start), [100]);
        assert_eq!(told(0..1000, start + WINDOW), [100]);
    }

    #[test]
    fn many_addresses_take_bounded_memory_and_share_a_bucket() {
        let (attempts, start) = (attempts(), Instant::now());
        for number in 0..3 * SOURCES as u32 {
            attempts.failed_at(source(number), 0, start);
        }
        assert!(attempts.sources().len() <= SOURCES + 1);
        assert!(!attempts.may_at(source(u32::MAX), start), "the others'");
        assert!(
            attempts.may_at(source(1), start),
            "one with a bucket of its own"
        );
        attempts.failed_at(source(u32::MAX), 0, start + WINDOW);
        assert!(attempts.sources().len() < 10, "what is over is forgotten");
    }
}
