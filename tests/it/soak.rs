//! A server under everything at once: requests of every kind, streams of windows and frames, versions that share requests or watch, callers that leave,
//! deadlines, floods, quotas, swaps, imports, deletions, killed workers, and a store that is slow or fails. Every answer has the bits of its twin, which was asked for alone, and at the end everything is given back.

mod bed;
mod mix;
mod streams;
mod tally;
mod trouble;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use crate::server::until;
use bed::Bed;
use tally::{Doing, Tally};

/// Environment variable with the number of seconds; 30 when not set.
const SECONDS: &str = "SOAK_SECONDS";

/// Loops that ask in turn; more than the queue has room for when each asks for several tasks.
const ASKERS: u64 = 8;

/// Everything that the loops share.
struct Soak {
    bed: Bed,
    tally: Tally,
    until: Instant,
}

impl Soak {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }
}

fn seconds() -> u64 {
    match std::env::var(SECONDS) {
        Ok(text) => text.parse().expect("SOAK_SECONDS is a number of seconds"),
        Err(_) => 30,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_faults_floods_and_swaps_every_answer_is_its_twins_and_all_is_given_back() {
    let bed = Bed::new().await;
    let before = bed.holdings().await;
    let counted = bed.counted();
    let soak = Arc::new(Soak {
        tally: Tally::default(),
        until: Instant::now() + Duration::from_secs(seconds()),
        bed,
    });
    let mut loops = Vec::new();
    for number in 0..ASKERS {
        loops.push(tokio::spawn(mix::ask(soak.clone(), number)));
    }
    for trouble in trouble::all(&soak) {
        loops.push(tokio::spawn(trouble));
    }
    for ended in join_all(loops).await {
        ended.expect("a loop of the soak failed");
    }
    let Soak { bed, tally, .. } =
        Arc::into_inner(soak).expect("the loops have ended and given back what they shared");
    println!("{tally}");

    // Every request that a caller did not give up was counted once; one that was given up may have come to the server or not.
    let soon = || {
        let now = bed.counted();
        let all = now.requests - counted.requests;
        let answered = now.classified - counted.classified;
        let is_all = (tally.ended()..=tally.begun()).contains(&all);
        let is_each = (tally.classified()..=tally.most_classified()).contains(&answered);
        (
            is_all && is_each,
            format!("{all} requests, {answered} answers"),
        )
    };
    let mut now = soon();
    for _ in 0..1000 {
        if now.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        now = soon();
    }
    assert!(now.0, "{} were counted, of these: {tally}", now.1);
    for doing in Doing::ALL {
        assert!(tally.right(doing) > 0, "{doing:?} never succeeded: {tally}");
    }

    let resumed = bed.counted().resumed - counted.resumed;
    assert_eq!(
        resumed > 0,
        bed.keeps_tokens(),
        "frames that went on from kept tokens: {tally}"
    );
    for what in ["stored", "refused for the quota"] {
        assert!(tally.happened(what) > 0, "nothing was {what}: {tally}");
    }
    let [watches] = &bed.split().await.shadows[..] else {
        panic!("one version watches");
    };
    let seen = watches.compared + watches.dropped;
    assert!(seen > 0 && watches.failed == 0, "{watches:?}");

    bed.check_twins().await;
    bed.check_books().await;
    until(|| async { bed.holdings().await.is_within(&before) }).await;
    bed.stop().await;
}
