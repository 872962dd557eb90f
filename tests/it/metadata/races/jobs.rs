//! Races for jobs: submission, workers, cancellation and publication.

use super::*;

contract! {
    async fn no_tenant_has_more_jobs_than_it_may(store: Store) {
        for round in 0..rounds() {
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

    async fn a_job_and_the_deletion_of_what_it_needs_are_not_both_done(store: Store) {
        for round in 0..rounds() {
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

    async fn a_job_has_one_worker_and_a_cancelled_one_none(store: Store) {
        for round in 0..rounds() {
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
        for round in 0..rounds() {
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

    async fn a_lost_job_is_put_back_once(store: Store) {
        for round in 0..rounds() {
            let a = scene(store, round).await;
            let job = submit(store, &a, "t").await;
            store.claim_job("lost", Duration::ZERO).await.expect("asked").expect("a job");
            let looks = race(store, |store, _| async move { store.release_lost_jobs(&[]).await }).await;
            assert_eq!(successes(&looks, |_| false), CALLERS);
            // Somebody may have looked while another one had the row, and has passed it over.
            store.release_lost_jobs(&[]).await.expect("looked");
            let seen = states(store, &job).await;
            assert_eq!(seen, [JobState::Queued, JobState::Validating, JobState::Queued]);
            store.cancel_job(&a, job.id).await.expect("cancelled");
        }
    }

    async fn a_version_that_is_published_beside_changes_of_its_task_serves_by_one_order(store: Store) {
        for round in 0..rounds() {
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

    async fn a_job_that_is_cancelled_while_it_is_claimed_is_one_or_the_other(store: Store) {
        for round in 0..rounds() {
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
