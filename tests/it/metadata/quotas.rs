//! What tenants store is counted with every change, and never exceeds a limit, however many callers race.

use std::sync::Arc;

use frameshift::metadata::{
    Actor, Error, PartRecord, Quota, Quotas, Stored, TenantUpdate, UploadLimits,
};
use frameshift::spec::Split;

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
        let two = Stored { videos: 2, bytes, tasks: 1, examples: 2, ..Stored::default() };
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
        let fewer = Stored { videos: 1, bytes: bytes + 99 - size, examples: 1, ..published };
        assert_eq!(stored(store, "a").await, fewer);
        store.delete_task(&a, &task_id("t"), None).await.expect("deleted");
        let rest = Stored { videos: 1, bytes: bytes - size, examples: 1, ..Stored::default() };
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

    async fn examples_of_all_data_sets_count_for_their_tenant_as_they_come_and_go(store: Store) {
        let a = tenant("a");
        // Two examples before the tenant is created.
        let videos = trainable(store, &a, "t").await;
        limit(store, "a", Quotas { examples: Some(3), ..Quotas::default() }).await;
        let other = dataset_id("other");
        store.create_dataset(&a, &other, "".into(), None).await.expect("created");
        let of = |video: usize, label: &str| example(videos[video].id, label, Split::Train);
        let two = [of(0, "left"), of(1, "left")];
        assert_eq!(exceeded(store.add_examples(&a, &other, &two).await, Quota::Examples), (3, 2));
        store.add_examples(&a, &other, &two[..1]).await.expect("one fits");
        assert_eq!(stored(store, "a").await.examples, 3);
        // Another label of an example that is there is no more of them.
        store.add_examples(&a, &other, &[of(0, "right")]).await.expect("changed");
        // The limit of the server is for tenants without one of their own.
        let within = store.add_examples_within(&a, &other, &two, Some(100)).await;
        assert_eq!(exceeded(within, Quota::Examples), (3, 3));
        store.delete_video(&a, videos[0].id, true).await.expect("deleted");
        assert_eq!(stored(store, "a").await.examples, 1);
        store.add_examples(&a, &other, &two[1..]).await.expect("it fits again");
        store.delete_dataset(&a, &other).await.expect("deleted");
        assert_eq!(stored(store, "a").await.examples, 1);
        limit(store, "a", Quotas::default()).await;
        store.create_dataset(&a, &other, "".into(), None).await.expect("created");
        let within = store.add_examples_within(&a, &other, &two[1..], Some(1)).await;
        assert_eq!(exceeded(within, Quota::Examples), (1, 1));
        store.add_examples_within(&a, &other, &two[1..], Some(2)).await.expect("it fits");
    }

    async fn bytes_of_a_part_are_reserved_before_it_is_stored(store: Store) {
        let a = tenant("a");
        limit(store, "a", Quotas { upload_bytes: Some(25), ..Quotas::default() }).await;
        let mut uploads = Vec::new();
        for _ in 0..3 {
            uploads.push(store.create_upload(&a, "", None, &limits()).await.expect("created").id);
        }
        let begin = |upload: usize, offset, size| {
            let (a, uploads) = (a.clone(), &uploads);
            async move { store.begin_part(&a, uploads[upload], offset, size, &limits()).await }
        };
        let over = |result: Result<u32, Error>| match result {
            Err(Error::TooManyUploadBytes { limit, used }) => (limit, used),
            other => panic!("{other:?}"),
        };
        let number = begin(0, 0, 10).await.expect("begun");
        begin(1, 0, 10).await.expect("begun");
        assert_eq!(over(begin(2, 0, 10).await), (25, 20));
        assert_eq!(stored(store, "a").await.upload_bytes, 20);
        // A part that is begun again, after its connection was lost, takes the place of the one before.
        begin(1, 0, 15).await.expect("begun");
        assert_eq!(over(begin(1, 0, 16).await), (25, 10));
        // To open an upload reserves nothing, and gives nothing back.
        begin(1, 0, 0).await.expect("opened");
        assert_eq!(stored(store, "a").await.upload_bytes, 25);
        let part = PartRecord { number, offset: 0, size: 10 };
        store.commit_part(&a, uploads[0], part, &limits()).await.expect("committed");
        assert_eq!(stored(store, "a").await.upload_bytes, 25);
        store.abandon_upload(&a, uploads[1]).await.expect("given up");
        assert_eq!(stored(store, "a").await.upload_bytes, 10);
        begin(2, 0, 15).await.expect("there is room");
        // The server's limit is for tenants without one of their own.
        let few = UploadLimits { bytes: 5, ..limits() };
        assert!(store.begin_part(&a, uploads[0], 10, 0, &few).await.is_ok());
        limit(store, "a", Quotas::default()).await;
        let refused = store.begin_part(&a, uploads[0], 10, 1, &few).await;
        assert_eq!(over(refused), (5, 25));
    }

    async fn sixteen_racing_callers_reserve_no_more_bytes_and_add_no_more_examples_than_allowed(store: Store) {
        let a = tenant("a");
        let videos = trainable(store, &a, "t").await;
        limit(store, "a", Quotas { examples: Some(7), upload_bytes: Some(55), ..Quotas::default() }).await;
        let calls: Vec<_> = (0..16).map(|caller| {
            let (store, a, video) = (Arc::clone(store), a.clone(), videos[0].id);
            tokio::spawn(async move {
                let own = dataset_id(&format!("d{caller}"));
                store.create_dataset(&a, &own, "".into(), None).await.expect("created");
                let upload = store.create_upload(&a, "", None, &limits()).await.expect("created").id;
                let added = store.add_examples(&a, &own, &[example(video, "left", Split::Train)]).await;
                let begun = store.begin_part(&a, upload, 0, 10, &limits()).await;
                (u64::from(added.is_ok()), u64::from(begun.is_ok()))
            })
        }).collect();
        let (mut added, mut begun) = (0, 0);
        for call in calls {
            let own = call.await.expect("no panic");
            (added, begun) = (added + own.0, begun + own.1);
        }
        let stored = stored(store, "a").await;
        assert_eq!((added, stored.examples), (5, 7));
        assert_eq!((begun, stored.upload_bytes), (5, 50));
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
