//! Races: sixteen callers against the same names, round after round. What comes out has to be what some order of them, one after another, gives.

mod datasets;
mod jobs;
#[cfg(all(debug_assertions, feature = "postgres"))]
mod locks;
mod model;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use frameshift::ids::{AdapterVersion, TenantId};
use frameshift::metadata::{
    Actor, Claim, Ending, Error, ImportStart, ImportTarget, Lease, PageRequest, PartRecord, Quotas,
    Release, TaskUpdate, TenantUpdate,
};
use frameshift::spec::{Digest, JobState, LabelSet, Split};
use futures::future::join_all;

use super::contract;
use super::fixture::*;

/// Callers at a time.
const CALLERS: usize = 16;
/// Rounds of each race: a few, or 200 with `FRAMESHIFT_FAULTS=full`. A race that a lock prevents is lost within a few of them when the lock is taken out.
fn rounds() -> u32 {
    #[cfg(all(debug_assertions, feature = "postgres"))]
    locks::leave_out();
    match std::env::var_os("FRAMESHIFT_FAULTS").is_some_and(|form| form == "full") {
        true => 200,
        false => 12,
    }
}

/// Runs a call from every caller at once, each on a worker of its own.
async fn race<T, F>(store: &Store, call: impl Fn(Store, usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let calls = (0..CALLERS).map(|caller| tokio::spawn(call(Arc::clone(store), caller)));
    let calls: Vec<_> = calls.collect();
    let ended = join_all(calls).await;
    ended
        .into_iter()
        .map(|own| own.expect("no panic"))
        .collect()
}

/// How many succeeded; every other failure has to be an expected one.
fn successes<T: std::fmt::Debug>(
    results: &[Result<T, Error>],
    is_expected: impl Fn(&Error) -> bool,
) -> usize {
    for result in results {
        if let Err(error) = result {
            assert!(is_expected(error), "{error:?}");
        }
    }
    results.iter().filter(|result| result.is_ok()).count()
}

fn is_lost(error: &Error) -> bool {
    matches!(error, Error::LeaseLost { .. })
}

fn actor() -> Actor {
    Actor {
        principal: "test".into(),
        source: String::new(),
        request_id: String::new(),
    }
}

/// A tenant and a task with a data set of its own, new in each round.
async fn scene(store: &Store, round: u32) -> TenantId {
    let a = tenant(&format!("a{round}"));
    trainable(store, &a, "t").await;
    a
}

fn page() -> PageRequest {
    PageRequest::new(0, "").expect("a page")
}

fn import(round: u32) -> ImportTarget {
    ImportTarget {
        task: task_id("t"),
        create: None,
        etag: None,
        request: request(),
        sha256: Digest([round as u8; 32]),
        labels: LabelSet::new(vec!["left".into(), "right".into()]).ok(),
    }
}

contract! {
    async fn of_parts_at_one_offset_one_is_committed(store: Store) {
        for _ in 0..rounds() {
            let a = tenant("a");
            let upload = store.create_upload(&a, "clip.mp4", None, &limits()).await.expect("created").id;
            for offset in [0, 10, 20] {
                let results = race(store, |store, _| async move {
                    let a = tenant("a");
                    let number = store.begin_part(&a, upload, offset, 0, &limits()).await?;
                    let part = PartRecord { number, offset, size: 10 };
                    store.commit_part(&a, upload, part, &limits()).await
                }).await;
                let committed = successes(&results, |error| matches!(error, Error::OffsetMismatch { .. }));
                assert_eq!(committed, 1);
            }
            let parts = store.list_parts(&a, upload).await.expect("listed");
            let offsets: Vec<u64> = parts.iter().map(|part| part.offset).collect();
            assert_eq!(offsets, [0, 10, 20]);
            let mut video = new_video(30);
            video.size_bytes = 30;
            let finished = race(store, |store, _| {
                let video = video.clone();
                async move { store.finish_upload(&tenant("a"), upload, video).await }
            }).await;
            assert_eq!(successes(&finished, |_| false), CALLERS);
        }
    }

    async fn an_upload_is_given_up_or_becomes_a_video(store: Store) {
        for round in 0..rounds() {
            let a = tenant(&format!("g{round}"));
            let upload = store.create_upload(&a, "clip.mp4", None, &limits()).await.expect("created").id;
            let number = store.begin_part(&a, upload, 0, 0, &limits()).await.expect("begun");
            let part = PartRecord { number, offset: 0, size: 7 };
            store.commit_part(&a, upload, part, &limits()).await.expect("committed");
            let owner = a.clone();
            let results = race(store, move |store, caller| {
                let a = owner.clone();
                async move {
                    match caller % 2 {
                        0 => store.finish_upload(&a, upload, new_video(7)).await.map(|_| true),
                        _ => store.abandon_upload(&a, upload).await.map(|_| false),
                    }
                }
            }).await;
            successes(&results, |error| matches!(error, Error::UploadFinished { .. } | Error::NotFound { .. }));
            let outcomes: BTreeSet<bool> = results.into_iter().flatten().collect();
            let videos = store.list_videos(&a, &page()).await.expect("listed").items.len();
            assert_eq!(outcomes, BTreeSet::from([videos == 1]), "{videos} videos");
        }
    }

    async fn no_tenant_has_more_uploads_or_bytes_of_them_than_it_may(store: Store) {
        for round in 0..rounds() {
            let name = format!("u{round}");
            let mut few = limits();
            few.uploads = 5;
            few.bytes = 30;
            let (own, limits) = (name.clone(), few);
            let results = race(store, move |store, _| {
                let name = own.clone();
                async move { store.create_upload(&tenant(&name), "", None, &limits).await }
            }).await;
            let made = successes(&results, |error| matches!(error, Error::TooManyUploads { .. }));
            assert_eq!(made, 5);
            let ids: Vec<_> = results.into_iter().flatten().map(|upload| upload.id).collect();
            let parts = race(store, move |store, caller| {
                let (name, limits, upload) = (name.clone(), few, ids[caller % ids.len()]);
                async move {
                    let a = tenant(&name);
                    let number = store.begin_part(&a, upload, 0, 0, &limits).await?;
                    let part = PartRecord { number, offset: 0, size: 10 };
                    store.commit_part(&a, upload, part, &limits).await
                }
            }).await;
            let is_expected = |error: &Error| {
                matches!(error, Error::TooManyUploadBytes { .. } | Error::OffsetMismatch { .. })
            };
            assert_eq!(successes(&parts, is_expected), 3);
        }
    }

    async fn no_tenant_stores_more_than_its_quota(store: Store) {
        for round in 0..rounds() {
            let name = format!("q{round}");
            store.create_tenant(&tenant(&name), "", &actor()).await.expect("created");
            let quotas = Quotas { tasks: Some(5), videos: Some(3), ..Quotas::default() };
            let update = TenantUpdate { quotas: Some(quotas), ..TenantUpdate::default() };
            store.update_tenant(&tenant(&name), update, None, &actor()).await.expect("updated");
            let own = name.clone();
            let results = race(store, move |store, caller| {
                let name = own.clone();
                async move {
                    let a = tenant(&name);
                    let task = store.create_task(&a, task(&format!("t{caller}")), None).await;
                    let video = store.record_video(&a, "", new_video(7), None).await;
                    (task.map(drop), video.map(drop))
                }
            }).await;
            let (tasks, videos): (Vec<_>, Vec<_>) = results.into_iter().unzip();
            let is_expected = |error: &Error| matches!(error, Error::QuotaExceeded { .. });
            assert_eq!((successes(&tasks, is_expected), successes(&videos, is_expected)), (5, 3));
            let stored = store.get_tenant(&tenant(&name)).await.expect("found").stored;
            assert_eq!((stored.tasks, stored.videos), (5, 3));
        }
    }

    async fn a_request_makes_one_thing_however_many_send_it(store: Store) {
        for round in 0..rounds() {
            let a = scene(store, round).await;
            let request = request();
            let owner = a.clone();
            let made = race(store, move |store, _| {
                let a = owner.clone();
                async move {
                    let task = store.create_task(&a, task("once"), request).await.expect("a task");
                    let set = store.create_dataset(&a, &dataset_id("once"), "".into(), request).await;
                    let upload = store.create_upload(&a, "once", request, &limits()).await;
                    let job = store.submit_job(&a, new_job("t"), request).await;
                    let mut video = new_video(7);
                    video.sha256 = Digest([7; 32]);
                    let video = store.record_video(&a, "once", video, request).await;
                    (
                        task.etag,
                        set.expect("a data set").id,
                        upload.expect("an upload").id.to_string(),
                        job.expect("a job").id.to_string(),
                        video.expect("a video").id.to_string(),
                    )
                }
            }).await;
            let different: BTreeSet<_> = made.iter().collect();
            assert_eq!(different.len(), 1, "{different:?}");
            let jobs = store.list_jobs(&a, &page()).await.expect("listed");
            assert_eq!(jobs.items.len(), 1);
        }
    }

    async fn an_etag_lets_one_change_through(store: Store) {
        for round in 0..rounds() {
            let a = scene(store, round).await;
            let before = store.get_task(&a, &task_id("t")).await.expect("found");
            let (owner, etag) = (a.clone(), before.etag);
            let results = race(store, move |store, caller| {
                let (a, etag) = (owner.clone(), etag.clone());
                async move {
                    let update = TaskUpdate {
                        display_name: Some(format!("by {caller}")),
                        auto_serve: None,
                    };
                    store.update_task(&a, &task_id("t"), update, Some(&etag)).await
                }
            }).await;
            let changed = successes(&results, |error| matches!(error, Error::EtagMismatch { .. }));
            assert_eq!(changed, 1);
            let winner = results.into_iter().flatten().next().expect("a winner");
            assert_eq!(store.get_task(&a, &task_id("t")).await.expect("found"), winner);
        }
    }

    async fn numbers_of_versions_are_given_out_once(store: Store) {
        for round in 0..rounds() {
            let a = scene(store, round).await;
            let owner = a.clone();
            let numbers = race(store, move |store, _| {
                let a = owner.clone();
                async move {
                    let started = store.reserve_import(&a, &import(round)).await.expect("reserved");
                    match started {
                        ImportStart::Number(number) => number,
                        ImportStart::Done(_) => panic!("nothing was imported"),
                    }
                }
            }).await;
            let different: BTreeSet<AdapterVersion> = numbers.into_iter().collect();
            assert_eq!(different.len(), CALLERS);
        }
    }

    async fn the_feed_tells_every_change_to_whoever_follows_it(store: Store) {
        let a = tenant("feed");
        for number in 0..4 {
            store.create_task(&a, task(&format!("t{number}")), None).await.expect("created");
        }
        let mut cursor = store.changes_since(None, 100).await.expect("the end").cursor;
        for _ in 0..rounds() {
            let mut known = BTreeSet::new();
            let writers = race(store, |store, caller| async move {
                let update = TaskUpdate { display_name: Some(format!("by {caller}")), auto_serve: None };
                let id = task_id(&format!("t{}", caller % 4));
                store.update_task(&tenant("feed"), &id, update, None).await.map(drop)
            });
            let reader = Arc::clone(store);
            let follow = async {
                let mut seen = Vec::new();
                for _ in 0..20 {
                    let page = reader.changes_since(Some(cursor.clone()), 2).await.expect("read");
                    assert!(!page.is_gap);
                    cursor = page.cursor;
                    for change in page.changes {
                        let task = reader.get_task(&a, &change.task).await.expect("found");
                        seen.push((change.task, task.etag));
                    }
                }
                seen
            };
            let (written, seen) = tokio::join!(writers, follow);
            assert_eq!(successes(&written, |_| false), CALLERS);
            known.extend(seen);
            // The first end may be that of pages that were begun before the last change.
            for _ in 0..2 {
                loop {
                    let page = store.changes_since(Some(cursor), 2).await.expect("read");
                    cursor = page.cursor;
                    for change in page.changes {
                        let task = store.get_task(&a, &change.task).await.expect("found");
                        known.insert((change.task, task.etag));
                    }
                    if page.is_last {
                        break;
                    }
                }
            }
            for number in 0..4 {
                let task = store.get_task(&a, &task_id(&format!("t{number}"))).await.expect("found");
                assert!(known.contains(&(task.id.clone(), task.etag.clone())), "{} was not told", task.etag);
            }
        }
    }
}
