//! Serving versions move while clients send requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use frameshift::engine::{Config, Error};
use frameshift::ids::VersionRef;
use frameshift::model::AdapterSet;

use super::fixture::{ADAPTER, Running, bits, clip, config, stored, tenant, version};
use crate::server::until;

const SWAPS: u32 = 20;
const CLIENTS: usize = 8;

/// Requests a version and waits until it serves.
async fn swap(running: &Running, wanted: &VersionRef) {
    running.shelf.desire(wanted);
    let task = wanted.task.as_str();
    until(|| async { running.shelf.serving(task).as_ref() == Some(wanted) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_swaps_under_eight_clients_lose_nothing() {
    let (running, apart) = (
        Arc::new(Running::start(Config::default()).await),
        Running::start(Config::default()).await,
    );
    let versions: Vec<_> = (1..=SWAPS + 1)
        .map(|number| version("a", "t", number))
        .collect();
    let mut expected = HashMap::new();
    for version in &versions {
        let file = stored(u64::from(version.version.get()), ADAPTER, 0.3);
        running.shelf.put(version, file.clone());
        apart.shelf.put(version, file);
        let logits = apart.one(version, clip(0, 4)).await.unwrap();
        expected.insert(version.clone(), bits(&logits));
    }
    let expected = Arc::new(expected);
    swap(&running, &versions[0]).await;

    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (running, expected, stop) = (running.clone(), expected.clone(), stop.clone());
            tokio::spawn(async move {
                let mut answers = HashMap::new();
                while !stop.load(Ordering::Relaxed) {
                    let serving = running.shelf.serving("t").unwrap();
                    let logits = running.one(&serving, clip(0, 4)).await.unwrap();
                    assert_eq!(bits(&logits), expected[&serving], "{serving}");
                    *answers.entry(serving).or_insert(0) += 1;
                }
                answers
            })
        })
        .collect();
    for wanted in &versions[1..] {
        swap(&running, wanted).await;
        // Each version answers some client before the next one is requested.
        running.one(wanted, clip(0, 4)).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let mut answers = 0;
    let mut served = HashMap::new();
    for client in clients {
        for (version, count) in client.await.unwrap() {
            answers += count;
            *served.entry(version).or_insert(0) += count;
        }
    }
    assert!(answers >= CLIENTS, "{answers} answers");
    println!(
        "{answers} answers by {} of {} versions",
        served.len(),
        versions.len()
    );
}

#[tokio::test]
async fn a_version_that_is_not_finite_is_refused_and_the_old_one_serves() {
    let running = Running::start(Config::default()).await;
    let (old, new) = (version("a", "t", 1), version("a", "t", 2));
    running.shelf.put(&old, stored(1, ADAPTER, 0.3));
    running.shelf.put(&new, stored(2, ADAPTER, f32::MAX));
    swap(&running, &old).await;
    let before = running.one(&old, clip(0, 4)).await.unwrap();

    running.shelf.desire(&new);
    until(|| async { running.shelf.refused(&new).is_some() }).await;
    let why = running.shelf.refused(&new).unwrap();
    assert!(why.contains("not finite"), "{why}");
    assert_eq!(running.shelf.serving("t"), Some(old.clone()));
    let after = running.one(&old, clip(0, 4)).await.unwrap();
    assert_eq!(bits(&before), bits(&after));
    let refused = running.one(&new, clip(0, 4)).await;
    assert!(
        matches!(refused, Err(Error::Quarantined { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_damaged_version_serves_when_it_is_mended_and_asked_for_anew() {
    let running = Running::start(Config::default()).await;
    let wanted = version("a", "t", 1);
    running.shelf.put(&wanted, stored(1, ADAPTER, 0.3));
    running.shelf.damage(&wanted);
    running.shelf.desire(&wanted);
    until(|| async { running.shelf.refused(&wanted).is_some() }).await;
    let refused = running.one(&wanted, clip(0, 4)).await;
    assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");

    running.shelf.mend(&wanted);
    swap(&running, &wanted).await;
    running.one(&wanted, clip(0, 4)).await.unwrap();
    let records = running.engine.residency(&tenant("a"));
    assert!(records.iter().all(|record| record.quarantine.is_none()));
}

#[tokio::test]
async fn a_quarantined_version_that_serves_already_is_tried_again_when_it_is_asked_for() {
    let running = Running::start(with_room_for_one()).await;
    let (serving, other) = (version("a", "t", 1), version("a", "other", 1));
    running.shelf.put(&serving, stored(1, ADAPTER, 0.3));
    running.shelf.put(&other, stored(2, ADAPTER, 0.3));
    swap(&running, &serving).await;
    // The other set evicts it, and its file is damaged before it is read again.
    running.one(&other, clip(0, 4)).await.unwrap();
    running.shelf.damage(&serving);
    let refused = running.one(&serving, clip(0, 4)).await;
    assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
    assert!(running.engine.refusal(&serving).is_some());

    // A retry while the file is damaged changes nothing, and the failure is recorded.
    running.shelf.desire(&serving);
    until(|| async { running.shelf.refused(&serving).is_some() }).await;
    assert!(running.engine.refusal(&serving).is_some());

    running.shelf.mend(&serving);
    running.shelf.desire(&serving);
    until(|| async { running.engine.refusal(&serving).is_none() }).await;
    running.one(&serving, clip(0, 4)).await.unwrap();
    assert_eq!(running.shelf.refused(&serving), None);
}

fn with_room_for_one() -> Config {
    let file = stored(0, ADAPTER, 0.3);
    let set = AdapterSet::from_safetensors(&file.bytes, &config(), file.adapter, file.classes);
    Config {
        residency_bytes: set.unwrap().bytes(),
        ..Config::default()
    }
}

#[tokio::test]
async fn a_passing_outage_only_delays_a_swap() {
    let running = Running::start(Config {
        poll: std::time::Duration::from_millis(1),
        ..Config::default()
    })
    .await;
    let wanted = version("a", "t", 1);
    running.shelf.put(&wanted, stored(1, ADAPTER, 0.3));
    running.shelf.fail(3);
    swap(&running, &wanted).await;
    assert_eq!(running.shelf.refused(&wanted), None);
    assert_eq!(running.shelf.loads(&wanted), 4);
}

#[tokio::test]
async fn a_swap_asks_one_question_however_many_versions_of_the_task_are_in_memory() {
    let running = Running::start(Config::default()).await;
    let versions: Vec<_> = (1..=SWAPS)
        .map(|number| version("a", "t", number))
        .collect();
    for (seed, wanted) in (1..).zip(&versions) {
        running.shelf.put(wanted, stored(seed, ADAPTER, 0.3));
        swap(&running, wanted).await;
    }
    assert_eq!(running.resident("a"), versions, "all of them have room");
    let asked = running.shelf.questions();
    assert!((1..=versions.len()).contains(&asked), "{asked} questions");
}

#[tokio::test]
async fn a_notice_about_a_task_with_nothing_to_do_reads_that_task_alone() {
    let config = Config {
        poll: Duration::from_secs(3600),
        ..Config::default()
    };
    let running = Running::start(config).await;
    let wanted = version("a", "t", 1);
    running.shelf.put(&wanted, stored(1, ADAPTER, 0.3));
    swap(&running, &wanted).await;
    let [before, _] = running.shelf.reads();
    // Notices are handled in their order, so that the first one is over when the second one reads its task.
    running.shelf.notice();
    running.shelf.desire(&wanted);
    until(|| async { running.shelf.reads()[0] == before + 2 }).await;
    let [_, of_all] = running.shelf.reads();
    for _ in 0..3 {
        running.shelf.desire(&wanted);
    }
    running.shelf.notice();
    until(|| async { running.shelf.reads()[0] == before + 6 }).await;
    until(|| async { running.shelf.reads()[1] >= of_all + 2 }).await;
    assert_eq!(
        running.shelf.reads()[1],
        of_all + 2,
        "only the last one looks at all"
    );
}

#[tokio::test]
async fn a_version_that_a_failover_lost_leaves_memory_and_its_number_serves_what_it_is_given_to() {
    let running = Running::start(Config::default()).await;
    let (old, lost) = (version("a", "t", 1), version("a", "t", 2));
    for (seed, wanted) in [(1, &old), (2, &lost)] {
        running.shelf.put(wanted, stored(seed, ADAPTER, 0.3));
        swap(&running, wanted).await;
    }
    running.one(&lost, clip(0, 4)).await.unwrap();
    running.shelf.lose(&lost, &old);
    until(|| async { running.resident("a") == [old.clone()] }).await;
    // The next version of this number is not finite, and the warm-up of the lost one says nothing about it.
    running.shelf.put(&lost, stored(3, ADAPTER, f32::MAX));
    let refused = running.one(&lost, clip(0, 4)).await;
    assert!(
        matches!(refused, Err(Error::Quarantined { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_sets_of_a_deleted_task_leave_memory_when_another_task_takes_its_name() {
    let running = Running::start(Config::default()).await;
    let (old, new) = (version("a", "t", 1), version("a", "t", 2));
    running.shelf.put(&old, stored(1, ADAPTER, 0.3));
    swap(&running, &old).await;
    running.one(&old, clip(0, 4)).await.unwrap();
    running.shelf.delete_silently(&old);
    running.shelf.put(&new, stored(2, ADAPTER, 0.3));
    swap(&running, &new).await;
    until(|| async { running.resident("a") == [new.clone()] }).await;
}
