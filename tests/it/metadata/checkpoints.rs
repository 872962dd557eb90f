//! Checkpoints before the newest one: which a job keeps, and that they are named for as long.

use frameshift::metadata::{BlobName, CheckpointRecord, Ending, JobUpdate};
use frameshift::spec::JobState;

use super::contract;
use super::fixture::*;
use super::jobs::checkpoint;

contract! {
    async fn a_job_keeps_as_many_of_its_newest_checkpoints_as_it_is_to_and_its_best_one(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let mut wanted = new_job("t");
        wanted.hyper_parameters.keep_checkpoints = Some(2);
        store.submit_job(&a, wanted, None).await.expect("submitted");
        let claim = claim(store).await;
        let (from, to) = (JobState::Validating, JobState::Running);
        store.advance_job(&claim.lease, from, to, JobUpdate::default()).await.expect("advanced");
        let best = |step| CheckpointRecord { is_best: true, ..checkpoint(step) };
        let commit = async |own| store.commit_checkpoint(&claim.lease, own).await.expect("committed");
        let kept = async || {
            let job = store.get_job(&a, claim.job.id).await.expect("found");
            job.checkpoints().map(|own| own.step).collect::<Vec<_>>()
        };
        for (own, dropped, left) in [
            (best(10), vec![], vec![10]),
            (checkpoint(20), vec![], vec![20, 10]),
            (checkpoint(30), vec![], vec![30, 20, 10]),
            (checkpoint(40), vec![checkpoint(20)], vec![40, 30, 10]),
            // A commit whose answer was lost.
            (checkpoint(40), vec![], vec![40, 30, 10]),
            (best(50), vec![checkpoint(30), best(10)], vec![50, 40]),
            (checkpoint(60), vec![checkpoint(40)], vec![60, 50]),
            (checkpoint(70), vec![], vec![70, 60, 50]),
            // The job went on from its best one: what came after it is of no use.
            (CheckpointRecord { key: "a/jobs/x/2/checkpoint-55".into(), ..checkpoint(55) }, vec![checkpoint(70), checkpoint(60)], vec![55, 50]),
        ] {
            assert_eq!((commit(own).await, kept().await), (dropped, left));
        }
        let named = |own: CheckpointRecord| BlobName::Job(claim.job.id, own.key);
        assert!(is_named(store, &a, named(best(50))).await, "an earlier checkpoint is no orphan");
        assert!(!is_named(store, &a, named(checkpoint(60))).await);
        store.end_job(&claim.lease, Ending::Cancelled).await.expect("ended");
        assert!(!is_named(store, &a, named(best(50))).await);
    }
}
