//! Closes connections that nobody needs: a server that was busy gives back what the database keeps for each.
//!
//! Invariant: as many stay as all but an eighth of the statements of ten seconds found in use, the most of the last minute, so that bursts that come again
//! and again find what they need, and loops that happen to meet keep nothing open. The pool's own limit on idle time is not enough, since it hands its
//! connections out in turn, so that a few loops keep all of them in use.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgPool;

/// How often it is looked what is not needed.
const WINDOW: Duration = Duration::from_secs(10);
/// Windows whose highest need stays open: together as long as the pool's own limit on idle time.
const WINDOWS: usize = 6;
/// One in so many takings may find more in use than stays open.
const RARE: u64 = 8;

/// Connections in use at each taking of the window that goes on: how often there were none, one, two … others. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Spare(Arc<Mutex<Vec<u64>>>);

/// How many connections were needed in each of the last windows.
#[derive(Debug, Default)]
struct Recent {
    needed: [u32; WINDOWS],
    at: usize,
}

impl Recent {
    /// Notes the need of a window that has ended. Returns how many connections stay open.
    fn ended(&mut self, needed: u32) -> u32 {
        if let Some(oldest) = self.needed.get_mut(self.at) {
            *oldest = needed;
        }
        self.at = (self.at + 1) % WINDOWS;
        self.needed.iter().copied().fold(1, u32::max)
    }
}

/// How many connections are enough for all takings but the rare ones.
fn enough(takings: &[u64]) -> u32 {
    let mut beyond: u64 = takings.iter().sum();
    let rare = beyond / RARE;
    let mut enough = 0;
    for count in takings {
        if beyond <= rare {
            break;
        }
        beyond -= count;
        enough += 1;
    }
    enough
}

/// How many connections are in use.
fn used(pool: &PgPool) -> u32 {
    let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
    pool.size().saturating_sub(idle)
}

impl Spare {
    /// Notes that a connection was just taken.
    pub(super) fn taken(&self, pool: &PgPool) {
        let others = used(pool).saturating_sub(1) as usize;
        let mut takings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if takings.len() <= others {
            takings.resize(others + 1, 0);
        }
        if let Some(count) = takings.get_mut(others) {
            *count += 1;
        }
    }

    /// Closes what is not needed, for as long as this is polled.
    pub(super) async fn close(&self, pool: &PgPool) {
        let mut recent = Recent::default();
        loop {
            tokio::time::sleep(WINDOW).await;
            let takings =
                std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            let needed = recent.ended(enough(&takings));
            for _ in needed..pool.size() {
                let Some(spare) = pool.try_acquire() else {
                    break;
                };
                if let Err(error) = spare.close().await {
                    tracing::debug!(%error, "a connection that is not needed ends badly");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_burst_needed_stays_open_for_a_minute() {
        let mut recent = Recent::default();
        assert_eq!(recent.ended(10), 10);
        for _ in 1..WINDOWS {
            assert_eq!(recent.ended(0), 10);
        }
        assert_eq!(recent.ended(3), 3);
        for _ in 1..WINDOWS {
            assert_eq!(recent.ended(0), 3);
        }
        assert_eq!(recent.ended(0), 1);
    }

    #[test]
    fn what_few_found_in_use_is_not_needed() {
        assert_eq!(enough(&[]), 0);
        assert_eq!(enough(&[9]), 1);
        // One of two that is always in use, and three meetings in thirty takings.
        assert_eq!(enough(&[0, 27, 2, 1]), 2);
        assert_eq!(enough(&[0, 21, 6, 3]), 3);
        // A burst of ten among the takings of loops.
        assert_eq!(enough(&[0, 28, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]), 8);
        assert_eq!(enough(&[0, 0, 0, 0, 1000]), 5);
    }
}
