//! What tenants store is counted with every change, and never exceeds a limit, however many callers race.

use std::sync::Arc;

use frameshift::metadata::{Actor, Error, Quota, Quotas, Stored, TenantUpdate};

use super::contract;
use super::fixture::*;

fn actor() -> Actor {
    Actor {
        principal: "test".into(),
        source: String::new(),
        request_id: String::new(),
    }
}

/// Gives a tenant these limits, and creates it before.
async fn limit(store: &Store, name: &str, quotas: Quotas) {
    let tenant = tenant(name);
    // It may be there already.
    let _ = store.create_tenant(&tenant, "", &actor()).await;
    let update = TenantUpdate {
        quotas: Some(quotas),
        ..TenantUpdate::default()
    };
    let updated = store.update_tenant(&tenant, update, None, &actor()).await;
    assert_eq!(updated.expect("updated").quotas, quotas);
}

async fn stored(store: &Store, name: &str) -> Stored {
    let found = store.get_tenant(&tenant(name)).await;
    found.expect("found").stored
}

fn exceeded<T: std::fmt::Debug>(result: Result<T, Error>, expected: Quota) -> (u64, u64) {
    match result {
        Err(Error::QuotaExceeded {
            quota, limit, used, ..
        }) if quota == expected => (limit, used),
        other => panic!("{expected:?}: {other:?}"),
    }
}

contract! {
    async fn what_a_tenant_stores_is_counted_with_every_change(store: Store) {
        let a = tenant("a");
        // Before the tenant is created, too.
        let videos = trainable(store, &a, "t").await;
        limit(store, "a", Quotas::default()).await;
        let bytes: u64 = videos.iter().map(|video| video.size_bytes).sum();
        let two = Stored { videos: 2, bytes, tasks: 1, ..Stored::default() };
        assert_eq!(stored(store, "a").await, two);
        submit(store, &a, "t").await;
        assert_eq!(stored(store, "a").await, Stored { jobs: 1, ..two });
        let claim = claim(store).await;
        publish(store, &claim).await;
        let published = Stored { versions: 1, bytes: bytes + 99, ..two };
        assert_eq!(stored(store, "a").await, published);
        // A tombstone stores nothing.
        store.delete_video(&a, videos[0].id, true).await.expect("deleted");
        let size = videos[0].size_bytes;
        let fewer = Stored { videos: 1, bytes: bytes + 99 - size, ..published };
        assert_eq!(stored(store, "a").await, fewer);
        store.delete_task(&a, &task_id("t"), None).await.expect("deleted");
        let rest = Stored { videos: 1, bytes: bytes - size, ..Stored::default() };
        assert_eq!(stored(store, "a").await, rest);
    }

    async fn what_would_exceed_a_limit_is_refused_and_changes_nothing(store: Store) {
        let a = tenant("a");
        let quotas = Quotas { videos: Some(2), bytes: Some(20), tasks: Some(1), ..Quotas::default() };
        limit(store, "a", quotas).await;
        video(store, &a).await;
        let large = store.record_video(&a, "", new_video(14), None).await;
        assert_eq!(exceeded(large, Quota::Bytes), (20, 7));
        video(store, &a).await;
        let third = store.record_video(&a, "", new_video(1), None).await;
        assert_eq!(exceeded(third, Quota::Videos), (2, 2));
        store.create_task(&a, task("t"), None).await.expect("created");
        assert_eq!(exceeded(store.create_task(&a, task("u"), None).await, Quota::Tasks), (1, 1));
        let two = Stored { videos: 2, bytes: 14, tasks: 1, ..Stored::default() };
        assert_eq!(stored(store, "a").await, two);
        // Another tenant is not concerned.
        video(store, &tenant("b")).await;
        // A limit below what there is refuses more, and takes nothing away.
        limit(store, "a", Quotas { videos: Some(0), ..Quotas::default() }).await;
        assert_eq!(stored(store, "a").await, two);
        assert_eq!(exceeded(store.record_video(&a, "", new_video(1), None).await, Quota::Videos), (0, 2));
    }

    async fn unfinished_jobs_count_as_the_versions_that_they_may_become(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        limit(store, "a", Quotas { versions: Some(1), ..Quotas::default() }).await;
        submit(store, &a, "t").await;
        let second = store.submit_job(&a, new_job("t"), None).await;
        assert_eq!(exceeded(second, Quota::Versions), (1, 1));
        let claim = claim(store).await;
        publish(store, &claim).await;
        let third = store.submit_job(&a, new_job("t"), None).await;
        assert_eq!(exceeded(third, Quota::Versions), (1, 1));
        limit(store, "a", Quotas { jobs: Some(0), ..Quotas::default() }).await;
        assert!(matches!(
            store.submit_job(&a, new_job("t"), None).await,
            Err(Error::TooManyJobs { limit: 0 })
        ));
    }

    async fn sixteen_racing_callers_exceed_a_limit_by_nothing(store: Store) {
        let a = tenant("a");
        limit(store, "a", Quotas { videos: Some(10), ..Quotas::default() }).await;
        let calls: Vec<_> = (0..16).map(|_| {
            let (store, a) = (Arc::clone(store), a.clone());
            tokio::spawn(async move {
                let mut recorded = 0;
                for _ in 0..4 {
                    recorded += u64::from(store.record_video(&a, "", new_video(1), None).await.is_ok());
                }
                recorded
            })
        }).collect();
        let mut recorded = 0;
        for call in calls {
            recorded += call.await.expect("no panic");
        }
        assert_eq!(recorded, 10);
        assert_eq!(stored(store, "a").await.videos, 10);
    }
}
