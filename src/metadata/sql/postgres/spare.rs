//! Closes connections beside the first that nobody needs: a server that was busy gives back what the database keeps for each.
//!
//! Invariant: as many stay as were in use at once in the last minute, so that bursts that come again and again find what they need. The pool's own limit on idle time is not enough, since it hands its connections out in turn, so
//! that a few loops keep all of them in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::PgPool;

/// How often it is looked what is not needed.
const WINDOW: Duration = Duration::from_secs(10);
/// Windows whose highest use stays open: together as long as the pool's own limit on idle time.
const WINDOWS: usize = 6;

/// How many connections were in use at once. Clones share the count.
#[derive(Debug, Clone, Default)]
pub(super) struct Spare(Arc<AtomicU32>);

/// The highest use of each of the last windows.
#[derive(Debug, Default)]
struct Recent {
    highest: [u32; WINDOWS],
    at: usize,
}

impl Recent {
    /// Notes the highest use of a window that has ended. Returns how many connections are needed.
    fn ended(&mut self, used: u32) -> u32 {
        if let Some(oldest) = self.highest.get_mut(self.at) {
            *oldest = used;
        }
        self.at = (self.at + 1) % WINDOWS;
        self.highest.iter().copied().fold(0, u32::max)
    }
}

/// How many connections are in use.
fn used(pool: &PgPool) -> u32 {
    let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
    pool.size().saturating_sub(idle)
}

impl Spare {
    /// Notes that a connection was just taken.
    pub(super) fn taken(&self, pool: &PgPool) {
        self.0.fetch_max(used(pool), Ordering::Relaxed);
    }

    /// Closes what is not needed, for as long as this is polled.
    pub(super) async fn close(&self, pool: &PgPool) {
        let mut recent = Recent::default();
        loop {
            tokio::time::sleep(WINDOW).await;
            // A transaction that goes on has its connection in the next window, too.
            let needed = recent.ended(self.0.swap(used(pool), Ordering::Relaxed));
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
        assert_eq!(recent.ended(0), 0);
    }
}
