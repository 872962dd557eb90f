//! Evaluations while a job trains: the best weights are published, training stops in time, and what is not good is told.

use frameshift::ids::{DatasetId, TaskId, TenantId};
use frameshift::jobs::Error;
use frameshift::metadata::{EARLY_STOPPED, Event};
use frameshift::spec::{BestBy, HyperParameters, JobState, Publish, Selection, Split};

use super::bed::{Bed, evaluations, hyper, messages};
use super::tenant;

/// So many epochs, with a selection.
fn selecting(epochs: u32, selection: Selection) -> HyperParameters {
    HyperParameters {
        selection: Some(selection),
        ..hyper(epochs, 5)
    }
}

/// A task and 20 training and 4 validation clips for it: the more a job learns of them, the worse it is on the latter.
async fn overfitting(bed: &Bed, owner: &TenantId) -> (TaskId, DatasetId) {
    let splits = [(Split::Train, 20), (Split::Validation, 4)];
    bed.fades_of(owner, &splits, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_job_that_overfits_the_best_weights_are_published_and_not_the_last() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = overfitting(&bed, &owner).await;
    let runners = bed.run();
    let train = async |publish, epochs| {
        let selection = Selection {
            best_by: Some(BestBy::Loss),
            publish: Some(publish),
            patience: Some(0),
            ..Selection::default()
        };
        let hyper = selecting(epochs, selection);
        let job = runners.submit(&owner, &task, &dataset, hyper).await;
        runners.end(&owner, job).await
    };
    let (best, events) = train(Publish::Best, 12).await;
    assert_eq!(best.state, JobState::Succeeded, "{:?}", best.message);
    assert_eq!((best.step, best.total_steps), (60, 60));
    let result = best.result.clone().expect("a result");
    let curve = &result.validation_curve;
    assert!(curve.iter().map(|point| point.epoch).eq(1..=12));
    let least = curve
        .iter()
        .map(|point| point.loss)
        .fold(f64::INFINITY, f64::min);
    let own = curve
        .iter()
        .find(|point| point.step == result.step)
        .expect("on the curve");
    assert_eq!(own.loss.to_bits(), least.to_bits());
    assert_eq!(result.evaluation.loss.to_bits(), least.to_bits());
    assert!(
        result.step < best.step && curve[11].loss > 2.0 * least,
        "{curve:?}"
    );

    let told = evaluations(&events);
    assert_eq!(told.len(), 12);
    for (metrics, point) in told.iter().zip(curve) {
        assert_eq!((metrics.step, metrics.loss), (point.step, point.loss));
        assert_eq!((metrics.split, metrics.examples), (Split::Validation, 4));
        let (low, high) = metrics.interval();
        assert!(low <= metrics.top1 && metrics.top1 <= high && high - low > 0.4);
        assert!(metrics.training_loss.is_some() && metrics.training_accuracy.is_some());
    }
    let best_told = told.iter().rev().find(|own| own.is_best);
    assert!(best_told.is_some_and(|own| own.step == result.step));
    let told = messages(&events).join("\n");
    assert!(told.contains("the validation split has 4 clips"), "{told}");
    let ahead = told.matches("far ahead of the validation clips");
    assert_eq!(ahead.count(), 1, "{told}");
    let published = "are published, which have the best validation loss";
    assert!(told.contains(published), "{told}");

    let (last, _) = train(Publish::Last, 12).await;
    let result = last.result.clone().expect("a result");
    assert_eq!((result.step, last.step), (60, 60));
    assert_eq!(
        result.validation_curve, *curve,
        "an evaluation changes no weight"
    );
    assert_eq!(result.evaluation.loss.to_bits(), curve[11].loss.to_bits());
    let weights = bed.weights(&last).await;
    assert!(weights != bed.weights(&best).await);

    // A job that never looks trains to the same weights.
    let blind = Selection {
        eval_every: Some(0),
        ..Selection::default()
    };
    let job = runners
        .submit(&owner, &task, &dataset, selecting(12, blind))
        .await;
    let (blind, events) = runners.end(&owner, job).await;
    assert!(bed.weights(&blind).await == weights && evaluations(&events).is_empty());
    assert_eq!(
        blind.result.expect("a result").evaluation,
        result.evaluation
    );
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_few_validation_clips_a_job_chooses_its_last_weights_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = overfitting(&bed, &owner).await;
    let runners = bed.run();
    let hyper = selecting(13, Selection::default());
    let job = runners.submit(&owner, &task, &dataset, hyper).await;
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    assert_eq!((job.step, job.reason.as_deref()), (job.total_steps, None));
    let result = job.result.clone().expect("a result");
    assert_eq!(result.step, job.step, "the last weights are published");
    assert_eq!(result.validation_curve.len(), 13);
    let told = messages(&events).join("\n");
    let chosen = "chosen: the last weights are published, and training does not stop early: 4 validation clips do not tell";
    assert!(told.contains(chosen), "{told}");
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_ends_a_job_whose_evaluations_make_no_progress() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = overfitting(&bed, &owner).await;
    let runners = bed.run();
    let selection = Selection {
        best_by: Some(BestBy::Loss),
        patience: Some(3),
        ..Selection::default()
    };
    let job = runners
        .submit(&owner, &task, &dataset, selecting(40, selection))
        .await;
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    assert_eq!(job.reason.as_deref(), Some(EARLY_STOPPED));
    let result = job.result.clone().expect("a result");
    assert_eq!(
        job.step,
        result.step + 3 * 5,
        "three epochs after the best one"
    );
    assert!(job.step < job.total_steps);
    assert_eq!(result.loss_curve.len() as u64, job.step / 5);
    let told = messages(&events).join("\n");
    assert!(
        told.contains("3 evaluations in a row were not better"),
        "{told}"
    );
    let ends = |event: &Event| matches!(event, Event::State { reason: Some(reason), .. } if reason == EARLY_STOPPED);
    assert!(events.last().is_some_and(|last| ends(&last.event)));
    let task = bed.parts.registry.get_task(&owner, &task).await;
    assert!(
        task.expect("the task").desired.is_some(),
        "its version serves"
    );
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_without_validation_clips_gets_some_of_its_training_clips() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 20, 0).await;
    let runners = bed.run();
    let train = async |share| {
        let selection = Selection {
            validation_share: share,
            ..Selection::default()
        };
        let job = runners
            .submit(&owner, &task, &dataset, selecting(2, selection))
            .await;
        runners.end(&owner, job).await
    };
    let (job, events) = train(None).await;
    let evaluation = job.result.clone().expect("a result").evaluation;
    // A fifth of ten of each label.
    assert_eq!(evaluation.examples, 4);
    let counts = evaluation.confusion.label_counts(2);
    assert!(counts.iter().all(|count| count.examples == 2), "{counts:?}");
    // 16 of 20 are left to train on, in batches of 4.
    assert_eq!(job.total_steps, 2 * 4);
    let told = messages(&events).join("\n");
    assert!(told.contains("4 of its 20 training clips"), "{told}");
    let (again, _) = train(None).await;
    assert!(bed.weights(&again).await == bed.weights(&job).await);

    let (whole, events) = train(Some(0.0)).await;
    assert_eq!(
        (
            whole.total_steps,
            whole.result.expect("a result").evaluation.examples
        ),
        (10, 0)
    );
    let told = messages(&events).join("\n");
    assert!(
        told.contains("the data set has no validation split: the version"),
        "{told}"
    );
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_that_learns_nothing_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 8, 2).await;
    let runners = bed.run();
    let told = async |learning_rate, epochs| {
        let selection = Selection {
            patience: Some(0),
            ..Selection::default()
        };
        let hyper = HyperParameters {
            learning_rate: Some(learning_rate),
            ..selecting(epochs, selection)
        };
        let job = runners.submit(&owner, &task, &dataset, hyper).await;
        messages(&runners.end(&owner, job).await.1).join("\n")
    };
    let nothing = told(1e-9, 4).await;
    assert!(
        nothing.contains("which guessing among 2 labels has too (ln 2 = 0.693)"),
        "{nothing}"
    );
    let much = told(1e-2, 40).await;
    assert!(!much.contains("guessing"), "{much}");
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_that_contradicts_itself_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 2, 0).await;
    let handle = bed.handle();
    let selection = Selection {
        eval_every: Some(0),
        publish: Some(Publish::Best),
        ..Selection::default()
    };
    let refused = handle
        .submit(&owner, &task, &dataset, selecting(1, selection), None)
        .await;
    assert!(
        matches!(&refused, Err(Error::Invalid(invalid)) if invalid.field == "publish"),
        "{refused:?}"
    );
    bed.close().await;
}
