//! Refused credentials in the audit log, summed by source and minute, so that a flood of them cannot fill it.
//!
//! Invariant: the first refusal of a source is logged at once; memory is bounded.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time whose refusals are one line.
const WINDOW: Duration = Duration::from_secs(60);
/// Most sources that are counted separately at a time.
const SOURCES: usize = 1024;

/// Where a request came from: an address, of IPv6 its network, since a whole network belongs to one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// An address.
    Address(IpAddr),
    /// Any of those beyond the limit, or without an address.
    Others,
}

impl Source {
    /// The source with an address.
    pub fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self::Address(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(network.into())
            }
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Others => f.write_str("others"),
        }
    }
}

/// Refusals of a source in the running minute.
#[derive(Debug)]
struct Count {
    since: Instant,
    /// Refusals that no line of the log tells of yet.
    silent: u64,
}

/// Refusals by source.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<Source, Count>>);

impl Refusals {
    /// Counts a refusal. When it is time for a line in the log, returns the number of earlier refusals that no line told of.
    pub fn count(&self, source: Source) -> Option<u64> {
        self.count_at(source, Instant::now())
    }

    fn count_at(&self, source: Source, now: Instant) -> Option<u64> {
        let mut counts = self.counts();
        let is_over = |count: &Count| now.duration_since(count.since) >= WINDOW;
        if counts.len() >= SOURCES && !counts.contains_key(&source) {
            counts.retain(|_, count| !is_over(count));
        }
        let has_room = counts.len() < SOURCES || counts.contains_key(&source);
        let source = if has_room { source } else { Source::Others };
        match counts.get_mut(&source) {
            Some(count) if !is_over(count) => {
                count.silent += 1;
                None
            }
            Some(count) => {
                let silent = count.silent;
                *count = Count {
                    since: now,
                    silent: 0,
                };
                Some(silent)
            }
            None => {
                let count = Count {
                    since: now,
                    silent: 0,
                };
                counts.insert(source, count);
                Some(0)
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Source, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> Source {
        Source::of(IpAddr::V4(number.into()))
    }

    #[test]
    fn a_flood_of_one_source_is_one_line_a_minute_with_its_sum() {
        let refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(refusals.count_at(source(1), start), Some(0));
        for _ in 0..1000 {
            assert_eq!(refusals.count_at(source(1), start), None);
        }
        assert_eq!(refusals.count_at(source(2), start), Some(0));
        assert_eq!(refusals.count_at(source(1), start + WINDOW), Some(1000));
        assert_eq!(refusals.count_at(source(1), start + WINDOW), None);
    }

    #[test]
    fn many_sources_share_one_count() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let lines = (0..100_000)
            .filter(|&number| refusals.count_at(source(number), start).is_some())
            .count();
        assert!(lines <= SOURCES + 1, "{lines} lines");
        assert!(refusals.counts().len() <= SOURCES + 1);
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_are_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
