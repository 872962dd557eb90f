//! Batches, deadlines and cancellation.

use std::time::{Duration, Instant};

use frameshift::engine::{Config, Error};
use frameshift::ids::VersionRef;
use frameshift::spec::AdapterConfig;
use futures::future::join_all;

use super::fixture::{ADAPTER, Running, backbone, bits, clip, patient, stored, version};

/// Publishes three tasks of two tenants, with different shapes and lengths.
pub(super) async fn three_tasks(running: &Running) -> Vec<(VersionRef, usize)> {
    let both = AdapterConfig {
        adapter_width: 9,
        adapter_kernel_size: [3, 3, 1],
        adapter_pre_attn: true,
        ..ADAPTER
    };
    let tasks = vec![
        (version("a", "one", 1), 4),
        (version("b", "one", 1), 8),
        (version("b", "two", 1), 3),
    ];
    let shapes = [ADAPTER, both, AdapterConfig::LINEAR_PROBE];
    for (seed, ((version, frames), shape)) in tasks.iter().zip(shapes).enumerate() {
        running.shelf.put(version, stored(seed as u64, shape, 0.3));
        running.one(version, clip(0, *frames)).await.unwrap();
    }
    tasks
}

#[tokio::test]
async fn sixteen_clips_of_three_tasks_cost_the_frozen_products_of_one() {
    let running = Running::start(patient()).await;
    let tasks = three_tasks(&running).await;
    let wanted = |i: usize| (&tasks[i % 3].0, clip(i as u64, tasks[i % 3].1));

    let mut alone = Vec::new();
    let mut calls_of_one = 0;
    for i in 0..16 {
        let before = running.backbone.frozen_linear_calls();
        let (version, clip) = wanted(i);
        alone.push(running.one(version, clip).await.unwrap());
        calls_of_one = running.backbone.frozen_linear_calls() - before;
    }

    let before = (running.settled(), running.backbone.frozen_linear_calls());
    let paused = running.device.pause();
    let requests = (0..16).map(|i| {
        let (version, clip) = wanted(i);
        running.one(version, clip)
    });
    let mut requests = Box::pin(join_all(requests));
    assert!(futures::poll!(requests.as_mut()).is_pending());
    drop(paused);
    let together = requests.await;

    let after = (running.settled(), running.backbone.frozen_linear_calls());
    assert_eq!(after.0.batches - before.0.batches, 1);
    assert_eq!(after.1 - before.1, calls_of_one);
    assert!(calls_of_one > 0);
    for (i, (alone, together)) in alone.iter().zip(together).enumerate() {
        assert_eq!(bits(alone), bits(&together.unwrap()), "clip {i}");
    }
}

#[tokio::test]
async fn views_of_a_request_come_back_in_order() {
    let running = Running::start(Config {
        batch_clips: 2,
        ..Config::default()
    })
    .await;
    let tasks = three_tasks(&running).await;
    let (version, frames) = &tasks[0];
    let views: Vec<_> = (0..5).map(|seed| clip(seed, *frames)).collect();
    let permit = running.engine.admit(&version.tenant, 5, *frames).unwrap();
    let answer = running
        .engine
        .classify(permit, version, views.clone(), None);
    let answer = answer.await.unwrap();
    for (view, logits) in views.into_iter().zip(&answer.logits) {
        assert_eq!(
            bits(logits),
            bits(&running.one(version, view).await.unwrap())
        );
    }
    assert!(answer.device > Duration::ZERO);
}

#[tokio::test]
async fn a_deadline_on_a_busy_device_never_reaches_it() {
    let running = Running::start(Config::default()).await;
    let (version, frames) = three_tasks(&running).await.remove(0);
    let before = running.settled();
    let paused = running.device.pause();
    for wait in [Duration::from_millis(50), Duration::ZERO] {
        let permit = running.engine.admit(&version.tenant, 1, frames).unwrap();
        let deadline = Some(Instant::now() + wait);
        let request = running
            .engine
            .classify(permit, &version, vec![clip(1, frames)], deadline);
        assert!(matches!(request.await, Err(Error::DeadlineExceeded)));
    }
    drop(paused);
    assert_eq!(running.settled(), before);
    running.one(&version, clip(1, frames)).await.unwrap();
    assert_eq!(running.settled().batches, before.batches + 1);
    let text = running.metrics.text();
    assert!(
        text.contains("requests_dropped_total{reason=\"expired\",tenant=\"a\"} 2"),
        "{text}"
    );
    assert!(text.contains("frameshift_queue_clips 0"), "{text}");
}

#[tokio::test]
async fn a_caller_that_leaves_never_reaches_the_device() {
    let running = Running::start(Config::default()).await;
    let (version, frames) = three_tasks(&running).await.remove(0);
    let before = running.settled();
    let paused = running.device.pause();
    {
        let mut request = Box::pin(running.one(&version, clip(1, frames)));
        assert!(futures::poll!(request.as_mut()).is_pending());
    }
    drop(paused);
    assert_eq!(running.settled(), before);
    let text = running.metrics.text();
    assert!(
        text.contains("requests_dropped_total{reason=\"cancelled\",tenant=\"a\"} 1"),
        "{text}"
    );
    running.one(&version, clip(1, frames)).await.unwrap();
}

#[tokio::test]
async fn a_batch_takes_no_more_memory_than_it_may() {
    let running = Running::start(Config {
        batch_bytes: backbone().bytes_of(8),
        ..patient()
    })
    .await;
    let (version, _) = three_tasks(&running).await.remove(0);
    let before = running.settled().batches;
    let paused = running.device.pause();
    // The batches have two clips each, and the clip that is too long runs alone.
    let lengths = [4, 4, 4, 4, 12];
    let requests = (0..).zip(lengths);
    let requests = requests.map(|(seed, frames)| running.one(&version, clip(seed, frames)));
    let mut requests = Box::pin(join_all(requests));
    assert!(futures::poll!(requests.as_mut()).is_pending());
    drop(paused);
    for answer in requests.await {
        answer.unwrap();
    }
    assert_eq!(running.settled().batches, before + 3);
}

#[tokio::test]
async fn a_clip_of_another_size_is_refused() {
    let running = Running::start(Config::default()).await;
    let (version, _) = three_tasks(&running).await.remove(0);
    let before = running.settled();
    let odd: std::sync::Arc<[f32]> = clip(0, 2)[1..].into();
    for bad in [odd, clip(0, 65), Vec::new().into()] {
        let refused = running.one(&version, bad).await;
        assert!(
            matches!(refused, Err(Error::Clip { clip: 0, .. })),
            "{refused:?}"
        );
    }
    assert_eq!(running.settled(), before);
}

#[tokio::test]
async fn a_drain_finishes_what_was_admitted() {
    let running = Running::start(Config::default()).await;
    let (version, frames) = three_tasks(&running).await.remove(0);
    let paused = running.device.pause();
    let mut request = Box::pin(running.one(&version, clip(0, frames)));
    assert!(futures::poll!(request.as_mut()).is_pending());
    running.drain.start();
    let mut ready = running.engine.ready();
    ready.wait_for(|ready| !*ready).await.unwrap();
    assert!(!running.service.is_finished());
    drop(paused);
    request.await.unwrap();
    running.service.await.unwrap().unwrap();
    let late = running.engine.admit(&version.tenant, 1, frames);
    assert!(matches!(late, Err(Error::Stopped)), "{late:?}");
}
