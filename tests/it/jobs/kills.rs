//! A process that dies by SIGKILL at any moment of a job or of a sweep: those after it publish what an undisturbed run publishes.
//!
//! `FRAMESHIFT_KILLS=200` kills as often; without it, 20 times over jobs and 6 times over sweeps.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use frameshift::ids::DatasetId;
use frameshift::metadata::{JobRecord, JobTimes, SweepRecord, SweepSpec};
use frameshift::rng::Stream;
use frameshift::spec::{HyperParameters, JobState, Split};

use super::bed::{ADAPTERS, Bed, hyper};
use super::crash::{child, child_of_sweep};
use super::sweep::{ended, found, spec};
use super::{Weights, tenant};
use crate::server::until;

/// A crash point that no job passes so often.
const NEVER: &str = "mid-step:4000000000";
/// How long a process takes until it works on the job.
const START: Duration = Duration::from_millis(1500);

/// A job with evaluations, heads that are tried, mixed clips and balanced labels.
fn submitted() -> HyperParameters {
    HyperParameters {
        mixup: Some(0.4),
        balanced_sampling: Some(true),
        checkpoint_steps: Some(3),
        keep_checkpoints: Some(2),
        ..hyper(4, 5)
    }
}

/// What a job published: its weights, and its record without what differs between runs.
async fn published(bed: &Bed, job: &JobRecord) -> (Weights, String) {
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    let mut result = job.result.clone().expect("a result");
    (result.version, result.training_micros) = (0, 0);
    result.times = JobTimes::default();
    let shape = bed.shape(job).await;
    (bed.weights(job).await, format!("{shape:?} {result:?}"))
}

/// How often processes are killed.
fn kills(otherwise: u32) -> u32 {
    let kills = std::env::var("FRAMESHIFT_KILLS").ok();
    kills.map_or(otherwise, |kills| kills.parse().expect("a number of kills"))
}

/// Lets a child work, and kills it after this time unless it has ended before.
async fn kill_after(child: Command, span: Duration) {
    let mut child = tokio::process::Command::from(child);
    let child = child.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.spawn().expect("a child");
    if tokio::time::timeout(span, child.wait()).await.is_err() {
        child.kill().await.expect("killed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_killed_at_any_moment_publishes_the_same_bits() {
    let kills = kills(20);
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let mut bed = Bed::open(directory.path()).await;
    let splits = [(Split::Train, 7), (Split::Validation, 4), (Split::Test, 2)];
    let (_, dataset) = bed.fades_of(&owner, &splits, false).await;
    let task = bed.task_of(&owner, "auto", (ADAPTERS, true)).await;
    let runners = bed.run();
    let began = Instant::now();
    let job = runners.submit(&owner, &task, &dataset, submitted()).await;
    let (job, _) = runners.end(&owner, job).await;
    let (took, expected) = (began.elapsed(), published(&bed, &job).await);
    runners.drain().await;
    let mut moments = Stream::new(17, "moments");
    let (mut kill, mut interrupted, mut most) = (0, 0, START + took);
    // On a machine that is slow to start a process, kills go on, later and later, until one has hit a process that works.
    while kill < kills || (interrupted == 0 && kill < kills + 8) {
        let handle = bed.handle();
        let submit = handle.submit(&owner, &task, &dataset, submitted(), None);
        let job = submit.await.expect("a job").id;
        drop(handle);
        bed.close().await;
        if kill >= kills {
            most *= 2;
        }
        let span = most.mul_f32(moments.unit());
        kill_after(child(directory.path(), job, NEVER), span).await;
        bed = Bed::open(directory.path()).await;
        let runners = bed.run();
        let (job, _) = runners.end(&owner, job).await;
        interrupted += u32::from(job.attempts > 1);
        let got = published(&bed, &job).await;
        assert!(
            got == expected,
            "kill {kill} after {span:?}: {} {}",
            got.1,
            expected.1
        );
        runners.drain().await;
        kill += 1;
    }
    bed.close().await;
    assert!(
        interrupted > 0,
        "no job was killed while a process worked on it"
    );
}

/// Heads alone and adapters, with evaluations, in two rounds.
fn sweep_of(dataset: &DatasetId, prefix: &str) -> SweepSpec {
    let mut spec = spec(dataset, prefix);
    spec.hyper_parameters.epochs = Some(4);
    spec.hyper_parameters.checkpoint_steps = Some(2);
    spec.shapes[0].adapter = ADAPTERS;
    spec.seeds = vec![3, 4];
    spec
}

/// Jobs of a sweep that have ended.
fn done(sweep: &SweepRecord) -> usize {
    let jobs = sweep.progress.jobs.iter();
    jobs.filter(|own| own.outcome.is_some()).count()
}

/// What each job of a sweep published, by its round, point and seed.
async fn published_by(
    bed: &Bed,
    sweep: &SweepRecord,
) -> BTreeMap<(u32, usize, u64), (Weights, String)> {
    assert_eq!(sweep.state, JobState::Succeeded, "{:?}", sweep.message);
    let mut all = BTreeMap::new();
    for own in &sweep.progress.jobs {
        let id = own.job.parse().expect("an id");
        let job = bed.parts.metadata.get_job(&sweep.tenant, id).await;
        let of = (own.round, own.point, own.seed);
        let before = all.insert(of, published(bed, &job.expect("a job")).await);
        assert!(before.is_none(), "a job was made twice");
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_is_killed_at_any_moments_publishes_the_same_bits() {
    let mut left = kills(6);
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let mut bed = Bed::open(directory.path()).await;
    let (_, dataset) = bed.fades(&owner, 8, 4).await;
    let submit = async |bed: &Bed, prefix: &str| {
        let spec = sweep_of(&dataset, prefix);
        let submitted = bed.handle().submit_sweep(&owner, spec, None).await;
        submitted.expect("a sweep").id
    };
    let whole = submit(&bed, "whole").await;
    let runners = bed.run();
    let began = Instant::now();
    let whole = ended(&runners, whole).await;
    let took = began.elapsed();
    let expected = published_by(&bed, &whole).await;
    runners.drain().await;
    let mut moments = Stream::new(19, "moments");
    let mut number = 0;
    while left > 0 {
        number += 1;
        let sweep = submit(&bed, &format!("cut-{number}")).await;
        // After each kill, a job ends: one that is killed twice at one place would be taken for the cause.
        let mut is_open = true;
        while is_open && left > 0 {
            bed.close().await;
            let span = START + took.mul_f32(0.5 * moments.unit());
            let child = child_of_sweep(directory.path(), sweep, NEVER);
            kill_after(child, span).await;
            left -= 1;
            bed = Bed::open(directory.path()).await;
            let metadata = Arc::clone(&bed.parts.metadata);
            let get = async || metadata.get_sweep(&owner, sweep).await.expect("it");
            let before = done(&get().await);
            let runners = bed.run();
            until(async || {
                let now = get().await;
                now.state.is_final() || done(&now) > before
            })
            .await;
            runners.drain().await;
            is_open = !get().await.state.is_final();
        }
        let runners = bed.run();
        let cut = ended(&runners, sweep).await;
        assert_eq!(found(&cut), found(&whole), "sweep {number}");
        let got = published_by(&bed, &cut).await;
        assert!(got == expected, "sweep {number} published other bits");
        runners.drain().await;
    }
    bed.close().await;
}
