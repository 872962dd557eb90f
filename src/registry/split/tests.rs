//! Shares within their binomial intervals, and keys that stay where they are.

use super::*;
use crate::metadata::Plan;

const KEYS: u32 = 10_000;

fn version(number: u32) -> AdapterVersion {
    AdapterVersion::new(number).unwrap()
}

fn keys() -> impl Iterator<Item = Key> {
    let (tenant, task) = (TenantId::anonymous(), "t".parse().unwrap());
    let key = |number: u32| Key::of("key", &[format!("user-{number}").as_bytes()]);
    (0..KEYS).map(move |number| key(number).within(&tenant, &task))
}

fn split(members: &[(u32, u16)], shadows: &[(u32, u16)]) -> Split {
    let shares = |own: &[(u32, u16)]| {
        let own = own.iter();
        own.map(|&(number, share)| (version(number), share))
            .collect()
    };
    Split {
        members: shares(members),
        shadows: shares(shadows),
    }
}

fn chosen(split: &Split, key: Key) -> u32 {
    split.choose(key, |_| true).unwrap().get()
}

/// Asserts that a count of `KEYS` draws is within four standard deviations of its expectation: once in 16,000 splits by chance, and these are fixed.
fn is_binomial(count: usize, share: f64) {
    let (keys, count) = (f64::from(KEYS), count as f64);
    let deviation = (keys * share * (1.0 - share)).sqrt();
    let away = (count - keys * share).abs();
    assert!(
        away <= 4.0 * deviation,
        "{count} of {keys} for a share of {share}"
    );
}

#[test]
fn shares_are_within_their_binomial_intervals_over_ten_thousand_keys() {
    for members in [
        &[(3, 900), (4, 100)][..],
        &[(1, 999), (2, 1)],
        &[(1, 500), (2, 300), (7, 200)],
        &[
            (1, 125),
            (2, 125),
            (3, 125),
            (4, 125),
            (5, 125),
            (6, 125),
            (7, 125),
            (8, 125),
        ],
    ] {
        let own = split(members, &[]);
        for &(number, share) in members {
            let count = keys().filter(|&key| chosen(&own, key) == number).count();
            is_binomial(count, f64::from(share) / 1000.0);
        }
    }
}

#[test]
fn a_key_stays_where_it_is_when_shares_are_written_in_another_order() {
    let (one, other) = (
        split(&[(3, 900), (4, 100)], &[]),
        split(&[(4, 100), (3, 900)], &[]),
    );
    assert!(keys().all(|key| chosen(&one, key) == chosen(&other, key)));
}

#[test]
fn more_for_a_version_moves_keys_to_it_and_none_away() {
    let (before, after) = (
        split(&[(3, 900), (4, 100)], &[]),
        split(&[(3, 600), (4, 400)], &[]),
    );
    let moved: Vec<_> = keys()
        .map(|key| (chosen(&before, key), chosen(&after, key)))
        .collect();
    assert!(!moved.contains(&(4, 3)));
    is_binomial(moved.iter().filter(|own| **own == (3, 4)).count(), 0.3);
}

#[test]
fn a_version_that_drops_out_gives_its_keys_to_the_rest_by_their_shares_and_moves_no_other() {
    let own = split(&[(1, 600), (2, 300), (3, 100)], &[]);
    let mut given = [0; 2];
    for key in keys() {
        let rest = own.choose(key, |version| version.get() != 1).unwrap().get();
        match chosen(&own, key) {
            1 => given[rest as usize - 2] += 1,
            other => assert_eq!(rest, other),
        }
    }
    let (all, to_two) = (f64::from(given[0] + given[1]), f64::from(given[0]));
    let deviation = (all * 0.75 * 0.25).sqrt();
    assert!((to_two - 0.75 * all).abs() <= 4.0 * deviation, "{given:?}");
    assert_eq!(own.choose(Key::of("key", &[b"a"]), |_| false), None);
}

#[test]
fn who_watches_does_not_depend_on_who_answers_and_tasks_decide_for_themselves() {
    let own = split(&[(1, 500), (2, 500)], &[(3, 200), (4, 1000)]);
    let watched = |key: Key, number| own.watching(key).any(|own| own.get() == number);
    assert!(keys().all(|key| watched(key, 4)));
    is_binomial(keys().filter(|&key| watched(key, 3)).count(), 0.2);
    let both = keys().filter(|&key| watched(key, 3) && chosen(&own, key) == 1);
    is_binomial(both.count(), 0.1);
    let other: TaskId = "u".parse().unwrap();
    let elsewhere = |key: Key| key.within(&TenantId::anonymous(), &other);
    let same = keys().filter(|&key| chosen(&own, key) == chosen(&own, elsewhere(key)));
    is_binomial(same.count(), 0.5);
}

#[test]
fn keys_are_the_same_in_every_release() {
    assert_eq!(Key::of("key", &[b"user-1"]), Key(KEY));
    assert_ne!(Key::of("key", &[b"user-1"]), Key::of("video", &[b"user-1"]));
    assert_ne!(Key::of("key", &[b"a", b"b"]), Key::of("key", &[b"ab"]));
}

/// The first eight bytes, little-endian, of the sha256 of 3, `key`, 6, `user-1`, the numbers in eight bytes.
const KEY: u64 = 0x3997_038a_0925_5233;

fn record(plan: Option<Plan>) -> TaskRecord {
    TaskRecord {
        split: plan,
        ..crate::registry::tests::task(Some(version(1)))
    }
}

#[test]
fn a_split_begins_with_its_main_version_and_holds_what_was_proved() {
    let plan = Plan {
        main: version(1),
        members: vec![Share::new(version(1), 900), Share::new(version(2), 100)],
        shadows: vec![Share::new(version(3), 500)],
    };
    assert_eq!(Split::of(&record(None)), None);
    let mut own = record(Some(plan));
    assert_eq!(Split::of(&own), Some(split(&[(1, 900)], &[])));
    for number in [2, 3] {
        let plan = own.split.as_mut().unwrap();
        plan.other_mut(version(number)).unwrap().proof = Proof::Ready;
    }
    assert_eq!(
        Split::of(&own),
        Some(split(&[(1, 900), (2, 100)], &[(3, 500)]))
    );
    own.serving_error = Some("damaged".to_owned());
    assert_eq!(Split::of(&own), Some(split(&[(2, 100)], &[(3, 500)])));
    own.serving = Some(version(2));
    assert_eq!(Split::of(&own), None, "another main version serves");
}

#[test]
fn versions_that_only_watch_leave_everything_to_the_main_one() {
    let mut shadow = Share::new(version(3), 1000);
    shadow.proof = Proof::Ready;
    let plan = Plan {
        shadows: vec![shadow],
        ..version(1).into()
    };
    let own = Split::of(&record(Some(plan)));
    assert_eq!(own, Some(split(&[(1, 1000)], &[(3, 1000)])));
}
