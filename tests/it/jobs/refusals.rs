//! What is refused: submissions that nobody could train, and data sets with problems, each of which is named.

use frameshift::ids::JobId;
use frameshift::metadata::ExampleRecord;
use frameshift::spec::{HyperParameters, JobState, Split};
use frameshift::store::layout;

use super::bed::{Bed, fade, hyper, states};
use super::tenant;

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_of_a_data_set_is_listed() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, _) = bed.fades(&owner, 2, 0).await;
    let mut examples = Vec::new();
    for (i, (label, split)) in [
        ("brighter", Split::Train),
        ("darker", Split::Train),
        ("darker", Split::Train),
        ("sideways", Split::Validation),
        ("darker", Split::Test),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = fade(i as u64, true);
        let video = bed.upload(&owner, &format!("clip-{i}.mp4"), &bytes).await;
        examples.push(ExampleRecord {
            video,
            labels: label.into(),
            split,
        });
    }
    let videos: Vec<_> = examples.iter().map(|example| example.video).collect();
    let dataset = bed.dataset(&owner, "bad", examples).await;
    let job = bed
        .handle()
        .submit(&owner, &task, &dataset, hyper(1, 1), None)
        .await
        .expect("a job");
    // What was good when it was uploaded is gone or damaged now; the test split is not read.
    bed.parts
        .library
        .delete_video(&owner, videos[1], true)
        .await
        .expect("deleted");
    for damaged in [videos[2], videos[4]] {
        let path = directory
            .path()
            .join("blobs")
            .join(layout::video(&owner, damaged).as_str());
        std::fs::write(path, vec![0; 5000]).expect("writable");
    }
    let runners = bed.run();
    let (job, events) = runners.end(&owner, job.id).await;
    assert_eq!(
        (job.state, job.reason.as_deref()),
        (JobState::Failed, Some("DATASET_INVALID"))
    );
    let message = job.message.expect("a message");
    assert!(message.contains("3 problems"), "{message}");
    assert!(
        message.contains("label \"sideways\" has validation examples, but no training example"),
        "{message}"
    );
    assert!(
        message.contains(&format!("video {} does not exist any more", videos[1])),
        "{message}"
    );
    assert!(
        message.contains(&format!("video {} (\"clip-2.mp4\"): ", videos[2])),
        "{message}"
    );
    assert_eq!(
        states(&events),
        [JobState::Queued, JobState::Validating, JobState::Failed]
    );
    assert_eq!(job.attempts, 1);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_trained_is_refused_at_submission() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 2, 0).await;
    let handle = bed.handle();
    let refused = |hyper| handle.submit(&owner, &task, &dataset, hyper, None);
    let error = refused(hyper(0, 1)).await.expect_err("no epochs");
    assert_eq!(error.to_string(), "epochs: expected 1 to 10000, got 0");
    let nowhere = "nowhere".parse().expect("an id");
    assert!(
        handle
            .submit(&owner, &task, &nowhere, hyper(1, 1), None)
            .await
            .is_err()
    );
    let ghost = JobId::generate();
    assert!(handle.get(&owner, ghost).await.is_err());
    let drawn = refused(HyperParameters::default()).await.expect("a job");
    let other = refused(HyperParameters::default()).await.expect("a job");
    assert_ne!(drawn.hyper_parameters.seed, other.hyper_parameters.seed);
    bed.close().await;
}
