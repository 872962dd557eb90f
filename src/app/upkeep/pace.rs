//! When a search for orphaned objects is due.
//!
//! Invariant: in a bucket a process that searched waits a day, since each thousand objects cost a call there; a search that did not come to its end, or left
//! orphans for the next one, is followed by another within the hour.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::library::Collected;

/// Time between two looks whether a search is due, and between two searches in a folder. An orphan must be a day old before it is deleted, so an hour is often
/// enough.
pub(super) const LOOK: Duration = Duration::from_secs(60 * 60);
/// Time between two searches in a bucket.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The time between two searches, and the last one.
#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    last: Mutex<Option<Instant>>,
}

impl Pace {
    /// The pace in a folder or in a bucket.
    pub(super) fn new(is_folder: bool) -> Self {
        Self {
            every: if is_folder { LOOK } else { DAY },
            last: Mutex::default(),
        }
    }

    /// Whether a search is due. Half a look's time is no reason to wait for the next one.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_none_or(|last| now.duration_since(last) + LOOK / 2 >= self.every)
    }

    /// Notes what the search found that began at `began`.
    pub(super) fn searched(&self, began: Instant, found: &Collected) {
        if !found.is_held && !found.has_left_some() {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often searches that find this are made in a day of looks.
    fn searches(is_folder: bool, found: Collected) -> usize {
        let (pace, begin) = (Pace::new(is_folder), Instant::now());
        let looks =
            (0..24_u32).map(|look| begin + look * LOOK + Duration::from_millis(look.into()));
        let due = looks.filter(|look| {
            let is_due = pace.is_due(*look);
            if is_due {
                pace.searched(*look, &found);
            }
            is_due
        });
        due.count()
    }

    #[test]
    fn a_bucket_is_listed_once_a_day_and_a_folder_each_hour() {
        let found = Collected {
            blobs: 100,
            orphans: 3,
            moved: 3,
            ..Collected::default()
        };
        assert_eq!((searches(false, found), searches(true, found)), (1, 24));
        let pace = Pace::new(false);
        let begin = Instant::now() + Duration::from_secs(1);
        pace.searched(begin, &found);
        let next = begin + DAY - Duration::from_secs(1);
        assert!(pace.is_due(next), "a look that comes a little early");
    }

    #[test]
    fn a_bucket_is_listed_again_soon_when_a_search_is_held_or_leaves_orphans() {
        let held = Collected {
            is_held: true,
            ..Collected::default()
        };
        let more = Collected {
            blobs: 1_000_000,
            orphans: 30_000,
            moved: 20_000,
            ..Collected::default()
        };
        // Only an operator can change that so many are too many.
        let too_many = Collected { moved: 0, ..more };
        for (found, expected) in [(held, 24), (more, 24), (too_many, 1)] {
            assert_eq!(searches(false, found), expected, "{found:?}");
        }
    }
}
