//! The test split: measured once, after the version is published, and nothing depends on it.

use frameshift::metadata::{EvaluationMetrics, EventRecord};
use frameshift::spec::{HyperParameters, JobState, Selection, Split};
use frameshift::store::layout;

use super::bed::{Bed, evaluations, hyper, messages};
use super::tenant;

fn of_test(events: &[EventRecord]) -> Vec<EvaluationMetrics> {
    let mut own = evaluations(events);
    own.retain(|metrics| metrics.split == Split::Test);
    own
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_split_is_measured_with_the_published_weights_and_changes_none() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let splits = [(Split::Train, 16), (Split::Validation, 4), (Split::Test, 6)];
    let (task, dataset) = bed.fades_of(&owner, &splits, false).await;
    let runners = bed.run();
    let train = async |evaluate_test| {
        let selection = Selection {
            evaluate_test,
            ..Selection::default()
        };
        let hyper = HyperParameters {
            selection: Some(selection),
            ..hyper(12, 5)
        };
        let job = runners.submit(&owner, &task, &dataset, hyper).await;
        runners.end(&owner, job).await
    };
    let (tested, events) = train(None).await;
    assert_eq!(tested.state, JobState::Succeeded, "{:?}", tested.message);
    let result = tested.result.clone().expect("a result");
    let test = result.test.expect("test metrics");
    assert_eq!((test.examples, test.problem.as_deref()), (6, None));
    let [told] = of_test(&events)[..] else {
        panic!("one evaluation of the test split: {events:?}")
    };
    assert_eq!(
        (told.step, told.examples, told.top1),
        (result.step, 6, test.top1)
    );
    assert_eq!(told.loss.to_bits(), test.loss.to_bits());

    let (alone, events) = train(Some(false)).await;
    assert!(of_test(&events).is_empty());
    assert_eq!(alone.result.clone().expect("a result").test, None);
    assert!(bed.weights(&alone).await == bed.weights(&tested).await);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn test_videos_that_cannot_be_read_fail_no_training() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let splits = [(Split::Train, 8), (Split::Validation, 2), (Split::Test, 4)];
    let (task, dataset) = bed.fades_of(&owner, &splits, false).await;
    let runners = bed.run();
    let train = async || {
        let job = runners.submit(&owner, &task, &dataset, hyper(4, 5)).await;
        runners.end(&owner, job).await
    };
    let (whole, _) = train().await;
    let digest = whole.dataset_digest;
    let examples = bed
        .parts
        .library
        .snapshot_examples(&owner, digest, None, 1000)
        .await;
    let mut tests = examples.expect("a snapshot");
    tests.retain(|example| example.split == Split::Test);
    let delete = async |range: std::ops::Range<usize>| {
        for example in &tests[range] {
            let key = layout::video(&owner, example.video);
            bed.parts.store.delete(&key).await.expect("deleted");
        }
    };
    delete(0..1).await;
    let (part, events) = train().await;
    assert_eq!(
        (part.state, part.reason.as_deref()),
        (JobState::Succeeded, None)
    );
    let test = part
        .result
        .clone()
        .expect("a result")
        .test
        .expect("test metrics");
    assert_eq!(test.examples, 3);
    let told = messages(&events).join("\n");
    assert!(
        told.contains("the test split is evaluated in part: videos that cannot be read: 1"),
        "{told}"
    );
    assert!(told.contains(&tests[0].video.to_string()), "{told}");

    delete(1..4).await;
    let (none, _) = train().await;
    assert_eq!(none.state, JobState::Succeeded, "{:?}", none.message);
    assert_eq!(
        none.result
            .clone()
            .expect("a result")
            .test
            .map(|test| test.examples),
        Some(0)
    );
    for job in [&part, &none] {
        assert!(bed.weights(job).await == bed.weights(&whole).await);
    }
    runners.drain().await;
    bed.close().await;
}
