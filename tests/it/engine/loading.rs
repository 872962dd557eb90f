//! Loads: begun before they are needed, fair by tenant, in nobody's way; and sets that are pinned.

use std::time::Duration;

use frameshift::engine::Config;
use frameshift::ids::VersionRef;
use frameshift::spec::AdapterConfig;

use super::endless::Endless;
use super::fixture::{ADAPTER, Running, bits, clip, size, stored, tenant, version};
use crate::server::until;

/// Starts an engine with room for this many sets of the tests' size, which looks for work all the time.
async fn with_room_for(sets: u64) -> Running {
    let config = Config {
        poll: Duration::from_millis(1),
        ..Config::default()
    };
    Running::with_room_for(sets, config).await
}

#[tokio::test]
async fn a_set_that_admission_names_is_loaded_once_and_before_its_clips_come() {
    let running = with_room_for(2).await;
    let wanted = version("a", "t", 1);
    running.shelf.put(&wanted, stored(1, ADAPTER, 0.3));
    let gate = running.shelf.hold();
    running.engine.prefetch([&wanted]);
    until(|| async { running.shelf.loads(&wanted) == 1 }).await;
    running.engine.prefetch([&wanted]);
    gate.add_permits(2);
    until(|| async { running.resident("a") == [wanted.clone()] }).await;
    running.one(&wanted, clip(0, 4)).await.unwrap();
    assert_eq!(running.shelf.loads(&wanted), 1);
}

#[tokio::test]
async fn a_tenant_that_loads_a_hundred_sets_delays_anothers_load_by_one_at_most() {
    let running = with_room_for(200).await;
    let gate = running.shelf.hold();
    let many: Vec<_> = (1..=100)
        .map(|number| version("many", "t", number))
        .collect();
    for version in &many {
        running.shelf.put(version, stored(1, ADAPTER, 0.3));
    }
    let mut requests: Vec<_> = many
        .iter()
        .map(|version| Box::pin(running.one(version, clip(0, 1))))
        .collect();
    for request in &mut requests {
        assert!(futures::poll!(request.as_mut()).is_pending());
    }
    let begun = || -> usize { many.iter().map(|own| running.shelf.loads(own)).sum() };
    until(|| async { begun() == 2 }).await;
    let single = version("one", "t", 1);
    running.shelf.put(&single, stored(2, ADAPTER, 0.3));
    running.engine.prefetch([&single]);
    // One load of the other tenant ends; at most one more of its loads begins before this one.
    gate.add_permits(1);
    until(|| async { begun() + running.shelf.loads(&single) == 3 }).await;
    if running.shelf.loads(&single) == 0 {
        gate.add_permits(1);
        until(|| async { running.shelf.loads(&single) == 1 }).await;
    }
    assert!(begun() <= 3, "{} loads went first", begun() - 2);
    gate.add_permits(1000);
    running.one(&single, clip(0, 1)).await.unwrap();
}

#[tokio::test]
async fn a_load_that_hangs_stalls_nobody_who_is_resident() {
    let running = with_room_for(2).await;
    let (quick, slow) = (version("a", "t", 1), version("b", "t", 1));
    running.shelf.put(&quick, stored(1, ADAPTER, 0.3));
    running.shelf.put(&slow, stored(2, ADAPTER, 0.3));
    let before = running.one(&quick, clip(0, 4)).await.unwrap();
    let gate = running.shelf.hold();
    let mut waiting = Box::pin(running.one(&slow, clip(0, 4)));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    until(|| async { running.shelf.loads(&slow) == 1 }).await;
    for _ in 0..20 {
        let answer = running.one(&quick, clip(0, 4)).await.unwrap();
        assert_eq!(bits(&answer), bits(&before));
    }
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    gate.add_permits(1);
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_place_in_memory_that_is_reused_never_answers_with_another_tenants_set() {
    let running = with_room_for(1).await;
    // The names differ in the tenant only.
    let owners = ["a", "b", "c"].map(|owner| version(owner, "t", 1));
    let mut alone = Vec::new();
    for (seed, own) in (1..).zip(&owners) {
        running.shelf.put(own, stored(seed, ADAPTER, 0.3));
        alone.push(bits(&running.one(own, clip(0, 4)).await.unwrap()));
    }
    assert!(alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2]);
    for round in 0..12 {
        let turn = (round * 2) % 3;
        let answer = running.one(&owners[turn], clip(0, 4)).await.unwrap();
        assert_eq!(bits(&answer), alone[turn]);
        assert_eq!(
            running.resident(owners[turn].tenant.as_str()),
            [owners[turn].clone()]
        );
    }
    assert!(
        running
            .metrics
            .text()
            .contains("adapter_evictions_total 14\n")
    );
}

#[tokio::test]
async fn room_is_counted_in_bytes_not_in_sets() {
    let wide = AdapterConfig {
        adapter_width: 160,
        ..ADAPTER
    };
    let (large, small) = (size(&stored(0, wide, 0.3)), size(&stored(0, ADAPTER, 0.3)));
    assert!(large > 4 * small, "{large} and {small}");
    let budget = large + 2 * small;
    let running = Running::start(Config {
        residency_bytes: budget,
        ..Config::default()
    })
    .await;
    let big = version("a", "big", 1);
    running.shelf.put(&big, stored(1, wide, 0.3));
    let few: Vec<_> = (1..=9).map(|number| version("a", "few", number)).collect();
    for own in &few {
        running.shelf.put(own, stored(2, ADAPTER, 0.3));
        running.one(own, clip(0, 1)).await.unwrap();
    }
    let all = (budget / small).min(9) as usize;
    assert_eq!(running.resident("a").len(), all, "as many as have room");
    running.one(&big, clip(0, 1)).await.unwrap();
    let records = running.engine.residency(&tenant("a"));
    assert_eq!(
        records.len(),
        3,
        "one large set and two small ones: {records:?}"
    );
    let bytes: u64 = records.iter().map(|record| record.bytes).sum();
    assert_eq!(bytes, budget);
}

#[tokio::test]
async fn pinned_sets_are_loaded_unasked_and_stay_within_half_of_the_budget() {
    let running = with_room_for(4).await;
    let versions: Vec<_> = (1..=8).map(|number| version("a", "t", number)).collect();
    for own in &versions {
        running.shelf.put(own, stored(1, ADAPTER, 0.3));
    }
    let bytes = size(&stored(1, ADAPTER, 0.3));
    let pinned: Vec<_> = versions[..3]
        .iter()
        .map(|own| (own.clone(), bytes))
        .collect();
    running.shelf.pin(&pinned);
    let kept = || -> Vec<VersionRef> {
        let records = running.engine.residency(&tenant("a")).into_iter();
        let kept = records.filter(|record| record.is_pinned);
        kept.map(|record| record.version).collect()
    };
    until(|| async { kept() == versions[..2] }).await;
    assert_eq!(
        running.shelf.loads(&versions[2]),
        0,
        "half of the budget is taken"
    );
    for own in &versions[3..] {
        running.one(own, clip(0, 1)).await.unwrap();
        assert_eq!(kept(), versions[..2]);
    }
    assert_eq!(running.shelf.loads(&versions[0]), 1);
    running.shelf.pin(&[]);
    until(|| async { kept().is_empty() }).await;
    for own in &versions[3..] {
        running.one(own, clip(0, 1)).await.unwrap();
    }
    assert!(!running.resident("a").contains(&versions[0]));
}

#[tokio::test]
async fn a_request_that_joins_a_load_made_ahead_does_not_wait_for_the_others() {
    let running = with_room_for(10).await;
    let versions: Vec<_> = (1..=6)
        .map(|task| version("a", &format!("t{task}"), 1))
        .collect();
    let endless = Endless::start(&running.device).await;
    for (seed, version) in (1..).zip(&versions) {
        running.shelf.put(version, stored(seed, ADAPTER, 0.3));
        running.shelf.desire(version);
    }
    // Four of them wait for the device, and the others do not hold any room.
    let bytes = 4 * size(&stored(0, ADAPTER, 0.3));
    let four = format!("residency_bytes{{tenant=\"a\"}} {bytes}\n");
    until(|| async { running.metrics.text().contains(&four) }).await;
    let (begun, later): (Vec<_>, Vec<_>) = versions
        .iter()
        .partition(|version| running.shelf.loads(version) == 1);
    assert_eq!((begun.len(), later.len()), (4, 2));
    // The last one of either kind.
    let mut wanted = vec![begun[3].clone(), later[1].clone()];
    for version in &wanted {
        running.one(version, clip(0, 4)).await.unwrap();
    }
    wanted.sort();
    assert_eq!(running.resident("a"), wanted);
    endless.end();
    until(|| async { running.resident("a") == versions }).await;
    let loads = versions.iter().map(|version| running.shelf.loads(version));
    assert_eq!(loads.sum::<usize>(), 6);
}

#[tokio::test]
async fn the_next_version_of_a_pinned_task_is_pinned_as_soon_as_it_serves() {
    let config = Config {
        poll: Duration::from_secs(3600),
        ..Config::default()
    };
    let running = Running::with_room_for(4, config).await;
    let (old, new) = (version("a", "t", 1), version("a", "t", 2));
    let bytes = size(&stored(0, ADAPTER, 0.3));
    let is_pinned = |wanted: &VersionRef| {
        let records = running.engine.residency(&tenant("a"));
        records
            .iter()
            .any(|record| record.version == *wanted && record.is_pinned)
    };
    running.shelf.put(&old, stored(1, ADAPTER, 0.3));
    running.shelf.put(&new, stored(2, ADAPTER, 0.3));
    running.shelf.pin(&[(old.clone(), bytes)]);
    running.shelf.notice();
    until(|| async { is_pinned(&old) }).await;
    let gate = running.shelf.hold();
    let [_, before] = running.shelf.reads();
    running.shelf.desire(&new);
    // The records of all tasks, and which are pinned, were read when the version was asked for.
    until(|| async { running.shelf.loads(&new) == 1 && running.shelf.reads()[1] >= before + 2 })
        .await;
    running.shelf.pin(&[(new.clone(), bytes)]);
    assert!(!is_pinned(&new));
    gate.add_permits(1);
    until(|| async { is_pinned(&new) }).await;
}
