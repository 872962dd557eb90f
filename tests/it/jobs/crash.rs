//! A process that dies by SIGKILL in the middle of a job: the next one ends with the weights of the undisturbed run.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use frameshift::faults;
use frameshift::ids::{DatasetId, JobId, SweepId, TaskId};
use frameshift::metadata::{EARLY_STOPPED, JobRecord, PROCESS_LOST};
use frameshift::spec::{BestBy, HyperParameters, JobState, Selection, Split};

use super::bed::{Bed, hyper, messages, states};
use super::{Weights, tenant};
use crate::processes::{LONGEST, output_within};

/// Tells the test below that it is the child, and what it works on.
const DIRECTORY: &str = "FRAMESHIFT_TEST_CRASH_DIRECTORY";
const JOB: &str = "FRAMESHIFT_TEST_CRASH_JOB";
const SWEEP: &str = "FRAMESHIFT_TEST_CRASH_SWEEP";
const POINT: &str = "FRAMESHIFT_TEST_CRASH_POINT";

/// Not a test of its own: the process that the tests below kill.
#[tokio::test(flavor = "multi_thread")]
async fn child_of_the_crash_tests() {
    let (Some(directory), Ok(point)) = (std::env::var_os(DIRECTORY), std::env::var(POINT)) else {
        return;
    };
    faults::arm(point.parse().expect("a crash point"));
    let bed = Bed::open(&PathBuf::from(directory)).await;
    let runners = bed.run();
    if let Ok(job) = std::env::var(JOB) {
        let job = job.parse().expect("a job");
        runners.end(&tenant("owner"), job).await;
    } else if let Ok(sweep) = std::env::var(SWEEP) {
        super::sweep::ended(&runners, sweep.parse().expect("a sweep")).await;
    }
}

/// A child that works on the job until it kills itself at `point`.
pub(super) fn child(directory: &Path, job: JobId, point: &str) -> Command {
    let mut child = idle(directory, point);
    child.env(JOB, job.to_string());
    child
}

/// A child that works on the sweep until it kills itself at `point`.
pub(super) fn child_of_sweep(directory: &Path, sweep: SweepId, point: &str) -> Command {
    let mut child = idle(directory, point);
    child.env(SWEEP, sweep.to_string());
    child
}

fn idle(directory: &Path, point: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child
        .args([
            "--exact",
            "jobs::crash::child_of_the_crash_tests",
            "--nocapture",
        ])
        .env(DIRECTORY, directory)
        .env(POINT, point)
        .stdin(Stdio::null());
    child
}

/// Starts a child that works on the job until it kills itself at `point`.
pub(super) async fn kill(directory: &Path, job: JobId, point: &str) {
    let mut child = tokio::process::Command::from(child(directory, job, point));
    let output = output_within(LONGEST, &mut child).await;
    let signal = output.status.signal();
    assert_eq!(
        signal,
        Some(9),
        "{point}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Kills a child at `point`, then goes on. Returns the job, what its owner was told, its weights and those of an undisturbed run.
async fn crash(point: &str) -> (JobRecord, Vec<String>, Weights, Weights) {
    crash_of(point, || hyper(10, 5), false).await
}

/// The clips of the jobs that are killed.
const SPLITS: [(Split, u64); 3] = [(Split::Train, 8), (Split::Validation, 2), (Split::Test, 2)];

/// As [`crash`], with other hyper-parameters, on a data set whose validation clips may have the other label.
async fn crash_of(
    point: &str,
    hyper: impl Fn() -> HyperParameters,
    is_swapped: bool,
) -> (JobRecord, Vec<String>, Weights, Weights) {
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let bed = Bed::open(directory.path()).await;
    let (task, dataset) = bed.fades_of(&owner, &SPLITS, is_swapped).await;
    let handle = bed.handle();
    let submit = handle.submit(&owner, &task, &dataset, hyper(), None);
    let job = submit.await.expect("a job").id;
    drop(handle);
    bed.close().await;

    kill(directory.path(), job, point).await;

    let bed = Bed::open(directory.path()).await;
    let runners = bed.run();
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{point}: {:?}", job.message);
    let again = runners.submit(&owner, &task, &dataset, hyper()).await;
    let (undisturbed, _) = runners.end(&owner, again).await;
    let weights = (bed.weights(&job).await, bed.weights(&undisturbed).await);
    runners.drain().await;
    bed.close().await;
    let (attempt, stop) = (job.step, undisturbed.step);
    assert_eq!(attempt, stop, "both end at one step");
    // What the validation split says is told, too.
    let told = messages(&events).into_iter();
    let told = told.filter(|text| text.starts_with("training goes on"));
    let told = told.map(String::from).collect();
    (job, told, weights.0, weights.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_killed_before_its_first_checkpoint_starts_anew() {
    let (job, told, weights, undisturbed) = crash("mid-step:3").await;
    assert_eq!((job.attempts, told.len()), (2, 0));
    assert!(weights == undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_killed_within_a_step_goes_on_from_its_checkpoint() {
    let (job, told, weights, undisturbed) = crash("mid-step:13").await;
    assert_eq!(
        (job.attempts, told),
        (2, vec!["training goes on after step 10".into()])
    );
    assert!(weights == undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_killed_after_a_checkpoint_goes_on_from_it() {
    let (job, told, weights, undisturbed) = crash("checkpoint-written:2").await;
    assert_eq!(
        (job.attempts, told),
        (2, vec!["training goes on after step 10".into()])
    );
    assert!(weights == undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_killed_while_publishing_publishes_once() {
    let (job, told, weights, undisturbed) = crash("publish").await;
    assert_eq!(
        (job.attempts, told),
        (2, vec!["training goes on after step 20".into()])
    );
    assert_eq!(job.result.map(|result| result.version), Some(1));
    assert!(weights == undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_killed_after_its_publication_measures_its_test_split_and_publishes_once() {
    let (job, told, weights, undisturbed) = crash("version-published").await;
    assert_eq!(
        (job.attempts, told.len()),
        (2, 0),
        "nothing is trained again"
    );
    let result = job.result.expect("a result");
    assert_eq!(result.version, 1);
    let test = result.test.expect("test metrics");
    assert_eq!((test.examples, test.problem), (2, None));
    assert!(weights == undisturbed);
}

/// Evaluates every epoch of two steps, and stops after three evaluations without progress, of 60 epochs.
fn impatient() -> HyperParameters {
    HyperParameters {
        selection: Some(Selection {
            best_by: Some(BestBy::Loss),
            patience: Some(3),
            ..Selection::default()
        }),
        checkpoint_steps: Some(3),
        ..hyper(60, 5)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_killed_between_evaluations_stops_at_the_same_step_and_publishes_the_same_weights() {
    for point in ["mid-step:4", "mid-step:6", "checkpoint-written:2"] {
        let (job, told, weights, undisturbed) = crash_of(point, impatient, true).await;
        assert_eq!(job.reason.as_deref(), Some(EARLY_STOPPED), "{point}");
        assert_eq!((job.attempts, told.len()), (2, 1), "{point}: {told:?}");
        let result = job.result.expect("a result");
        assert!(
            result.step < job.step && job.step < job.total_steps,
            "{point}"
        );
        assert_eq!(result.validation_curve.len() as u64, job.step / 2);
        assert!(weights == undisturbed, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_its_process_twice_at_one_step_is_failed_and_others_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let owner = tenant("owner");
    let bed = Bed::open(directory.path()).await;
    let (task, dataset) = bed.fades(&owner, 8, 2).await;
    let job = submit(&bed, &task, &dataset).await;
    bed.close().await;
    for _ in 0..2 {
        kill(directory.path(), job, "mid-step:1").await;
    }
    let bed = Bed::open(directory.path()).await;
    let innocent = submit(&bed, &task, &dataset).await;
    let runners = bed.run();
    let (job, events) = runners.end(&owner, job).await;
    assert_eq!(
        (job.state, job.reason.as_deref(), job.attempts),
        (JobState::Failed, Some(PROCESS_LOST), 2)
    );
    let message = job.message.expect("a message");
    assert!(message.contains("at step 0"), "{message}");
    assert_eq!(states(&events).last(), Some(&JobState::Failed));
    let (innocent, _) = runners.end(&owner, innocent).await;
    assert_eq!(
        innocent.state,
        JobState::Succeeded,
        "{:?}",
        innocent.message
    );
    runners.drain().await;
    bed.close().await;
}

async fn submit(bed: &Bed, task: &TaskId, dataset: &DatasetId) -> JobId {
    let (handle, owner) = (bed.handle(), tenant("owner"));
    let submit = handle.submit(&owner, task, dataset, hyper(2, 5), None);
    submit.await.expect("a job").id
}
