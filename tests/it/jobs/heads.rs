//! `head = auto`: heads without adapters are tried beside the adapters, and the best is published; and features of the validation split.

use std::collections::HashMap;

use frameshift::jobs::Config;
use frameshift::metadata::ExampleRecord;
use frameshift::model::Features;
use frameshift::spec::{
    AdapterConfig, BestBy, ClipSampling, Head, HyperParameters, JobState, Selection, SpatialViews,
    Split,
};

use super::bed::{
    ADAPTERS, Bed, backbone_config, compared, evaluations, hyper, losses, messages, painted,
};
use super::tenant;

#[tokio::test(flavor = "multi_thread")]
async fn of_heads_and_adapters_the_best_is_published_and_of_equals_the_cheapest() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let splits = [(Split::Train, 12), (Split::Validation, 8), (Split::Test, 4)];
    let (plain, dataset) = bed.fades_of(&owner, &splits, false).await;
    let auto = bed.task_of(&owner, "auto", (ADAPTERS, true)).await;
    let runners = bed.run();
    let train = async |task, learning_rate| {
        let hyper = HyperParameters {
            learning_rate: Some(learning_rate),
            ..hyper(3, 5)
        };
        let job = runners.submit(&owner, task, &dataset, hyper).await;
        let (job, events) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        (job, events)
    };
    // Adapters that cannot learn in so few, small steps.
    let (job, events) = train(&auto, 1e-9).await;
    let all = compared(&events);
    let frames = 4.try_into().expect("not 0");
    let heads: Vec<(Head, bool)> = all.iter().map(|own| (own.head, own.has_adapters)).collect();
    let expected = [
        (Head::Mean, false),
        (Head::Frames(frames), false),
        (Head::Conv, false),
        (Head::Attention(frames), false),
        (Head::Mean, true),
    ];
    assert_eq!(heads, expected);
    let published: Vec<_> = all.iter().filter(|own| own.is_published).collect();
    let [best] = published[..] else {
        panic!("one is published: {all:?}")
    };
    assert!(!best.has_adapters && best.top1 > all[4].top1, "{all:?}");
    let cheaper = all.iter().filter(|own| own.top1 >= best.top1);
    assert!(
        cheaper
            .map(|own| own.parameters)
            .all(|own| own >= best.parameters),
        "{all:?}"
    );
    let shape = AdapterConfig {
        head: best.head,
        ..AdapterConfig::LINEAR_PROBE
    };
    assert_eq!(bed.shape(&job).await, shape);
    let result = job.result.clone().expect("a result");
    assert_eq!(
        (result.parameters, result.step),
        (best.parameters, best.step)
    );
    assert_eq!(
        (result.evaluation.top1, result.evaluation.loss),
        (best.top1, best.loss)
    );
    assert_eq!(result.evaluation.examples, 8);
    assert_eq!(result.test.expect("test metrics").examples, 4);
    assert!(
        result
            .validation_curve
            .iter()
            .any(|point| point.step == result.step)
    );
    // The adapters train as they do alone. Events of steps come at most so often: each job may leave out others.
    let (_, alone) = train(&plain, 1e-9).await;
    let beside: HashMap<u64, f64> = losses(&events).into_iter().collect();
    let both: Vec<(f64, f64)> = losses(&alone)
        .iter()
        .filter_map(|(step, loss)| Some((*loss, *beside.get(step)?)))
        .collect();
    assert!(both.len() > 1, "{both:?}");
    assert!(
        both.iter().all(|(alone, beside)| alone == beside),
        "{both:?}"
    );
    assert!(compared(&alone).is_empty());
    // Again, with the same bits.
    let (again, repeated) = train(&auto, 1e-9).await;
    assert_eq!(compared(&repeated), all);
    assert!(bed.weights(&again).await == bed.weights(&job).await);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_single_frames_tell_the_labels_a_linear_probe_is_published() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let mut examples = Vec::new();
    for (split, count) in [(Split::Train, 8), (Split::Validation, 6)] {
        for i in 0..count {
            let share = 0.1 + 0.02 * i as f32 + 0.01 * count as f32;
            let (label, color) =
                [("red", [1.0, share, share]), ("blue", [share, share, 1.0])][i % 2];
            let name = format!("{split:?}-{i}");
            let video = bed.upload(&owner, &name, &painted(color, i % 4 < 2)).await;
            examples.push(ExampleRecord {
                video,
                labels: label.into(),
                split,
            });
        }
    }
    let dataset = bed.dataset(&owner, "colours", examples).await;
    let runners = bed.run();
    for (name, adapter) in [("auto", ADAPTERS), ("bare", AdapterConfig::LINEAR_PROBE)] {
        let auto = bed.task_of(&owner, name, (adapter, true)).await;
        let job = runners.submit(&owner, &auto, &dataset, hyper(12, 5)).await;
        let (job, events) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        let all = compared(&events);
        let probes = all
            .iter()
            .filter(|own| own.head.is_mean() && !own.has_adapters);
        let probes: Vec<_> = probes.collect();
        let [probe] = probes[..] else {
            panic!("one probe is compared: {all:?}")
        };
        assert_eq!(probe.top1, 1.0, "{all:?}");
        // Others are as good, and it has the fewest weights.
        assert!(probe.is_published, "{all:?}");
        assert_eq!(bed.shape(&job).await, AdapterConfig::LINEAR_PROBE, "{name}");
    }
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_validation_split_or_room_the_adapters_are_published() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (_, dataset) = bed.fades(&owner, 8, 0).await;
    let auto = bed.task_of(&owner, "auto", (ADAPTERS, true)).await;
    let told = async |config, validation_share| {
        let runners = bed.run_with(config);
        let selection = Selection {
            validation_share: Some(validation_share),
            ..Selection::default()
        };
        let hyper = HyperParameters {
            selection: Some(selection),
            ..hyper(1, 5)
        };
        let job = runners.submit(&owner, &auto, &dataset, hyper).await;
        let (job, events) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        assert_eq!(bed.shape(&job).await, ADAPTERS);
        runners.drain().await;
        messages(&events).join("\n")
    };
    let none = told(Config::default(), 0.0).await;
    assert!(
        none.contains("head = auto") && none.contains("no validation split"),
        "{none}"
    );
    let config = Config {
        feature_bytes: 1,
        ..Config::default()
    };
    let none = told(config, 0.5).await;
    assert!(
        none.contains("head = auto") && none.contains("has no room"),
        "{none}"
    );
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_whose_features_have_room_are_tried_without_the_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let splits = [(Split::Train, 12), (Split::Validation, 8)];
    let (_, dataset) = bed.fades_of(&owner, &splits, false).await;
    let four = 4.try_into().expect("not 0");
    let sampling = ClipSampling {
        spatial_views: SpatialViews::Three,
        ..ClipSampling::uniform(four)
    };
    let shape = (ADAPTERS, true, sampling);
    let auto = bed.task_sampling(&owner, "auto", shape).await;
    // Rows of three draws of each training clip, and of each view of a validation clip.
    let room = |head| {
        let row = 4 * Features::width(&backbone_config(), head, 4);
        (3 * 12 + 3 * 8) * row as u64
    };
    let mean = [Head::Mean];
    let frames = [Head::Mean, Head::Frames(four), Head::Conv];
    let every = [
        Head::Mean,
        Head::Frames(four),
        Head::Conv,
        Head::Attention(four),
    ];
    for (feature_bytes, heads) in [
        (room(Head::Attention(four)), &every[..]),
        (room(Head::Attention(four)) - 1, &frames),
        (room(Head::Frames(four)), &frames),
        (room(Head::Frames(four)) - 1, &mean),
    ] {
        let runners = bed.run_with(Config {
            feature_bytes,
            ..Config::default()
        });
        let job = runners.submit(&owner, &auto, &dataset, hyper(1, 5)).await;
        let (job, events) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        let tried = compared(&events).into_iter();
        let tried: Vec<Head> = tried
            .filter(|own| !own.has_adapters)
            .map(|own| own.head)
            .collect();
        assert_eq!(tried, heads, "{feature_bytes} bytes");
        runners.drain().await;
    }
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_from_features_have_the_bits_of_metrics_from_videos() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (_, dataset) = bed.fades(&owner, 6, 5).await;
    let frames = 4.try_into().expect("not 0");
    let heads = [
        Head::Mean,
        Head::Frames(frames),
        Head::Conv,
        Head::Attention(frames),
    ];
    for (number, head) in heads.into_iter().enumerate() {
        let adapter = AdapterConfig {
            head,
            ..AdapterConfig::LINEAR_PROBE
        };
        let task = bed.task(&owner, &format!("head-{number}"), adapter).await;
        let backbone = bed.parts.backbone.config();
        let width = frameshift::model::Features::width(backbone, head, 4) as u64;
        let draws = if head.is_mean() { 1 } else { 3 };
        let mut seen = Vec::new();
        // Room for the features of both splits, and of the training split alone.
        for rows in [6 * draws + 5, 6 * draws] {
            let runners = bed.run_with(Config {
                feature_bytes: rows * width * 4,
                ..Config::default()
            });
            let selection = Selection {
                best_by: Some(BestBy::Loss),
                ..Selection::default()
            };
            let hyper = HyperParameters {
                selection: Some(selection),
                ..hyper(3, 2)
            };
            let calls = bed.parts.backbone.frozen_linear_calls();
            let job = runners.submit(&owner, &task, &dataset, hyper).await;
            let (job, events) = runners.end(&owner, job).await;
            let spent = bed.parts.backbone.frozen_linear_calls() - calls;
            let looks: Vec<(u64, u64, u64)> = evaluations(&events)
                .iter()
                .map(|own| (own.step, own.loss.to_bits(), own.top1.to_bits()))
                .collect();
            assert_eq!(looks.len(), 3, "{head}");
            let result = job.result.clone().expect("a result");
            seen.push((looks, result.evaluation, bed.weights(&job).await, spent));
            runners.drain().await;
        }
        let [(with, with_calls), (without, without_calls)] =
            [&seen[0], &seen[1]].map(|own| ((&own.0, &own.1, &own.2), own.3));
        assert!(with == without, "{head}");
        assert!(
            with_calls < without_calls,
            "{head}: {with_calls} {without_calls}"
        );
    }
    bed.close().await;
}
