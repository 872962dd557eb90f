//! Sweeps on record: idempotent submissions, changes over the newest revision only, and the end.

use std::time::Duration;

use frameshift::ids::RequestId;
use frameshift::metadata::{
    Error, PageRequest, SweepJob, SweepPoint, SweepProgress, SweepRecord, SweepShape, SweepSpec,
    SweepSummary, SweepUpdate,
};
use frameshift::spec::{AdapterConfig, Digest, HyperParameters, JobState};

use super::contract;
use super::fixture::*;

/// A sweep of one point.
pub(super) fn spec(seed: u64) -> SweepSpec {
    SweepSpec {
        dataset: "d".into(),
        dataset_version: None,
        shapes: vec![SweepShape {
            task: "t-1".into(),
            adapter: AdapterConfig::LINEAR_PROBE,
            sampling: sampling(),
            auto_head: false,
        }],
        hyper_parameters: HyperParameters {
            epochs: Some(3),
            ..HyperParameters::default()
        },
        points: vec![SweepPoint {
            shape: 0,
            learning_rate: Some(0.1),
        }],
        seeds: vec![seed],
        halving: 0,
        priority: 2,
    }
}

fn progress() -> SweepProgress {
    SweepProgress {
        round: 1,
        points: vec![0],
        jobs: vec![SweepJob {
            job: "j".into(),
            round: 1,
            point: 0,
            seed: u64::MAX,
            outcome: None,
        }],
        dataset_digest: Some(Digest([4; 32])),
        failure: Some("later".into()),
    }
}

contract! {
    async fn a_sweep_is_moved_on_over_its_newest_revision_until_it_has_ended(store: Store) {
        let (a, b) = (tenant("a"), tenant("b"));
        let request = RequestId::generate();
        let made = store.submit_sweep(&a, spec(u64::MAX), 2, Some(request)).await.expect("submitted");
        assert_eq!((made.state, made.progress.points.clone()), (JobState::Running, vec![0]));
        assert_eq!(made.spec, spec(u64::MAX));
        let again = store.submit_sweep(&a, spec(u64::MAX), 2, Some(request)).await.expect("the same");
        assert_eq!(again, made);
        let asked = async |tenant, request| store.requested_sweep(tenant, request).await.expect("asked");
        assert_eq!(asked(&a, request).await, Some(made.id));
        assert_eq!(asked(&b, request).await, None);
        assert_eq!(asked(&a, RequestId::generate()).await, None);
        let other = store.submit_sweep(&a, spec(2), 2, Some(request)).await;
        assert!(matches!(other, Err(Error::RequestReused { .. })), "{other:?}");
        store.submit_sweep(&a, spec(2), 2, None).await.expect("another");
        let third = store.submit_sweep(&a, spec(2), 2, None).await;
        assert!(matches!(third, Err(Error::TooManySweeps { limit: 2 })), "{third:?}");
        store.submit_sweep(&b, spec(2), 2, None).await.expect("another tenant's");
        assert_eq!(store.open_sweeps(None, 9).await.expect("read").len(), 3);
        // Page by page, the oldest first.
        let mut paged: Vec<SweepRecord> = Vec::new();
        loop {
            let after = paged.last().map(|own| (own.create_time, own.id));
            let page = store.open_sweeps(after, 2).await.expect("read");
            assert!(page.len() <= 2);
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, store.open_sweeps(None, 9).await.expect("read"));
        assert_eq!(paged[0], made);

        let update = |end| SweepUpdate { progress: progress(), end };
        assert!(store.move_sweep(&made, update(None)).await.expect("written"));
        assert!(!store.move_sweep(&made, update(None)).await.expect("asked"), "an old revision");
        let moved = store.get_sweep(&a, made.id).await.expect("read");
        assert_eq!((&moved.progress, moved.revision), (&progress(), 1));
        assert!(store.get_sweep(&b, made.id).await.is_err());
        assert!(store.cancel_sweep(&b, made.id).await.is_err());
        // A wish to stop does not get in the way of who moves the sweep on.
        let asked = store.cancel_sweep(&a, made.id).await.expect("asked");
        assert!(asked.cancel_requested && asked.revision == 1);
        let failed = Some((JobState::Failed, Some("why".to_owned())));
        assert!(store.move_sweep(&moved, update(failed)).await.expect("written"));
        let ended = store.get_sweep(&a, made.id).await.expect("read");
        assert_eq!((ended.state, ended.message.as_deref()), (JobState::Failed, Some("why")));
        assert!(ended.end_time.is_some());
        assert!(!store.move_sweep(&ended, update(None)).await.expect("asked"), "it has ended");
        let late = store.cancel_sweep(&a, made.id).await;
        assert!(matches!(late, Err(Error::SweepFinished { .. })), "{late:?}");
        assert_eq!(store.open_sweeps(None, 9).await.expect("read").len(), 2);
        let listed = store.list_sweeps(&a, &PageRequest::first()).await.expect("listed");
        assert_eq!(listed.items.len(), 2);
        assert_eq!(listed.items[0], SweepSummary::from(&ended));
        assert_eq!((listed.items[0].jobs, listed.items[0].unfinished_jobs), (1, 1));
        assert_eq!(store.forget_sweeps(Duration::from_secs(60)).await.expect("none"), 0);
        assert_eq!(store.forget_sweeps(Duration::ZERO).await.expect("one"), 1);
        assert!(store.get_sweep(&a, made.id).await.is_err());
    }

    async fn the_job_of_a_request_is_known_to_its_tenant_until_the_request_is_forgotten(store: Store) {
        let (a, b) = (tenant("a"), tenant("b"));
        trainable(store, &a, "t").await;
        let request = RequestId::generate();
        let asked = async |tenant| store.requested_job(tenant, request).await.expect("asked");
        assert_eq!(asked(&a).await, None);
        let job = store.submit_job(&a, new_job("t"), Some(request)).await.expect("submitted");
        assert_eq!((asked(&a).await, asked(&b).await), (Some(job.id), None));
        let other = store.requested_job(&a, RequestId::generate()).await.expect("asked");
        assert_eq!(other, None);
        while store.forget_requests(Duration::ZERO).await.expect("forgotten") > 0 {}
        assert_eq!(asked(&a).await, None);
    }
}
