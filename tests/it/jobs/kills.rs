//! A process that dies by SIGKILL at any moment of a job: the next one publishes what an undisturbed run publishes.
//!
//! `FRAMESHIFT_KILLS=200` kills as often; without it, 20 times.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use frameshift::ids::JobId;
use frameshift::metadata::JobRecord;
use frameshift::rng::Stream;
use frameshift::spec::{HyperParameters, JobState, Split};

use super::bed::{ADAPTERS, Bed, hyper};
use super::crash::child;
use super::{Weights, tenant};

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
        ..hyper(4, 5)
    }
}

/// What a job published: its weights, and its record without what differs between runs.
async fn published(bed: &Bed, job: &JobRecord) -> (Weights, String) {
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    let mut result = job.result.clone().expect("a result");
    (result.version, result.training_micros) = (0, 0);
    let shape = bed.shape(job).await;
    (bed.weights(job).await, format!("{shape:?} {result:?}"))
}

/// Lets a child work on the job, and kills it after this time unless the job has ended before.
async fn kill_after(directory: &Path, job: JobId, span: Duration) {
    let mut child = tokio::process::Command::from(child(directory, job, NEVER));
    let child = child.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.spawn().expect("a child");
    if tokio::time::timeout(span, child.wait()).await.is_err() {
        child.kill().await.expect("killed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_killed_at_any_moment_publishes_the_same_bits() {
    let kills = std::env::var("FRAMESHIFT_KILLS").ok();
    let kills: u32 = kills.map_or(20, |kills| kills.parse().expect("a number of kills"));
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
    let mut interrupted = 0;
    for kill in 0..kills {
        let handle = bed.handle();
        let submit = handle.submit(&owner, &task, &dataset, submitted(), None);
        let job = submit.await.expect("a job").id;
        drop(handle);
        bed.close().await;
        let span = (START + took).mul_f32(moments.unit());
        kill_after(directory.path(), job, span).await;
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
    }
    bed.close().await;
    assert!(
        interrupted > 0,
        "no job was killed while a process worked on it"
    );
}
