//! Tests of room, pins and eviction; the integration tests load real files.

use super::*;
use crate::device;
use crate::engine::tests::{backbone, residency, set, version};

/// Adds a set of `bytes` bytes to the table, as if it had been loaded.
pub(in crate::engine) async fn listed(
    residency: &Residency,
    version: &VersionRef,
    set: Arc<AdapterSet>,
    bytes: u64,
) -> Pin {
    let room = make_room(residency, &version.tenant, bytes).await;
    let mut state = residency.0.lock();
    let pin = Arc::new(Resident {
        id: state.tick(),
        version: version.clone(),
        set,
        room,
    });
    state.insert(pin.clone(), Need::Request);
    pin
}

/// Makes room for a load that has a turn.
async fn make_room(residency: &Residency, tenant: &TenantId, bytes: u64) -> Room {
    let turn = residency.0.turns.wait(tenant).await.unwrap();
    residency.0.make_room(tenant, bytes, turn).await
}

fn start(budget: u64) -> Residency {
    let (device, _) = device::start(device::Config::default(), Metrics::new()).unwrap();
    residency(budget, device)
}

fn names(residency: &Residency, tenant: &str) -> usize {
    residency.records(&tenant.parse().unwrap()).len()
}

#[tokio::test]
async fn eviction_waits_for_the_last_pin() {
    let residency = start(100);
    let weights = set(&backbone(8));
    let pin = listed(&residency, &version("a"), weights, 60).await;
    let second = pin.clone();
    let tenant = "b".parse().unwrap();
    let mut room = Box::pin(make_room(&residency, &tenant, 60));
    assert!(futures::poll!(room.as_mut()).is_pending());
    // No new request can pin the set, and its bytes still count.
    assert_eq!((names(&residency, "a"), residency.0.lock().live), (0, 60));
    drop(pin);
    assert!(futures::poll!(room.as_mut()).is_pending());
    drop(second);
    let room = room.await;
    assert_eq!((room.bytes(), residency.0.lock().live), (60, 60));
    drop(room);
    assert_eq!(residency.0.lock().live, 0);
}

#[tokio::test]
async fn unpinned_sets_make_room_before_pinned_ones() {
    let residency = start(100);
    let weights = set(&backbone(8));
    let _pinned = listed(&residency, &version("old"), weights.clone(), 40).await;
    drop(listed(&residency, &version("new"), weights, 40).await);
    let tenant = "b".parse().unwrap();
    let room = make_room(&residency, &tenant, 50).await;
    assert_eq!((names(&residency, "old"), names(&residency, "new")), (1, 0));
    drop(room);
}

#[tokio::test]
async fn a_small_set_does_not_overtake_a_large_one() {
    let residency = start(100);
    let weights = set(&backbone(8));
    let pin = listed(&residency, &version("a"), weights, 60).await;
    let (large, small) = ("large".parse().unwrap(), "small".parse().unwrap());
    let mut large = Box::pin(make_room(&residency, &large, 100));
    let mut small = Box::pin(make_room(&residency, &small, 10));
    assert!(futures::poll!(large.as_mut()).is_pending());
    assert!(futures::poll!(small.as_mut()).is_pending());
    drop(pin);
    let room = large.await;
    assert!(futures::poll!(small.as_mut()).is_pending());
    drop(room);
    small.await;
}

#[tokio::test]
async fn a_set_that_fits_beside_one_that_waits_for_room_does_not_wait_behind_it() {
    let residency = start(100);
    let weights = set(&backbone(8));
    let pin = listed(&residency, &version("a"), weights, 60).await;
    let (large, small) = ("large".parse().unwrap(), "small".parse().unwrap());
    let mut waiting = Box::pin(make_room(&residency, &large, 80));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    // 60 are pinned still, 80 are claimed: 20 fit beside both, one after the other.
    let first = make_room(&residency, &small, 10).await;
    let second = make_room(&residency, &small, 10).await;
    let mut third = Box::pin(make_room(&residency, &small, 10));
    assert!(futures::poll!(third.as_mut()).is_pending());
    drop(pin);
    let room = waiting.await;
    assert!(futures::poll!(third.as_mut()).is_pending());
    drop((first, room));
    third.await;
    drop(second);
}

#[tokio::test]
async fn loads_that_wait_for_room_leave_their_turns_to_others_up_to_a_part_of_the_budget() {
    let residency = start(800);
    let weights = set(&backbone(8));
    let _pin = listed(&residency, &version("a"), weights, 800).await;
    let tenant: TenantId = "b".parse().unwrap();
    let mut first = Box::pin(make_room(&residency, &tenant, 60));
    let mut second = Box::pin(make_room(&residency, &tenant, 40));
    let mut third = Box::pin(make_room(&residency, &tenant, 40));
    for load in [&mut first, &mut second, &mut third] {
        assert!(futures::poll!(load.as_mut()).is_pending());
    }
    // The first two take an eighth of the budget together; the third keeps its turn.
    let free = residency.0.turns.free();
    assert!(free.is_some() && residency.0.turns.free().is_none());
    assert_eq!(residency.0.lock().waiting, 100);
    drop(third);
    drop(free);
    assert_eq!(residency.0.lock().waiting, 100);
    drop((first, second));
    assert_eq!(residency.0.lock().waiting, 0);
    let all = [residency.0.turns.free(), residency.0.turns.free()];
    assert!(all.iter().all(Option::is_some), "every turn came back");
}

#[tokio::test]
async fn a_quarantined_set_is_refused_until_it_is_asked_for_anew() {
    let residency = start(100);
    let wanted = version("a");
    let pin = listed(&residency, &wanted, set(&backbone(8)), 60).await;
    pin.quarantine("it broke".into());
    let refused = residency.acquire(&wanted).await.map(|pin| pin.id);
    assert!(
        matches!(refused, Err(Error::Quarantined { .. })),
        "{refused:?}"
    );
    assert_eq!(pin.refused().as_deref(), Some("it broke"));
    residency.retry(&wanted);
    let missing = residency.acquire(&wanted).await.map(|pin| pin.id);
    assert!(
        matches!(missing, Err(Error::NotFound { .. })),
        "{missing:?}"
    );
}
