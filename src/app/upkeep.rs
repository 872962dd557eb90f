//! The loops that clean up: they delete what has expired, and objects that no record names.
//!
//! Invariant: no request depends on these loops; a failure is logged, and the next pass tries again.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::library::{Collected, Library, Removed};
use crate::shutdown::Signal;
use crate::telemetry::{self, metrics::Metrics};

/// Time between two searches for orphaned objects. An orphan must be a day old before it is deleted, so an hour is often enough.
const COLLECT: Duration = Duration::from_secs(60 * 60);
/// Time between two deletions of what has expired: expiry times are hours and days, and the metric of unfinished uploads should not be much older.
const TIDY: Duration = Duration::from_secs(60);

/// Deletes what has expired, every minute from the start on.
pub(super) async fn tidy(
    library: Library,
    metrics: Metrics,
    mut drain: Signal,
) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(TIDY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = drain.draining() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let pass = tokio::select! {
            // A pass may be interrupted anywhere: the next one continues.
            () = drain.draining() => return Ok(()),
            pass = library.tidy() => pass,
        };
        match pass {
            Ok(removed) => {
                let left = removed.left;
                metrics.unfinished_uploads(left.uploads, left.bytes, removed.uploads);
                report(&removed);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "cannot delete what has expired");
            }
        }
    }
}

fn report(removed: &Removed) {
    let nothing = Removed {
        left: removed.left,
        ..Removed::default()
    };
    if *removed != nothing {
        tracing::info!(?removed, "deleted what had expired");
    }
}

/// Moves objects that no record names to the trash, every hour. The first pass is `after` the start, which leaves an operator who started with the
/// wrong database time to notice.
pub(super) async fn collect(
    library: Library,
    after: Duration,
    mut drain: Signal,
) -> Result<(), Infallible> {
    // No other process writes to this directory, so a file that an earlier process was writing when it was killed has no owner.
    match library.remove_unfinished(telemetry::now_micros()).await {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "deleted incomplete files of an earlier process"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "cannot look for incomplete files of an earlier process"
            );
        }
    }
    let mut ticks = tokio::time::interval_at(Instant::now() + after, COLLECT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = drain.draining() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let pass = tokio::select! {
            () = drain.draining() => return Ok(()),
            pass = library.collect_orphans(telemetry::now_micros()) => pass,
        };
        match pass {
            Ok(collected) => say(&collected),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "cannot look for objects that no record names");
            }
        }
    }
}

fn say(collected: &Collected) {
    let Collected { blobs, orphans, .. } = *collected;
    if collected.is_held_back() {
        tracing::warn!(
            blobs,
            orphans,
            "so many objects have no record that none was moved to the trash: is this the right database? If they are not wanted, set collect_share to 100 once"
        );
    } else if collected.moved > 0 || collected.deleted > 0 {
        tracing::info!(
            ?collected,
            "moved objects that no record names to the trash, or deleted them from it"
        );
    }
}
