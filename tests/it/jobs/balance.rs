//! Unequal labels, mixed clips and budgets.

use frameshift::metadata::{BUDGET_SPENT, ExampleRecord};
use frameshift::spec::{ClassWeights, HyperParameters, JobState, Selection, Split};

use super::bed::{ADAPTERS, Bed, evaluations, fade, hyper};
use super::tenant;

#[tokio::test(flavor = "multi_thread")]
async fn weights_balanced_epochs_mixup_and_cutmix_change_training_and_repeat_themselves() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    // Three times as many clips of one label as of the other.
    let mut examples = Vec::new();
    for i in 0..10 {
        let is_rising = i % 4 == 0;
        let label = if is_rising { "brighter" } else { "darker" };
        let split = if i < 8 {
            Split::Train
        } else {
            Split::Validation
        };
        let name = format!("{label}-{i}.mp4");
        let video = bed.upload(&owner, &name, &fade(i, is_rising)).await;
        examples.push(ExampleRecord {
            video,
            labels: label.into(),
            split,
        });
    }
    let dataset = bed.dataset(&owner, "unequal", examples).await;
    let task = bed.task(&owner, "unequal", ADAPTERS).await;
    let runners = bed.run();
    let train = async |change: fn(&mut HyperParameters)| {
        let mut hyper = hyper(2, 3);
        change(&mut hyper);
        let job = runners.submit(&owner, &task, &dataset, hyper).await;
        let (job, events) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        (bed.weights(&job).await, evaluations(&events), job)
    };
    let (plain, looks, _) = train(|_| {}).await;
    for look in looks {
        assert!((0.0..=1.0).contains(&look.mean_class_accuracy));
        assert!((0.0..=1.0).contains(&look.macro_f1));
    }
    let changes: [fn(&mut HyperParameters); 5] = [
        |hyper| hyper.class_weights = Some(ClassWeights::Balanced),
        |hyper| hyper.balanced_sampling = Some(true),
        |hyper| hyper.mixup = Some(0.8),
        |hyper| hyper.cutmix = Some(1.0),
        |hyper| {
            (hyper.mixup, hyper.cutmix) = (Some(0.8), Some(1.0));
            hyper.class_weights = Some(ClassWeights::Balanced);
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let (weights, _, job) = train(change).await;
        assert!(weights != plain, "{number}");
        assert!(weights == train(change).await.0, "{number}");
        let used = job.hyper_parameters;
        assert!(used.class_weights.is_some() && used.mixup.is_some());
    }
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_with_its_budget_of_steps_frames_or_seconds() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 10, 2).await;
    let runners = bed.run();
    let train = async |change: fn(&mut HyperParameters)| {
        let mut hyper = hyper(40, 3);
        change(&mut hyper);
        let job = runners.submit(&owner, &task, &dataset, hyper).await;
        let (job, events) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        let last = evaluations(&events).last().map(|own| own.step);
        assert_eq!(last, Some(job.step), "the last weights are evaluated");
        job
    };
    // Three steps an epoch.
    let job = train(|hyper| hyper.max_steps = Some(7)).await;
    assert_eq!((job.step, job.total_steps, job.reason), (7, 7, None));
    // Of four frames a clip: ten clips in the first epoch, and six of the second.
    let job = train(|hyper| hyper.max_clip_frames = Some(4 * 16)).await;
    assert_eq!((job.step, job.total_steps, job.reason), (5, 5, None));
    let job = train(|hyper| {
        hyper.max_seconds = Some(1);
        hyper.epochs = Some(10_000);
        hyper.selection = Some(Selection {
            patience: Some(0),
            ..Selection::default()
        });
    })
    .await;
    assert!(job.step < job.total_steps);
    assert_eq!(job.reason.as_deref(), Some(BUDGET_SPENT));
    assert!(job.result.expect("a result").training_micros >= 1_000_000);
    runners.drain().await;
    bed.close().await;
}
