//! Room in the queue: tables for each limit, and properties over random demands.

use proptest::prelude::*;

use super::*;

fn tenant(index: usize) -> TenantId {
    format!("t{index}").parse().unwrap()
}

/// Clips of ten bytes each.
fn clips(clips: usize) -> Demand {
    Demand {
        clips,
        bytes: 10 * clips as u64,
    }
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const INTERACTIVE: Class = Class::Interactive;

/// Takes clip by clip as much as a tenant gets, and says how much that was and what ended it.
fn flood(books: &mut Books, owner: usize, now: Duration) -> (usize, Limit) {
    for granted in 0.. {
        if let Err(limit) = books.grant((&tenant(owner), INTERACTIVE), clips(1), now) {
            return (granted, limit);
        }
    }
    unreachable!("a queue without end")
}

#[test]
fn a_tenant_that_is_alone_gets_all_but_the_reserve() {
    for (capacity, expected) in [(256, 224), (12, 10), (8, 7), (4, 3), (2, 1), (1, 1)] {
        let mut books = Books::new(clips(capacity));
        let alone = flood(&mut books, 0, at(0));
        assert_eq!(alone, (expected, Limit::Reserve), "of {capacity}");
    }
    // One request may take everything.
    let mut books = Books::new(clips(4));
    assert_eq!(
        books.grant((&tenant(0), INTERACTIVE), clips(4), at(0)),
        Ok(())
    );
}

#[test]
fn a_newcomer_finds_the_reserve_and_then_its_share() {
    let mut books = Books::new(clips(16));
    let (old, new) = (tenant(0), tenant(1));
    assert_eq!(flood(&mut books, 0, at(0)), (14, Limit::Reserve));
    // The reserve is for tenants that hold nothing.
    assert_eq!(flood(&mut books, 1, at(0)), (1, Limit::Queue));
    // What the first one gives back is the newcomer's, until both have the same.
    for got in 1..4 {
        let now = at(100 * got);
        books.release((&old, INTERACTIVE), clips(1));
        books.release((&old, INTERACTIVE), clips(1));
        let refused = books.grant((&old, INTERACTIVE), clips(1), now);
        assert_eq!(refused, Err(Limit::Share), "at {now:?}");
        assert_eq!(books.grant((&new, INTERACTIVE), clips(1), now), Ok(()));
        // It wants more still.
        let _ = books.grant((&new, INTERACTIVE), clips(3), now);
    }
    assert_eq!(books.tenants[&new].held, clips(4));
    books.release((&old, INTERACTIVE), clips(2));
    assert_eq!(books.grant((&old, INTERACTIVE), clips(1), at(400)), Ok(()));
    // A third one finds the reserve again.
    assert_eq!(
        books.grant((&tenant(2), INTERACTIVE), clips(1), at(800)),
        Ok(())
    );
}

#[test]
fn what_a_quiet_tenant_sends_at_once_is_not_refused_beside_a_flood() {
    let mut books = Books::new(clips(256));
    assert_eq!(flood(&mut books, 0, at(0)), (224, Limit::Reserve));
    // A quarter of the reserve of 32, since two tenants ask; then it is refused for what the flood holds.
    assert_eq!(flood(&mut books, 1, at(0)), (8, Limit::Queue));
    // A third of half of the reserve is for the next one.
    assert_eq!(flood(&mut books, 2, at(0)), (5, Limit::Queue));
    // Whoever holds nothing finds room all the same, many clips at once.
    let many = books.grant((&tenant(3), INTERACTIVE), clips(16), at(0));
    assert_eq!(many, Ok(()));
    // The flood gets nothing of the reserve.
    books.release((&tenant(0), INTERACTIVE), clips(1));
    let more = books.grant((&tenant(0), INTERACTIVE), clips(1), at(5000));
    assert_eq!(more, Err(Limit::Share));
}

#[test]
fn half_of_the_reserve_is_left_for_newcomers_however_many_hold_little() {
    let mut books = Books::new(clips(256));
    assert_eq!(flood(&mut books, 0, at(0)), (224, Limit::Reserve));
    // Half of the reserve of 32 goes in parts, and then each one finds room for its first clip alone.
    let got: Vec<usize> = (1..12).map(|own| flood(&mut books, own, at(0)).0).collect();
    assert_eq!(got, [8, 5, 3, 1, 1, 1, 1, 1, 1, 1, 1]);
    let many = books.grant((&tenant(12), INTERACTIVE), clips(8), at(0));
    assert_eq!(many, Ok(()));
}

#[test]
fn who_stops_asking_leaves_the_room_to_others() {
    let mut books = Books::new(clips(16));
    assert_eq!(flood(&mut books, 0, at(0)).0, 14);
    assert_eq!(flood(&mut books, 1, at(0)), (1, Limit::Queue));
    books.release((&tenant(0), INTERACTIVE), clips(7));
    assert_eq!(flood(&mut books, 0, at(100)), (0, Limit::Share));
    // The other one holds a clip but has not asked for another for two seconds.
    assert_eq!(flood(&mut books, 0, at(2000)), (6, Limit::Share));
    books.release((&tenant(1), INTERACTIVE), clips(1));
    assert_eq!(flood(&mut books, 0, at(2000)), (1, Limit::Reserve));
}

#[test]
fn the_batch_class_leaves_half_of_the_queue() {
    let mut books = Books::new(clips(16));
    let batch = (&tenant(0), Class::Batch);
    for _ in 0..8 {
        assert_eq!(books.grant(batch, clips(1), at(0)), Ok(()));
    }
    assert_eq!(books.grant(batch, clips(1), at(0)), Err(Limit::Batch));
    let other = (&tenant(1), Class::Batch);
    assert_eq!(books.grant(other, clips(1), at(0)), Err(Limit::Batch));
    // Nobody else wants anything: interactive requests of the same tenant get the rest.
    assert_eq!(flood(&mut books, 0, at(0)), (6, Limit::Reserve));
    books.release(batch, clips(8));
    // One large request of the batch class may have more than half, alone in its class.
    books.release((&tenant(0), INTERACTIVE), clips(6));
    assert_eq!(books.grant(other, clips(12), at(0)), Ok(()));
    assert_eq!(books.grant(batch, clips(1), at(0)), Err(Limit::Batch));
}

#[test]
fn long_clips_are_fewer() {
    let mut books = Books::new(Demand {
        clips: 1000,
        bytes: 160,
    });
    let long = Demand {
        clips: 1,
        bytes: 30,
    };
    let ask = (&tenant(0), INTERACTIVE);
    for _ in 0..4 {
        assert_eq!(books.grant(ask, long, at(0)), Ok(()));
    }
    assert_eq!(books.grant(ask, long, at(0)), Err(Limit::Reserve));
}

#[test]
fn a_crowd_of_strangers_takes_no_memory() {
    let mut books = Books::new(clips(4));
    assert_eq!(
        books.grant((&tenant(0), INTERACTIVE), clips(4), at(0)),
        Ok(())
    );
    for stranger in 1..1000 {
        assert_eq!(
            flood(&mut books, stranger, at(stranger as u64)),
            (0, Limit::Queue)
        );
        assert!(books.tenants.len() <= 1 + WANTING);
    }
    books.release((&tenant(0), INTERACTIVE), clips(4));
    let _ = books.grant((&tenant(0), INTERACTIVE), clips(4), at(9000));
    assert_eq!(flood(&mut books, 1, at(9000)).1, Limit::Queue);
    assert_eq!(books.tenants.len(), 2);
}

proptest! {
    #[test]
    fn the_books_balance_and_nobody_is_shut_out(
        steps in prop::collection::vec((0..4_usize, any::<bool>(), 1..6_usize, 0..3_u8), 1..150)
    ) {
        let capacity = clips(20);
        let mut books = Books::new(capacity);
        let mut held: Vec<(usize, Class, Demand)> = Vec::new();
        for (time, (owner, is_batch, size, step)) in (0..).zip(steps) {
            let class = if is_batch { Class::Batch } else { INTERACTIVE };
            if step > 0 {
                let has = held.iter().any(|(own, ..)| *own == owner);
                let granted = books.grant((&tenant(owner), class), clips(size), at(100 * time));
                let used: usize = held.iter().map(|(.., demand)| demand.clips).sum();
                match granted {
                    Ok(()) => held.push((owner, class, clips(size))),
                    // Who holds nothing is refused for want of room alone.
                    Err(Limit::Queue) if !has => prop_assert!(used + size > capacity.clips),
                    Err(Limit::Batch) => prop_assert!(is_batch),
                    Err(_) => prop_assert!(has),
                }
            } else if !held.is_empty() {
                let (owner, class, demand) = held.swap_remove(size % held.len());
                books.release((&tenant(owner), class), demand);
            }
            let used: usize = held.iter().map(|(.., demand)| demand.clips).sum();
            prop_assert_eq!(books.used, clips(used));
            prop_assert!(books.used.is_within(capacity));
        }
        for (owner, class, demand) in held {
            books.release((&tenant(owner), class), demand);
        }
        prop_assert!(books.is_empty() && books.batch == Demand::NOTHING);
        prop_assert!(books.tenants.values().all(|own| own.held == Demand::NOTHING));
    }
}
