//! What happens to a fleet under load, one thing after another.

use std::time::Duration;

use frameshift::rng::Stream;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::Fleet;
use super::load::Load;
use super::wire::Mood;
use crate::replicas::{is_full, signal};

/// Longest time until the fleet answers after a trouble is over.
const RECOVERY: Duration = Duration::from_secs(30);

/// Something that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A server is killed.
    ReplicaKilled,
    /// The database's server is killed and started again.
    DatabaseKilled,
    /// Every connection to the database is ended by its server.
    BackendsTerminated,
    /// The database takes no writes, as one that was a primary.
    ReadOnly,
    /// Connections that listen for hints end.
    ListenersCut,
    /// Everything from and to the database takes longer.
    DatabaseSlow,
    /// Connections to the database are half closed.
    DatabaseHalfClosed,
    /// The database falls silent without a word.
    DatabaseSilent,
    /// The bucket's server is killed and started again.
    BucketKilled,
    /// One answer of the bucket in ten is 503, and each takes longer.
    BucketFailing,
    /// Two servers stand still for longer than their leases hold.
    ReplicasStopped,
}

impl Trouble {
    pub(super) const ALL: [Self; 11] = [
        Self::ReplicaKilled,
        Self::DatabaseKilled,
        Self::BackendsTerminated,
        Self::ReadOnly,
        Self::ListenersCut,
        Self::DatabaseSlow,
        Self::DatabaseHalfClosed,
        Self::DatabaseSilent,
        Self::BucketKilled,
        Self::BucketFailing,
        Self::ReplicasStopped,
    ];

    #[allow(clippy::too_many_lines)]
    pub(super) async fn happen(self, fleet: &mut Fleet, round: usize) {
        let stand = std::sync::Arc::clone(&fleet.stand);
        let database = &stand.database;
        let place = round % super::REPLICAS;
        match self {
            Self::ReplicaKilled => {
                let kills = if is_full() { 9 } else { 1 };
                let mut dice = Stream::new(round as u64, "kills");
                for _ in 0..kills {
                    sleep(Duration::from_millis(dice.below(1500))).await;
                    let place = dice.below(super::REPLICAS as u64) as usize;
                    fleet.kill(place, Duration::from_millis(100)).await;
                }
            }
            Self::DatabaseKilled => {
                database.kill();
                sleep(lasting(1, 10)).await;
                database.start_again();
            }
            Self::BackendsTerminated => {
                database.run(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE application_name = 'frameshift'",
                );
            }
            Self::ReadOnly => {
                let set = |is: bool| {
                    database.run(&format!(
                        "ALTER DATABASE fleet SET default_transaction_read_only = {is}"
                    ));
                };
                set(true);
                database.run(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE application_name = 'frameshift'",
                );
                sleep(lasting(2, 20)).await;
                set(false);
            }
            Self::ListenersCut => {
                database.run(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE query LIKE 'LISTEN%'",
                );
                sleep(lasting(1, 5)).await;
            }
            Self::DatabaseSlow => {
                stand.wire.set(Mood::Delay(Duration::from_millis(100)));
                sleep(lasting(2, 15)).await;
                stand.wire.set(Mood::Pass);
            }
            Self::DatabaseHalfClosed => {
                stand.wire.set(Mood::HalfClosed);
                sleep(lasting(1, 5)).await;
                stand.wire.set(Mood::Pass);
            }
            Self::DatabaseSilent => {
                stand.wire.set(Mood::Silent);
                sleep(lasting(3, 30)).await;
                stand.wire.set(Mood::Cut);
                sleep(Duration::from_millis(100)).await;
                stand.wire.set(Mood::Pass);
            }
            Self::BucketKilled => {
                let mut bucket = stand.bucket.lock().await;
                bucket.kill();
                sleep(lasting(1, 10)).await;
                bucket.restart().await;
            }
            Self::BucketFailing => {
                stand.mood.refuse_one_in(10);
                stand
                    .mood
                    .delay(Duration::from_millis(if is_full() { 2000 } else { 100 }));
                sleep(lasting(2, 20)).await;
                stand.mood.refuse_one_in(0);
                stand.mood.delay(Duration::ZERO);
            }
            Self::ReplicasStopped => {
                let places = [place, (place + 1) % super::REPLICAS];
                for place in places {
                    signal(fleet.process(place), Signal::STOP);
                    stand.close(place);
                }
                // The lease of a job is six seconds.
                sleep(lasting(7, 20)).await;
                for place in places {
                    signal(fleet.process(place), Signal::CONT);
                }
                for place in places {
                    stand.open(place, fleet.process(place)).await;
                }
            }
        }
    }
}

/// How long something lasts: in the short form, in the long one.
fn lasting(short: u64, long: u64) -> Duration {
    Duration::from_secs(if is_full() { long } else { short })
}

/// Waits until callers get answers again.
pub(super) async fn recovers(load: &Load) {
    let (before, begun) = (load.right(), Instant::now());
    while load.right() < before + 3 {
        assert!(begun.elapsed() < RECOVERY, "no answers: {}", load.told());
        sleep(Duration::from_millis(20)).await;
    }
}
