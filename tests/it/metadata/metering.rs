//! What tenants used is counted once, by hours, and goes in time; what they ask of several processes is heard by all.

use std::time::Duration;

use frameshift::metadata::{
    Actor, Amounts, PageRequest, TenantDemand, UsageBatch, UsageKey, UsageQuery, UsageRecord,
    UsageSpan,
};
use frameshift::spec::JobState;

use super::contract;
use super::fixture::*;
use super::jobs::checkpoint;

/// A day of 1970, by hours.
const DAY: i64 = 24;

fn key(tenant_name: &str, hour: i64, task: Option<&str>) -> UsageKey {
    UsageKey {
        tenant: Some(tenant(tenant_name)),
        hour,
        task: task.map(task_id),
    }
}

fn amounts(requests: u64, clip_frames: u64) -> Amounts {
    Amounts {
        requests,
        clip_frames,
        ..Amounts::default()
    }
}

fn batch(sequence: u64, counts: Vec<(UsageKey, Amounts)>) -> UsageBatch {
    UsageBatch {
        process: "one".into(),
        sequence,
        counts,
    }
}

fn ask(span: UsageSpan) -> UsageQuery {
    UsageQuery {
        tenant: None,
        begin: 0,
        end: i64::MAX,
        span,
    }
}

/// All usage, read in pages of two.
async fn listed(store: &Store, ask: &UsageQuery) -> Vec<UsageRecord> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let page = PageRequest::new(2, &token).expect("a page");
        let page = store.list_usage(ask, &page).await.expect("listed");
        all.extend(page.items);
        token = page.next.token().to_owned();
        if token.is_empty() {
            return all;
        }
    }
}

/// Tenant, task, begin in hours, requests and clip-frames.
fn short(record: &UsageRecord) -> (String, String, i64, u64, u64) {
    let text = |id: Option<String>| id.unwrap_or_default();
    (
        text(record.tenant.as_ref().map(ToString::to_string)),
        text(record.task.as_ref().map(ToString::to_string)),
        record.begin / 3_600_000_000,
        record.amounts.requests,
        record.amounts.clip_frames,
    )
}

fn row(
    tenant: &str,
    task: &str,
    hour: i64,
    requests: u64,
    frames: u64,
) -> (String, String, i64, u64, u64) {
    (tenant.into(), task.into(), hour, requests, frames)
}

contract! {
    async fn a_batch_that_comes_twice_counts_once(store: Store) {
        let first = batch(1, vec![(key("a", 5, None), amounts(3, 0)), (key("a", 5, Some("t")), amounts(0, 80))]);
        assert!(store.record_usage(&first).await.expect("recorded"));
        assert!(!store.record_usage(&first).await.expect("known"));
        let other = UsageBatch { process: "two".into(), ..first.clone() };
        assert!(store.record_usage(&other).await.expect("recorded"));
        let second = batch(2, vec![(key("a", 5, Some("t")), amounts(0, 1))]);
        assert!(store.record_usage(&second).await.expect("recorded"));
        // One that was late is not added after its successor.
        assert!(!store.record_usage(&first).await.expect("known"));
        let used = listed(store, &ask(UsageSpan::Hour)).await;
        let used: Vec<_> = used.iter().map(short).collect();
        assert_eq!(used, [row("a", "", 5, 6, 0), row("a", "t", 5, 0, 161)]);
    }

    async fn usage_is_summed_by_hours_and_by_days_in_pages(store: Store) {
        let counts = vec![
            (key("a", DAY - 1, Some("t")), amounts(0, 1)),
            (key("a", DAY, Some("t")), amounts(0, 10)),
            (key("a", DAY + 23, Some("t")), amounts(0, 100)),
            (key("b", DAY, None), amounts(7, 0)),
            (UsageKey { tenant: None, hour: DAY, task: None }, amounts(2, 0)),
        ];
        store.record_usage(&batch(1, counts)).await.expect("recorded");
        let hours: Vec<_> = listed(store, &ask(UsageSpan::Hour)).await.iter().map(short).collect();
        assert_eq!(hours, [
            row("a", "t", DAY - 1, 0, 1),
            row("", "", DAY, 2, 0),
            row("a", "t", DAY, 0, 10),
            row("b", "", DAY, 7, 0),
            row("a", "t", DAY + 23, 0, 100),
        ]);
        let days: Vec<_> = listed(store, &ask(UsageSpan::Day)).await.iter().map(short).collect();
        assert_eq!(days, [
            row("a", "t", 0, 0, 1),
            row("", "", DAY, 2, 0),
            row("a", "t", DAY, 0, 110),
            row("b", "", DAY, 7, 0),
        ]);
        let own = UsageQuery { tenant: Some(tenant("b")), ..ask(UsageSpan::Day) };
        let own: Vec<_> = listed(store, &own).await.iter().map(short).collect();
        assert_eq!(own, [row("b", "", DAY, 7, 0)]);
        let part = UsageQuery { begin: DAY, end: DAY + 1, ..ask(UsageSpan::Hour) };
        let part: Vec<_> = listed(store, &part).await.iter().map(short).collect();
        assert_eq!(part, [row("", "", DAY, 2, 0), row("a", "t", DAY, 0, 10), row("b", "", DAY, 7, 0)]);
    }

    async fn pages_of_a_long_range_hold_each_sum_once(store: Store) {
        let hours = 12_000;
        let all: Vec<_> = (0..hours).map(|hour| (key("a", hour, None), amounts(1, 2))).collect();
        for (sequence, some) in (1..).zip(all.chunks(1000)) {
            assert!(store.record_usage(&batch(sequence, some.to_vec())).await.expect("recorded"));
        }
        let rest = vec![(key("b", 5, None), amounts(1, 0)), (key("b", hours - 1, None), amounts(4, 0))];
        store.record_usage(&batch(100, rest)).await.expect("recorded");
        for owner in [None, Some(tenant("a"))] {
            let ask = UsageQuery { tenant: owner.clone(), ..ask(UsageSpan::Day) };
            let (mut found, mut token) = (Vec::new(), String::new());
            loop {
                let page = PageRequest::new(70, &token).expect("a page");
                let page = store.list_usage(&ask, &page).await.expect("listed");
                found.extend(page.items.iter().map(short));
                token = page.next.token().to_owned();
                if token.is_empty() {
                    break;
                }
            }
            let mut wanted: Vec<_> = (0..hours / DAY).map(|day| row("a", "", day * DAY, 24, 48)).collect();
            if owner.is_none() {
                wanted.insert(1, row("b", "", 0, 1, 0));
                wanted.push(row("b", "", hours - DAY, 4, 0));
            }
            assert_eq!(found, wanted);
        }
    }

    async fn every_amount_is_summed_by_itself(store: Store) {
        let own = Amounts {
            requests: 1,
            clip_frames: 2,
            device_micros: 3_000_000_000_000,
            decode_micros: 4,
            received_bytes: 5,
            sent_bytes: 6,
        };
        for sequence in 1..=2 {
            let counts = vec![(key("a", 5, Some("t")), own), (key("a", 6, Some("t")), own)];
            assert!(store.record_usage(&batch(sequence, counts)).await.expect("recorded"));
        }
        let mut all = Amounts::default();
        (0..4).for_each(|_| all.add(own));
        let used = listed(store, &ask(UsageSpan::Day)).await;
        let used: Vec<Amounts> = used.iter().map(|used| used.amounts).collect();
        assert_eq!(used, [all]);
    }

    async fn training_steps_are_counted_with_their_checkpoints(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        let claim = claim(store).await;
        advance(store, &claim, JobState::Running).await;
        store.commit_checkpoint(&claim.lease, checkpoint(3)).await.expect("committed");
        store.commit_checkpoint(&claim.lease, checkpoint(5)).await.expect("committed");
        // The same once more, as after a lost answer, adds nothing.
        store.commit_checkpoint(&claim.lease, checkpoint(5)).await.expect("committed");
        let used = listed(store, &ask(UsageSpan::Day)).await;
        let trained: Vec<u64> = used.iter().map(|used| used.trained_clip_frames).collect();
        assert_eq!(trained, [5 * 64]);
        assert_eq!(used[0].task, Some(task_id("t")));
    }

    async fn what_tenants_ask_of_a_process_is_heard_by_all(store: Store) {
        let window = Duration::from_secs(10);
        let demand = |name: &str, frames| TenantDemand { tenant: tenant(name), asked: amounts(0, frames) };
        let none = store.exchange_demands("one", &[], window).await.expect("heard");
        assert!(none.is_empty());
        store.exchange_demands("one", &[demand("a", 5), demand("b", 6)], window).await.expect("heard");
        let heard = store.exchange_demands("two", &[demand("a", 7)], window).await.expect("heard");
        let mut heard: Vec<_> = heard.into_iter().map(|own| (own.process, own.demand)).collect();
        heard.sort_by_key(|own| (own.0.clone(), own.1.tenant.clone()));
        assert_eq!(heard, [
            ("one".into(), demand("a", 5)),
            ("one".into(), demand("b", 6)),
            ("two".into(), demand("a", 7)),
        ]);
        // A tenant that has turned to another process takes nothing of this one's share any more.
        let heard = store.exchange_demands("one", &[demand("b", 8)], window).await.expect("heard");
        let of = |name: &str| heard.iter().find(|own| own.process == "one" && own.demand.tenant == tenant(name));
        assert_eq!(of("a").map(|own| own.demand.asked), Some(amounts(0, 0)));
        assert_eq!(of("b").map(|own| own.demand.asked), Some(amounts(0, 8)));
    }
}

contract! {
    async fn stored_bytes_are_noted_once_an_hour_and_usage_goes_in_time(backend: Backend) {
        let store = &backend.store;
        let hour = Duration::from_secs(3600);
        store.record_video(&tenant("a"), "", new_video(1000), None).await.expect("recorded");
        assert_eq!(store.note_stored_bytes().await.expect("noted"), 1);
        assert_eq!(store.note_stored_bytes().await.expect("noted"), 0);
        backend.pass(hour);
        store.record_video(&tenant("a"), "", new_video(500), None).await.expect("recorded");
        assert_eq!(store.note_stored_bytes().await.expect("noted"), 1);
        let used = listed(store, &ask(UsageSpan::Hour)).await;
        let bytes: Vec<u64> = used.iter().map(|used| used.byte_hours).collect();
        assert_eq!(bytes, [1000, 1500]);
        assert_eq!(store.forget_usage(3 * hour).await.expect("forgotten"), 0);
        backend.pass(3 * hour);
        assert_eq!(store.forget_usage(3 * hour).await.expect("forgotten"), 1);
        assert_eq!(listed(store, &ask(UsageSpan::Hour)).await.len(), 1);
    }

    async fn demands_of_a_process_that_is_gone_are_forgotten(backend: Backend) {
        let store = &backend.store;
        let window = Duration::from_secs(10);
        let own = [TenantDemand { tenant: tenant("a"), asked: amounts(1, 1) }];
        store.exchange_demands("one", &own, window).await.expect("heard");
        backend.pass(2 * window);
        let heard = store.exchange_demands("two", &[], window).await.expect("heard");
        assert_eq!(heard.len(), 1);
        backend.pass(window);
        let heard = store.exchange_demands("two", &[], window).await.expect("heard");
        assert!(heard.is_empty());
    }
}

/// Whoever changes tenants in these tests.
pub(super) fn actor() -> Actor {
    Actor {
        principal: "test".into(),
        source: String::new(),
        request_id: String::new(),
    }
}
