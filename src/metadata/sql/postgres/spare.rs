//! Closes connections that nobody needs: a server that was busy gives back what the database keeps for each.
//!
//! Invariant: as many stay as were in use at once in the last while. The pool's own limit on idle time is not enough, since it hands its connections out in turn, so
//! that a few loops keep all of them in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::PgPool;

/// The while.
const WINDOW: Duration = Duration::from_secs(10);

/// How many connections were in use at once. Clones share the count.
#[derive(Debug, Clone, Default)]
pub(super) struct Spare(Arc<AtomicU32>);

impl Spare {
    /// Notes that a connection was just taken.
    pub(super) fn taken(&self, pool: &PgPool) {
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
        let used = pool.size().saturating_sub(idle);
        self.0.fetch_max(used, Ordering::Relaxed);
    }

    /// Closes what is not needed, for as long as this is polled.
    pub(super) async fn close(&self, pool: &PgPool) {
        loop {
            tokio::time::sleep(WINDOW).await;
            let needed = self.0.swap(0, Ordering::Relaxed).max(1);
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
