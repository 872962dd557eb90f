//! Work that nobody waits for: it takes nothing that a request could use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use frameshift::engine::{Answer, Config, Error};
use frameshift::ids::VersionRef;

use super::endless::Endless;
use super::fixture::{ADAPTER, Running, bits, clip, config, size, stored, tenant, version};
use crate::server::until;

/// Starts an engine with room for `count` sets of the tests' size.
async fn with_room_for(sets: u64) -> Running {
    let config = Config {
        poll: Duration::from_millis(1),
        ..Config::default()
    };
    Running::with_room_for(sets, config).await
}

async fn spare(
    running: &Running,
    version: &VersionRef,
    clip: Arc<[f32]>,
    patience: Duration,
) -> Result<Answer, Error> {
    let frames = clip.len() / config().frame_len();
    let room = running.engine.admit_spare(&version.tenant, 1, frames)?;
    let deadline = Instant::now() + patience;
    let answer = running
        .engine
        .classify_spare(room, version, vec![clip], deadline);
    answer.await
}

const LONG: Duration = Duration::from_secs(60);

fn resident(running: &Running) -> Vec<VersionRef> {
    let records = running.engine.residency(&tenant("a")).into_iter();
    records.map(|record| record.version).collect()
}

fn versions(running: &Running) -> [VersionRef; 3] {
    let versions = [1, 2, 3].map(|number| version("a", "t", number));
    for (seed, version) in (1..).zip(&versions) {
        running.shelf.put(version, stored(seed, ADAPTER, 0.3));
    }
    versions
}

#[tokio::test]
async fn a_set_that_nobody_waits_for_finds_free_room_only_and_is_the_first_to_leave() {
    let full = with_room_for(1).await;
    let [used, watching, _] = versions(&full);
    full.one(&used, clip(0, 4)).await.unwrap();
    for _ in 0..2 {
        let none = spare(&full, &watching, clip(0, 4), LONG).await;
        assert!(matches!(none, Err(Error::NoRoom { .. })), "{none:?}");
        // It is looked for, and finds no room.
        let before = full.shelf.loads(&watching);
        until(|| async {
            let _ = spare(&full, &watching, clip(0, 4), LONG).await;
            full.shelf.loads(&watching) > before
        })
        .await;
    }
    assert_eq!(resident(&full), std::slice::from_ref(&used));

    let roomy = with_room_for(2).await;
    let [used, watching, next] = versions(&roomy);
    roomy.one(&used, clip(0, 4)).await.unwrap();
    until(|| async { spare(&roomy, &watching, clip(0, 4), LONG).await.is_ok() }).await;
    let answer = spare(&roomy, &watching, clip(0, 4), LONG).await.unwrap();
    assert_eq!(resident(&roomy), [used.clone(), watching.clone()]);
    roomy.one(&next, clip(0, 4)).await.unwrap();
    assert_eq!(
        resident(&roomy),
        [used, next],
        "it was used last, but by nobody"
    );
    let own = roomy.one(&watching, clip(0, 4)).await.unwrap();
    assert_eq!(bits(&answer.logits[0]), bits(&own));
}

#[tokio::test]
async fn work_that_nobody_waits_for_is_refused_while_requests_wait_and_dropped_in_time() {
    let running = with_room_for(3).await;
    let [used, watching, _] = versions(&running);
    running.one(&used, clip(0, 4)).await.unwrap();
    until(|| async { spare(&running, &watching, clip(0, 4), LONG).await.is_ok() }).await;
    let paused = running.device.pause();
    let late = spare(&running, &watching, clip(0, 4), Duration::from_millis(20)).await;
    assert!(matches!(late, Err(Error::DeadlineExceeded)), "{late:?}");
    // Its own room is a quarter of the queue's, whatever requests leave.
    let all = running.engine.admit_spare(&tenant("a"), 64, 1).unwrap();
    let more = running.engine.admit_spare(&tenant("b"), 1, 1).map(drop);
    assert!(matches!(more, Err(Error::QueueFull { .. })), "{more:?}");
    drop(all);
    let mut request = Box::pin(running.one(&used, clip(0, 4)));
    assert!(futures::poll!(request.as_mut()).is_pending());
    let refused = running.engine.admit_spare(&tenant("a"), 1, 4).map(drop);
    assert!(
        matches!(refused, Err(Error::QueueFull { .. })),
        "{refused:?}"
    );
    drop(paused);
    request.await.unwrap();
}

#[tokio::test]
async fn a_version_that_watches_and_fails_is_told_apart_from_a_full_server() {
    let running = with_room_for(3).await;
    let damaged = version("a", "t", 1);
    running.shelf.put(&damaged, stored(1, ADAPTER, 0.3));
    running.shelf.damage(&damaged);
    until(|| async {
        let answer = spare(&running, &damaged, clip(0, 4), LONG).await;
        matches!(answer, Err(Error::Damaged { .. }))
    })
    .await;
}

#[tokio::test]
async fn sets_that_are_warmed_up_for_nobody_leave_their_turns_to_the_loads_of_requests() {
    let running = with_room_for(4).await;
    let [first, second, wanted] = versions(&running);
    let endless = Endless::start(&running.device).await;
    for watching in [&first, &second] {
        let none = spare(&running, watching, clip(0, 4), LONG).await;
        assert!(matches!(none, Err(Error::NoRoom { .. })), "{none:?}");
    }
    // Both have their room, and wait for the device.
    let bytes = 2 * size(&stored(0, ADAPTER, 0.3));
    let both = format!("residency_bytes{{tenant=\"a\"}} {bytes}\n");
    until(|| async { running.metrics.text().contains(&both) }).await;
    running.one(&wanted, clip(0, 4)).await.unwrap();
    assert_eq!(resident(&running), std::slice::from_ref(&wanted));
    endless.end();
    until(|| async { resident(&running).len() == 3 }).await;
}
