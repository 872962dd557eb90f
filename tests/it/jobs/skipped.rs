//! Training videos that go while a job trains: a few are left out and named, more are the job's end.

use std::collections::BTreeSet;

use frameshift::ids::VideoId;
use frameshift::jobs::Config;
use frameshift::metadata::ExampleRecord;
use frameshift::spec::{HyperParameters, JobState, Split};
use frameshift::store::layout;

use super::bed::{ADAPTERS, Bed, Runners, fade, hyper, messages};
use super::tenant;
use crate::server::until;

/// Of 120 training clips, one may be left out.
const CLIPS: usize = 120;

/// Waits until the job has decoded every video once and trains; takes those videos' bytes away then.
async fn take_away(bed: &Bed, runners: &Runners, job: frameshift::ids::JobId, videos: &[VideoId]) {
    let owner = tenant("owner");
    runners.steps(&owner, job, 1).await;
    for video in videos {
        let key = layout::video(&owner, *video);
        bed.parts.store.delete(&key).await.expect("deleted");
    }
}

/// Training examples of two labels, which show these.
async fn uploaded(bed: &Bed, shown: &[Vec<u8>; 2]) -> Vec<ExampleRecord> {
    let mut examples = Vec::new();
    for i in 0..CLIPS {
        let label = ["brighter", "darker"][i % 2];
        let name = format!("{label}-{i}");
        let video = bed.upload(&tenant("owner"), &name, &shown[i % 2]).await;
        examples.push(ExampleRecord {
            video,
            labels: label.into(),
            split: Split::Train,
        });
    }
    examples
}

#[tokio::test(flavor = "multi_thread")]
async fn one_clip_in_a_hundred_is_left_out_and_named_and_more_end_the_job() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let shown = [fade(1, true), fade(2, false)];
    let examples = uploaded(&bed, &shown).await;
    let gone: Vec<VideoId> = examples[..3].iter().map(|own| own.video).collect();
    let dataset = bed.dataset(&owner, "fades", examples).await;
    let task = bed.task(&owner, "fades", ADAPTERS).await;
    // Without room for decoded clips, every epoch reads the videos again.
    let runners = bed.run_with(Config {
        clip_cache_bytes: 0,
        ..Config::default()
    });
    let submitted = || HyperParameters {
        batch_size: Some(8),
        selection: Some(frameshift::spec::Selection {
            eval_every: Some(0),
            validation_share: Some(0.0),
            ..Default::default()
        }),
        ..hyper(4, 5)
    };
    let job = runners.submit(&owner, &task, &dataset, submitted()).await;
    take_away(&bed, &runners, job, &gone[..1]).await;
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    assert_eq!(job.step, 60);
    assert_eq!(job.result.map(|result| result.skipped_clips), Some(1));
    let told = messages(&events).into_iter();
    let told: Vec<&str> = told.filter(|text| text.contains("is left out")).collect();
    let [told] = told[..] else {
        panic!("it is told once: {told:?}")
    };
    let named = format!("(1 of {CLIPS}): video {}", gone[0]);
    assert!(told.contains(&named), "{told}");

    // The first one again, as bytes that can be read. What was left out before a job went on is counted.
    let back = async || {
        let key = layout::video(&owner, gone[0]);
        let bytes = shown[0].clone().into();
        bed.parts.store.put(&key, bytes).await.expect("put back");
    };
    back().await;
    let longer = HyperParameters {
        epochs: Some(12),
        ..submitted()
    };
    let job = runners.submit(&owner, &task, &dataset, longer).await;
    take_away(&bed, &runners, job, &gone[..1]).await;
    runners.told(&owner, job, "is left out").await;
    // The job does not come to its end before it is asked to pause.
    let held = bed.parts.device.pause();
    runners.handle.pause(&owner, job).await.expect("paused");
    drop(held);
    let get = async || runners.handle.get(&owner, job).await.expect("the job");
    until(|| async { get().await.state == JobState::Queued }).await;
    back().await;
    runners.handle.resume(&owner, job).await.expect("resumed");
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    assert_eq!(job.result.map(|result| result.skipped_clips), Some(1));
    let told = messages(&events).into_iter();
    assert_eq!(told.filter(|text| text.contains("is left out")).count(), 1);

    // And then more than one of a hundred.
    let job = runners.submit(&owner, &task, &dataset, submitted()).await;
    take_away(&bed, &runners, job, &gone).await;
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(
        (job.state, job.reason.as_deref()),
        (JobState::Failed, Some("VIDEO_UNAVAILABLE"))
    );
    let told = messages(&events).into_iter();
    let told = told.filter(|text| text.contains("is left out"));
    assert_eq!(told.count(), 1, "the second one is the end");
    let message = job.message.unwrap_or_default();
    let named: BTreeSet<&VideoId> = gone
        .iter()
        .filter(|own| message.contains(&own.to_string()))
        .collect();
    assert_eq!(named.len(), 1, "{message}");
    runners.drain().await;
    bed.close().await;
}
