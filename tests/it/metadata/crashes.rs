//! Processes that end without a word: who is suspected, who is charged, and in which order suspects are tried.

use std::time::Duration;

use frameshift::ids::TenantId;
use frameshift::metadata::{
    BlobName, Claim, Event, JobRecord, JobUpdate, PROCESS_LOST, StepMetrics,
};
use frameshift::spec::JobState;

use super::fixture::*;
use super::jobs::checkpoint;
use super::{Backend, contract};

/// Longer than any test takes: a job that is held back is not claimed in it.
const HOURS: Duration = Duration::from_secs(3600);

async fn restart(backend: &Backend) -> Vec<JobRecord> {
    backend.restart(Duration::ZERO).await
}

/// Claims the next job and trains it to a step.
async fn run_to(store: &Store, step: u64) -> Claim {
    let claim = claim(store).await;
    advance(store, &claim, JobState::Running).await;
    let metrics = StepMetrics {
        step,
        ..StepMetrics::default()
    };
    let update = JobUpdate {
        step: Some(step),
        ..JobUpdate::default()
    };
    store
        .append_events(
            &claim.lease,
            JobState::Running,
            &[Event::Step(metrics)],
            update,
        )
        .await
        .expect("appended");
    claim
}

/// Has a worker take the next job, whose lease has run out, and train it to a step.
async fn silent_at(store: &Store, worker: &str, step: u64) -> Claim {
    let claim = store.claim_job(worker, Duration::ZERO).await;
    let claim = claim.expect("asked").expect("a job");
    advance(store, &claim, JobState::Running).await;
    let update = JobUpdate {
        step: Some(step),
        ..JobUpdate::default()
    };
    store
        .append_events(&claim.lease, JobState::Running, &[], update)
        .await
        .expect("appended");
    claim
}

async fn claim_as(store: &Store, worker: &str) -> Claim {
    let claim = store.claim_job(worker, LEASE).await;
    claim.expect("asked").expect("a job")
}

async fn look(store: &Store) -> Vec<JobRecord> {
    store.release_lost_jobs(&[]).await.expect("looked")
}

async fn is_idle(store: &Store) -> bool {
    let claim = store.claim_job("worker", LEASE).await;
    claim.expect("asked").is_none()
}

async fn get(store: &Store, tenant: &TenantId, job: &JobRecord) -> JobRecord {
    store.get_job(tenant, job.id).await.expect("found")
}

contract! {
    async fn a_job_that_ends_its_process_twice_at_one_step_fails_and_keeps_its_checkpoint(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        let first = run_to(store, 10).await;
        store.commit_checkpoint(&first.lease, checkpoint(10)).await.expect("committed");
        assert_eq!(restart(backend).await, []);
        let second = run_to(store, 12).await;
        assert!(second.job.is_suspect);
        assert_eq!(second.job.step, 10, "it goes on from its checkpoint");
        // Another step than the first time: it goes on being tried.
        assert_eq!(restart(backend).await, []);
        run_to(store, 12).await;
        let ended = restart(backend).await;
        let job = get(store, &a, &job).await;
        assert_eq!(ended, std::slice::from_ref(&job));
        assert_eq!((job.state, job.reason.as_deref()), (JobState::Failed, Some(PROCESS_LOST)));
        let message = job.message.expect("a message");
        assert!(message.contains("2 times at step 12"), "{message}");
        let kept = BlobName::Job(job.id, checkpoint(10).key);
        assert!(is_named(store, &a, kept).await);
        assert!(is_idle(store).await);
    }

    async fn a_look_that_is_given_up_anywhere_takes_no_charge_back(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let mut polls = 0;
        let mut is_cut = true;
        while is_cut {
            polls += 1;
            let job = submit(store, &a, "t").await;
            run_to(store, 10).await;
            is_cut = backend.cut_restart(polls).await;
            assert_eq!(look(store).await, [], "after {polls} polls");
            run_to(store, 10).await;
            let ended = restart(backend).await;
            let ended: Vec<_> = ended.iter().map(|job| job.id).collect();
            assert_eq!(ended, [job.id], "after {polls} polls");
        }
        assert!(polls > 1);
    }

    async fn jobs_that_ran_together_are_not_charged_but_tried_one_by_one_the_newest_first(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let (old, new) = (submit(store, &a, "t").await, submit(store, &a, "t").await);
        let waiting = submit(store, &a, "t").await;
        assert_eq!(run_to(store, 3).await.job.id, old.id);
        assert_eq!(run_to(store, 3).await.job.id, new.id);
        assert_eq!(restart(backend).await, []);
        let trial = run_to(store, 2).await;
        assert_eq!(trial.job.id, new.id);
        assert!(is_idle(store).await, "nothing runs beside a suspect");
        store.commit_checkpoint(&trial.lease, checkpoint(3)).await.expect("committed");
        assert!(is_idle(store).await, "it has not passed its step");
        store.commit_checkpoint(&trial.lease, checkpoint(4)).await.expect("committed");
        let next = run_to(store, 1).await;
        assert_eq!(next.job.id, old.id, "the other suspect comes before whoever waits");
        assert!(is_idle(store).await);
        advance_on(store, &next).await;
        assert_eq!(claim(store).await.job.id, waiting.id);
    }

    async fn a_job_that_ran_alone_is_held_back_and_others_go_on(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        claim(store).await;
        assert_eq!(backend.restart(HOURS).await, []);
        assert!(is_idle(store).await);
        assert_eq!(get(store, &a, &job).await.state, JobState::Queued);
        let other = submit(store, &a, "t").await;
        assert_eq!(claim(store).await.job.id, other.id);
    }

    async fn six_crashes_within_seconds_end_no_innocent_job(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        run_to(store, 212).await;
        for _ in 0..6 {
            assert_eq!(backend.restart(HOURS).await, []);
            assert!(is_idle(store).await);
        }
        assert_eq!(get(store, &a, &job).await.state, JobState::Queued);
    }

    async fn a_crash_without_a_job_clears_the_jobs(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        for _ in 0..4 {
            run_to(store, 7).await;
            assert_eq!(restart(backend).await, []);
            // The next process ends before it has claimed anything.
            assert_eq!(restart(backend).await, []);
        }
        assert_eq!(get(store, &a, &job).await.state, JobState::Queued);
    }

    async fn a_validation_that_gets_further_each_time_is_not_the_same_place(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        for checked in [100, 200, 300, 300] {
            let claim = claim(store).await;
            let update = JobUpdate { checked: Some(checked), ..JobUpdate::default() };
            store
                .append_events(&claim.lease, JobState::Validating, &[], update)
                .await
                .expect("appended");
            restart(backend).await;
        }
        assert_eq!(get(store, &a, &job).await.state, JobState::Failed);
    }

    async fn a_job_that_takes_its_process_with_it_fails_after_the_third_one(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        let first = silent_at(store, "p0/0", 10).await;
        store.commit_checkpoint(&first.lease, checkpoint(10)).await.expect("committed");
        assert_eq!(look(store).await, []);
        // Another place: it goes on being tried.
        for (process, step) in [(1, 11), (2, 12), (3, 12)] {
            silent_at(store, &format!("p{process}/0"), step).await;
            assert_eq!(look(store).await, []);
        }
        silent_at(store, "p4/0", 12).await;
        let ended = look(store).await;
        let job = get(store, &a, &job).await;
        assert_eq!(ended, std::slice::from_ref(&job));
        assert_eq!((job.state, job.reason.as_deref()), (JobState::Failed, Some(PROCESS_LOST)));
        let message = job.message.expect("a message");
        assert!(message.contains("3 times at step 12"), "{message}");
        assert!(is_named(store, &a, BlobName::Job(job.id, checkpoint(10).key)).await);
        assert!(is_idle(store).await);
    }

    async fn the_neighbours_of_a_job_that_ends_processes_are_not_charged_with_it(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let jobs = [submit(store, &a, "t").await, submit(store, &a, "t").await];
        for process in 1..12 {
            silent_at(store, &format!("p{process}/0"), 5).await;
            let other = claim_as(store, &format!("p{process}/1")).await;
            // The second lease runs out later, when the first job has gone on elsewhere or waits.
            assert_eq!(look(store).await, []);
            store.heartbeat(&other.lease, Duration::ZERO).await.expect("alive");
            assert_eq!(look(store).await, []);
        }
        for job in &jobs {
            assert_eq!(get(store, &a, job).await.state, JobState::Queued);
        }
        // Without a new checkpoint they do not go round for ever, either.
        silent_at(store, "p12/0", 5).await;
        silent_at(store, "p12/1", 5).await;
        let ended = look(store).await;
        assert_eq!(ended.len(), 2);
        for job in ended {
            assert_eq!((job.state, job.reason.as_deref()), (JobState::Failed, Some(PROCESS_LOST)));
            let message = job.message.expect("a message");
            assert!(message.contains("12 times since the newest checkpoint"), "{message}");
        }
    }

    async fn a_new_checkpoint_clears_a_job_of_the_workers_that_it_lost(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        for step in 1..20 {
            let claim = silent_at(store, &format!("p{step}/0"), step).await;
            store.commit_checkpoint(&claim.lease, checkpoint(step)).await.expect("committed");
            assert_eq!(look(store).await, []);
        }
        assert_eq!(get(store, &a, &job).await.state, JobState::Queued);
    }

    async fn a_cancelled_job_whose_process_ended_is_cancelled(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        claim(store).await;
        store.cancel_job(&a, job.id).await.expect("asked");
        let ended = restart(backend).await;
        assert_eq!(ended, [get(store, &a, &job).await]);
        assert_eq!(ended[0].state, JobState::Cancelled);
    }
}

/// Moves a RUNNING job to PUBLISHING.
async fn advance_on(store: &Store, claim: &Claim) {
    for (from, to) in [
        (JobState::Running, JobState::Evaluating),
        (JobState::Evaluating, JobState::Publishing),
    ] {
        store
            .advance_job(&claim.lease, from, to, JobUpdate::default())
            .await
            .expect("advanced");
    }
}
