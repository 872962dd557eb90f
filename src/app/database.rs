//! Maintains the database while the server runs, reports when it stops accepting writes, and closes it at the end.
//!
//! Invariant: an outage of writes is logged once when it begins and once when it ends, and shows in a metric and in the health of
//! `frameshift.v1.writes`; the health of all other services stays SERVING, since classification continues.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::metadata::{Condition, Database};
use crate::rpc::Health;
use crate::shutdown::Signal;
use crate::telemetry::metrics::Metrics;

/// Time between two checkpoints of the write-ahead log; a lost log loses at most the changes of this time.
const UPKEEP: Duration = Duration::from_secs(60);
/// Time without a failed write after which a probing write checks whether the outage is over.
const QUIET: Duration = Duration::from_secs(3);
/// Longest time that closing waits for the last transactions.
const CLOSE: Duration = Duration::from_secs(10);

/// Checkpoints the log regularly, and watches for outages, until the drain.
pub(super) async fn tend(
    database: Database,
    health: Health,
    metrics: Metrics,
    drain: Signal,
) -> Result<(), Infallible> {
    let mut condition = database.condition();
    let mut upkeep = tokio::time::interval(UPKEEP);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let failing = condition.borrow_and_update().failing.clone();
        if let Some(why) = failing {
            let outage = Outage::begin(&why, &health, &metrics).await;
            tokio::select! {
                () = drain.draining() => return Ok(()),
                failures = last(&database, &mut condition) => {
                    outage.end(failures, &health, &metrics).await;
                }
            }
            continue;
        }
        tokio::select! {
            () = drain.draining() => return Ok(()),
            _ = condition.changed() => {}
            _ = upkeep.tick() => {
                if let Err(error) = database.tidy_up().await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the database's log cannot be written back");
                }
            }
        }
    }
}

/// Checkpoints the log and closes the database.
pub(super) async fn close(database: &Database) {
    match tokio::time::timeout(CLOSE, database.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "the database's log could not be written back: metadata.sqlite and metadata.sqlite-wal belong together"
            );
        }
        Err(_) => tracing::warn!(
            "a transaction did not end: metadata.sqlite and metadata.sqlite-wal belong together"
        ),
    }
}

/// Probes until a write succeeds and no other write has failed for a while. Returns the number of failed writes.
async fn last(database: &Database, condition: &mut watch::Receiver<Condition>) -> u64 {
    let mut failures = 0;
    loop {
        let now = condition.borrow_and_update().clone();
        if now.failing.is_none() {
            return failures;
        }
        failures = now.failures;
        // On a disk that is nearly full some writes still succeed; they would end an outage that the next write begins again.
        tokio::time::sleep(QUIET).await;
        // A probe that fails is one of the failures.
        let _ = database.probe(failures).await;
    }
}

/// Period in which the database accepts no writes.
struct Outage {
    begin: Instant,
}

impl Outage {
    async fn begin(why: &str, health: &Health, metrics: &Metrics) -> Self {
        tracing::error!(
            why,
            "the database cannot be written: changes are refused until it can, classification continues"
        );
        metrics.database_writes_failing(true);
        health.writes(false).await;
        Self {
            begin: Instant::now(),
        }
    }

    async fn end(self, failures: u64, health: &Health, metrics: &Metrics) {
        let seconds = self.begin.elapsed().as_secs_f64();
        tracing::warn!(seconds, failures, "the database can be written again");
        metrics.database_writes_failing(false);
        health.writes(true).await;
    }
}
