//! Jobs whose database fails in one use case at a time: away, full or silent, they wait and go on.

use std::time::Duration;

use frameshift::ids::{JobId, TenantId};
use frameshift::jobs::Config;
use frameshift::metadata::{Fault, Outages};
use frameshift::spec::{AdapterConfig, HyperParameters, JobState};

use super::bed::{Bed, Runners, hyper};
use super::{tenant, walk};
use crate::server::{soon, until};

/// Impatient enough that a database which never answers costs a test little.
fn impatient() -> Config {
    Config {
        // A sign of life every 100 ms.
        lease: Duration::from_millis(300),
        answer: Duration::from_millis(700),
        transfer: Duration::from_secs(2),
        ..Config::default()
    }
}

/// Some steps, each with a checkpoint.
fn short() -> HyperParameters {
    HyperParameters {
        checkpoint_steps: Some(1),
        ..hyper(6, 5)
    }
}

async fn state(runners: &Runners, owner: &TenantId, job: JobId) -> JobState {
    let record = runners.handle.get(owner, job).await;
    record.expect("the job").state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_after_an_outage_in_any_of_its_states() {
    let directory = tempfile::tempdir().expect("a directory");
    let (owner, outages) = (tenant("owner"), Outages::default());
    let bed = Bed::open_with(directory.path(), &outages).await;
    let (task, dataset) = bed.fades(&owner, 8, 2).await;
    let runners = bed.run_with(impatient());
    for use_case in [
        "claim_job",
        "snapshot_examples",
        "get_videos",
        "undecoded",
        "sketches",
        "advance_job",
        "append_events",
        "heartbeat",
        "commit_checkpoint",
        "reserve_version",
        "publish_version",
    ] {
        for fault in [Fault::Away, Fault::Full, Fault::Silent] {
            let before = outages.calls(use_case);
            outages.set_fault(use_case, Some(fault));
            // A short job may end before its first sign of life.
            let length = match use_case {
                "heartbeat" => hyper(300, 5),
                _ => short(),
            };
            let job = runners.submit(&owner, &task, &dataset, length).await;
            // A job may do without some of them, so that it ends all the same.
            until(async || {
                let asked = outages.calls(use_case) >= before + 2;
                asked || state(&runners, &owner, job).await.is_final()
            })
            .await;
            outages.set_fault(use_case, None);
            let (job, _) = runners.end(&owner, job).await;
            // A lease as short as that may be lost on a busy machine, which is no error of the job.
            assert_eq!(
                (job.state, job.errors),
                (JobState::Succeeded, 0),
                "{use_case} {fault:?} {:?}",
                job.message
            );
            assert!(
                outages.calls(use_case) > before,
                "{use_case} was never asked"
            );
        }
    }
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_is_written_once_the_database_is_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let (owner, outages) = (tenant("owner"), Outages::default());
    let bed = Bed::open_with(directory.path(), &outages).await;
    let (task, dataset) = bed.fades(&owner, 8, 0).await;
    let runners = bed.run_with(impatient());
    for fault in [Fault::Away, Fault::Full, Fault::Silent] {
        let job = runners
            .submit(&owner, &task, &dataset, hyper(2000, 5))
            .await;
        runners.steps(&owner, job, 1).await;
        let before = outages.calls("end_job");
        outages.set_fault("end_job", Some(fault));
        runners.handle.cancel(&owner, job).await.expect("asked");
        until(async || outages.calls("end_job") >= before + 2).await;
        assert!(!state(&runners, &owner, job).await.is_final());
        outages.set_fault("end_job", None);
        let (job, _) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Cancelled, "{fault:?}");
    }
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_during_an_outage_ends_in_time_and_the_next_start_puts_the_job_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let (owner, outages) = (tenant("owner"), Outages::default());
    let bed = Bed::open_with(directory.path(), &outages).await;
    let (task, dataset) = bed.fades(&owner, 8, 0).await;
    for fault in [Fault::Away, Fault::Full, Fault::Silent] {
        let runners = bed.run_with(impatient());
        let job = runners.submit(&owner, &task, &dataset, short()).await;
        runners.steps(&owner, job, 1).await;
        let before = outages.calls("release_job");
        outages.set_fault("release_job", Some(fault));
        soon(runners.drain()).await;
        // A short job may have published its version before the drain came.
        let left = bed.handle().get(&owner, job).await.expect("the job");
        assert_ne!(
            left.state,
            JobState::Queued,
            "{fault:?}: nobody could put it back"
        );
        assert!(left.state.is_final() || outages.calls("release_job") > before);
        outages.set_fault("release_job", None);
        let runners = bed.run_with(impatient());
        let (job, _) = runners.end(&owner, job).await;
        assert_eq!(
            (job.state, job.errors),
            (JobState::Succeeded, 0),
            "{fault:?} {:?}",
            job.message
        );
        runners.drain().await;
    }
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_features_were_cut_is_put_back_once_the_database_is_there_and_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let (owner, outages) = (tenant("owner"), Outages::default());
    let bed = Bed::open_with(directory.path(), &outages).await;
    let (_, dataset) = bed.fades(&owner, 8, 0).await;
    let task = bed.task(&owner, "probe", AdapterConfig::LINEAR_PROBE).await;
    let runners = bed.run_with(impatient());
    let job = runners
        .submit(&owner, &task, &dataset, hyper(10_000, 1))
        .await;
    runners.steps(&owner, job, 6).await;
    // Rows are read by position, so that a file which becomes shorter is an error and not the end of the process.
    outages.set_fault("release_job", Some(Fault::Away));
    let files = walk(&directory.path().join("features"));
    let [file] = &files[..] else {
        panic!("{files:?}");
    };
    let file = std::fs::OpenOptions::new().write(true).open(file);
    file.expect("the features").set_len(70).expect("cut");
    until(async || outages.calls("release_job") >= 2).await;
    assert_ne!(state(&runners, &owner, job).await, JobState::Queued);
    outages.set_fault("release_job", None);
    let at = async || {
        let record = runners.handle.get(&owner, job).await.expect("the job");
        (record.attempts, record.step)
    };
    until(async || at().await.0 >= 2).await;
    // The second claim computes the features again, and goes on from the checkpoint.
    let (_, cut) = at().await;
    assert!(cut > 0);
    until(async || at().await.1 > cut + 20).await;
    runners.handle.cancel(&owner, job).await.expect("cancelled");
    let (job, _) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Cancelled, "{:?}", job.message);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_hangs_is_given_up_when_it_has_to_stop() {
    let directory = tempfile::tempdir().expect("a directory");
    let (owner, outages) = (tenant("owner"), Outages::default());
    let bed = Bed::open_with(directory.path(), &outages).await;
    let (task, dataset) = bed.fades(&owner, 8, 0).await;
    let runners = bed.run_with(Config {
        runners: 1,
        answer: Duration::from_secs(3600),
        parting: Duration::from_millis(100),
        ..Config::default()
    });
    outages.set_fault("advance_job", Some(Fault::Silent));
    let job = runners.submit(&owner, &task, &dataset, hyper(2, 5)).await;
    until(async || outages.calls("advance_job") > 0).await;
    runners.handle.cancel(&owner, job).await.expect("asked");
    let (job, _) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Cancelled);
    // The runner is free for the next one.
    outages.set_fault("advance_job", None);
    let job = runners.submit(&owner, &task, &dataset, hyper(2, 5)).await;
    let (job, _) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_cancelled_while_it_waits_leaves_no_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let (owner, outages) = (tenant("owner"), Outages::default());
    let bed = Bed::open_with(directory.path(), &outages).await;
    let (_, dataset) = bed.fades(&owner, 8, 0).await;
    let task = bed.task(&owner, "probe", AdapterConfig::LINEAR_PROBE).await;
    let runners = bed.run();
    let job = runners
        .submit(&owner, &task, &dataset, hyper(10_000, 1))
        .await;
    runners.steps(&owner, job, 6).await;
    runners.drain().await;
    let features = directory.path().join("features");
    let checkpoints = directory.path().join("blobs/owner/jobs");
    assert_eq!((walk(&features).len(), walk(&checkpoints).len()), (1, 1));

    // Nobody claims it again.
    outages.set_fault("claim_job", Some(Fault::Away));
    let runners = bed.run();
    let job = runners.handle.cancel(&owner, job).await.expect("cancelled");
    assert_eq!(job.state, JobState::Cancelled);
    until(async || walk(&features).is_empty() && walk(&checkpoints).is_empty()).await;
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_job_has_decoded_the_next_one_need_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let (owner, outages) = (tenant("owner"), Outages::default());
    let bed = Bed::open_with(directory.path(), &outages).await;
    let (task, dataset) = bed.fades(&owner, 8, 2).await;
    let runners = bed.run();
    let mut remembered = Vec::new();
    for seed in 0..2 {
        let job = runners
            .submit(&owner, &task, &dataset, hyper(2, seed))
            .await;
        let (job, _) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        remembered.push(outages.calls("remember_decoded"));
    }
    // Once for the training split, once for the validation split; then never again.
    assert_eq!(remembered, [2, 2]);

    // A video that is known to decode is still looked at: one that is gone is named before anything is trained.
    let page = frameshift::metadata::PageRequest::first();
    let videos = bed.parts.library.list_videos(&owner, &page).await;
    let lost = videos.expect("listed").items[0].id;
    let key = frameshift::store::layout::video(&owner, lost);
    bed.parts.store.delete(&key).await.expect("deleted");
    let job = runners.submit(&owner, &task, &dataset, hyper(2, 5)).await;
    let (job, _) = runners.end(&owner, job).await;
    let ended = (job.state, job.reason.as_deref(), job.step);
    assert_eq!(ended, (JobState::Failed, Some("VIDEO_UNAVAILABLE"), 0));
    assert!(job.message.expect("a message").contains(&lost.to_string()));
    runners.drain().await;
    bed.close().await;
}
