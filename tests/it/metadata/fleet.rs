//! What processes that share the records agree on: who proves a version, whose job is next, who is there.

use std::time::Duration;

use frameshift::metadata::{
    Ending, NewJob, PageRequest, Plan, ReplicaReport, ReplicaRole, ReplicaState, ReportedSet, Share,
};
use frameshift::spec::{Digest, Precision};

use super::contract;
use super::fixture::*;

/// How long a process has a proof.
const PROOF: Duration = Duration::from_secs(30);

fn page() -> PageRequest {
    PageRequest::new(0, "").expect("a page")
}

fn report(sets: u64) -> ReplicaReport {
    ReplicaReport {
        role: ReplicaRole::Serve,
        state: ReplicaState::Ready,
        release: "1.2.3".into(),
        backbone: Digest([7; 32]),
        precision: Precision::F32,
        start_time: 12,
        used_clips: 1,
        clip_capacity: 2,
        resident_sets: sets,
        resident_bytes: 4,
        sets: vec![ReportedSet {
            tenant: "a".into(),
            version: "tasks/t/versions/1".into(),
            bytes: 4,
        }],
    }
}

fn job(clip_frames: u64, priority: i32) -> NewJob {
    NewJob {
        clip_frames,
        priority,
        ..new_job("t")
    }
}

contract! {
    async fn one_process_proves_a_version_and_another_one_takes_over_when_it_is_silent(backend: Backend) {
        let store = &backend.store;
        let (a, t) = (tenant("a"), task_id("t"));
        trainable(store, &a, "t").await;
        let claim_of = async |holder: &str, is_near: bool| {
            store.claim_proof(&a, &t, holder, is_near, PROOF).await.expect("asked")
        };
        assert!(!claim_of("one", true).await, "nothing is to be proved");
        submit(store, &a, "t").await;
        let first = publish(store, &claim(store).await).await.version.version;
        // Nobody has a version in memory, so that nobody comes first.
        assert!(claim_of("one", false).await);
        assert!(!claim_of("other", true).await);
        assert!(claim_of("one", false).await, "it may go on");
        backend.pass(PROOF);
        assert!(claim_of("other", false).await, "the first was silent");
        store.release_proof(&a, &t, "one").await.expect("asked");
        assert!(!claim_of("one", false).await, "it is another's");
        store.release_proof(&a, &t, "other").await.expect("left");
        assert!(claim_of("one", false).await);
        assert!(store.move_serving(&a, &t, first).await.expect("moved"));
        backend.pass(PROOF);
        assert!(!claim_of("other", true).await, "it serves");

        submit(store, &a, "t").await;
        let second = publish(store, &claim(store).await).await.version.version;
        assert!(!claim_of("far", false).await, "those that have the task go first");
        assert!(claim_of("near", true).await);
        assert!(store.serving_failed(&a, &t, second, "no").await.expect("noted"));
        assert!(!claim_of("far", true).await, "it was refused");
        assert!(store.pending_tasks().await.expect("asked").is_empty());
        let etag = store.get_task(&a, &t).await.expect("found").etag;
        store.set_desired(&a, &t, &second.into(), &etag).await.expect("set");
        assert!(!claim_of("far", false).await);
        backend.pass(Duration::from_millis(1100));
        assert!(claim_of("far", false).await, "none of those that have it began");
    }

    async fn the_proof_of_a_split_stays_until_all_of_it_is_proved(backend: Backend) {
        let store = &backend.store;
        let (a, t) = (tenant("a"), task_id("t"));
        trainable(store, &a, "t").await;
        let mut versions = Vec::new();
        for _ in 0..3 {
            submit(store, &a, "t").await;
            versions.push(publish(store, &claim(store).await).await.version.version);
            if let [first] = versions.as_slice() {
                assert!(store.move_serving(&a, &t, *first).await.expect("moved"));
            }
        }
        let claim_of = async |holder: &str| {
            store.claim_proof(&a, &t, holder, true, PROOF).await.expect("asked")
        };
        let plan = Plan {
            main: versions[1],
            members: vec![Share::new(versions[1], 500), Share::new(versions[2], 500)],
            shadows: Vec::new(),
        };
        let etag = store.get_task(&a, &t).await.expect("found").etag;
        store.set_desired(&a, &t, &plan, &etag).await.expect("set");
        assert!(claim_of("one").await);
        assert!(store.move_serving(&a, &t, versions[1]).await.expect("moved"));
        assert!(!claim_of("other").await, "the first process still loads the other member");
        assert!(claim_of("one").await);
        assert!(store.note_member(&a, &t, versions[2], None).await.expect("noted"));
        assert!(!claim_of("other").await, "all is proved");
        assert_eq!(store.pending_tasks().await.expect("asked"), []);
    }

    async fn processes_are_on_record_until_they_end(backend: Backend) {
        let store = &backend.store;
        store.report_replica("b", &report(1)).await.expect("reported");
        store.report_replica("a", &report(2)).await.expect("reported");
        store.report_replica("b", &report(3)).await.expect("reported");
        let listed = store.list_replicas(&page()).await.expect("listed").items;
        let shown: Vec<_> = listed.iter().map(|own| (own.name.as_str(), own.report.resident_sets)).collect();
        assert_eq!(shown, [("a", 2), ("b", 3)]);
        assert_eq!(listed[1].report, report(3));
        assert!(listed[1].age < Duration::from_secs(60));
        store.forget_replica("a").await.expect("forgotten");
        backend.pass(Duration::from_secs(40 * 60));
        let listed = store.list_replicas(&page()).await.expect("listed").items;
        assert_eq!(listed.len(), 1);
        assert!(listed[0].age >= Duration::from_secs(40 * 60));
        backend.pass(Duration::from_secs(40 * 60));
        store.report_replica("c", &report(1)).await.expect("reported");
        let listed = store.list_replicas(&page()).await.expect("listed").items;
        let names: Vec<_> = listed.iter().map(|own| own.name.as_str()).collect();
        assert_eq!(names, ["c"], "who was silent for an hour is forgotten");
    }

    async fn tenants_take_turns_by_the_frames_of_their_jobs(backend: Backend) {
        let store = &backend.store;
        let (large, small) = (tenant("large"), tenant("small"));
        for tenant in [&large, &small] {
            trainable(store, tenant, "t").await;
        }
        for _ in 0..4 {
            store.submit_job(&large, job(1000, 0), None).await.expect("submitted");
        }
        for _ in 0..8 {
            store.submit_job(&small, job(250, 0), None).await.expect("submitted");
        }
        let mut order = Vec::new();
        for _ in 0..12 {
            order.push(claim(store).await.job.tenant.to_string());
        }
        let larges: Vec<usize> = (0..12).filter(|place| order[*place] == "large").collect();
        // Four small jobs take as long as a large one.
        assert_eq!(larges, [0, 5, 10, 11], "{order:?}");
        // Who comes later does not have what it did not use before.
        let late = tenant("late");
        trainable(store, &late, "t").await;
        for _ in 0..2 {
            store.submit_job(&late, job(4000, 0), None).await.expect("submitted");
            store.submit_job(&small, job(250, 0), None).await.expect("submitted");
        }
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(claim(store).await.job.tenant.to_string());
        }
        assert_eq!(order.iter().filter(|own| *own == "late").count(), 2, "{order:?}");
        assert_eq!(order[3], "late", "{order:?}");
    }

    async fn jobs_that_were_cancelled_before_they_ran_are_no_turns(backend: Backend) {
        let store = &backend.store;
        let (hasty, other) = (tenant("hasty"), tenant("other"));
        for tenant in [&hasty, &other] {
            trainable(store, tenant, "t").await;
        }
        for _ in 0..3 {
            let submitted = store.submit_job(&hasty, job(1000, 0), None).await.expect("submitted");
            store.cancel_job(&hasty, submitted.id).await.expect("cancelled");
        }
        for tenant in [&other, &other, &hasty] {
            store.submit_job(tenant, job(1000, 0), None).await.expect("submitted");
        }
        let order = [claim(store).await.job.tenant, claim(store).await.job.tenant];
        assert_eq!(order, [other, hasty.clone()]);
        // What ran counts, whatever became of it.
        let claim = store.claim_job("worker", LEASE).await.expect("asked").expect("a job");
        store.end_job(&claim.lease, Ending::Cancelled).await.expect("ended");
        for tenant in [&claim.job.tenant, &hasty] {
            store.submit_job(tenant, job(1000, 0), None).await.expect("submitted");
        }
        let next = store.claim_job("worker", LEASE).await.expect("asked").expect("a job");
        assert_eq!(next.job.tenant, hasty);
    }

    async fn a_newcomer_has_no_head_start_once_old_jobs_are_deleted(backend: Backend) {
        let store = &backend.store;
        let (old, waiting, newcomer) = (tenant("old"), tenant("waiting"), tenant("newcomer"));
        for tenant in [&old, &waiting, &newcomer] {
            trainable(store, tenant, "t").await;
        }
        for _ in 0..3 {
            store.submit_job(&old, job(1000, 0), None).await.expect("submitted");
        }
        for _ in 0..3 {
            let claim = claim(store).await;
            store.end_job(&claim.lease, Ending::Cancelled).await.expect("ended");
        }
        let first = store.submit_job(&waiting, job(1000, 0), None).await.expect("submitted").id;
        while store.forget_snapshots(Duration::ZERO).await.expect("forgotten") > 0 {}
        while store.forget_jobs(&old, Some(Duration::ZERO)).await.expect("forgotten") > 0 {}
        assert!(store.list_jobs(&old, &page()).await.expect("listed").items.is_empty());
        for _ in 0..2 {
            store.submit_job(&newcomer, job(1000, 0), None).await.expect("submitted");
        }
        assert_eq!(claim(store).await.job.id, first);
    }

    async fn a_tenants_urgent_job_takes_the_tenants_turn_and_no_others(backend: Backend) {
        let store = &backend.store;
        let (a, b) = (tenant("a"), tenant("b"));
        for tenant in [&a, &b] {
            trainable(store, tenant, "t").await;
        }
        let mut own = Vec::new();
        for priority in [0, 0, 5] {
            own.push(store.submit_job(&a, job(1000, priority), None).await.expect("submitted").id);
        }
        let other = store.submit_job(&b, job(1000, 100), None).await.expect("submitted").id;
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(claim(store).await.job.id);
        }
        assert_eq!(order, [own[2], other, own[0], own[1]]);
    }
}
