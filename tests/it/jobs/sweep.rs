//! Sweeps: points are trained by ordinary jobs, a few at a time, in rounds; over interruptions, changes of the data set and cancellations.

use std::time::Duration;

use frameshift::ids::{DatasetId, SweepId, TaskId};
use frameshift::jobs::Config;
use frameshift::jobs::sweep::{outcome, points, ranked};
use frameshift::metadata::{
    ExampleRecord, Fault, NewTask, Outages, PageRequest, SweepRecord, SweepShape, SweepSpec,
};
use frameshift::spec::{
    AdapterConfig, ClipSampling, Head, HyperParameters, JobState, Selection, Split,
};

use super::bed::{Bed, Runners, fade, hyper};
use super::tenant;
use crate::server::until;

/// Heads alone: one that knows no order, and one that does.
pub(super) fn spec(dataset: &DatasetId, prefix: &str) -> SweepSpec {
    let frames = Head::Frames(4.try_into().expect("not 0"));
    let shape = |(place, head): (usize, Head)| SweepShape {
        task: format!("{prefix}-{}", place + 1),
        adapter: AdapterConfig {
            head,
            ..AdapterConfig::LINEAR_PROBE
        },
        sampling: ClipSampling::uniform(4.try_into().expect("not 0")),
        auto_head: false,
    };
    SweepSpec {
        dataset: dataset.to_string(),
        dataset_version: None,
        shapes: [Head::Mean, frames]
            .into_iter()
            .enumerate()
            .map(shape)
            .collect(),
        hyper_parameters: HyperParameters {
            epochs: Some(40),
            learning_rate: None,
            seed: None,
            ..hyper(1, 0)
        },
        points: points((2, &[1e-2]), 0, 0).expect("points"),
        seeds: vec![3, 4, 5],
        halving: 2,
        priority: 0,
    }
}

/// Jobs that train until they are cancelled.
fn endless(dataset: &DatasetId) -> SweepSpec {
    SweepSpec {
        hyper_parameters: HyperParameters {
            epochs: Some(10_000),
            selection: Some(Selection {
                patience: Some(0),
                eval_every: Some(1000),
                ..Selection::default()
            }),
            ..HyperParameters::default()
        },
        halving: 0,
        ..spec(dataset, "endless")
    }
}

pub(super) async fn ended(runners: &Runners, sweep: SweepId) -> SweepRecord {
    let owner = tenant("owner");
    let get = async || runners.handle.get_sweep(&owner, sweep).await.expect("it");
    until(async || get().await.state.is_final()).await;
    get().await
}

/// What a sweep found, without what differs between runs.
pub(super) fn found(sweep: &SweepRecord) -> Vec<(usize, String)> {
    let order = ranked(&sweep.spec, &sweep.progress).into_iter();
    order
        .map(|point| (point, format!("{:?}", outcome(&sweep.progress, point))))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_better_points_go_on_and_an_interrupted_sweep_finds_the_same() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (_, dataset) = bed.fades(&owner, 12, 8).await;
    let runners = bed.run();
    let submit = async |runners: &Runners, prefix| {
        let spec = spec(&dataset, prefix);
        let submitted = runners.handle.submit_sweep(&owner, spec, None).await;
        submitted.expect("a sweep").id
    };
    let sweep = submit(&runners, "whole").await;
    until(async || {
        let own = runners.handle.get_sweep(&owner, sweep).await.expect("it");
        own.progress.jobs.len() >= 4
    })
    .await;
    // A sweep may take longer than request ids are remembered.
    let forget = bed.parts.metadata.forget_requests(Duration::ZERO);
    assert!(forget.await.expect("forgotten") > 0);
    let whole = ended(&runners, sweep).await;
    assert_eq!(whole.state, JobState::Succeeded, "{:?}", whole.message);
    // Both shapes with three seeds, and the better one again for twice as long.
    assert_eq!(whole.progress.jobs.len(), 9);
    let best = ranked(&whole.spec, &whole.progress)[0];
    assert_eq!(best, 1, "the head that reads the order");
    let own = outcome(&whole.progress, best);
    assert_eq!((own.round, own.succeeded, own.failed), (1, 3, 0));
    assert_eq!((own.top1, own.range), (1.0, (1.0, 1.0)));
    assert!(outcome(&whole.progress, 0).top1 < 0.9);
    for job in &whole.progress.jobs {
        let id = job.job.parse().expect("an id");
        let record = runners
            .handle
            .get(&owner, id)
            .await
            .expect("an ordinary job");
        assert_eq!(record.state, JobState::Succeeded);
        let epochs = [20, 40][job.round as usize];
        assert_eq!(record.hyper_parameters.epochs, Some(epochs));
        assert_eq!(record.hyper_parameters.learning_rate, Some(1e-2));
        assert_eq!(record.hyper_parameters.seed, Some(job.seed));
        let result = record.result.expect("a result");
        let outcome = job.outcome.expect("an outcome");
        assert_eq!(outcome.top1, result.evaluation.top1);
    }
    let task: TaskId = "whole-2".parse().expect("an id");
    let task = bed
        .parts
        .registry
        .get_task(&owner, &task)
        .await
        .expect("its task");
    assert!(!task.auto_serve && task.desired.is_none());

    let sweep = submit(&runners, "cut").await;
    until(async || {
        let own = runners.handle.get_sweep(&owner, sweep).await.expect("it");
        own.progress.jobs.len() >= 2
    })
    .await;
    runners.drain().await;
    bed.close().await;
    bed = Bed::open(directory.path()).await;
    let runners = bed.run();
    let cut = ended(&runners, sweep).await;
    assert_eq!(cut.state, JobState::Succeeded, "{:?}", cut.message);
    assert_eq!(found(&cut), found(&whole));
    assert_eq!(cut.progress.jobs.len(), 9);
    let page = PageRequest::new(1000, "").expect("a page");
    let listed = runners.handle.list(&owner, &page).await.expect("jobs");
    assert_eq!(listed.items.len(), 18, "none was made twice");
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_sweep_cancels_its_jobs_and_takes_few_places() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (_, dataset) = bed.fades(&owner, 8, 4).await;
    let runners = bed.run_with(Config {
        runners: 1,
        ..Config::default()
    });
    let endless = endless(&dataset);
    let sweep = runners.handle.submit_sweep(&owner, endless, None).await;
    let sweep = sweep.expect("a sweep").id;
    let get = async || runners.handle.get_sweep(&owner, sweep).await.expect("it");
    until(async || get().await.progress.jobs.len() >= 4).await;
    assert_eq!(
        get().await.progress.jobs.len(),
        4,
        "the others wait for places"
    );
    let asked = runners
        .handle
        .cancel_sweep(&owner, sweep)
        .await
        .expect("asked");
    assert!(asked.cancel_requested && !asked.state.is_final());
    let own = ended(&runners, sweep).await;
    assert_eq!(own.state, JobState::Cancelled);
    for job in &own.progress.jobs {
        let state = job.outcome.map(|own| own.state);
        assert_eq!(state, Some(JobState::Cancelled));
    }
    assert!(
        runners.handle.cancel_sweep(&owner, sweep).await.is_err(),
        "it has ended"
    );
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_sweep_finds_jobs_that_were_submitted_and_not_written_down() {
    let directory = tempfile::tempdir().expect("a directory");
    let outages = Outages::default();
    let bed = Bed::open_with(directory.path(), &outages).await;
    let owner = tenant("owner");
    let (_, dataset) = bed.fades(&owner, 8, 4).await;
    let runners = bed.run_with(Config {
        runners: 1,
        ..Config::default()
    });
    outages.set_fault("move_sweep", Some(Fault::Away));
    let sweep = runners
        .handle
        .submit_sweep(&owner, endless(&dataset), None)
        .await
        .expect("a sweep")
        .id;
    let jobs = async || {
        let page = PageRequest::new(1000, "").expect("a page");
        let listed = runners.handle.list(&owner, &page).await;
        listed.expect("jobs").items
    };
    until(async || jobs().await.len() == 4 && outages.calls("move_sweep") > 1).await;
    let asked = runners.handle.cancel_sweep(&owner, sweep).await;
    assert!(asked.expect("asked").progress.jobs.is_empty());
    outages.set_fault("move_sweep", None);
    let own = ended(&runners, sweep).await;
    assert_eq!(own.state, JobState::Cancelled);
    assert_eq!(own.progress.jobs.len(), 4);
    let states: Vec<JobState> = jobs().await.iter().map(|job| job.state).collect();
    assert_eq!(states, [JobState::Cancelled; 4]);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_no_validation_split_compares_have_no_best() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (_, dataset) = bed.fades(&owner, 8, 0).await;
    let runners = bed.run();
    let blind = SweepSpec {
        hyper_parameters: HyperParameters {
            epochs: Some(2),
            selection: Some(Selection {
                validation_share: Some(0.0),
                ..Selection::default()
            }),
            ..HyperParameters::default()
        },
        seeds: vec![3],
        halving: 0,
        ..spec(&dataset, "blind")
    };
    let sweep = runners.handle.submit_sweep(&owner, blind, None).await;
    let own = ended(&runners, sweep.expect("a sweep").id).await;
    let message = own.message.expect("a message");
    assert_eq!(own.state, JobState::Failed);
    assert!(
        message.contains("no job was evaluated on a validation split"),
        "{message}"
    );
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_fails_in_words_when_its_jobs_cannot_be_compared_or_made() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (_, dataset) = bed.fades(&owner, 8, 4).await;
    let runners = bed.run_with(Config {
        runners: 1,
        ..Config::default()
    });
    let submit = async |spec| runners.handle.submit_sweep(&owner, spec, None).await;
    // Another's task of the name.
    let shape = spec(&dataset, "taken").shapes.remove(0);
    let taken = NewTask {
        id: "taken-1".parse().expect("an id"),
        display_name: String::new(),
        adapter: shape.adapter,
        sampling: shape.sampling,
        auto_serve: true,
        auto_head: false,
    };
    let made = bed.parts.registry.create_task(&owner, taken, None).await;
    made.expect("a task");
    let sweep = submit(spec(&dataset, "taken")).await.expect("a sweep").id;
    let own = ended(&runners, sweep).await;
    let message = own.message.expect("a message");
    assert_eq!(own.state, JobState::Failed);
    assert!(message.contains("taken-1 exists already"), "{message}");
    // What cannot be right is refused at once.
    let refused = async |change: fn(&mut SweepSpec)| {
        let mut own = spec(&dataset, "never");
        change(&mut own);
        submit(own).await.expect_err("refused").to_string()
    };
    let nowhere = refused(|own| own.dataset = "nowhere".into()).await;
    assert!(nowhere.contains("nowhere"), "{nowhere}");
    let rate = refused(|own| own.points[1].learning_rate = Some(2.0)).await;
    assert!(
        rate.starts_with("learning_rate: expected above 0 to 1"),
        "{rate}"
    );
    let epochs = refused(|own| own.hyper_parameters.epochs = None).await;
    assert!(
        epochs.starts_with("epochs: 2 rounds of halving"),
        "{epochs}"
    );

    let small = bed.handle_with(Config {
        feature_bytes: 1,
        ..Config::default()
    });
    let large = small.submit_sweep(&owner, spec(&dataset, "never"), None);
    let large = large.await.expect_err("refused").to_string();
    assert!(
        large.contains("feature_bytes") && large.ends_with("(the shape of never-1)"),
        "{large}"
    );

    let sweep = submit(spec(&dataset, "changed")).await.expect("a sweep").id;
    let get = async || runners.handle.get_sweep(&owner, sweep).await.expect("it");
    until(async || !get().await.progress.jobs.is_empty()).await;
    let bytes = fade(77, true);
    let example = ExampleRecord {
        video: bed.upload(&owner, "late", &bytes).await,
        labels: "brighter".into(),
        split: Split::Train,
    };
    let library = &bed.parts.library;
    let added = library.add_examples(&owner, &dataset, &[example]).await;
    added.expect("added");
    let own = ended(&runners, sweep).await;
    let message = own.message.expect("a message");
    assert_eq!(own.state, JobState::Failed);
    assert!(message.contains("the data set was changed"), "{message}");
    let mut jobs = own.progress.jobs.iter();
    assert!(jobs.all(|job| job.outcome.is_some()), "they have stopped");
    runners.drain().await;
    bed.close().await;
}
