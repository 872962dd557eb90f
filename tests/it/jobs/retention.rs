//! The newest checkpoints of a job and its best one: which are kept, and how a job goes on when some of them cannot be read.

use std::path::{Path, PathBuf};

use frameshift::metadata::{CheckpointRecord, JobRecord};
use frameshift::spec::{BestBy, HyperParameters, JobState, Selection, Split};

use super::bed::{Bed, hyper, messages};
use super::crash::kill;
use super::{Weights, tenant};
use crate::shared::files_below;

/// Two steps an epoch, with an evaluation after each; a checkpoint every third step, of which the newest two are kept.
fn submitted() -> HyperParameters {
    HyperParameters {
        selection: Some(Selection {
            best_by: Some(BestBy::Loss),
            patience: Some(0),
            ..Selection::default()
        }),
        checkpoint_steps: Some(3),
        keep_checkpoints: Some(2),
        ..hyper(10, 5)
    }
}

/// The files of checkpoints in a store.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = files_below(&directory.join("blobs"));
    let name = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("checkpoint-"))
    };
    found.retain(name);
    found.sort();
    found
}

fn file(directory: &Path, checkpoint: &CheckpointRecord) -> PathBuf {
    directory.join("blobs").join(&checkpoint.key)
}

/// Kills a job within its step 14, does something to what it kept, and lets it end. Returns its record of between, of the end, what its owner was told after
/// the kill, its weights and those of an undisturbed run.
async fn interrupted(
    spoil: impl Fn(&Path, &JobRecord),
) -> (JobRecord, JobRecord, Vec<String>, Weights, Weights) {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let owner = tenant("owner");
    let bed = Bed::open(directory).await;
    let splits = [(Split::Train, 8), (Split::Validation, 2)];
    // The validation clips have the other label, so that the first evaluation is the best.
    let (task, dataset) = bed.fades_of(&owner, &splits, true).await;
    let submit = async |bed: &Bed| {
        let handle = bed.handle();
        let job = handle.submit(&owner, &task, &dataset, submitted(), None);
        job.await.expect("a job").id
    };
    let job = submit(&bed).await;
    bed.close().await;
    kill(directory, job, "mid-step:14").await;

    let bed = Bed::open(directory).await;
    let between = bed.handle().get(&owner, job).await.expect("the job");
    let mut kept: Vec<PathBuf> = between
        .checkpoints()
        .map(|own| file(directory, own))
        .collect();
    kept.sort();
    assert_eq!(
        files(directory),
        kept,
        "the store has what the record names"
    );
    spoil(directory, &between);
    let runners = bed.run();
    let (ended, events) = runners.end(&owner, job).await;
    assert_eq!(ended.state, JobState::Succeeded, "{:?}", ended.message);
    let again = submit(&bed).await;
    let (undisturbed, _) = runners.end(&owner, again).await;
    let weights = (bed.weights(&ended).await, bed.weights(&undisturbed).await);
    runners.drain().await;
    bed.close().await;
    assert_eq!(
        files(directory),
        Vec::<PathBuf>::new(),
        "nothing outlives a job"
    );
    let about = |text: &&str| text.contains("checkpoint") || text.starts_with("training goes on");
    let told = messages(&events).into_iter().filter(about);
    let told = told.map(str::to_owned).collect();
    (between, ended, told, weights.0, weights.1)
}

fn steps(job: &JobRecord) -> Vec<(u64, bool)> {
    job.checkpoints()
        .map(|own| (own.step, own.is_best))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_checkpoints_and_the_best_one_are_kept_until_the_job_ends() {
    let (between, ended, told, weights, undisturbed) = interrupted(|_, _| {}).await;
    let best = ended.result.expect("a result").step;
    // No checkpoint is due after the best evaluation.
    assert!(best < 9 && best % 3 != 0, "{best}");
    assert_eq!(steps(&between), [(12, false), (9, false), (best, true)]);
    assert_eq!(told, ["training goes on after step 12"]);
    assert!(weights == undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_from_the_newest_checkpoint_that_can_be_read() {
    let spoil = |directory: &Path, job: &JobRecord| {
        let newest = file(directory, job.checkpoint.as_ref().expect("a checkpoint"));
        let bytes = std::fs::read(&newest).expect("read");
        std::fs::write(&newest, &bytes[..bytes.len() / 2]).expect("cut");
        std::fs::remove_file(file(directory, &job.earlier[0])).expect("removed");
    };
    let (between, ended, told, weights, undisturbed) = interrupted(spoil).await;
    let best = between.earlier[1].step;
    let begins = [
        "the checkpoint of step 12 cannot be used, that of step 9 is tried".to_owned(),
        format!("the checkpoint of step 9 cannot be used, that of step {best} is tried"),
        format!("training goes on after step {best}"),
    ];
    assert_eq!(told.len(), begins.len(), "{told:?}");
    for (own, begin) in told.iter().zip(begins) {
        assert!(own.starts_with(&begin), "{told:?}");
    }
    assert_eq!(ended.attempts, 2);
    assert!(weights == undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_a_checkpoint_that_can_be_read_starts_anew() {
    let spoil = |directory: &Path, job: &JobRecord| {
        for own in job.checkpoints() {
            std::fs::write(file(directory, own), b"nothing").expect("spoilt");
        }
    };
    let (between, _, told, weights, undisturbed) = interrupted(spoil).await;
    let last = told.last().expect("a word");
    assert_eq!(told.len(), 3, "{told:?}");
    let best = between.earlier[1].step;
    let begin = format!("the checkpoint of step {best} cannot be used, training starts anew");
    assert!(last.starts_with(&begin), "{last}");
    assert!(weights == undisturbed);
}
