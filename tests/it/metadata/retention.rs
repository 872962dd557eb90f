//! What goes in time, and what it leaves.

use std::time::Duration;

use frameshift::ids::JobId;
use frameshift::metadata::{Archive, Error, Event, JobUpdate, Kind, StepMetrics};
use frameshift::spec::{Digest, JobState};

use super::contract;
use super::fixture::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const NONE: Duration = Duration::ZERO;

/// Calls until nothing is left to do; returns how often it was called and what it took.
macro_rules! all {
    ($call:expr) => {{
        let (mut calls, mut sum) = (0, 0);
        loop {
            assert!(calls < 10_000, "it never ends");
            calls += 1;
            match $call.await.expect("done") {
                0 => break (calls, sum),
                some => sum += some,
            }
        }
    }};
}

/// A job of so many steps that was published.
async fn finished(store: &Store, name: &str, steps: u64) -> JobId {
    let a = tenant("a");
    submit(store, &a, name).await;
    let claim = claim(store).await;
    advance(store, &claim, JobState::Running).await;
    let all: Vec<_> = (1..=steps)
        .map(|step| {
            Event::Step(StepMetrics {
                step,
                ..StepMetrics::default()
            })
        })
        .collect();
    for some in all.chunks(1000) {
        let update = JobUpdate::default();
        store
            .append_events(&claim.lease, JobState::Running, some, update)
            .await
            .expect("appended");
    }
    for (from, to) in [
        (JobState::Running, JobState::Evaluating),
        (JobState::Evaluating, JobState::Publishing),
    ] {
        let update = JobUpdate::default();
        let moved = store.advance_job(&claim.lease, from, to, update).await;
        moved.expect("advanced");
    }
    let number = store.reserve_version(&claim.lease).await.expect("reserved");
    store
        .publish_version(&claim.lease, new_version(number, &claim.job), outcome())
        .await
        .expect("published");
    claim.job.id
}

/// The states and the steps that a job's events tell.
async fn told(store: &Store, job: JobId) -> (usize, Vec<u64>) {
    let mut events = Vec::new();
    for _ in 0..1000 {
        let after = events
            .last()
            .map_or(0, |event: &frameshift::metadata::EventRecord| {
                event.sequence
            });
        let more = store.list_events(&tenant("a"), job, after, 1000).await;
        let more = more.expect("events");
        if more.is_empty() {
            break;
        }
        events.extend(more);
    }
    assert!(events.is_sorted_by_key(|event| event.sequence));
    let steps = events.iter().filter_map(|event| match event.event {
        Event::Step(metrics) => Some(metrics.step),
        Event::State { .. }
        | Event::Evaluation(_)
        | Event::Comparison(_)
        | Event::Message { .. } => None,
    });
    let steps: Vec<u64> = steps.collect();
    (events.len() - steps.len(), steps)
}

contract! {
    async fn a_duty_has_one_holder_until_its_time_is_over(backend: Backend) {
        let store = &backend.store;
        let take = |holder: &'static str| store.take_duty("cleaning", holder, DAY);
        assert!(take("one").await.expect("asked"));
        assert!(!take("other").await.expect("asked"));
        backend.pass(DAY / 2);
        assert!(take("one").await.expect("asked"), "the holder takes it again");
        backend.pass(DAY * 3 / 4);
        assert!(!take("other").await.expect("asked"));
        backend.pass(DAY / 2);
        assert!(take("other").await.expect("asked"), "its time was over");
        assert!(!take("one").await.expect("asked"));
    }
    async fn request_ids_are_forgotten_after_their_time(backend: Backend) {
        let store = &backend.store;
        let (a, id) = (tenant("a"), request());
        let one = store.create_upload(&a, "x", id, &limits()).await.expect("created");
        assert_eq!(store.forget_requests(7 * DAY).await.expect("asked"), 0);
        assert_eq!(store.create_upload(&a, "x", id, &limits()).await.expect("answered"), one);
        backend.pass(7 * DAY);
        assert_eq!(store.forget_requests(7 * DAY).await.expect("forgotten"), 1);
        let two = store.create_upload(&a, "x", id, &limits()).await.expect("created");
        assert_ne!(two.id, one.id);
    }

    async fn many_request_ids_go_in_short_transactions(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        for n in 0..1_200 {
            let id = dataset_id(&format!("d{n}"));
            store.create_dataset(&a, &id, "".into(), request()).await.expect("created");
        }
        backend.pass(DAY);
        let (calls, rows) = all!(store.forget_requests(DAY));
        assert_eq!((calls, rows), (4, 1_200));
    }

    async fn steps_of_a_job_that_has_ended_are_thinned(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let long = finished(store, "t", 5_000).await;
        let short = finished(store, "t", 30).await;
        submit(store, &a, "t").await;
        let running = claim(store).await;
        advance(store, &running, JobState::Running).await;
        let (states, steps) = told(store, long).await;
        assert_eq!(steps.len(), 5_000);
        let (calls, _) = all!(store.thin_events(100));
        assert!(calls > 5, "not all at once: {calls}");
        let (left, thinned) = told(store, long).await;
        assert_eq!(left, states, "changes of state stay");
        assert!((90..=100).contains(&thinned.len()), "{}", thinned.len());
        assert_eq!(thinned.last(), Some(&5_000));
        let widest = thinned.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest.expect("several") < 120, "evenly spread");
        assert_eq!(told(store, short).await.1.len(), 30);
        // Each job's are one row by now; they are read in pages all the same.
        let page = store.list_events(&a, long, 7, 5).await.expect("events");
        assert_eq!(page.len(), 5);
        assert!(page[0].sequence > 7 && page.is_sorted_by_key(|event| event.sequence));
        assert_eq!(store.thin_events(100).await.expect("asked"), 0, "done once");

        backend.pass(30 * DAY);
        assert_eq!(store.forget_events(31 * DAY).await.expect("asked"), 0);
        all!(store.forget_events(30 * DAY));
        for job in [long, short] {
            assert_eq!(told(store, job).await, (states, vec![]));
        }
        assert!(store.get_job(&a, long).await.expect("found").result.is_some());
    }

    async fn what_is_cut_in_the_middle_ends_as_what_is_not(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let (one, two) = (finished(store, "t", 3_000).await, finished(store, "t", 3_000).await);
        all!(store.thin_events(100));
        let (_, whole) = told(store, one).await;
        // Both were thinned in turns of a few hundred rows, each of which might have been the last before a crash.
        assert_eq!(told(store, two).await.1, whole);
    }

    async fn snapshots_go_with_the_last_unfinished_job_that_reads_them(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let first = submit(store, &a, "t").await;
        let second = submit(store, &a, "t").await;
        assert_eq!(first.dataset_digest, second.dataset_digest);
        let digest = first.dataset_digest;
        backend.pass(2 * DAY);
        store.cancel_job(&a, first.id).await.expect("cancelled");
        assert_eq!(all!(store.forget_snapshots(DAY)).1, 0, "another job reads it");
        let whole = examples_of(store, &a, digest).await.expect("found");
        store.cancel_job(&a, second.id).await.expect("cancelled");
        assert_eq!(all!(store.forget_snapshots(DAY)).1, 0, "it is in no blob");
        assert_eq!(examples_of(store, &a, digest).await.expect("found"), whole);
        let archive = Archive { size_bytes: 1, sha256: Digest([1; 32]) };
        assert!(store.note_archive(&a, digest, archive).await.expect("noted"));
        assert_eq!(store.forget_snapshots(3 * DAY).await.expect("asked"), 0, "too young");
        all!(store.forget_snapshots(DAY));
        assert!(matches!(
            examples_of(store, &a, digest).await,
            Err(Error::NotFound { kind: Kind::Snapshot, .. })
        ));
        assert_eq!(store.get_job(&a, first.id).await.expect("found").dataset_digest, digest);

        // A job that needs it again has it again, whole.
        let third = submit(store, &a, "t").await;
        assert_eq!(third.dataset_digest, digest);
        assert_eq!(examples_of(store, &a, digest).await.expect("found"), whole);
        assert_eq!(all!(store.forget_snapshots(DAY)).1, 0);
    }

    async fn a_snapshot_without_rows_is_dropped_once_nothing_names_it(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let id = dataset_id("t");
        let made = store.create_dataset_version(&a, &id, "", 9).await.expect("made");
        let archive = Archive { size_bytes: 1, sha256: Digest([1; 32]) };
        let noted = store.note_archive(&a, made.snapshot.digest, archive).await;
        assert!(noted.expect("noted"));
        backend.pass(8 * DAY);
        all!(store.forget_snapshots(DAY));
        assert!(examples_of(store, &a, made.snapshot.digest).await.is_err());
        assert_eq!(store.drop_unnamed_snapshots().await.expect("asked"), 0, "a version names it");
        store.delete_dataset_version(&a, &id, 1).await.expect("deleted");
        assert_eq!(store.drop_unnamed_snapshots().await.expect("asked"), 1);
        assert_eq!(store.drop_unnamed_snapshots().await.expect("asked"), 0);
    }

    async fn jobs_go_with_their_events_and_snapshots(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = finished(store, "t", 1_300).await;
        let version = store.get_job(&a, job).await.expect("found").result.expect("a result").version;
        let waiting = submit(store, &a, "t").await;
        backend.pass(90 * DAY);
        let (calls, _) = all!(store.forget_jobs(&a, Some(90 * DAY)));
        assert!(calls > 3, "not all at once: {calls}");
        assert!(matches!(
            store.get_job(&a, job).await,
            Err(Error::NotFound { kind: Kind::Job, .. })
        ));
        let kept = store.get_job(&a, waiting.id).await.expect("unfinished");
        let number = frameshift::ids::AdapterVersion::new(version).expect("a number");
        store.get_version(&a, &task_id("t"), number).await.expect("versions stay");
        examples_of(store, &a, kept.dataset_digest).await.expect("it is read");

        store.cancel_job(&a, waiting.id).await.expect("cancelled");
        all!(store.forget_snapshots(NONE));
        all!(store.forget_jobs(&a, Some(NONE)));
        assert!(store.get_job(&a, waiting.id).await.is_err());
        all!(store.forget_snapshots(NONE));
        assert!(examples_of(store, &a, kept.dataset_digest).await.is_err());
        let again = submit(store, &a, "t").await;
        assert_eq!(again.dataset_digest, kept.dataset_digest);
        examples_of(store, &a, again.dataset_digest).await.expect("taken anew");
    }
}
