//! Weights, limits of a second and retention of a tenant are stored, told and kept to.

use std::num::NonZeroU32;
use std::time::Duration;

use frameshift::fair::Weight;
use frameshift::ids::{TenantId, VideoId};
use frameshift::metadata::{
    Error, Kind, PageRequest, Quotas, Rates, Stay, TenantState, TenantUpdate, Terms, UploadLimits,
};
use frameshift::spec::Split;

use super::contract;
use super::fixture::*;
use super::metering::actor;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn weight(weight: u32) -> Weight {
    Weight::new(NonZeroU32::new(weight).expect("not 0"))
}

/// Creates a tenant whose things stay for these times.
async fn stays(store: &Store, name: &str, stay: Stay) -> TenantId {
    let id = tenant(name);
    store
        .create_tenant(&id, "", &actor())
        .await
        .expect("created");
    let update = TenantUpdate {
        stay: Some(stay),
        ..TenantUpdate::default()
    };
    let updated = store
        .update_tenant(&id, update, None, &actor())
        .await
        .expect("updated");
    assert_eq!(updated.stay, stay);
    id
}

/// All videos that have outstayed their tenant's time and that nothing names.
async fn aged(store: &Store) -> Vec<(TenantId, VideoId)> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let found = store.aged_videos(after.as_ref()).await.expect("listed");
        all.extend(found.unnamed);
        match found.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

/// Submits a job for each of these tenants in turn, each for a task and a data set of its own.
async fn queue(store: &Store, owner: &TenantId, jobs: usize) {
    trainable(store, owner, "t").await;
    for _ in 0..jobs {
        submit(store, owner, "t").await;
    }
}

contract! {
    async fn terms_are_what_was_set_last(store: Store) {
        let a = tenant("a");
        assert_eq!(store.get_terms(&a).await.expect("read"), None);
        store.create_tenant(&a, "", &actor()).await.expect("created");
        assert_eq!(store.get_terms(&a).await.expect("read"), Some(Terms::default()));
        let rates = Rates { clip_frames: Some(100), requests: Some(0) };
        let update = TenantUpdate {
            weight: Some(weight(3)),
            state: Some(TenantState::Suspended),
            quotas: Some(Quotas { rates, ..Quotas::default() }),
            ..TenantUpdate::default()
        };
        let updated = store.update_tenant(&a, update, None, &actor()).await.expect("updated");
        assert_eq!((updated.weight, updated.quotas.rates), (weight(3), rates));
        let terms = Terms { state: TenantState::Suspended, weight: weight(3), rates, at_once: updated.quotas.at_once };
        assert_eq!(store.get_terms(&a).await.expect("read"), Some(terms));
        // Another change leaves them as they are.
        let update = TenantUpdate { display_name: Some("A".into()), ..TenantUpdate::default() };
        store.update_tenant(&a, update, None, &actor()).await.expect("updated");
        assert_eq!(store.list_terms(None, 10).await.expect("listed"), [(a.clone(), terms)]);
        assert_eq!(store.list_terms(Some(&a), 10).await.expect("listed"), []);
    }

    async fn jobs_are_claimed_by_the_weights_of_their_tenants(store: Store) {
        let (a, b) = (tenant("a"), tenant("b"));
        store.create_tenant(&a, "", &actor()).await.expect("created");
        let update = TenantUpdate { weight: Some(weight(3)), ..TenantUpdate::default() };
        store.update_tenant(&a, update, None, &actor()).await.expect("updated");
        // The lighter tenant has the older jobs.
        queue(store, &b, 40).await;
        queue(store, &a, 40).await;
        let mut claimed = [0; 2];
        for _ in 0..40 {
            let claim = claim(store).await;
            claimed[usize::from(claim.job.tenant == b)] += 1;
        }
        assert!((29..=31).contains(&claimed[0]), "{claimed:?}");
    }
}

contract! {
    async fn videos_go_when_their_tenant_wants_that_unless_something_names_them(backend: Backend) {
        let store = &backend.store;
        let a = stays(store, "a", Stay { videos: Some(3 * DAY), ..Stay::default() }).await;
        let b = tenant("b");
        // Two in a data set, one that nothing names, and one of another tenant.
        trainable(store, &a, "t").await;
        let old = video(store, &a).await;
        video(store, &b).await;
        backend.pass(2 * DAY);
        let young = video(store, &a).await;
        assert!(aged(store).await.is_empty());
        backend.pass(DAY);
        assert_eq!(aged(store).await, [(a.clone(), old.id)]);
        store.delete_video(&a, old.id, false).await.expect("deleted");
        backend.pass(2 * DAY);
        assert_eq!(aged(store).await, [(a.clone(), young.id)]);
        // What goes with its tenant is left to the erasure.
        store.begin_erasure(&a, &actor()).await.expect("begun");
        assert!(aged(store).await.is_empty());
    }

    async fn a_walk_over_aged_videos_passes_those_that_stay_once(backend: Backend) {
        let store = &backend.store;
        let stay = Stay { videos: Some(DAY), ..Stay::default() };
        let (a, b) = (stays(store, "a", stay).await, stays(store, "b", stay).await);
        store.create_dataset(&a, &dataset_id("held"), "".into(), None).await.expect("a data set");
        let mut held = Vec::new();
        for _ in 0..510 {
            let video = store.record_video(&a, "", new_video(1), None).await.expect("recorded");
            held.push(example(video.id, "left", Split::Train));
        }
        for some in held.chunks(100) {
            store.add_examples(&a, &dataset_id("held"), some).await.expect("added");
        }
        let last = video(store, &a).await;
        let other = video(store, &b).await;
        backend.pass(2 * DAY);
        let first = store.aged_videos(None).await.expect("listed");
        assert_eq!((first.unnamed.len(), first.seen), (0, 500));
        let second = store.aged_videos(first.next.as_ref()).await.expect("listed");
        assert_eq!(second.unnamed, [(a.clone(), last.id), (b.clone(), other.id)]);
        assert_eq!((second.seen, second.next), (12, None));
    }

    async fn jobs_go_after_their_tenants_time_or_that_of_all(backend: Backend) {
        let store = &backend.store;
        let short = stays(store, "short", Stay { jobs: Some(DAY), ..Stay::default() }).await;
        let long = stays(store, "long", Stay { jobs: Some(100 * DAY), ..Stay::default() }).await;
        let usual = tenant("usual");
        let mut jobs = Vec::new();
        for owner in [&short, &long, &usual] {
            trainable(store, owner, "t").await;
            let job = submit(store, owner, "t").await;
            store.cancel_job(owner, job.id).await.expect("cancelled");
            jobs.push(job);
        }
        let left = async |age: Option<Duration>| {
            for tenant in store.tenants_with_aged_jobs(age).await.expect("listed") {
                assert!(store.forget_jobs(&tenant, age).await.expect("forgotten") > 0);
                while store.forget_jobs(&tenant, age).await.expect("forgotten") > 0 {}
            }
            assert!(store.tenants_with_aged_jobs(age).await.expect("listed").is_empty());
            let mut left = Vec::new();
            for job in &jobs {
                match store.get_job(&job.tenant, job.id).await {
                    Ok(job) => left.push(job.tenant.to_string()),
                    Err(Error::NotFound { kind: Kind::Job, .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            left
        };
        assert_eq!(left(Some(10 * DAY)).await, ["short", "long", "usual"]);
        backend.pass(2 * DAY);
        assert_eq!(left(Some(10 * DAY)).await, ["long", "usual"]);
        backend.pass(10 * DAY);
        assert_eq!(left(None).await, ["long", "usual"]);
        assert_eq!(left(Some(10 * DAY)).await, ["long"]);
        backend.pass(100 * DAY);
        assert!(left(None).await.is_empty());
    }

    async fn uploads_expire_after_their_tenants_time(backend: Backend) {
        let store = &backend.store;
        let a = stays(store, "a", Stay { uploads: Some(Duration::from_secs(3600)), ..Stay::default() }).await;
        let b = tenant("b");
        let limits = UploadLimits { expiry: DAY, ..limits() };
        let own = store.create_upload(&a, "", None, &limits).await.expect("created");
        let other = store.create_upload(&b, "", None, &limits).await.expect("created");
        backend.pass(Duration::from_secs(1800));
        // A write puts it off, by the tenant's own time.
        store.begin_part(&a, own.id, 0, 0, &limits).await.expect("begun");
        backend.pass(Duration::from_secs(3000));
        assert_eq!(store.expire_uploads().await.expect("expired"), 0);
        backend.pass(Duration::from_secs(1000));
        assert_eq!(store.expire_uploads().await.expect("expired"), 1);
        let page = store.list_uploads(&b, &PageRequest::first()).await.expect("listed");
        assert_eq!(page.items.len(), 1);
        assert_eq!(page.items[0].id, other.id);
    }
}
