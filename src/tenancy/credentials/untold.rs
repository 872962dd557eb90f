//! Refused credentials that the audit log has yet to be told of.
//!
//! Invariant: however many sources strangers call from, a minute leaves a stated number of records and one with the number of the others.

use std::time::Duration;

use tokio::time::Instant;

use crate::metadata::RefusedRecord;
use crate::tenancy::Source;

/// Most refusals of a minute that are noted one by one: in the 400 days that events are kept, a server's are 37 million.
const A_MINUTE: usize = 64;
const MINUTE: Duration = Duration::from_secs(60);
/// Most records that wait: those of a quarter of an hour without a database.
const WAITING: usize = 1024;

/// Refusals that wait to be noted, and how many of this minute were.
#[derive(Debug, Default)]
pub(super) struct Untold {
    since: Option<Instant>,
    noted: usize,
    more: u64,
    records: Vec<RefusedRecord>,
}

impl Untold {
    /// Has a refusal wait, or counts it where the minute has had enough.
    pub(super) fn add(&mut self, refused: RefusedRecord, now: Instant) {
        self.turn(now);
        if self.since.is_none() {
            self.since = Some(now);
        }
        if self.noted < A_MINUTE && self.records.len() < WAITING {
            self.noted += 1;
            self.records.push(refused);
        } else {
            self.more += 1;
        }
    }

    /// What waits, the number of the others included where their minute is over.
    pub(super) fn take(&mut self, now: Instant) -> Vec<RefusedRecord> {
        self.turn(now);
        std::mem::take(&mut self.records)
    }

    /// Ends a minute that is over.
    fn turn(&mut self, now: Instant) {
        if self
            .since
            .is_some_and(|since| now.duration_since(since) < MINUTE)
        {
            return;
        }
        (self.since, self.noted) = (None, 0);
        if self.more > 0 && self.records.len() < WAITING {
            self.records.push(RefusedRecord {
                source: Source::Others.to_string(),
                called: String::new(),
                detail: format!("not_told={}", self.more),
            });
            self.more = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(number: usize) -> RefusedRecord {
        RefusedRecord {
            source: format!("2001:db8:0:{number:x}::/64"),
            called: String::new(),
            detail: String::new(),
        }
    }

    #[test]
    fn a_minute_of_refusals_from_ever_other_sources_is_few_records_and_their_sum() {
        let mut untold = Untold::default();
        let begin = Instant::now();
        let mut told = Vec::new();
        for second in 0..60 {
            let now = begin + Duration::from_secs(second);
            for number in 0..100 {
                untold.add(refused(number), now);
            }
            told.extend(untold.take(now));
        }
        assert_eq!(told.len(), A_MINUTE);
        let rest = untold.take(begin + MINUTE);
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert_eq!(rest[0].source, "others");
        assert_eq!(rest[0].detail, format!("not_told={}", 6000 - A_MINUTE));
        // The next minute has its own, and no sum of the one before.
        untold.add(refused(0), begin + MINUTE);
        assert_eq!(untold.take(begin + MINUTE), [refused(0)]);
        assert_eq!(untold.take(begin + 3 * MINUTE), []);
    }

    #[test]
    fn without_a_database_no_more_than_so_many_records_wait() {
        let mut untold = Untold::default();
        let begin = Instant::now();
        for minute in 0..100 {
            for number in 0..100 {
                untold.add(refused(number), begin + minute * MINUTE);
            }
        }
        let first = untold.take(begin + 100 * MINUTE);
        assert_eq!(first.len(), WAITING);
        // Their sum is told once there is room; with the sums of minutes that found room, every refusal is told of or counted once.
        let rest = untold.take(begin + 101 * MINUTE);
        assert_eq!(rest.len(), 1, "{rest:?}");
        let counted = first.iter().chain(&rest).map(|own| {
            let sum = own.detail.strip_prefix("not_told=");
            sum.map_or(1, |sum| sum.parse().unwrap())
        });
        assert_eq!(counted.sum::<usize>(), 10_000);
    }
}
