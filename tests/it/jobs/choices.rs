//! What a job chooses by itself is told, each choice in an event of its own with its reason.

use frameshift::spec::{HyperParameters, JobState, Publish, Selection};

use super::bed::{Bed, hyper, messages};
use super::tenant;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_tells_each_of_its_choices_and_nothing_of_what_was_submitted() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 9, 2).await;
    let runners = bed.run();
    let chosen = async |hyper: HyperParameters| {
        let job = runners.submit(&owner, &task, &dataset, hyper).await;
        let (job, events) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        let told = messages(&events).into_iter();
        let told = told.filter(|text| text.starts_with("chosen: "));
        (job, told.map(str::to_owned).collect::<Vec<_>>())
    };
    let (job, told) = chosen(HyperParameters {
        max_steps: Some(2),
        ..HyperParameters::default()
    })
    .await;
    let begins = [
        "chosen: the last weights are published, and training does not stop early: 2 validation clips do not tell which epoch is the best",
        "chosen: adapters of width 16: half of the backbone's width (32)",
        "chosen: 2 steps of 4 or 5 clips an epoch: 9 training clips divided equally into batches of at most 8",
        "chosen: 40 epochs, 80 steps: about 250 within 4 to 40 epochs",
        "chosen: learning rate 0.004: that of adapters under the paper's head for batches of 8 clips, doubled for adapters of width 16",
        "chosen: warm-up 0 steps: a tenth of all",
        "chosen: no dropout: fewer than 512 clips",
    ];
    assert_eq!(told.len(), begins.len(), "{told:?}");
    for (own, begin) in told.iter().zip(begins) {
        assert!(own.starts_with(begin), "{own}");
    }
    let used = job.hyper_parameters;
    assert_eq!((used.batch_size, used.learning_rate), (Some(8), Some(4e-3)));
    let (_, told) = chosen(HyperParameters {
        batch_size: Some(3),
        warmup_share: Some(0.2),
        dropout: Some(0.0),
        selection: Some(Selection {
            publish: Some(Publish::Best),
            ..Selection::default()
        }),
        ..hyper(1, 5)
    })
    .await;
    assert_eq!(told.len(), 1, "only the width is not the job's: {told:?}");
}
