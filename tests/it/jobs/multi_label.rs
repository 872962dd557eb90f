//! Data sets whose labels do not exclude one another: what a job trains, measures, chooses and publishes.

use frameshift::ids::{DatasetId, TaskId};
use frameshift::jobs;
use frameshift::metadata::{self, ExampleRecord, NewDataset};
use frameshift::spec::{
    BestBy, ClassWeights, ExampleLabels, HyperParameters, JobState, LabelKind, Publish, Selection,
    Split,
};

use super::bed::{ADAPTERS, Bed, Runners, compared, evaluations, fade, hyper, messages};
use super::tenant;

/// Clips that become brighter are `rising`, those that become darker are `falling` but for every eighth one, and all with a label are `moving`.
fn labels(i: u64) -> ExampleLabels {
    let own: &[&str] = match i % 8 {
        0 | 2 | 4 | 6 => &["rising", "moving"],
        7 => &[],
        _ => &["moving", "falling"],
    };
    ExampleLabels::of(own.iter().copied()).expect("labels")
}

async fn dataset(bed: &Bed, name: &str, splits: &[(Split, u64)]) -> DatasetId {
    let owner = tenant("owner");
    let id: DatasetId = name.parse().expect("an id");
    let new = NewDataset {
        label_kind: LabelKind::Multi,
        ..NewDataset::default()
    };
    let library = &bed.parts.library;
    library
        .create_dataset(&owner, &id, new, None)
        .await
        .expect("a data set");
    let mut examples = Vec::new();
    for (split, count) in splits.iter().copied() {
        for i in 0..count {
            let bytes = fade(i + 1000 * split as u64, i % 2 == 0);
            examples.push(ExampleRecord {
                video: bed.upload(&owner, &format!("{i}.mp4"), &bytes).await,
                labels: labels(i),
                split,
            });
        }
    }
    let added = library.add_examples(&owner, &id, &examples).await;
    let added = added.expect("examples");
    assert_eq!(added.label_kind, LabelKind::Multi);
    let counted = added.counts.iter();
    let of = |label: &str, split| {
        let mut own = counted.clone();
        own.find(|count| count.label == label && count.split == split)
            .map_or(0, |count| count.examples)
    };
    let (_, train) = splits[0];
    assert_eq!(added.examples, splits.iter().map(|own| own.1).sum::<u64>());
    assert_eq!(of("rising", Split::Train), train / 2);
    assert_eq!(
        of("moving", Split::Train),
        (0..train).filter(|i| i % 8 != 7).count() as u64
    );
    id
}

async fn refused(
    runners: &Runners,
    (task, dataset): (&TaskId, &DatasetId),
    change: fn(&mut HyperParameters),
) -> Option<&'static str> {
    let mut hyper = hyper(2, 3);
    change(&mut hyper);
    let owner = tenant("owner");
    let submit = runners.handle.submit(&owner, task, dataset, hyper, None);
    match submit.await {
        Err(jobs::Error::Invalid(invalid)) => Some(invalid.field),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_learns_labels_that_do_not_exclude_one_another() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let splits = [
        (Split::Train, 32),
        (Split::Validation, 16),
        (Split::Test, 8),
    ];
    let dataset = dataset(&bed, "moves", &splits).await;
    let task = bed.task(&owner, "moves", ADAPTERS).await;
    let runners = bed.run();
    let train = async |change: fn(&mut HyperParameters)| {
        let mut hyper = hyper(10, 7);
        hyper.selection = Some(Selection {
            publish: Some(Publish::Best),
            ..Selection::default()
        });
        change(&mut hyper);
        let job = runners.submit(&owner, &task, &dataset, hyper).await;
        let (job, events) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        (bed.weights(&job).await, job, events)
    };
    let (weights, job, events) = train(|_| {}).await;
    let manifest = bed.manifest(&job).await;
    assert_eq!(manifest.labels.as_slice(), ["falling", "moving", "rising"]);
    assert_eq!(manifest.labels.kind(), LabelKind::Multi);
    assert_eq!(manifest.calibration, None);
    let used = job.hyper_parameters.selection.expect("a selection");
    assert_eq!(used.best_by, Some(BestBy::Map));
    let result = job.result.clone().expect("a result");
    let own = result.evaluation.independent.clone().expect("metrics");
    assert_eq!(result.evaluation.examples, 16);
    assert!(own.map > 0.85, "{own:?} {:?}", result.loss_curve);
    assert!(own.labels[2].average_precision > 0.9, "{own:?}");
    let counts: Vec<u64> = own.labels.iter().map(|label| label.examples).collect();
    assert_eq!(counts, [6, 14, 8]);
    let losses = &result.loss_curve;
    assert!(losses[9] < 0.5 * losses[0], "{losses:?}");
    let looks = evaluations(&events);
    let best = looks.iter().filter(|look| look.split == Split::Validation);
    let best = best.filter_map(|look| look.map).fold(0.0, f64::max);
    assert_eq!(own.map, best, "the version has the best evaluation");
    assert!(result.validation_curve.iter().all(|own| own.map.is_some()));
    let test = result.test.expect("the test split");
    assert_eq!(test.examples, 8);
    assert!(test.independent.expect("metrics").map > 0.7);

    assert!(weights == train(|_| {}).await.0, "one seed, one result");
    let (other, job, _) = train(|hyper| {
        hyper.class_weights = Some(ClassWeights::Balanced);
        hyper.label_smoothing = Some(0.1);
        (hyper.mixup, hyper.cutmix) = (Some(0.4), Some(1.0));
        hyper.selection = Some(Selection {
            best_by: Some(BestBy::Loss),
            ..Selection::default()
        });
    })
    .await;
    assert!(weights != other);
    let result = job.result.expect("a result");
    assert!(result.evaluation.independent.is_some());

    // It goes on with a label that it did not have.
    let more = ExampleRecord {
        video: bed.upload(&owner, "more.mp4", &fade(77, true)).await,
        labels: ExampleLabels::of(["rising", "slow"]).expect("labels"),
        split: Split::Train,
    };
    let library = &bed.parts.library;
    let added = library.add_examples(&owner, &dataset, &[more]).await;
    added.expect("added");
    let (_, job, _) = train(|hyper| hyper.parent = Some(1)).await;
    let labels = bed.manifest(&job).await.labels;
    assert_eq!(labels.as_slice(), ["falling", "moving", "rising", "slow"]);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_alone_and_the_choice_between_them_take_several_labels() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    // Without a validation split, some clips of each label are held out.
    let dataset = dataset(&bed, "moves", &[(Split::Train, 24)]).await;
    let task = bed.task_of(&owner, "auto", (ADAPTERS, true)).await;
    let runners = bed.run();
    let job = runners.submit(&owner, &task, &dataset, hyper(3, 7)).await;
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    let heads = compared(&events);
    assert_eq!(heads.len(), 5);
    assert!(heads.iter().all(|own| own.map.is_some()), "{heads:?}");
    let published = heads.iter().find(|own| own.is_published).expect("one");
    let best = heads.iter().filter_map(|own| own.map).fold(0.0, f64::max);
    assert_eq!(published.map, Some(best));
    let told = messages(&events).into_iter();
    let held = told.filter(|text| text.contains("are held out")).count();
    assert_eq!(held, 1);
    assert!(job.result.expect("a result").evaluation.examples >= 2);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_meaning_for_the_labels_is_refused_in_words() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let multi = dataset(&bed, "moves", &[(Split::Train, 8)]).await;
    let (task, single) = bed.fades(&owner, 4, 0).await;
    let runners = bed.run();
    let of = async |dataset, change| refused(&runners, (&task, dataset), change).await;
    let turns = |hyper: &mut HyperParameters| hyper.balanced_sampling = Some(true);
    assert_eq!(of(&multi, turns).await, Some("balanced_sampling"));
    let unknown = |hyper: &mut HyperParameters| hyper.unknown_below = Some(0.5);
    assert_eq!(of(&multi, unknown).await, Some("unknown_below"));
    let map = |hyper: &mut HyperParameters| {
        hyper.selection.get_or_insert_default().best_by = Some(BestBy::Map);
    };
    assert_eq!(of(&single, map).await, Some("best_by"));
    // A version of the one kind is not continued on a data set of the other.
    let job = runners.submit(&owner, &task, &single, hyper(1, 3)).await;
    let (job, _) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    let parent = |hyper: &mut HyperParameters| hyper.parent = Some(1);
    assert_eq!(of(&multi, parent).await, Some("parent"));
    let library = &bed.parts.library;
    let video = bed.upload(&owner, "one.mp4", &fade(1, true)).await;
    for labels in [&["darker", "brighter"][..], &[]] {
        let example = ExampleRecord {
            video,
            labels: ExampleLabels::of(labels.iter().copied()).expect("labels"),
            split: Split::Train,
        };
        let added = library.add_examples(&owner, &single, &[example]).await;
        let refused = matches!(
            added,
            Err(frameshift::library::Error::Metadata(
                metadata::Error::LabelCount { .. }
            ))
        );
        assert!(refused, "{labels:?}");
    }
    // Equal examples of either kind are different snapshots.
    let digest = |id| library.snapshot(&owner, id);
    let first = digest(&multi).await.expect("a snapshot").digest;
    let kind = library.snapshot_kind(&owner, first).await;
    assert_eq!(kind.expect("a kind"), LabelKind::Multi);
    runners.drain().await;
    bed.close().await;
}
