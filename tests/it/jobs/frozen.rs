//! Tokens after the frozen blocks below a job's adapters are kept from one epoch to the next.

use frameshift::jobs::Config;
use frameshift::spec::{AdapterConfig, HyperParameters, JobState};

use super::bed::{ADAPTERS, Bed, hyper};
use super::tenant;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_keeps_tokens_of_its_frames_publishes_the_weights_of_one_that_does_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (_, dataset) = bed.fades(&owner, 8, 4).await;
    // In the last of the two blocks alone, so that the first one is frozen.
    let late = AdapterConfig {
        adapter_layers: 1.try_into().ok(),
        adapter_pre_attn: true,
        ..ADAPTERS
    };
    let task = bed.task(&owner, "late", late).await;
    let mut weights = Vec::new();
    for clip_cache_bytes in [0, 1 << 20, Config::default().clip_cache_bytes] {
        let runners = bed.run_with(Config {
            clip_cache_bytes,
            ..Config::default()
        });
        let hyper = HyperParameters {
            min_crop_area: Some(1.0),
            horizontal_flip: Some(false),
            dropout: Some(0.5),
            ..hyper(6, 3)
        };
        let submitted = runners.handle.submit(&owner, &task, &dataset, hyper, None);
        let id = submitted.await.expect("a job").id;
        let (job, _) = runners.end(&owner, id).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        weights.push(bed.weights(&job).await);
        runners.drain().await;
    }
    assert!(weights[0] == weights[1] && weights[0] == weights[2]);
    bed.close().await;
}
