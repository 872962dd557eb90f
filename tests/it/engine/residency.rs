//! Loading, eviction and refusal of adapter sets.

use frameshift::engine::{Clips, Config, Error, Load, Stored};
use frameshift::spec::Digest;
use futures::future::join_all;

use super::fixture::{ADAPTER, Running, bits, clip, size, stored, tenant, version};
use crate::server::{soon, until};

/// Starts an engine with room for this many sets of the tests' size.
async fn with_room_for(sets: u64) -> Running {
    Running::with_room_for(sets, Config::default()).await
}

#[tokio::test]
async fn a_version_is_loaded_once_for_all_who_wait() {
    let running = with_room_for(2).await;
    let wanted = version("a", "t", 1);
    running.shelf.put(&wanted, stored(1, ADAPTER, 0.3));
    let requests = (0..5).map(|seed| running.one(&wanted, clip(seed, 4)));
    for answer in join_all(requests).await {
        answer.unwrap();
    }
    assert_eq!(running.shelf.loads(&wanted), 1);
    assert_eq!(running.resident("a"), [wanted]);
    assert_eq!(running.resident("b"), []);
}

#[tokio::test]
async fn the_set_that_was_used_longest_ago_makes_room() {
    let running = with_room_for(2).await;
    let versions: Vec<_> = (1..=3).map(|number| version("a", "t", number)).collect();
    for (seed, version) in versions.iter().enumerate() {
        running
            .shelf
            .put(version, stored(seed as u64, ADAPTER, 0.3));
    }
    for used in [0, 1, 0, 2] {
        running.one(&versions[used], clip(0, 4)).await.unwrap();
    }
    assert_eq!(
        running.resident("a"),
        [versions[0].clone(), versions[2].clone()]
    );
    let bytes = 2 * size(&stored(0, ADAPTER, 0.3));
    let text = running.metrics.text();
    assert!(
        text.contains(&format!("residency_bytes{{tenant=\"a\"}} {bytes}\n")),
        "{text}"
    );
    assert!(text.contains("adapter_evictions_total 1\n"), "{text}");
}

#[tokio::test]
async fn two_busy_tasks_share_room_for_one_set() {
    let running = with_room_for(1).await;
    let versions = [version("a", "t", 1), version("b", "t", 1)];
    for (seed, version) in versions.iter().enumerate() {
        running
            .shelf
            .put(version, stored(seed as u64, ADAPTER, 0.3));
    }
    let requests = (0..8).map(|i| running.one(&versions[i % 2], clip(0, 4)));
    let answers = join_all(requests).await;
    let first: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_ne!(bits(&first[0]), bits(&first[1]));
    for i in 2..8 {
        assert_eq!(bits(&first[i]), bits(&first[i % 2]));
    }
}

#[tokio::test]
async fn a_set_larger_than_the_budget_is_refused() {
    let running = Running::start(Config {
        residency_bytes: 100,
        ..Config::default()
    })
    .await;
    let wanted = version("a", "t", 1);
    running.shelf.put(&wanted, stored(1, ADAPTER, 0.3));
    let refused = running.one(&wanted, clip(0, 4)).await;
    assert!(
        matches!(refused, Err(Error::TooLarge { budget: 100, .. })),
        "{refused:?}"
    );
    running.shelf.desire(&wanted);
    until(|| async { running.shelf.refused(&wanted).is_some() }).await;
    assert_eq!(running.shelf.serving("t"), None);
}

#[tokio::test]
async fn versions_of_one_request_that_do_not_fit_together_are_answered_in_turn() {
    let running = with_room_for(2).await;
    let versions: Vec<_> = (1..=5).map(|number| version("a", "t", number)).collect();
    let mut alone = Vec::new();
    for (seed, version) in (1..).zip(&versions) {
        running.shelf.put(version, stored(seed, ADAPTER, 0.3));
        alone.push(running.one(version, clip(0, 4)).await.unwrap());
    }
    let planes = clip(0, 4);
    let load = Load {
        clips: 1,
        frames: 4,
        readers: versions.len(),
    };
    // Each of these would keep sets in memory that the others wait for, if it waited for all of its own.
    let requests = (0..6).map(|first| {
        let (running, versions, planes) = (&running, &versions, &planes);
        async move {
            let order = (0..versions.len()).map(move |number| (first + number) % versions.len());
            let clips = order.clone().map(|place| Clips {
                version: versions[place].clone(),
                clips: vec![planes.clone().into()],
            });
            let permit = running.engine.admit_all(&tenant("a"), &[load]).unwrap();
            let answers = running.engine.classify_each(&permit, clips.collect(), None);
            (order, answers.await.unwrap())
        }
    });
    for (order, answers) in soon(join_all(requests)).await {
        for (place, answer) in order.zip(answers) {
            let logits = &answer.unwrap().logits[0];
            assert_eq!(bits(logits), bits(&alone[place]));
        }
    }
}

#[tokio::test]
async fn an_outage_passes_and_a_missing_version_is_not_found() {
    let running = with_room_for(2).await;
    let wanted = version("a", "t", 1);
    running.shelf.put(&wanted, stored(1, ADAPTER, 0.3));
    running.shelf.fail(1);
    let first = running.one(&wanted, clip(0, 4)).await;
    assert!(matches!(first, Err(Error::Load { .. })), "{first:?}");
    running.one(&wanted, clip(0, 4)).await.unwrap();
    let missing = running.one(&version("b", "t", 1), clip(0, 4)).await;
    assert!(
        matches!(missing, Err(Error::NotFound { .. })),
        "{missing:?}"
    );
}

#[tokio::test]
async fn a_set_that_cannot_serve_is_quarantined_with_its_reason() {
    let good = stored(1, ADAPTER, 0.3);
    let cut = Stored {
        bytes: good.bytes.slice(..good.bytes.len() - 4),
        ..good.clone()
    };
    let other_head = Stored {
        classes: 4,
        ..good.clone()
    };
    let other_backbone = Stored {
        backbone: Digest([9; 32]),
        ..good.clone()
    };
    let bad = [
        (stored(1, ADAPTER, f32::MAX), "not finite"),
        (cut, ""),
        (other_head, "fc."),
        (other_backbone, "backbone 0909"),
    ];
    let running = with_room_for(3).await;
    let fine = version("b", "fine", 1);
    running.shelf.put(&fine, good);
    for (number, (file, why)) in (1..).zip(bad) {
        let wanted = version("a", "t", number);
        running.shelf.put(&wanted, file);
        for _ in 0..2 {
            let refused = running.one(&wanted, clip(0, 4)).await;
            let Err(Error::Quarantined { reason, .. }) = &refused else {
                panic!("{why}: {refused:?}")
            };
            assert!(reason.contains(why), "{why}: {reason}");
        }
        assert_eq!(running.shelf.loads(&wanted), 1);
        let records = running.engine.residency(&tenant("a"));
        let own = records.iter().find(|record| record.version == wanted);
        assert!(own.unwrap().quarantine.is_some());
        running.one(&fine, clip(0, 4)).await.unwrap();
    }
    assert!(*running.engine.ready().borrow());
}

#[tokio::test]
async fn a_deleted_task_leaves_memory() {
    let running = Running::start(Config {
        poll: std::time::Duration::from_millis(1),
        ..Config::default()
    })
    .await;
    let wanted = version("a", "t", 1);
    running.shelf.put(&wanted, stored(1, ADAPTER, 0.3));
    running.one(&wanted, clip(0, 4)).await.unwrap();
    // The database is unavailable when the notice arrives, so the engine has to ask again.
    running.shelf.fall_silent(2);
    running.shelf.delete(&wanted);
    until(|| async { running.resident("a").is_empty() }).await;
    let gone = running.one(&wanted, clip(0, 4)).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
}

#[tokio::test]
async fn a_deleted_task_leaves_memory_although_its_notice_was_lost() {
    let running = with_room_for(2).await;
    let wanted = version("a", "t", 1);
    running.shelf.put(&wanted, stored(1, ADAPTER, 0.3));
    running.one(&wanted, clip(0, 4)).await.unwrap();
    running.shelf.delete_silently(&wanted);
    running.shelf.flood();
    until(|| async { running.resident("a").is_empty() }).await;
}

#[tokio::test]
async fn a_load_of_a_task_that_is_deleted_meanwhile_lists_nothing() {
    let running = with_room_for(2).await;
    let wanted = version("a", "t", 1);
    running.shelf.put(&wanted, stored(1, ADAPTER, 0.3));
    // The file is read, and the set waits to be warmed up.
    let paused = running.device.pause();
    let request = running.one(&wanted, clip(0, 4));
    let deletion = async {
        until(|| async { running.shelf.loads(&wanted) == 1 }).await;
        running.shelf.delete(&wanted);
        // A later notice that has been handled shows that this one was handled, too.
        let other = version("b", "t", 1);
        running.shelf.put(&other, stored(2, ADAPTER, 0.3));
        running.shelf.desire(&other);
        until(|| async { running.shelf.loads(&other) == 1 }).await;
        drop(paused);
    };
    let (gone, ()) = tokio::join!(request, deletion);
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    assert_eq!(running.resident("a"), []);
}

#[tokio::test]
async fn a_version_that_passed_its_warm_up_needs_none_when_it_is_loaded_again() {
    let running = with_room_for(1).await;
    let (own, other) = (version("a", "t", 1), version("b", "t", 1));
    for (seed, version) in [(1, &own), (2, &other)] {
        running.shelf.put(version, stored(seed, ADAPTER, 0.3));
    }
    let batches = || running.device.stats().batches;
    let begun = batches();
    let first = running.one(&own, clip(0, 4)).await.unwrap();
    running.one(&other, clip(0, 4)).await.unwrap();
    drop(running.device.pause());
    assert_eq!(batches() - begun, 4, "a warm-up and a clip of each");
    let again = running.one(&own, clip(0, 4)).await.unwrap();
    drop(running.device.pause());
    assert_eq!(batches() - begun, 5, "the clip alone");
    assert_eq!((running.shelf.loads(&own), bits(&again)), (2, bits(&first)));
}
