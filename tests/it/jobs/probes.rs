//! Jobs without adapters: a linear probe, and heads that read the order of frames.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_without_adapters_trains_a_linear_probe() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (_, dataset) = bed.fades(&owner, 8, 4).await;
    let probe = bed.task(&owner, "probe", AdapterConfig::LINEAR_PROBE).await;
    let runners = bed.run();
    let calls = bed.parts.backbone.frozen_linear_calls();
    let hyper = HyperParameters {
        // One evaluation, at the end.
        selection: Some(Selection {
            eval_every: Some(0),
            ..Selection::default()
        }),
        ..hyper(40, 1)
    };
    let job = runners
        .handle
        .submit(&owner, &probe, &dataset, hyper, None)
        .await
        .expect("a job");
    let (job, _) = runners.end(&owner, job.id).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    let spent = bed.parts.backbone.frozen_linear_calls() - calls;
    let result = job.result.clone().expect("a result");
    assert_eq!(result.parameters, 2 * 32 + 2);
    assert!(bed.weights(&job).await.keys().eq(["fc.bias", "fc.weight"]));
    // 80 steps, but the backbone ran for one group of training clips, one of validation clips, and one of all clips to see what they look like.
    assert!(spent <= 3 * 20, "{spent} calls of frozen layers");
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_on_frames_learn_order_without_adapters_where_a_linear_probe_guesses() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    // Clips that become darker are the reverses of those that become brighter.
    let (_, dataset) = bed.fades(&owner, 12, 8).await;
    let runners = bed.run();
    let frames = Head::Frames(4.try_into().expect("not 0"));
    let attention = Head::Attention(4.try_into().expect("not 0"));
    let heads = [
        ("mean", Head::Mean),
        ("frames", frames),
        ("conv", Head::Conv),
        ("attention", attention),
    ];
    for (name, head) in heads {
        let adapter = AdapterConfig {
            head,
            ..AdapterConfig::LINEAR_PROBE
        };
        let task = bed.task(&owner, name, adapter).await;
        let calls = bed.parts.backbone.frozen_linear_calls();
        let job = runners.submit(&owner, &task, &dataset, hyper(40, 1)).await;
        let (job, _) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{name}: {:?}", job.message);
        let spent = bed.parts.backbone.frozen_linear_calls() - calls;
        // 120 steps, but the backbone ran for three groups of training clips and one of validation clips.
        assert!(spent <= 4 * 20, "{name}: {spent} calls of frozen layers");
        let top1 = job.result.as_ref().expect("a result").evaluation.top1;
        match head.is_mean() {
            true => assert!(top1 <= 0.75, "{name}: {top1}"),
            false => assert_eq!(top1, 1.0, "{name}"),
        }
        let weights = bed.weights(&job).await;
        let prefix = format!("head.{name}.");
        let is_own = |weight: &String| weight.starts_with(&prefix);
        assert_eq!(weights.keys().all(is_own), !head.is_mean(), "{name}");
    }
    // With adapters below, the same head trains on decoded clips.
    let adapter = AdapterConfig {
        head: frames,
        ..ADAPTERS
    };
    let task = bed.task(&owner, "both", adapter).await;
    let job = runners.submit(&owner, &task, &dataset, hyper(12, 1)).await;
    let (job, _) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    assert_eq!(job.result.as_ref().expect("a result").evaluation.top1, 1.0);
    let weights = bed.weights(&job).await;
    assert!(weights.contains_key("head.frames.fc.weight"));
    assert!(weights.keys().any(|name| name.contains("adapter_pre_mlp")));
    runners.drain().await;
    bed.close().await;
}
