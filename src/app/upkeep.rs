//! The loops that clean up: they delete what has expired, and objects that no record names, and give unused memory back.
//!
//! Invariant: no request depends on these loops; a failure is logged, and the next pass tries again.

mod pace;

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior};

use self::pace::Pace;
use crate::blocking::blocking;
use crate::jobs::Caretaker;
use crate::library::{self, Collected, Duty, Library, Removed};
use crate::model::{self, Slack};
use crate::shutdown::Signal;
use crate::telemetry::{
    self,
    metrics::{Holding, Metrics},
};
use crate::video::Decoder;

/// Time between two deletions of what has expired: expiry times are hours and days, and the metric of unfinished uploads should not be much older.
const TIDY: Duration = Duration::from_secs(60);

/// Time between two looks for copies of objects that another process deleted.
const FORGET: Duration = Duration::from_secs(60 * 60);

/// Time between two looks after jobs: as long as the runners of a process that trains leave between two counts of those that wait.
const WAITING: Duration = Duration::from_secs(10);

/// Time between two counts of the memory that the allocator keeps.
const COUNT: Duration = Duration::from_secs(5);
/// Counts in which memory has to be unused before it is given back: a minute of them.
const COUNTS: u32 = 12;
/// Unused memory that the allocator may keep; the budget of the program itself covers it.
const KEPT: u64 = 128 << 20;

/// Gives memory back to the system that nobody has used for a minute, such as that of one large import.
pub(super) async fn give_back(drain: Signal) -> Result<(), Infallible> {
    let mut slack = Slack::new(KEPT, COUNTS);
    let mut ticks = tokio::time::interval(COUNT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = drain.draining() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let Some(unused) = model::unused_bytes() else {
            return Ok(());
        };
        if let Some(bytes) = slack.count(unused) {
            tracing::debug!(bytes, "unused memory goes back to the system");
            // A failure would only mean that the runtime ends.
            let _ = blocking(model::give_back).await;
        }
    }
}

/// Looks after jobs in a process that has no worker itself: it counts those that wait, since whoever starts workers by that number may have started none, and puts
/// back those whose worker was lost. The drain does not interrupt a look, which tidies up after jobs that ended.
pub(super) async fn look_after_jobs(caretaker: Caretaker, drain: Signal) -> Result<(), Infallible> {
    // Servers that were started together do not ask together.
    let share = (RandomState::new().hash_one(WAITING) % 1000) as u32;
    let first = Instant::now() + WAITING * share / 1000;
    let mut ticks = tokio::time::interval_at(first, WAITING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_up = true;
    loop {
        tokio::select! {
            () = drain.draining() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let looked = caretaker.look().await;
        if let Some(error) = looked.as_ref().err().filter(|_| is_up) {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "cannot look after jobs; it is tried again");
        }
        is_up = looked.is_ok();
    }
}

/// Makes a pass at each tick until the drain, and tells how it ended. A pass may be interrupted anywhere: the next one continues.
async fn at_each<T, F: Future<Output = T>>(
    mut ticks: Interval,
    drain: Signal,
    pass: impl Fn() -> F,
    mut told: impl FnMut(T),
) {
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = drain.draining() => return,
            _ = ticks.tick() => {}
        }
        let ended = tokio::select! {
            () = drain.draining() => return,
            ended = pass() => ended,
        };
        told(ended);
    }
}

/// Time between two looks at the video workers that were lost: shorter than the usual interval at which metrics are read.
const LOST: Duration = Duration::from_secs(5);

/// Counts the video workers that broke a limit or the sandbox, or crashed.
pub(super) async fn count_lost_workers(
    decoder: Decoder,
    metrics: Metrics,
    drain: Signal,
) -> Result<(), Infallible> {
    let pass = async || decoder.lost_workers();
    at_each(tokio::time::interval(LOST), drain, pass, |lost| {
        for (reject, workers) in lost {
            let reason = reject.reason().trim_start_matches("VIDEO_");
            metrics.video_workers_lost(&reason.to_ascii_lowercase(), workers);
        }
    })
    .await;
    Ok(())
}

/// Passes for which a server that does not come back keeps a duty from the others.
const MISSED: u32 = 3;

/// Deletes what has expired, every minute from the start on. Of servers that share a database one does this.
pub(super) async fn tidy(
    (library, replica): (Library, String),
    metrics: Metrics,
    drain: Signal,
) -> Result<(), Infallible> {
    let ticks = tokio::time::interval(TIDY);
    let pass = || library.tidy();
    let told = |pass: library::Result<Removed>| match pass {
        Ok(removed) => {
            let left = removed.left;
            metrics.unfinished_uploads(left.uploads, left.bytes, removed.uploads);
            report(&removed);
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot delete what has expired");
        }
    };
    let duty = (Duty::Janitor, MISSED * TIDY);
    let own = (&library, &*replica, &metrics);
    rounds(own, (duty, ticks), drain, pass, told).await;
    Ok(())
}

/// Does a duty at each tick until the drain, and tells how each pass ended. Of servers that share a database one has the duty.
async fn rounds<T, F: Future<Output = library::Result<T>>>(
    (library, replica, metrics): (&Library, &str, &Metrics),
    ((duty, length), ticks): ((Duty, Duration), Interval),
    drain: Signal,
    pass: impl Fn() -> F,
    told: impl Fn(library::Result<T>),
) {
    let (pass, holds) = (&pass, &Holding::new(metrics.clone()));
    let on_duty = || async move {
        match holds.after(library.take_duty(duty, replica, length).await?) {
            true => pass().await.map(Some),
            false => Ok(None),
        }
    };
    at_each(ticks, drain, on_duty, |ended| {
        if let Some(ended) = ended.transpose() {
            told(ended);
        }
    })
    .await;
}

/// Time between two looks for tenants that are to be erased: an operator waits for it.
const ERASE: Duration = Duration::from_secs(2);
/// Time for which a server that does not come back keeps the duty of erasing from the others.
const ERASER: Duration = Duration::from_secs(30);

/// Erases tenants, step by step. Of servers that share a database one does this.
pub(super) async fn erase(
    (library, replica): (Library, String),
    metrics: Metrics,
    drain: Signal,
) -> Result<(), Infallible> {
    let holds = Holding::new(metrics);
    let pass = async || {
        if !library.is_erasing().await? {
            holds.let_go();
            return Ok(Vec::new());
        }
        let taken = library.take_duty(Duty::Eraser, &replica, ERASER).await?;
        match holds.after(taken) {
            true => library.erase().await,
            false => Ok(Vec::new()),
        }
    };
    let mut is_up = true;
    let told = |pass: library::Result<Vec<_>>| {
        match &pass {
            Ok(erased) => erased
                .iter()
                .for_each(|tenant| tracing::info!(%tenant, "a tenant was erased")),
            Err(error) if is_up => {
                let error = error as &dyn std::error::Error;
                tracing::warn!(error, "tenants cannot be erased now; it is tried again");
            }
            Err(_) => {}
        }
        is_up = pass.is_ok();
    };
    at_each(tokio::time::interval(ERASE), drain, pass, told).await;
    Ok(())
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

/// Moves objects that no record names to the trash, every hour, in a bucket every day. The first pass is `after` the start, which leaves an operator who started with the
/// wrong database time to notice.
pub(super) async fn collect(
    (library, replica): (Library, String),
    metrics: Metrics,
    after: Duration,
    drain: Signal,
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
    let ticks = tokio::time::interval_at(Instant::now() + after, pace::LOOK);
    let (searched, pace) = (&library, &Pace::new(library.is_in_folder()));
    let pass = || async move {
        let began = Instant::now();
        if !pace.is_due(began) {
            return Ok(None);
        }
        let collected = searched.collect_orphans(telemetry::now_micros()).await?;
        pace.searched(began, &collected);
        Ok(Some(collected))
    };
    let told = |pass: library::Result<Option<Collected>>| match pass {
        Ok(collected) => collected.iter().for_each(say),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot look for objects that no record names");
        }
    };
    let duty = (Duty::Collector, MISSED * pace::LOOK);
    let own = (&library, &*replica, &metrics);
    rounds(own, (duty, ticks), drain, pass, told).await;
    Ok(())
}

/// Removes copies of deleted objects from this process's cache, every hour. Each process does this for its own.
pub(super) async fn forget(library: Library, drain: Signal) -> Result<(), Infallible> {
    let ticks = tokio::time::interval(FORGET);
    let told = |pass: library::Result<u64>| match pass {
        Ok(0) => {}
        Ok(copies) => tracing::debug!(copies, "removed copies of deleted objects"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot look for copies of deleted objects");
        }
    };
    at_each(ticks, drain, || library.forget_copies(), told).await;
    Ok(())
}

fn say(collected: &Collected) {
    let Collected { blobs, orphans, .. } = *collected;
    if collected.is_held {
        tracing::warn!(
            "the data was restored and not checked yet, so no object is deleted: run `frameshift fsck`"
        );
    } else if collected.is_held_back() {
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
