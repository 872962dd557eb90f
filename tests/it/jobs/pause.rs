//! Jobs that their owners pause, and the order of those that wait.

use frameshift::jobs::{Error, Submission};
use frameshift::metadata;
use frameshift::spec::JobState;

use super::bed::{Bed, hyper, messages};
use super::tenant;
use crate::server::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_waits_and_goes_on_with_the_same_bits() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 12, 2).await;
    let runners = bed.run();
    let undisturbed = runners.submit(&owner, &task, &dataset, hyper(12, 5)).await;
    let (undisturbed, _) = runners.end(&owner, undisturbed).await;

    let job = runners.submit(&owner, &task, &dataset, hyper(12, 5)).await;
    runners.steps(&owner, job, 4).await;
    // The job does not come to its end before it is asked to pause.
    let held = bed.parts.device.pause();
    let asked = runners.handle.pause(&owner, job).await.expect("paused");
    assert!(asked.is_paused && !asked.state.is_final());
    drop(held);
    let get = async || runners.handle.get(&owner, job).await.expect("the job");
    until(async || get().await.state == JobState::Queued).await;
    let paused = get().await;
    assert!(paused.is_paused && paused.checkpoint.is_some_and(|own| own.step >= 4));
    // Another job of the tenant does not wait for it, and no runner takes it meanwhile.
    let other = runners.submit(&owner, &task, &dataset, hyper(1, 6)).await;
    assert_eq!(
        runners.end(&owner, other).await.0.state,
        JobState::Succeeded
    );
    assert_eq!(
        (get().await.state, get().await.attempts),
        (JobState::Queued, 1)
    );
    runners
        .handle
        .pause(&owner, job)
        .await
        .expect("paused again");

    let resumed = runners.handle.resume(&owner, job).await.expect("resumed");
    assert!(!resumed.is_paused);
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    assert_eq!(job.attempts, 2);
    assert!(bed.weights(&job).await == bed.weights(&undisturbed).await);
    let told = messages(&events);
    let count = |text: &str| told.iter().filter(|own| **own == text).count();
    assert_eq!(count("its owner paused the job"), 1, "{told:?}");
    assert_eq!(count("its owner resumed the job"), 1, "{told:?}");
    let refused = runners.handle.pause(&owner, job.id).await;
    assert!(matches!(
        refused,
        Err(Error::Metadata(metadata::Error::JobFinished { .. }))
    ));
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_waiting_jobs_those_with_a_higher_priority_go_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 4, 0).await;
    let handle = bed.handle();
    let submit = async |priority| {
        let wanted = Submission {
            priority,
            ..hyper(1, 5).into()
        };
        handle.submit(&owner, &task, &dataset, wanted, None).await
    };
    let mut jobs = Vec::new();
    for priority in [0, -5, 7, 7, 0] {
        jobs.push(submit(priority).await.expect("a job").id);
    }
    let refused = submit(101).await;
    assert!(
        matches!(&refused, Err(Error::Invalid(invalid)) if invalid.field == "priority"),
        "{refused:?}"
    );
    let lease = std::time::Duration::from_secs(60);
    let mut order = Vec::new();
    while let Some(claim) = bed
        .parts
        .metadata
        .claim_job("worker", lease)
        .await
        .expect("a claim")
    {
        order.push(claim.lease.job);
    }
    assert_eq!(order, [2, 3, 0, 4, 1].map(|place: usize| jobs[place]));
    bed.close().await;
}
