//! The loops that clear up: what has had its time goes, and blobs that no record names.
//!
//! Invariant: neither serves anybody; a failure is a line in the log and another try later.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::library::{Collected, Library, Removed};
use crate::shutdown::Signal;
use crate::telemetry::{self, metrics::Metrics};

/// How often orphaned blobs are looked for. They get a day old before they go, so an hour is often enough.
const COLLECT: Duration = Duration::from_secs(60 * 60);
/// How often what has had its time is removed: ages are hours and days, and the metric of unfinished uploads should not be much older.
const TIDY: Duration = Duration::from_secs(60);

/// Removes what has had its time, from the start on.
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
            // A pass may be cut anywhere: the next one goes on.
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
                tracing::warn!(error, "cannot remove what has had its time");
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
        tracing::info!(?removed, "removed what had its time");
    }
}

/// Collects what no record names, from time to time, first so long after the start: whoever started with the wrong database has that time to see it.
pub(super) async fn collect(
    library: Library,
    after: Duration,
    mut drain: Signal,
) -> Result<(), Infallible> {
    // What an earlier process was writing when it was killed is nobody's: this process alone writes here.
    match library.remove_unfinished(telemetry::now_micros()).await {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "deleted files that were never written to their end"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "cannot look for files that were never written to their end"
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
            "so many objects have no record that none was taken: is this the right database? If they are not wanted, set collect_share to 100 once"
        );
    } else if collected.moved > 0 || collected.deleted > 0 {
        tracing::info!(?collected, "cleared up objects that no record names");
    }
}
