//! A bad clip, version or request fails alone.

use std::sync::Arc;

use frameshift::engine::Error;
use futures::future::join_all;

use super::fixture::{ADAPTER, Running, bits, clip, patient, stored, version};
use crate::server::until;

#[tokio::test]
async fn a_clip_without_finite_logits_fails_alone() {
    let running = Running::start(patient()).await;
    let versions: Vec<_> = ["one", "two", "three"]
        .map(|task| version("a", task, 1))
        .into();
    let mut alone = Vec::new();
    for (seed, version) in versions.iter().enumerate() {
        running
            .shelf
            .put(version, stored(seed as u64, ADAPTER, 0.3));
        alone.push(running.one(version, clip(5, 4)).await.unwrap());
    }
    let (before, settled) = (batches(&running), running.settled().batches);
    let paused = running.device.pause();
    let broken: Arc<[f32]> = clip(5, 4).iter().map(|_| f32::MAX).collect();
    let requests = [
        running.one(&versions[0], clip(5, 4)),
        running.one(&versions[1], broken),
        running.one(&versions[2], clip(5, 4)),
    ];
    let mut requests = Box::pin(join_all(requests));
    assert!(futures::poll!(requests.as_mut()).is_pending());
    drop(paused);
    let answers = requests.await;
    assert_eq!(batches(&running), before + 1);
    assert_eq!(bits(answers[0].as_ref().unwrap()), bits(&alone[0]));
    assert_eq!(bits(answers[2].as_ref().unwrap()), bits(&alone[2]));
    assert!(
        matches!(answers[1], Err(Error::Failed { .. })),
        "{:?}",
        answers[1]
    );
    // The clip is at fault, not its version, which is warmed up again and then serves.
    until(|| async { running.settled().batches >= settled + 2 }).await;
    let again = running.one(&versions[1], clip(5, 4)).await;
    assert_eq!(bits(&again.unwrap()), bits(&alone[1]));
    assert_eq!(running.engine.refusal(&versions[1]), None);
    assert_eq!(running.shelf.loads(&versions[1]), 1);
}

/// Returns the number of batches that were formed so far; warm-ups do not count.
fn batches(running: &Running) -> u64 {
    let text = running.metrics.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("frameshift_batch_clips_count "));
    line.expect("a counter").parse().expect("a number")
}
