//! An erased tenant is gone from every table, wherever its erasure was cut, and nothing of it can come any more.

use std::time::Duration;

use frameshift::ids::TenantId;
use frameshift::metadata::{
    Amounts, Erased, Error, Kind, NewKey, PageRequest, PartRecord, TenantState, TenantUpdate,
    UsageBatch, UsageKey,
};
use frameshift::spec::{JobState, Scopes};
use frameshift::tenancy::Hasher;
use frameshift::tenancy::key::Key;

use super::contract;
use super::fixture::*;
use super::metering::actor;

/// Gives a tenant something in every table.
#[allow(clippy::too_many_lines)]
pub(crate) async fn fill(store: &Store, owner: &TenantId) {
    // It may have been created by use before.
    store
        .create_tenant(owner, "of the test", &actor())
        .await
        .expect("created");
    trainable(store, owner, "t").await;
    submit(store, owner, "t").await;
    let claimed = claim(store).await;
    publish(store, &claimed).await;
    // What its events become in time.
    while store.thin_events(10).await.expect("thinned") > 0 {}
    // One that waits, and that nobody else claims.
    let waiting = submit(store, owner, "t").await;
    store
        .pause_job(owner, waiting.id, true)
        .await
        .expect("paused");
    store
        .submit_sweep(owner, super::sweeps::spec(1), 9, None)
        .await
        .expect("a sweep");
    store
        .create_dataset_version(owner, &dataset_id("t"), "", 9)
        .await
        .expect("a version");
    let key = Key::generate().expect("random");
    let new = NewKey {
        id: key.id().clone(),
        tenant: Some(owner.clone()),
        display_name: String::new(),
        scopes: Scopes::TENANT,
        tasks: None,
        hash: Hasher::new(None).expect("a hasher").stored(&key),
        created_by: "test".into(),
        lifetime: None,
    };
    store.create_key(new, &actor()).await.expect("a key");
    let upload = store
        .create_upload(owner, "", request(), &limits())
        .await
        .expect("an upload");
    let number = store
        .begin_part(owner, upload.id, 0, 0, &limits())
        .await
        .expect("begun");
    let part = PartRecord {
        number,
        offset: 0,
        size: 5,
    };
    store
        .commit_part(owner, upload.id, part, &limits())
        .await
        .expect("committed");
    // The next one is being written.
    store
        .begin_part(owner, upload.id, 5, 3, &limits())
        .await
        .expect("begun");
    let video = video(store, owner).await;
    let sampling = frameshift::spec::Digest([4; 32]);
    store
        .remember_decoded(owner, sampling, &[video.id])
        .await
        .expect("remembered");
    let key = UsageKey {
        tenant: Some(owner.clone()),
        hour: 7,
        task: None,
    };
    let amounts = Amounts {
        requests: 1,
        ..Amounts::default()
    };
    let batch = UsageBatch {
        process: owner.to_string(),
        sequence: 1,
        counts: vec![(key, amounts)],
    };
    assert!(store.record_usage(&batch).await.expect("recorded"));
    let demand = frameshift::metadata::TenantDemand {
        tenant: owner.clone(),
        asked: amounts,
    };
    store
        .exchange_demands("p", &[demand], Duration::from_secs(10))
        .await
        .expect("heard");
}

/// Calls until an erasure finds nothing. Returns the number of calls that removed something.
pub(crate) async fn erase(store: &Store, owner: &TenantId) -> u64 {
    let mut calls = 0;
    loop {
        match store.erase_some(owner).await.expect("erased") {
            Erased::Rows(_) => calls += 1,
            Erased::Nothing => return calls,
            Erased::Waits => panic!("no worker has a job"),
        }
    }
}

fn is_erased<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::TenantErased)), "{result:?}");
}

contract! {
    async fn an_erased_tenant_is_in_no_table_and_others_stay(backend: Backend) {
        let store = &backend.store;
        let (a, b) = (tenant("a"), tenant("b"));
        fill(store, &a).await;
        fill(store, &b).await;
        backend.expect_rows("a", true).await;
        let begun = store.begin_erasure(&a, &actor()).await.expect("begun");
        assert_eq!((begun.end_time, begun.rows), (None, 0));
        assert_eq!(store.begin_erasure(&a, &actor()).await.expect("known"), begun);
        assert_eq!(store.unfinished_erasures().await.expect("listed"), std::slice::from_ref(&a));
        let terms = store.get_terms(&a).await.expect("read").expect("known");
        assert_eq!(terms.state, TenantState::Erasing);
        assert!(erase(store, &a).await > 10);
        store.note_erased(&a, 3, 99).await.expect("noted");
        let pause = Duration::from_secs(10);
        assert!(!store.settle_erasure(&a, pause).await.expect("waits"));
        backend.pass(pause);
        assert!(store.settle_erasure(&a, pause).await.expect("ended"));
        assert!(store.settle_erasure(&a, pause).await.expect("has ended"));
        backend.expect_rows("a", false).await;
        backend.expect_rows("b", true).await;
        let ended = store.get_erasure(&a).await.expect("the record stays");
        assert!(ended.end_time.is_some() && ended.rows > 10);
        assert_eq!((ended.objects, ended.bytes), (3, 99));
        assert!(store.unfinished_erasures().await.expect("listed").is_empty());
        let terms = store.list_terms(None, 10).await.expect("listed");
        let states: Vec<_> = terms.iter().map(|(id, terms)| (id.as_str(), terms.state)).collect();
        assert_eq!(states, [("a", TenantState::Erasing), ("b", TenantState::Active)]);
        let audit = store.list_audit(&frameshift::metadata::KeyOwner::Tenant(a), &PageRequest::first()).await;
        let methods: Vec<_> = audit.expect("listed").items.into_iter().map(|event| event.method).collect();
        assert_eq!(methods, ["EndErasure", "EraseTenant", "CreateKey", "CreateTenant"]);
    }

    async fn nothing_of_an_erased_tenant_can_come_any_more(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        fill(store, &a).await;
        let upload = store.create_upload(&a, "", None, &limits()).await.expect("an upload");
        store.begin_erasure(&a, &actor()).await.expect("begun");
        for _ in 0..2 {
            is_erased(store.record_video(&a, "", new_video(1), None).await);
            is_erased(store.record_video(&a, "", new_video(1), request()).await);
            is_erased(store.create_upload(&a, "", None, &limits()).await);
            is_erased(store.create_dataset(&a, &dataset_id("new"), "".into(), None).await);
            is_erased(store.create_task(&a, task("new"), None).await);
            is_erased(store.create_tenant(&a, "", &actor()).await);
            let finished = store.finish_upload(&a, upload.id, new_video(1)).await;
            assert!(finished.is_err(), "{finished:?}");
            let submitted = store.submit_job(&a, new_job("t"), None).await;
            assert!(submitted.is_err(), "{submitted:?}");
            // What it uses is not counted, and does not keep others' counts from being.
            let key = |name: &str| UsageKey { tenant: Some(tenant(name)), hour: 9, task: None };
            let amounts = Amounts { requests: 1, ..Amounts::default() };
            let process = uuid::Uuid::now_v7().to_string();
            let counts = vec![(key("a"), amounts), (key("c"), amounts)];
            let batch = UsageBatch { process, sequence: 1, counts };
            assert!(store.record_usage(&batch).await.expect("recorded"));
            erase(store, &a).await;
            assert!(store.settle_erasure(&a, Duration::ZERO).await.expect("ended"));
            backend.expect_rows("a", false).await;
        }
        let again = store.begin_erasure(&a, &actor()).await.expect("known");
        assert!(again.end_time.is_some());
    }

    async fn a_job_under_way_ends_before_its_tenant_goes(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        let claim = claim(store).await;
        advance(store, &claim, JobState::Running).await;
        store.begin_erasure(&a, &actor()).await.expect("begun");
        assert!(matches!(store.erase_some(&a).await.expect("asked"), Erased::Rows(0)));
        assert_eq!(store.erase_some(&a).await.expect("waits"), Erased::Waits);
        let wanted = store.heartbeat(&claim.lease, LEASE).await.expect("heard");
        assert_eq!(wanted, Some(frameshift::metadata::Unwanted::Cancel));
        store.end_job(&claim.lease, frameshift::metadata::Ending::Cancelled).await.expect("ended");
        erase(store, &a).await;
        assert!(store.settle_erasure(&a, Duration::ZERO).await.expect("ended"));
        backend.expect_rows("a", false).await;
    }

    async fn a_job_whose_worker_is_gone_keeps_no_tenant(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        let claim = claim(store).await;
        advance(store, &claim, JobState::Running).await;
        store.begin_erasure(&a, &actor()).await.expect("begun");
        assert!(matches!(store.erase_some(&a).await.expect("asked"), Erased::Rows(0)));
        assert_eq!(store.erase_some(&a).await.expect("waits"), Erased::Waits);
        backend.pass(LEASE + Duration::from_secs(1));
        assert!(erase(store, &a).await > 0);
        let late = store.heartbeat(&claim.lease, LEASE).await;
        assert!(late.is_err(), "{late:?}");
        assert!(store.settle_erasure(&a, Duration::ZERO).await.expect("ended"));
        backend.expect_rows("a", false).await;
    }

    async fn a_process_that_missed_an_erasure_is_told_to_drop_everything(backend: Backend) {
        let store = &backend.store;
        let (a, b) = (tenant("a"), tenant("b"));
        fill(store, &a).await;
        fill(store, &b).await;
        let page = store.changes_since(None, 100).await.expect("the end");
        store.begin_erasure(&a, &actor()).await.expect("begun");
        erase(store, &a).await;
        // Until the end the deletion of the task is in the feed.
        let told = store.changes_since(Some(page.cursor.clone()), 100).await.expect("read");
        assert!(told.changes.iter().any(|change| change.tenant == a && change.is_deleted));
        assert!(store.settle_erasure(&a, Duration::ZERO).await.expect("ended"));
        let late = store.changes_since(Some(page.cursor), 100).await.expect("read");
        assert!(late.is_gap);
    }

    async fn a_tenant_that_is_not_there_cannot_be_erased(backend: Backend) {
        let store = &backend.store;
        let missing = store.begin_erasure(&tenant("nobody"), &actor()).await;
        assert!(matches!(missing, Err(Error::NotFound { kind: Kind::Tenant, .. })), "{missing:?}");
        let none = store.get_erasure(&tenant("nobody")).await;
        assert!(matches!(none, Err(Error::NotFound { kind: Kind::Tenant, .. })), "{none:?}");
        // One that nobody created, but that stored something.
        video(store, &tenant("a")).await;
        store.begin_erasure(&tenant("a"), &actor()).await.expect("begun");
        let update = TenantUpdate { display_name: Some("x".into()), ..TenantUpdate::default() };
        let gone = store.update_tenant(&tenant("a"), update, None, &actor()).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    }
}
