//! Fine-tuning from submission to a published version, on real clips, with the real decoder and device.

mod alike;
mod balance;
mod bed;
mod budget;
mod choices;
mod crash;
mod direction;
mod divergence;
mod frozen;
mod heads;
mod kills;
mod looks;
mod many;
mod memory;
mod multi_label;
mod on_disk;
mod outages;
mod parent;
mod pause;
mod probes;
mod refusals;
mod retention;
mod skipped;
mod sweep;
mod test_split;
mod times;
mod waiting;

use std::collections::BTreeMap;
use std::time::Duration;

use frameshift::ids::TenantId;
use frameshift::jobs::Config;
use frameshift::metadata::{Event, PageRequest};
use frameshift::spec::{AdapterConfig, Head, HyperParameters, JobState, Selection};
use futures::TryStreamExt;

use bed::{ADAPTERS, Bed, hyper, messages, states};

fn tenant(name: &str) -> TenantId {
    name.parse().expect("a tenant")
}

const SUCCESS: [JobState; 6] = [
    JobState::Queued,
    JobState::Validating,
    JobState::Running,
    JobState::Evaluating,
    JobState::Publishing,
    JobState::Succeeded,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_job_learns_publishes_and_repeats_itself_bit_for_bit() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 24, 12).await;
    let pointers = bed.parts.backbone.weight_pointers();
    let runners = bed.run();
    let submit = async |hyper| {
        let job = runners
            .handle
            .submit(&owner, &task, &dataset, hyper, None)
            .await;
        runners.end(&owner, job.expect("a job").id).await
    };
    let (first, events) = submit(hyper(12, 7)).await;
    assert_eq!(first.state, JobState::Succeeded, "{:?}", first.message);
    assert_eq!(states(&events), SUCCESS);
    let sequence: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequence, (1..=events.len() as u64).collect::<Vec<_>>());
    let result = first.result.clone().expect("a result");
    assert_eq!((first.step, first.total_steps), (72, 72));
    assert_eq!((result.seed, result.loss_curve.len()), (7, 12));
    assert_eq!(
        (result.dataset_digest, result.backbone_digest),
        (first.dataset_digest, bed.parts.backbone.digest())
    );
    assert_eq!(result.evaluation.examples, 12);
    assert_eq!(
        result
            .evaluation
            .confusion
            .cells()
            .iter()
            .map(|cell| cell.examples)
            .sum::<u64>(),
        12
    );
    assert!(
        result.evaluation.top1 >= 0.9,
        "{:?} {:?}",
        result.evaluation,
        result.loss_curve
    );
    let ends = events
        .iter()
        .filter(|event| matches!(&event.event, Event::Step(metrics) if metrics.step % 6 == 0));
    assert_eq!(ends.count(), 12, "every epoch's last step is told");
    assert_eq!(first.hyper_parameters.dropout, Some(0.0));
    let owned = bed
        .parts
        .registry
        .get_task(&owner, &task)
        .await
        .expect("the task");
    assert_eq!(owned.desired.map(|version| version.get()), Some(1));

    let (second, _) = submit(hyper(12, 7)).await;
    let (other, _) = submit(hyper(12, 8)).await;
    let weights = bed.weights(&first).await;
    assert!(
        weights == bed.weights(&second).await,
        "one seed, one result"
    );
    assert!(
        weights != bed.weights(&other).await,
        "another seed, another result"
    );
    assert_eq!(
        second.result.expect("a result").loss_curve,
        result.loss_curve
    );
    assert_eq!(bed.parts.backbone.weight_pointers(), pointers);
    runners.drain().await;
    bed.close().await;
    let left = walk(&directory.path().join("blobs/owner/jobs"));
    assert_eq!(left, Vec::<String>::new(), "no checkpoint stays");
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path.display().to_string());
        }
    }
    files
}

/// Crops twice and none, and both presets' pictures twice each.
fn changed_pictures() -> [HyperParameters; 7] {
    let crops = |area| HyperParameters {
        min_crop_area: Some(area),
        ..HyperParameters::default()
    };
    let recipe = |area, scale, augment: &str| HyperParameters {
        min_crop_area: area,
        short_side_scale: scale,
        rand_augment: Some(augment.to_owned()),
        random_erasing: Some(0.5),
        label_smoothing: Some(0.1),
        ..HyperParameters::default()
    };
    let augment = "rand-m7-n4-mstd0.5-inc1";
    [
        crops(0.3),
        crops(0.3),
        crops(1.0),
        recipe(None, Some(1.15), augment),
        recipe(None, Some(1.15), augment),
        recipe(Some(0.08), None, augment),
        recipe(Some(0.08), None, augment),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn crops_mirrors_dropout_and_clipping_are_as_repeatable() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 6, 0).await;
    // Without room, every clip is decoded anew, and a step computes one clip at a time.
    let runners = bed.run_with(Config {
        clip_cache_bytes: 0,
        step_bytes: budget::tight(&bed, 4),
        ..Config::default()
    });
    let mut weights = Vec::new();
    for own in changed_pictures() {
        let hyper = HyperParameters {
            min_crop_area: own.min_crop_area,
            short_side_scale: own.short_side_scale,
            rand_augment: own.rand_augment,
            random_erasing: own.random_erasing,
            label_smoothing: own.label_smoothing,
            horizontal_flip: Some(true),
            dropout: Some(0.5),
            clip_norm: Some(1.0),
            ..hyper(2, 3)
        };
        let job = runners
            .handle
            .submit(&owner, &task, &dataset, hyper, None)
            .await
            .expect("a job");
        let (job, events) = runners.end(&owner, job.id).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        assert_eq!(
            job.result.as_ref().map(|result| result.evaluation.examples),
            Some(0)
        );
        let told = messages(&events).into_iter();
        let told = told.filter(|text| text.contains("no validation split"));
        assert_eq!(
            told.count(),
            1,
            "a missing validation split is told: {events:?}"
        );
        weights.push(bed.weights(&job).await);
    }
    assert!(weights[0] == weights[1] && weights[3] == weights[4] && weights[5] == weights[6]);
    let different = [&weights[0], &weights[2], &weights[3], &weights[5]];
    for (place, own) in different.iter().enumerate() {
        assert!(!different[..place].contains(own), "{place}");
    }
    runners.drain().await;

    // With room, and with everything kept for the backward, no bit changes.
    let runners = bed.run();
    let hyper = HyperParameters {
        min_crop_area: Some(1.0),
        horizontal_flip: Some(true),
        dropout: Some(0.5),
        clip_norm: Some(1.0),
        ..hyper(2, 3)
    };
    let job = runners
        .handle
        .submit(&owner, &task, &dataset, hyper, None)
        .await
        .expect("a job");
    let (job, _) = runners.end(&owner, job.id).await;
    assert!(bed.weights(&job).await == weights[2]);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_stops_mid_run_and_one_that_waits_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 8, 2).await;
    let runners = bed.run_with(Config {
        runners: 1,
        ..Config::default()
    });
    let endless = HyperParameters {
        selection: Some(Selection {
            patience: Some(0),
            ..Selection::default()
        }),
        ..hyper(10_000, 1)
    };
    let long = runners
        .handle
        .submit(&owner, &task, &dataset, endless, None)
        .await
        .expect("a job");
    let waiting = runners
        .handle
        .submit(&owner, &task, &dataset, hyper(1, 1), None)
        .await
        .expect("a job");
    runners.steps(&owner, long.id, 3).await;
    let cancelled = runners
        .handle
        .cancel(&owner, waiting.id)
        .await
        .expect("cancelled");
    assert_eq!(cancelled.state, JobState::Cancelled);
    runners
        .handle
        .cancel(&owner, long.id)
        .await
        .expect("asked to stop");
    let (job, events) = runners.end(&owner, long.id).await;
    assert_eq!(job.state, JobState::Cancelled);
    assert_eq!(states(&events).last(), Some(&JobState::Cancelled));
    assert!(job.result.is_none() && job.end_time.is_some());
    assert!(
        runners.handle.cancel(&owner, long.id).await.is_err(),
        "it has ended"
    );
    runners.drain().await;
    bed.close().await;
    assert_eq!(
        walk(&directory.path().join("blobs/owner/jobs")),
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_job_goes_on_to_the_weights_of_the_undisturbed_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let bed = Bed::open(directory.path()).await;
    let (task, dataset) = bed.fades(&owner, 8, 2).await;
    let runners = bed.run();
    let hyper = || HyperParameters {
        // No checkpoint but the drain's.
        checkpoint_steps: Some(100_000),
        ..hyper(60, 5)
    };
    let job = runners.submit(&owner, &task, &dataset, hyper()).await;
    let (undisturbed, _) = runners.end(&owner, job).await;
    let job = runners.submit(&owner, &task, &dataset, hyper()).await;
    runners.steps(&owner, job, 4).await;
    runners.drain().await;
    let paused = bed.handle().get(&owner, job).await.expect("the job");
    assert_eq!(paused.state, JobState::Queued);
    let step = paused.checkpoint.expect("a checkpoint").step;
    assert!((4..120).contains(&step), "{step}");
    bed.close().await;

    let bed = Bed::open(directory.path()).await;
    let runners = bed.run();
    let (resumed, events) = runners.end(&owner, job).await;
    assert_eq!(resumed.state, JobState::Succeeded, "{:?}", resumed.message);
    let told = messages(&events).into_iter();
    let told = told.filter(|text| text.starts_with("training goes on"));
    assert!(told.eq([format!("training goes on after step {step}")]));
    assert!(bed.weights(&resumed).await == bed.weights(&undisturbed).await);
    let curve =
        |job: &frameshift::metadata::JobRecord| job.result.clone().map(|result| result.loss_curve);
    assert_eq!(curve(&resumed), curve(&undisturbed));
    assert_eq!(resumed.attempts, 2);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_is_told_and_training_starts_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let bed = Bed::open(directory.path()).await;
    let (task, dataset) = bed.fades(&owner, 8, 2).await;
    let runners = bed.run();
    let job = runners.submit(&owner, &task, &dataset, hyper(30, 5)).await;
    let (undisturbed, _) = runners.end(&owner, job).await;
    let job = runners.submit(&owner, &task, &dataset, hyper(30, 5)).await;
    runners.steps(&owner, job, 1).await;
    runners.drain().await;
    let [file] = &walk(&directory.path().join("blobs/owner/jobs"))[..] else {
        panic!("one checkpoint")
    };
    let mut bytes = std::fs::read(file).expect("readable");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(file, bytes).expect("writable");
    let runners = bed.run();
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    let told = messages(&events).join("; ");
    assert!(
        told.contains("training starts anew") && told.contains("damaged"),
        "{told}"
    );
    assert!(bed.weights(&job).await == bed.weights(&undisturbed).await);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_claim_stops_and_the_job_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let bed = Bed::open(directory.path()).await;
    let (task, dataset) = bed.fades(&owner, 8, 2).await;
    let runners = bed.run();
    let job = runners.submit(&owner, &task, &dataset, hyper(60, 5)).await;
    runners.steps(&owner, job, 6).await;
    bed.database.forget_workers(Duration::ZERO);
    let (job, _) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    assert!(job.attempts >= 2);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_train_at_once_under_equal_names() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let runners = bed.run();
    let tenants = [tenant("one"), tenant("two")];
    let mut named = Vec::new();
    for tenant in &tenants {
        named.push(bed.fades(tenant, 8, 2).await);
    }
    let mut jobs = Vec::new();
    for (tenant, (task, dataset)) in tenants.iter().zip(&named) {
        jobs.push(runners.submit(tenant, task, dataset, hyper(80, 5)).await);
    }
    // Both are under way before either ends.
    for (tenant, job) in tenants.iter().zip(&jobs) {
        runners.steps(tenant, *job, 1).await;
    }
    for (tenant, job) in tenants.iter().zip(&jobs) {
        let record = runners.handle.get(tenant, *job).await.expect("the job");
        assert_eq!(record.state, JobState::Running);
    }
    assert!(
        runners.handle.get(&tenants[0], jobs[1]).await.is_err(),
        "another tenant's job"
    );
    assert!(runners.handle.watch(&tenants[1], jobs[0], 0).await.is_err());
    assert!(runners.handle.cancel(&tenants[1], jobs[0]).await.is_err());
    let mut weights = Vec::new();
    for (tenant, job) in tenants.iter().zip(&jobs) {
        let (job, _) = runners.end(tenant, *job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        weights.push(bed.weights(&job).await);
        let page = runners
            .handle
            .list(tenant, &PageRequest::first())
            .await
            .expect("a page");
        assert_eq!(page.items.len(), 1);
    }
    // Equal clips in equal order and one seed: a neighbour on the device changes no bit.
    assert!(weights[0] == weights[1]);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_replays_from_any_sequence_number_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let bed = Bed::open(directory.path()).await;
    let (task, dataset) = bed.fades(&owner, 8, 2).await;
    let runners = bed.run();
    let job = runners.submit(&owner, &task, &dataset, hyper(8, 5)).await;
    let live = runners.handle.watch(&owner, job, 0).await.expect("a watch");
    let live: Vec<_> = live.try_collect().await.expect("events");
    runners.drain().await;
    bed.close().await;
    let bed = Bed::open(directory.path()).await;
    let handle = bed.handle();
    for after in 0..=live.len() {
        let replayed = handle
            .watch(&owner, job, after as u64)
            .await
            .expect("a watch");
        let replayed: Vec<_> = replayed.try_collect().await.expect("events");
        assert_eq!(replayed, live[after..]);
    }
    bed.close().await;
}

/// Weights by name.
type Weights = BTreeMap<String, Vec<u8>>;
