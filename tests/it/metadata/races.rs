//! Races: sixteen callers against the same names, round after round. What comes out has to be what some order of them, one after another, gives.

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
/// Rounds of each race. A race that a lock prevents is lost within a few of them when the lock is taken out.
const ROUNDS: u32 = 12;

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
        for _ in 0..ROUNDS {
            let a = tenant("a");
            let upload = store.create_upload(&a, "clip.mp4", None, &limits()).await.expect("created").id;
            for offset in [0, 10, 20] {
                let results = race(store, |store, _| async move {
                    let a = tenant("a");
                    let number = store.begin_part(&a, upload, offset, &limits()).await?;
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

    async fn no_tenant_has_more_uploads_or_bytes_of_them_than_it_may(store: Store) {
        for round in 0..ROUNDS {
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
                    let number = store.begin_part(&a, upload, 0, &limits).await?;
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

    async fn no_tenant_has_more_jobs_than_it_may(store: Store) {
        for round in 0..ROUNDS {
            let a = scene(store, round).await;
            let owner = a.clone();
            let results = race(store, move |store, _| {
                let a = owner.clone();
                async move {
                    let mut job = new_job("t");
                    job.limit = 5;
                    store.submit_job(&a, job, None).await
                }
            }).await;
            assert_eq!(successes(&results, |error| matches!(error, Error::TooManyJobs { .. })), 5);
            let jobs = store.list_jobs(&a, &page()).await.expect("listed");
            assert_eq!(jobs.items.len(), 5);
        }
    }

    async fn no_tenant_stores_more_than_its_quota(store: Store) {
        for round in 0..ROUNDS {
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
        for round in 0..ROUNDS {
            let a = scene(store, round).await;
            let request = request();
            let owner = a.clone();
            let made = race(store, move |store, _| {
                let a = owner.clone();
                async move {
                    let task = store.create_task(&a, task("once"), request).await.expect("a task");
                    let set = store.create_dataset(&a, &dataset_id("once"), "", request).await;
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
        for round in 0..ROUNDS {
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

    async fn a_job_and_the_deletion_of_what_it_needs_are_not_both_done(store: Store) {
        for round in 0..ROUNDS {
            let a = scene(store, round).await;
            let owner = a.clone();
            let results = race(store, move |store, caller| {
                let a = owner.clone();
                async move {
                    match caller % 3 {
                        0 => store.delete_dataset(&a, &dataset_id("t")).await.map(|()| "set"),
                        1 => store.delete_task(&a, &task_id("t"), None).await.map(|_| "task"),
                        _ => store.submit_job(&a, new_job("t"), None).await.map(|_| "job"),
                    }
                }
            }).await;
            successes(&results, |error| matches!(error, Error::InUse { .. } | Error::NotFound { .. }));
            let jobs = store.list_jobs(&a, &page()).await.expect("listed");
            if !jobs.items.is_empty() {
                store.get_dataset(&a, &dataset_id("t")).await.expect("its data set is there");
                store.get_task(&a, &task_id("t")).await.expect("its task is there");
            }
        }
    }

    async fn examples_are_counted_and_never_name_a_deleted_video(store: Store) {
        for round in 0..ROUNDS {
            let a = scene(store, round).await;
            let mut videos = Vec::new();
            for _ in 0..6 {
                videos.push(video(store, &a).await.id);
            }
            let (owner, own) = (a.clone(), videos.clone());
            let results = race(store, move |store, caller| {
                let (a, videos) = (owner.clone(), own.clone());
                async move {
                    let video = videos[caller % 3];
                    let set = dataset_id("t");
                    match caller % 4 {
                        0 => store.delete_video(&a, video, caller == 4).await,
                        1 => store.remove_examples(&a, &set, &videos[..4]).await.map(drop),
                        _ => {
                            let label = format!("label {}", caller % 5);
                            let mut own: Vec<_> = videos.iter().map(|video| example(*video, &label, Split::Train)).collect();
                            if caller % 2 == 0 {
                                own.reverse();
                            }
                            store.add_examples(&a, &set, &own).await.map(drop)
                        }
                    }
                }
            }).await;
            successes(&results, |error| {
                matches!(error, Error::InUse { .. } | Error::NotFound { .. } | Error::VideosNotFound { .. })
            });
            let set = store.get_dataset(&a, &dataset_id("t")).await.expect("found");
            let page = store.list_examples(&a, &dataset_id("t"), &page()).await.expect("listed");
            assert_eq!(set.examples, page.items.len() as u64);
            let counted: u64 = set.counts.iter().map(|count| count.examples).sum();
            assert_eq!(counted, set.examples);
            for example in &page.items {
                let own = set.counts.iter().find(|count| count.label == example.label);
                assert!(own.is_some(), "{} is not counted", example.label);
                store.get_video(&a, example.video).await.expect("the video is there");
            }
            // A snapshot is one state of the data set, and its digest names that.
            let snapshot = store.snapshot_dataset(&a, &dataset_id("t")).await.expect("taken");
            assert_eq!(examples_of(store, &a, snapshot.digest).await.expect("read"), page.items);
        }
    }

    async fn snapshots_beside_changes_hold_what_their_digest_says(store: Store) {
        for round in 0..ROUNDS {
            let a = scene(store, round).await;
            let mut videos = Vec::new();
            for _ in 0..8 {
                videos.push(video(store, &a).await.id);
            }
            let owner = a.clone();
            let taken = race(store, move |store, caller| {
                let (a, videos) = (owner.clone(), videos.clone());
                async move {
                    let set = dataset_id("t");
                    if caller % 2 == 0 {
                        let own = example(videos[caller / 2], "more", Split::Train);
                        store.add_examples(&a, &set, &[own]).await.expect("added");
                        return None;
                    }
                    Some(store.snapshot_dataset(&a, &set).await.expect("taken"))
                }
            }).await;
            for snapshot in taken.into_iter().flatten() {
                let examples = examples_of(store, &a, snapshot.digest).await.expect("read");
                assert_eq!(examples.len() as u64, snapshot.examples);
            }
        }
    }

    async fn a_job_has_one_worker_and_a_cancelled_one_none(store: Store) {
        for round in 0..ROUNDS {
            let a = scene(store, round).await;
            let mut jobs = Vec::new();
            for _ in 0..6 {
                jobs.push(submit(store, &a, "t").await.id);
            }
            let (owner, waiting) = (a.clone(), jobs.clone());
            let claims = race(store, move |store, caller| {
                let (a, jobs) = (owner.clone(), waiting.clone());
                async move {
                    if caller < 3 {
                        store.cancel_job(&a, jobs[caller]).await.expect("cancelled");
                        return None;
                    }
                    store.claim_job(&format!("worker-{caller}"), LEASE).await.expect("asked")
                }
            }).await;
            let claims: Vec<Claim> = claims.into_iter().flatten().collect();
            let different: BTreeSet<_> = claims.iter().map(|claim| claim.job.id).collect();
            assert_eq!(different.len(), claims.len(), "a job has two workers");
            for job in &jobs[3..] {
                assert!(different.contains(job), "a job has no worker");
            }
            for claim in &claims {
                let job = store.get_job(&a, claim.job.id).await.expect("found");
                assert_eq!((job.state, job.epoch), (JobState::Validating, 1));
                let stop = store.heartbeat(&claim.lease, LEASE).await.expect("alive");
                let cancels = stop == Some(frameshift::metadata::Unwanted::Cancel);
                assert_eq!(cancels, job.cancel_requested);
            }
            for job in &jobs[..3] {
                let job = store.get_job(&a, *job).await.expect("found");
                let is_claimed = different.contains(&job.id);
                assert_eq!(job.state == JobState::Cancelled, !is_claimed, "{job:?}");
            }
            for claim in claims {
                store.end_job(&claim.lease, Ending::Cancelled).await.expect("ended");
            }
        }
    }

    async fn a_worker_that_lost_its_job_changes_nothing_of_its_successors(store: Store) {
        for round in 0..ROUNDS {
            let a = scene(store, round).await;
            let job = submit(store, &a, "t").await.id;
            let first = store.claim_job("first", Duration::ZERO).await.expect("asked").expect("a job");
            let old = first.lease;
            let claims = race(store, |store, caller| {
                let old: Lease = old.clone();
                async move {
                    match caller % 4 {
                        0 => {
                            store.release_lost_jobs(&[]).await.expect("looked");
                            store.claim_job("second", LEASE).await.expect("asked")
                        }
                        1 => {
                            let ended = store.end_job(&old, Ending::Cancelled).await;
                            successes(&[ended], is_lost);
                            None
                        }
                        2 => {
                            let released = store.release_job(&old, Release::Drained).await;
                            successes(&[released], is_lost);
                            None
                        }
                        _ => {
                            let reserved = store.reserve_version(&old).await;
                            successes(&[reserved], is_lost);
                            None
                        }
                    }
                }
            }).await;
            let claims: Vec<Claim> = claims.into_iter().flatten().collect();
            assert!(claims.len() <= 1, "{} workers have it", claims.len());
            let now = store.get_job(&a, job).await.expect("found");
            match claims.first() {
                Some(second) => {
                    assert_eq!((now.state, now.epoch), (JobState::Validating, second.lease.epoch));
                    store.heartbeat(&second.lease, LEASE).await.expect("it has the job");
                    store.end_job(&second.lease, Ending::Cancelled).await.expect("ended");
                }
                None if now.state == JobState::Queued => {
                    store.cancel_job(&a, job).await.expect("cancelled");
                }
                None if now.epoch == old.epoch && !now.state.is_final() => {
                    // Whoever looked for lost jobs did so while its worker was just writing.
                    store.end_job(&old, Ending::Cancelled).await.expect("ended");
                }
                None => assert_eq!(now.state, JobState::Cancelled),
            }
            let events = store.list_events(&a, job, 0, 1000).await.expect("listed");
            let numbers: Vec<u64> = events.iter().map(|event| event.sequence).collect();
            assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
            let ends = states(store, &now).await;
            assert!(ends.iter().filter(|state| state.is_final()).count() <= 1, "{ends:?}");
        }
    }

    async fn a_version_that_is_published_beside_changes_of_its_task_serves_by_one_order(store: Store) {
        for round in 0..ROUNDS {
            let a = scene(store, round).await;
            submit(store, &a, "t").await;
            let claim = claim(store).await;
            advance(store, &claim, JobState::Publishing).await;
            let number = store.reserve_version(&claim.lease).await.expect("reserved");
            let owner = a.clone();
            let lease = claim.lease.clone();
            let results = race(store, move |store, caller| {
                let (a, claim, lease) = (owner.clone(), claim.clone(), lease.clone());
                async move {
                    if caller == 0 {
                        let version = new_version(number, &claim.job);
                        let published = store.publish_version(&lease, version, outcome()).await;
                        return Some(published.expect("published").is_desired);
                    }
                    let update = TaskUpdate { display_name: Some(format!("by {caller}")), auto_serve: None };
                    store.update_task(&a, &task_id("t"), update, None).await.expect("updated");
                    None
                }
            }).await;
            let is_desired = results.into_iter().flatten().next().expect("one published");
            let task = store.get_task(&a, &task_id("t")).await.expect("found");
            assert_eq!(task.desired == Some(number), is_desired);
        }
    }

    async fn numbers_of_versions_are_given_out_once(store: Store) {
        for round in 0..ROUNDS {
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
        for _ in 0..ROUNDS {
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
                    let page = reader.changes_since(Some(cursor), 2).await.expect("read");
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
            for number in 0..4 {
                let task = store.get_task(&a, &task_id(&format!("t{number}"))).await.expect("found");
                assert!(known.contains(&(task.id.clone(), task.etag.clone())), "{} was not told", task.etag);
            }
        }
    }

    async fn a_job_that_is_cancelled_while_it_is_claimed_is_one_or_the_other(store: Store) {
        for round in 0..ROUNDS {
            let a = scene(store, round).await;
            let job = submit(store, &a, "t").await;
            let cancel = store.cancel_job(&a, job.id);
            let (cancelled, claimed) = tokio::join!(cancel, store.claim_job("worker", LEASE));
            let cancelled = cancelled.expect("cancelled");
            match claimed.expect("asked") {
                None => assert_eq!(cancelled.state, JobState::Cancelled),
                Some(claim) => {
                    assert_eq!((claim.job.id, cancelled.state), (job.id, JobState::Validating));
                    assert!(cancelled.cancel_requested);
                    store.end_job(&claim.lease, Ending::Cancelled).await.expect("ended");
                }
            }
        }
    }
}
