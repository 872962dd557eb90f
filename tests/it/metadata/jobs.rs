//! Jobs: queued, claimed, lost, resumed, ended, published.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use frameshift::metadata::{
    BlobName, CheckpointRecord, EARLY_STOPPED, Ending, Error, Event, JobUpdate, Lease, NewJob,
    Release, StepMetrics, TaskUpdate, TrainingSummary, Unwanted,
};
use frameshift::spec::{Digest, Evaluation, HyperParameters, JobState};

use super::contract;
use super::fixture::*;

pub(super) fn checkpoint(step: u64) -> CheckpointRecord {
    CheckpointRecord {
        step,
        key: format!("a/jobs/x/1/checkpoint-{step}.safetensors"),
        sha256: Digest([9; 32]),
        clip_frames: 64 * step,
        is_best: false,
    }
}

contract! {
    async fn a_job_whose_version_is_published_succeeds_whatever_ends_it(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        for ending in ["measured", "cancelled", "failed", "cancelled while it waits", "crashed"] {
            let job = submit(store, &a, "t").await;
            let claim = claim(store).await;
            advance(store, &claim, JobState::Publishing).await;
            let lease = &claim.lease;
            let number = store.reserve_version(lease).await.expect("reserved");
            let summary = TrainingSummary {
                reason: Some(EARLY_STOPPED.into()),
                has_test: true,
                ..outcome()
            };
            let published = store
                .publish_version(lease, new_version(number, &claim.job), summary)
                .await
                .expect("published");
            assert_eq!(published.job.state, JobState::Publishing);
            assert!(published.job.result.is_some() && published.version.test.is_none());
            let test = Evaluation { examples: 7, top1: 5.0 / 7.0, ..Evaluation::default() };
            match ending {
                "measured" => {
                    let event = Event::Message { warning: false, text: "measured".into() };
                    store.finish_job(lease, test.clone(), Some(event)).await.expect("finished");
                }
                "cancelled" => drop(store.end_job(lease, Ending::Cancelled).await.expect("ended")),
                "failed" => {
                    let ending = Ending::Failed { reason: "INTERNAL".into(), message: "x".into() };
                    store.end_job(lease, ending).await.expect("ended");
                }
                "crashed" => {
                    for _ in 0..3 {
                        backend.restart(Duration::ZERO).await;
                        if store.get_job(&a, job.id).await.expect("found").state == JobState::Queued {
                            store.claim_job("again", LEASE).await.expect("claimed").expect("a job");
                        }
                    }
                }
                _ => {
                    store.release_job(lease, Release::Drained).await.expect("released");
                    store.cancel_job(&a, job.id).await.expect("cancelled");
                }
            }
            let done = store.get_job(&a, job.id).await.expect("found");
            assert_eq!(done.state, JobState::Succeeded, "{ending}");
            assert_eq!(done.reason.as_deref(), Some(EARLY_STOPPED), "{ending}");
            let measured = (ending == "measured").then_some(test);
            assert_eq!(done.result.expect("a result").test, measured, "{ending}");
            let version = store.get_version(&a, &task_id("t"), number).await.expect("found");
            assert_eq!(version.test, measured, "{ending}");
            assert!(matches!(
                store.finish_job(lease, Evaluation::default(), None).await,
                Err(Error::LeaseLost { .. })
            ));
        }
    }

    async fn a_restart_puts_every_job_back(backend: Backend) {
        let store = &backend.store;
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let jobs = [submit(store, &a, "t").await, submit(store, &a, "t").await];
        let claim = claim(store).await;
        assert_eq!(backend.restart(Duration::ZERO).await, []);
        every_write_is_refused(store, &claim.lease).await;
        for job in jobs {
            assert_eq!(store.get_job(&a, job.id).await.expect("found").state, JobState::Queued);
        }
    }
}

contract! {
    async fn a_pause_before_the_publication_is_over_with_it(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        let claim = claim(store).await;
        advance(store, &claim, JobState::Publishing).await;
        let lease = &claim.lease;
        let number = store.reserve_version(lease).await.expect("reserved");
        store.pause_job(&a, job.id, true).await.expect("paused");
        let summary = TrainingSummary { has_test: true, ..outcome() };
        let published = store.publish_version(lease, new_version(number, &claim.job), summary).await;
        assert!(!published.expect("published").job.is_paused);
        // Its worker, which has heard of the pause, gives it back; it still has its test split before it.
        store.release_job(lease, Release::Paused).await.expect("released");
        let again = store.claim_job("again", LEASE).await.expect("asked");
        assert_eq!(again.expect("a job").job.id, job.id);
    }

    async fn a_job_goes_from_the_queue_to_a_version(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        assert_eq!((job.state, job.attempts, job.epoch), (JobState::Queued, 0, 0));
        assert_eq!(job.hyper_parameters, new_job("t").hyper_parameters);
        let claim = claim(store).await;
        assert_eq!((claim.job.id, claim.job.attempts, claim.lease.epoch), (job.id, 1, 1));
        let used = HyperParameters { batch_size: Some(8), ..job.hyper_parameters.clone() };
        let update = JobUpdate {
            hyper_parameters: Some(used.clone()),
            step: None,
            total_steps: Some(40),
            checked: None,
        };
        let running = store
            .advance_job(&claim.lease, JobState::Validating, JobState::Running, update)
            .await
            .expect("advanced");
        assert_eq!((&running.hyper_parameters, running.total_steps), (&used, 40));
        let metrics = StepMetrics { step: 1, loss: f64::NAN, ..StepMetrics::default() };
        let update = JobUpdate { step: Some(1), ..JobUpdate::default() };
        store
            .append_events(&claim.lease, JobState::Running, &[Event::Step(metrics)], update)
            .await
            .expect("appended");
        assert_eq!(store.get_job(&a, job.id).await.expect("found").step, 1);
        for (from, to) in [
            (JobState::Running, JobState::Evaluating),
            (JobState::Evaluating, JobState::Publishing),
        ] {
            store.advance_job(&claim.lease, from, to, JobUpdate::default()).await.expect("advanced");
        }
        let number = store.reserve_version(&claim.lease).await.expect("reserved");
        assert_eq!(store.reserve_version(&claim.lease).await.expect("reserved"), number);
        let version = new_version(number, &claim.job);
        let published = store
            .publish_version(&claim.lease, version.clone(), outcome())
            .await
            .expect("published");
        assert!(published.is_desired);
        assert_eq!(published.version.manifest, version.manifest);
        let done = store.get_job(&a, job.id).await.expect("found");
        assert_eq!((done.state, done.end_time.is_some()), (JobState::Succeeded, true));
        let result = done.result.expect("a result");
        assert_eq!((result.version, result.seed), (number.get(), u64::MAX));
        assert_eq!(result.skipped_clips, 5);
        assert_eq!(result.loss_curve, outcome().loss_curve);
        let task = store.get_task(&a, &task_id("t")).await.expect("found");
        assert_eq!((task.desired, task.serving), (Some(number), None));
        assert_eq!(
            states(store, &job).await,
            [
                JobState::Queued,
                JobState::Validating,
                JobState::Running,
                JobState::Evaluating,
                JobState::Publishing,
                JobState::Succeeded
            ]
        );
        let late = store.list_events(&a, job.id, 3, 2).await.expect("events");
        assert_eq!(late.iter().map(|event| event.sequence).collect::<Vec<_>>(), [4, 5]);
        let Event::Step(metrics) = late[0].event else { panic!("{late:?}") };
        assert!(metrics.loss.is_nan());
        assert!(matches!(
            store.publish_version(&claim.lease, version, outcome()).await,
            Err(Error::LeaseLost { .. })
        ));
    }

    async fn two_claimers_never_get_one_job(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let mut jobs = HashSet::new();
        for _ in 0..6 {
            jobs.insert(submit(store, &a, "t").await.id);
        }
        let claimers: Vec<_> = (0..12)
            .map(|n| {
                let store = Arc::clone(store);
                tokio::spawn(async move {
                    store.claim_job(&format!("worker-{n}"), LEASE).await.expect("asked")
                })
            })
            .collect();
        let mut claimed = Vec::new();
        for claimer in claimers {
            claimed.extend(claimer.await.expect("no panic").map(|claim| claim.job.id));
        }
        assert_eq!(claimed.len(), 6);
        assert_eq!(claimed.into_iter().collect::<HashSet<_>>(), jobs);
    }

    async fn the_tenant_with_fewer_running_jobs_is_next(store: Store) {
        let (a, b) = (tenant("a"), tenant("b"));
        trainable(store, &a, "t").await;
        trainable(store, &b, "t").await;
        let first = [submit(store, &a, "t").await, submit(store, &a, "t").await];
        let later = submit(store, &b, "t").await;
        assert_eq!(claim(store).await.job.id, first[0].id);
        assert_eq!(claim(store).await.job.id, later.id);
        assert_eq!(claim(store).await.job.id, first[1].id);
        assert!(store.claim_job("worker", LEASE).await.expect("asked").is_none());
    }

    async fn a_lost_job_goes_on_from_its_checkpoint_and_its_old_worker_writes_nothing(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        // A lease of no length has run out when somebody looks.
        let old = store.claim_job("old", Duration::ZERO).await.expect("asked").expect("a job");
        store
            .advance_job(&old.lease, JobState::Validating, JobState::Running, JobUpdate::default())
            .await
            .expect("advanced");
        assert_eq!(store.commit_checkpoint(&old.lease, checkpoint(10)).await.expect("committed"), []);
        assert_eq!(
            store.commit_checkpoint(&old.lease, checkpoint(20)).await.expect("committed"),
            [checkpoint(10)]
        );
        let named = |step| BlobName::Job(old.job.id, checkpoint(step).key);
        assert!(is_named(store, &a, named(20)).await);
        assert!(!is_named(store, &a, named(10)).await);
        assert!(store.claim_job("new", LEASE).await.expect("asked").is_none());
        assert_eq!(store.release_lost_jobs(&[]).await.expect("looked"), []);
        let new = claim(store).await;
        assert_eq!((new.job.id, new.lease.epoch, new.job.attempts), (old.job.id, 2, 2));
        assert_eq!((new.job.checkpoint.clone(), new.job.step), (Some(checkpoint(20)), 20));
        assert_eq!(
            states(store, &new.job).await,
            [
                JobState::Queued,
                JobState::Validating,
                JobState::Running,
                JobState::Queued,
                JobState::Validating
            ]
        );
        let before = store.get_job(&a, new.job.id).await.expect("found");
        every_write_is_refused(store, &old.lease).await;
        assert_eq!(store.get_job(&a, new.job.id).await.expect("found"), before);
        assert_eq!(states(store, &new.job).await.len(), 5);
    }

    async fn a_write_in_the_wrong_state_is_refused(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        let claim = claim(store).await;
        assert!(matches!(
            store
                .advance_job(&claim.lease, JobState::Running, JobState::Evaluating, JobUpdate::default())
                .await,
            Err(Error::LeaseLost { .. })
        ));
        assert!(matches!(
            store.commit_checkpoint(&claim.lease, checkpoint(1)).await,
            Err(Error::LeaseLost { .. })
        ));
        let number = store.reserve_version(&claim.lease).await.expect("reserved");
        assert!(matches!(
            store.publish_version(&claim.lease, new_version(number, &claim.job), outcome()).await,
            Err(Error::LeaseLost { .. })
        ));
    }

    async fn drains_do_not_count_against_a_job_nor_do_some_lost_leases(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        for _ in 0..12 {
            let claim = claim(store).await;
            store.release_job(&claim.lease, Release::Drained).await.expect("released");
            assert!(matches!(store.heartbeat(&claim.lease, LEASE).await, Err(Error::LeaseLost { .. })));
        }
        for checked in 1..12 {
            let claim = store.claim_job("worker", Duration::ZERO).await.expect("asked").expect("a job");
            // Each time at another place: it is not the job.
            let update = JobUpdate { checked: Some(checked), ..JobUpdate::default() };
            store.append_events(&claim.lease, JobState::Validating, &[], update).await.expect("appended");
            assert_eq!(store.release_lost_jobs(&[]).await.expect("looked"), []);
        }
        let job = store.get_job(&a, job.id).await.expect("found");
        assert_eq!((job.state, job.errors, job.attempts), (JobState::Queued, 0, 23));
    }

    async fn internal_errors_count_until_the_next_checkpoint(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        for errors in 0..3 {
            let claim = claim(store).await;
            assert_eq!(claim.job.errors, errors);
            store.release_job(&claim.lease, Release::AfterError).await.expect("released");
        }
        let claim = claim(store).await;
        advance(store, &claim, JobState::Running).await;
        store.commit_checkpoint(&claim.lease, checkpoint(5)).await.expect("committed");
        let job = store.get_job(&a, claim.job.id).await.expect("found");
        assert_eq!(job.errors, 0);
    }

    async fn a_claim_that_is_known_to_be_alive_is_not_lost_to_the_clock(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        // As after a jump of the database's clock: the lease has run out, the worker lives.
        let claim = store.claim_job("worker", Duration::ZERO).await.expect("asked").expect("a job");
        let alive = [claim.lease.clone()];
        assert_eq!(store.release_lost_jobs(&alive).await.expect("looked"), []);
        assert!(store.claim_job("other", LEASE).await.expect("asked").is_none());
        assert_eq!(store.heartbeat(&claim.lease, LEASE).await.expect("alive"), None);
        // The same job by an older claim is not alive.
        store.claim_job("worker", Duration::ZERO).await.expect("asked");
        let older = [Lease { epoch: 0, ..claim.lease.clone() }];
        store.heartbeat(&claim.lease, Duration::ZERO).await.expect("alive");
        store.release_lost_jobs(&older).await.expect("looked");
        assert!(matches!(store.heartbeat(&claim.lease, LEASE).await, Err(Error::LeaseLost { .. })));
    }

    async fn waiting_jobs_are_counted(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        assert_eq!(store.count_waiting_jobs().await.expect("counted"), 0);
        submit(store, &a, "t").await;
        submit(store, &a, "t").await;
        claim(store).await;
        assert_eq!(store.count_waiting_jobs().await.expect("counted"), 1);
    }

    async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_when_its_worker_sees_it(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let (running, waiting) = (submit(store, &a, "t").await, submit(store, &a, "t").await);
        let claim = claim(store).await;
        assert_eq!(claim.job.id, running.id);
        assert_eq!(
            store.cancel_job(&a, waiting.id).await.expect("cancelled").state,
            JobState::Cancelled
        );
        assert!(matches!(store.cancel_job(&a, waiting.id).await, Err(Error::JobFinished { .. })));
        assert_eq!(store.heartbeat(&claim.lease, LEASE).await.expect("alive"), None);
        let asked = store.cancel_job(&a, running.id).await.expect("asked");
        assert_eq!((asked.state, asked.cancel_requested), (JobState::Validating, true));
        assert_eq!(store.heartbeat(&claim.lease, LEASE).await.expect("alive"), Some(Unwanted::Cancel));
        let ended = store.end_job(&claim.lease, Ending::Cancelled).await.expect("ended");
        assert_eq!(ended.state, JobState::Cancelled);
        every_write_is_refused(store, &claim.lease).await;
    }

    async fn a_cancelled_job_whose_worker_is_lost_is_cancelled(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        store.claim_job("worker", Duration::ZERO).await.expect("asked").expect("a job");
        store.cancel_job(&a, job.id).await.expect("asked");
        let ended = store.release_lost_jobs(&[]).await.expect("looked");
        assert_eq!(ended.iter().map(|job| job.id).collect::<Vec<_>>(), [job.id]);
        assert!(store.claim_job("worker", LEASE).await.expect("asked").is_none());
        assert_eq!(store.get_job(&a, job.id).await.expect("found").state, JobState::Cancelled);
    }

    async fn a_failure_has_a_reason(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        let claim = claim(store).await;
        let ending = Ending::Failed {
            reason: "DATASET_INVALID".into(),
            message: "one label only".into(),
        };
        let job = store.end_job(&claim.lease, ending).await.expect("ended");
        assert_eq!(job.reason.as_deref(), Some("DATASET_INVALID"));
        assert_eq!(job.message.as_deref(), Some("one label only"));
        let events = store.list_events(&a, job.id, 2, 10).await.expect("events");
        assert_eq!(
            events[0].event,
            Event::State {
                state: JobState::Failed,
                reason: Some("DATASET_INVALID".into()),
                message: Some("one label only".into())
            }
        );
    }

    async fn too_many_unfinished_jobs_are_refused(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = NewJob { limit: 2, ..new_job("t") };
        store.submit_job(&a, job.clone(), None).await.expect("submitted");
        let second = store.submit_job(&a, job.clone(), None).await.expect("submitted");
        assert!(matches!(
            store.submit_job(&a, job.clone(), None).await,
            Err(Error::TooManyJobs { limit: 2 })
        ));
        store.cancel_job(&a, second.id).await.expect("cancelled");
        store.submit_job(&a, job, None).await.expect("submitted");
    }

    async fn a_task_that_changed_since_is_not_served_by_itself(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        let update = TaskUpdate { display_name: Some("x".into()), auto_serve: None };
        store.update_task(&a, &task_id("t"), update, None).await.expect("updated");
        let published = publish(store, &claim(store).await).await;
        assert!(!published.is_desired);
        assert_eq!(published.job.state, JobState::Succeeded);
        assert_eq!(store.get_task(&a, &task_id("t")).await.expect("found").desired, None);
        let events = store.list_events(&a, job.id, 0, 100).await.expect("events");
        let warned = |event: &&frameshift::metadata::EventRecord| {
            matches!(event.event, Event::Message { warning: true, .. })
        };
        assert_eq!(events.iter().filter(warned).count(), 1);
    }

    async fn that_the_engine_moves_serving_does_not_stale_an_etag(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        let first = publish(store, &claim(store).await).await;
        submit(store, &a, "t").await;
        let moved = store.move_serving(&a, &task_id("t"), first.version.version).await;
        assert!(moved.expect("moved"));
        assert!(publish(store, &claim(store).await).await.is_desired);
    }

    async fn a_version_number_is_never_given_twice(store: Store) {
        let a = tenant("a");
        for expected in 1..=3 {
            store.create_task(&a, task("t"), None).await.expect("created");
            if expected == 1 {
                store.create_dataset(&a, &dataset_id("t"), "".into(), None).await.expect("created");
            }
            submit(store, &a, "t").await;
            let published = publish(store, &claim(store).await).await;
            assert_eq!(published.version.version.get(), expected);
            store.delete_task(&a, &task_id("t"), None).await.expect("deleted");
        }
    }
}

async fn every_write_is_refused(store: &Store, lease: &Lease) {
    let refused = |result: Result<(), Error>| {
        assert!(matches!(result, Err(Error::LeaseLost { .. })), "{result:?}");
    };
    refused(store.heartbeat(lease, LEASE).await.map(drop));
    for state in [
        JobState::Queued,
        JobState::Validating,
        JobState::Running,
        JobState::Evaluating,
        JobState::Publishing,
    ] {
        let update = JobUpdate {
            step: Some(999),
            ..JobUpdate::default()
        };
        refused(
            store
                .advance_job(lease, state, state, update.clone())
                .await
                .map(drop),
        );
        refused(store.append_events(lease, state, &[], update).await);
    }
    refused(
        store
            .commit_checkpoint(lease, checkpoint(99))
            .await
            .map(drop),
    );
    refused(store.release_job(lease, Release::Drained).await);
    refused(store.end_job(lease, Ending::Cancelled).await.map(drop));
    refused(store.reserve_version(lease).await.map(drop));
}
