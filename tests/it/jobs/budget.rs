//! What a job may take: memory of its steps, disk of its features; and what becomes of weights that cannot be measured.

use std::time::Duration;

use frameshift::jobs::{Config, Error};
use frameshift::metadata::Event;
use frameshift::model::StepShape;
use frameshift::spec::{AdapterConfig, HyperParameters, JobState, Publish, Selection};
use frameshift::store::layout;
use futures::StreamExt;

use super::bed::{ADAPTERS, Bed, backbone_config, hyper, messages};
use super::{tenant, walk};
use crate::server::until;

/// Bytes with which a step of so many clips of four frames runs, one clip at a time and with everything computed again, and no more.
pub(super) fn tight(bed: &Bed, batch: u64) -> u64 {
    tight_for(bed, batch, Publish::Best)
}

/// As [`tight`], for a job that publishes these weights: the best ones are a copy more.
fn tight_for(bed: &Bed, batch: u64, publish: Publish) -> u64 {
    let of = (&backbone_config(), bed.parts.backbone.precision());
    let sizes = StepShape::new(of, ADAPTERS, 2, 4).expect("sizes");
    let copies = match publish {
        Publish::Best => 4,
        Publish::Last => 3,
    };
    let weights = copies * sizes.weights_bytes() + sizes.weights_work_bytes();
    // The batch under way and two ahead of it.
    let batches = 3 * batch * sizes.clip_bytes();
    let training = weights + sizes.head_bytes(batch as usize) + batches + sizes.least_bytes();
    let saving = 4 * copies * sizes.weights_bytes() + 2 * batch * sizes.clip_bytes();
    training.max(saving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_publishes_its_last_weights_is_not_charged_for_a_copy_of_the_best() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 6, 0).await;
    let step_bytes = tight_for(&bed, 5, Publish::Last);
    assert!(step_bytes < tight(&bed, 5));
    let handle = bed.handle_with(Config {
        step_bytes,
        ..Config::default()
    });
    let shape = bed.parts.registry.get_task(&owner, &task).await;
    let shape = shape.expect("the task");
    for (publish, fits) in [(Publish::Best, false), (Publish::Last, true)] {
        let wanted = HyperParameters {
            batch_size: Some(5),
            selection: Some(Selection {
                publish: Some(publish),
                ..Selection::default()
            }),
            ..HyperParameters::default()
        };
        let of = (&shape.adapter, &shape.sampling);
        let previewed = handle.preview(&owner, of, &dataset, wanted.clone()).await;
        let submitted = handle.submit(&owner, &task, &dataset, wanted, None).await;
        assert_eq!(previewed.is_ok(), fits, "{publish:?} {previewed:?}");
        assert_eq!(submitted.is_ok(), fits, "{publish:?} {submitted:?}");
    }
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_cannot_fit_is_refused_with_the_largest_that_would() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 6, 0).await;
    let handle = bed.handle_with(Config {
        step_bytes: tight(&bed, 5),
        ..Config::default()
    });
    let submit = async |batch_size| {
        let hyper = HyperParameters {
            batch_size,
            ..HyperParameters::default()
        };
        handle.submit(&owner, &task, &dataset, hyper, None).await
    };
    let refused = submit(Some(64)).await.expect_err("too large");
    let Error::Invalid(invalid) = &refused else {
        panic!("{refused}");
    };
    assert_eq!(invalid.field, "batch_size");
    assert!(
        invalid.problem.ends_with("at most 5 clips fit"),
        "{invalid}"
    );
    let job = submit(Some(5)).await.expect("a job");
    assert_eq!(job.hyper_parameters.batch_size, Some(5));
    // The default, as far as it fits.
    let job = submit(None).await.expect("a job");
    assert_eq!(job.hyper_parameters.batch_size, Some(5));

    let hopeless = bed.handle_with(Config {
        step_bytes: 1000,
        ..Config::default()
    });
    let hyper = HyperParameters::default();
    let refused = hopeless.submit(&owner, &task, &dataset, hyper, None).await;
    let refused = refused.expect_err("nothing fits").to_string();
    assert!(refused.contains("one clip's step needs"), "{refused}");
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_does_not_fit_any_more_fails_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 6, 0).await;
    let handle = bed.handle();
    let job = handle.submit(&owner, &task, &dataset, hyper(1, 1), None);
    let job = job.await.expect("a job").id;
    let runners = bed.run_with(Config {
        step_bytes: tight(&bed, 3),
        ..Config::default()
    });
    let (job, _) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.reason.as_deref(), Some("STEP_TOO_LARGE"));
    let message = job.message.unwrap_or_default();
    assert!(message.contains("at most 3 clips fit"), "{message}");
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_whose_evaluation_fails_are_published_without_metrics() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 4, 2).await;
    let runners = bed.run_with(Config {
        errors: 1,
        ..Config::default()
    });
    let held = bed.parts.device.pause();
    let job = HyperParameters {
        // Nothing is computed before the first step.
        selection: Some(Selection {
            near_duplicates: Some(false),
            ..Selection::default()
        }),
        ..hyper(2, 1)
    };
    let job = runners.submit(&owner, &task, &dataset, job).await;
    let watched = runners.handle.watch(&owner, job, 0).await.expect("a watch");
    let mut events = std::pin::pin!(watched);
    let is_running =
        |event: &Event| matches!(event, Event::State { state, .. } if *state == JobState::Running);
    while !is_running(&events.next().await.expect("more").expect("an event").event) {}
    // Everything was validated, and no step has run; now the videos of the validation split are lost.
    let snapshot = bed
        .parts
        .metadata
        .get_job(&owner, job)
        .await
        .expect("a job");
    let examples = bed
        .parts
        .library
        .snapshot_examples(&owner, snapshot.dataset_digest, None, 1000)
        .await
        .expect("a snapshot");
    for example in examples {
        if example.split == frameshift::spec::Split::Validation {
            let key = layout::video(&owner, example.video);
            bed.parts.store.delete(&key).await.expect("deleted");
        }
    }
    drop(held);
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    assert_eq!(job.reason.as_deref(), Some("EVALUATION_FAILED"));
    let evaluation = job.result.as_ref().expect("a result").evaluation.clone();
    assert_eq!(evaluation.examples, 0);
    assert!(evaluation.problem.is_some());
    let told = messages(&events).join("; ");
    assert!(told.contains("the evaluation failed"), "{told}");
    assert!(!bed.weights(&job).await.is_empty());
    let serving = bed.parts.registry.get_task(&owner, &task).await;
    assert!(serving.expect("the task").desired.is_some());
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linear_probes_features_survive_a_restart_and_go_with_the_job() {
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let bed = Bed::open(directory.path()).await;
    let (_, dataset) = bed.fades(&owner, 6, 0).await;
    let task = bed.task(&owner, "probe", AdapterConfig::LINEAR_PROBE).await;
    let runners = bed.run();
    let job = runners.submit(&owner, &task, &dataset, hyper(600, 1)).await;
    let (undisturbed, _) = runners.end(&owner, job).await;
    assert_eq!(
        undisturbed.state,
        JobState::Succeeded,
        "{:?}",
        undisturbed.message
    );
    let features = directory.path().join("features");
    // A job's end is told before what it kept is cleaned up.
    let are_gone = async || walk(&features).is_empty();
    until(are_gone).await;

    let job = runners.submit(&owner, &task, &dataset, hyper(600, 1)).await;
    runners.steps(&owner, job, 1).await;
    runners.drain().await;
    bed.close().await;
    let [file] = &walk(&features)[..] else {
        panic!("one file of features")
    };
    let bytes = std::fs::metadata(file).expect("a file").len();
    assert_eq!(bytes, 56 + 6 * 32 * 4);

    let bed = Bed::open(directory.path()).await;
    let calls = bed.parts.backbone.frozen_linear_calls();
    let runners = bed.run();
    let (resumed, _) = runners.end(&owner, job).await;
    assert_eq!(resumed.state, JobState::Succeeded, "{:?}", resumed.message);
    assert_eq!(
        bed.parts.backbone.frozen_linear_calls(),
        calls,
        "nothing was computed again"
    );
    assert!(bed.weights(&resumed).await == bed.weights(&undisturbed).await);
    until(are_gone).await;

    // 6 rows of 128 bytes: as much as was allowed when it was submitted is too much for the server of now.
    runners.drain().await;
    let handle = bed.handle();
    let job = handle.submit(&owner, &task, &dataset, hyper(1, 1), None);
    let job = job.await.expect("a job").id;
    let small = bed.run_with(Config {
        feature_bytes: 6 * 128 - 1,
        ..Config::default()
    });
    let (job, _) = small.end(&owner, job).await;
    assert_eq!(job.reason.as_deref(), Some("STEP_TOO_LARGE"));
    let message = job.message.expect("a message");
    assert!(
        message.contains("feature_bytes") && message.contains("at most 5 examples"),
        "{message}"
    );
    let refused = small
        .handle
        .submit(&owner, &task, &dataset, hyper(1, 1), None)
        .await;
    assert!(
        matches!(&refused, Err(Error::Invalid(invalid)) if invalid.field == "dataset"),
        "{refused:?}"
    );
    small.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn features_of_a_job_that_ended_in_another_process_go_and_those_of_others_stay() {
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let bed = Bed::open(directory.path()).await;
    let (task, dataset) = bed.fades(&owner, 4, 0).await;
    let handle = bed.handle();
    let waiting = handle.submit(&owner, &task, &dataset, hyper(1, 1), None);
    let waiting = waiting.await.expect("a job").id;
    handle.pause(&owner, waiting).await.expect("paused");
    let runners = bed.run_with(Config {
        sweep: Duration::from_millis(20),
        ..Config::default()
    });
    let ended = runners.submit(&owner, &task, &dataset, hyper(1, 1)).await;
    runners.end(&owner, ended).await;
    let features = directory.path().join("features");
    std::fs::create_dir_all(&features).expect("a folder");
    // What an earlier claim of either left here before it went on elsewhere.
    let left = |job, kind| features.join(format!("{job}.owner.{kind}"));
    std::fs::write(left(waiting, "tried"), "kept").expect("written");
    for kind in ["features", "tried", "views"] {
        std::fs::write(left(ended, kind), "left").expect("written");
    }
    let kept = left(waiting, "tried").display().to_string();
    until(async || walk(&features) == [kept.clone()]).await;
    runners.drain().await;
    bed.close().await;
}
