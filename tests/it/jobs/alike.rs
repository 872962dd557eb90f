//! Videos with almost the same pictures: found before training, told with their names, held out together, and looked at once for all jobs.

use frameshift::ids::{DatasetId, VideoId};
use frameshift::library::FindingKind;
use frameshift::metadata::{ExampleRecord, Outages};
use frameshift::rng::Stream;
use frameshift::spec::{HyperParameters, JobState, Selection, Split};
use frameshift::video::encode;

use super::bed::{ADAPTERS, Bed, SIDE, hyper, messages};
use super::tenant;

/// A video of random blocks; another brightness of the first one makes other bytes and almost the same pictures.
fn blocks(number: u64, brightness: u8) -> Vec<u8> {
    let format = encode::Format::Lossless;
    let mut encoder = encode::Encoder::new(format, SIDE, SIDE, 12).expect("an encoder");
    let mut stream = Stream::new(number, "blocks");
    let colors: Vec<[u8; 3]> = (0..16)
        .map(|_| std::array::from_fn(|_| stream.range(20.0, 220.0) as u8))
        .collect();
    for frame in 0..12_u8 {
        let pixels = (0..SIDE * SIDE).flat_map(|pixel| {
            let (x, y) = (pixel % SIDE, pixel / SIDE);
            let block = (4 * (y / 8) + x / 8) as usize;
            let more = if block == 0 { brightness } else { 0 };
            colors[block].map(|own| own + more + frame)
        });
        encoder
            .push(&pixels.collect::<Vec<u8>>())
            .expect("a picture");
    }
    encoder.finish().expect("a video")
}

/// A data set of such videos: of each its number, its brightness and its split; labels take turns by the number.
async fn dataset(bed: &Bed, name: &str, videos: &[(u64, u8, Split)]) -> (DatasetId, Vec<VideoId>) {
    let owner = tenant("owner");
    let mut examples = Vec::new();
    for (number, brightness, split) in videos {
        let bytes = blocks(*number, *brightness);
        examples.push(ExampleRecord {
            video: bed
                .upload(&owner, &format!("{number}-{brightness}"), &bytes)
                .await,
            labels: ["even", "odd"][(*number % 2) as usize].into(),
            split: *split,
        });
    }
    let ids = examples.iter().map(|own| own.video).collect();
    (bed.dataset(&owner, name, examples).await, ids)
}

fn submitted(near_duplicates: bool) -> HyperParameters {
    HyperParameters {
        selection: Some(Selection {
            validation_share: Some(0.5),
            near_duplicates: Some(near_duplicates),
            ..Selection::default()
        }),
        ..hyper(1, 5)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn near_duplicates_across_splits_are_told_and_every_video_is_looked_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let outages = Outages::default();
    let bed = Bed::open_with(directory.path(), &outages).await;
    let owner = tenant("owner");
    let mut videos: Vec<(u64, u8, Split)> = (0..16).map(|n| (n, 0, Split::Train)).collect();
    videos.extend((16..20).map(|n| (n, 0, Split::Validation)));
    // Almost the pictures of training clips 3 and 6.
    videos.push((3, 1, Split::Validation));
    videos.push((6, 2, Split::Test));
    videos.push((21, 0, Split::Test));
    let (dataset, ids) = dataset(&bed, "blocks", &videos).await;
    let task = bed.task(&owner, "blocks", ADAPTERS).await;
    let runners = bed.run();
    let check = async || {
        let library = &bed.parts.library;
        let digest = library
            .snapshot(&owner, &dataset)
            .await
            .expect("one")
            .digest;
        let sketches = runners.handle.sketches();
        library
            .check(&owner, digest, sketches)
            .await
            .expect("checked")
    };
    let before = check().await;
    assert_eq!((before.examples, before.unseen), (23, 23));
    let kind = FindingKind::NearDuplicateAcrossSplits;
    assert!(before.findings.iter().all(|own| own.kind != kind));

    let train = async |near_duplicates| {
        let hyper = submitted(near_duplicates);
        let job = runners.submit(&owner, &task, &dataset, hyper).await;
        let (job, events) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        messages(&events).join("\n")
    };
    let told = train(false).await;
    assert!(!told.contains("almost the same pictures"), "{told}");
    assert_eq!(outages.calls("remember_sketches"), 0);
    let told = train(true).await;
    let found = check().await;
    assert_eq!(found.unseen, 0);
    let own = found.findings.iter().find(|own| own.kind == kind);
    let own = own.expect("near-duplicates");
    assert_eq!(own.count, 2, "{own:?}");
    assert_eq!(own.videos, [ids[20], ids[3], ids[21], ids[6]]);
    assert!(told.contains(&own.text), "{told}");
    for video in &own.videos {
        assert!(told.contains(&format!("videos/{video}")), "{told}");
    }
    let scenes = FindingKind::SceneAcrossSplits;
    assert!(
        found.findings.iter().all(|own| own.kind != scenes),
        "{found:?}"
    );
    let looked = outages.calls("remember_sketches");
    train(true).await;
    assert_eq!(outages.calls("remember_sketches"), looked);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn near_duplicates_are_held_out_together() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    // Ten videos, each with a near-duplicate of its own label: ten clips of each label.
    let videos: Vec<(u64, u8, Split)> = (0..20)
        .map(|i| (i / 2, 2 * (i % 2) as u8, Split::Train))
        .collect();
    let (dataset, _) = dataset(&bed, "pairs", &videos).await;
    let task = bed.task(&owner, "pairs", ADAPTERS).await;
    let runners = bed.run();
    let held_out = async |near_duplicates| {
        let hyper = submitted(near_duplicates);
        let job = runners.submit(&owner, &task, &dataset, hyper).await;
        let (job, _) = runners.end(&owner, job).await;
        let result = job.result.expect("a result");
        result.evaluation.examples
    };
    // Half of ten clips of each label; of whole pairs only four fit into five.
    assert_eq!(held_out(false).await, 10);
    assert_eq!(held_out(true).await, 8);
    runners.drain().await;
    bed.close().await;
}
