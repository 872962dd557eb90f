//! Jobs whose disk, store or videos are away: they wait and say so, or end with the name of what is gone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use frameshift::ids::{JobId, TenantId, VideoId};
use frameshift::jobs::Config;
use frameshift::metadata::{Event, PageRequest};
use frameshift::spec::JobState;
use frameshift::store::layout;
use futures::StreamExt;

use super::bed::{Bed, Runners, hyper, messages};
use super::tenant;

/// A file where a folder has to be: every version that is to be stored there fails.
fn block(directory: &Path) -> PathBuf {
    let path = directory.join("blobs/owner/tasks");
    std::fs::write(&path, "in the way").expect("writable");
    path
}

/// Waits until the owner is told, after an event, that the job waits.
async fn until_it_waits(runners: &Runners, owner: &TenantId, job: JobId, after: u64) {
    let watch = runners.handle.watch(owner, job, after);
    let events = watch.await.expect("a watch");
    let events = std::pin::pin!(events);
    let waits = events.any(|event| {
        let event = event.expect("an event").event;
        let is_told = matches!(event, Event::Message { warning: true, text } if text.starts_with("the job waits: "));
        std::future::ready(is_told)
    });
    assert!(waits.await, "the job ended before it waited");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_the_store_and_says_so_and_can_be_cancelled_or_drained_meanwhile() {
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let bed = Bed::open(directory.path()).await;
    let (task, dataset) = bed.fades(&owner, 8, 2).await;
    let blocked = block(directory.path());
    let runners = bed.run();
    let cancelled = runners.submit(&owner, &task, &dataset, hyper(2, 5)).await;
    until_it_waits(&runners, &owner, cancelled, 0).await;
    runners
        .handle
        .cancel(&owner, cancelled)
        .await
        .expect("asked");
    let (job, _) = runners.end(&owner, cancelled).await;
    assert_eq!(job.state, JobState::Cancelled);

    let job = runners.submit(&owner, &task, &dataset, hyper(2, 5)).await;
    until_it_waits(&runners, &owner, job, 0).await;
    runners.drain().await;
    let drained = bed.handle().get(&owner, job).await.expect("the job");
    assert_eq!((drained.state, drained.errors), (JobState::Queued, 0));

    let runners = bed.run();
    // It waits again; then what was in the way goes.
    until_it_waits(&runners, &owner, job, drained.last_event).await;
    std::fs::remove_file(blocked).expect("removed");
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    assert_eq!((job.attempts, job.errors), (2, 0));
    let told = messages(&events);
    // What it waited for is the last thing that it does: its end says that it went on.
    let waits = told
        .iter()
        .filter(|text| text.starts_with("the job waits: "));
    assert_eq!(waits.count(), 2, "{told:?}");
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_whose_bytes_are_gone_ends_its_job_with_its_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let bed = Bed::open(directory.path()).await;
    let (task, dataset) = bed.fades(&owner, 8, 2).await;
    let runners = bed.run();
    let lost = first_video(&bed, &owner).await;
    let path = directory
        .path()
        .join("blobs")
        .join(layout::video(&owner, lost).as_str());
    let bytes = std::fs::read(&path).expect("readable");
    std::fs::remove_file(&path).expect("removed");

    let job = runners.submit(&owner, &task, &dataset, hyper(2, 5)).await;
    let (job, _) = runners.end(&owner, job).await;
    let ended = (job.state, job.reason.as_deref(), job.attempts);
    assert_eq!(ended, (JobState::Failed, Some("VIDEO_UNAVAILABLE"), 1));
    let message = job.message.expect("a message");
    assert!(message.contains(&lost.to_string()), "{message}");

    // Once they are back, the next job trains.
    std::fs::write(&path, bytes).expect("writable");
    let job = runners.submit(&owner, &task, &dataset, hyper(2, 5)).await;
    let (job, _) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn step_events_cost_at_most_a_transaction_a_second() {
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let bed = Bed::open(directory.path()).await;
    let (task, dataset) = bed.fades(&owner, 8, 0).await;
    let runners = bed.run_with(Config {
        // The bed takes a second off.
        event_interval: Duration::from_millis(1300),
        ..Config::default()
    });
    let job = runners.submit(&owner, &task, &dataset, hyper(60, 5)).await;
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    let steps: Vec<_> = events
        .iter()
        .filter(|event| matches!(event.event, Event::Step(_)))
        .collect();
    assert!(
        steps.len() >= 60,
        "the last step of every epoch is told: {}",
        steps.len()
    );
    // Events of one transaction have one time.
    let mut times: Vec<i64> = steps.iter().map(|event| event.time).collect();
    times.dedup();
    // The last is written with what comes after training, whenever that is.
    times.pop();
    // Transactions begin so far apart; on a busy machine one may come to its time later than the next one does.
    let running = events.iter().find(
        |event| matches!(event.event, Event::State { state, .. } if state == JobState::Running),
    );
    let begun = running.expect("the job ran").time;
    let span = times.last().map_or(0, |last| last - begun);
    let least = 300_000 * times.len().saturating_sub(1) as i64;
    assert!(least <= span, "{} transactions in {span} µs", times.len());
    runners.drain().await;
    bed.close().await;
}

async fn first_video(bed: &Bed, owner: &TenantId) -> VideoId {
    let page = bed
        .parts
        .library
        .list_videos(owner, &PageRequest::first())
        .await;
    page.expect("listed").items[0].id
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_are_cancelled_while_they_wait_are_counted_and_so_are_those_that_wait() {
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let bed = Bed::open(directory.path()).await;
    let (task, dataset) = bed.fades(&owner, 4, 0).await;
    let handle = bed.handle();
    for _ in 0..3 {
        let job = handle.submit(&owner, &task, &dataset, hyper(1, 1), None);
        let job = job.await.expect("a job").id;
        handle.cancel(&owner, job).await.expect("cancelled");
    }
    let text = bed.parts.metrics.text();
    let line = "frameshift_jobs_finished_total{state=\"cancelled\",tenant=\"owner\"} 3\n";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("frameshift_jobs_waiting 0\n"), "{text}");
    bed.close().await;
}
