//! Values for tests of records.

use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use frameshift::ids::{AdapterVersion, DatasetId, RequestId, TaskId, TenantId, VideoId};
use frameshift::metadata::{
    BlobName, Claim, CurvePoint, Error, Event, ExampleRecord, JobRecord, JobTimes, JobUpdate,
    MetadataStore, NewJob, NewTask, NewVersion, NewVideo, Published, TrainingSummary, UploadLimits,
    VersionManifest, VideoProbe, VideoRecord,
};
use frameshift::spec::{
    AdapterConfig, ClipSampling, Confusion, Digest, Evaluation, HyperParameters, JobState,
    LabelSet, Precision, Split,
};

pub(crate) type Store = Arc<dyn MetadataStore>;

/// Longer than any test takes.
pub(crate) const LEASE: Duration = Duration::from_secs(3600);

fn id<T: FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid id")
}

pub(crate) fn tenant(name: &str) -> TenantId {
    id(name)
}

pub(crate) fn task_id(name: &str) -> TaskId {
    id(name)
}

pub(crate) fn dataset_id(name: &str) -> DatasetId {
    id(name)
}

pub(crate) fn request() -> Option<RequestId> {
    Some(RequestId::generate())
}

/// Limits that no test meets by chance.
pub(crate) fn limits() -> UploadLimits {
    UploadLimits {
        expiry: Duration::from_secs(24 * 3600),
        uploads: 100,
        bytes: 1 << 30,
    }
}

/// Whether a record names a blob.
pub(crate) async fn is_named(store: &Store, tenant: &TenantId, blob: BlobName) -> bool {
    let asked = [(tenant.clone(), blob)];
    store.named(&asked).await.expect("asked") == [true]
}

pub(crate) fn probe() -> VideoProbe {
    VideoProbe {
        container: "mov".into(),
        codec: "h264".into(),
        width: 320,
        height: 240,
        frames: 100,
        duration_micros: 4_000_000,
        frame_rate: 25.0,
        rotation_degrees: 90,
        mirrored: false,
        reference_frames: None,
        warnings: vec!["DAMAGED".into()],
    }
}

pub(crate) fn new_video(size_bytes: u64) -> NewVideo {
    let id = VideoId::generate();
    let mut digest = [0; 32];
    digest[..16].copy_from_slice(id.uuid().as_bytes());
    NewVideo {
        id,
        size_bytes,
        sha256: Digest(digest),
        probe: probe(),
    }
}

pub(crate) async fn video(store: &Store, tenant: &TenantId) -> VideoRecord {
    store
        .record_video(tenant, "clip.mp4", new_video(7), None)
        .await
        .expect("recorded")
}

pub(crate) fn sampling() -> ClipSampling {
    ClipSampling::uniform(NonZeroU16::new(8).expect("not 0"))
}

pub(crate) fn task(name: &str) -> NewTask {
    NewTask {
        id: task_id(name),
        display_name: format!("task {name}"),
        adapter: AdapterConfig {
            adapter_width: 48,
            adapter_pre_mlp: true,
            ..AdapterConfig::LINEAR_PROBE
        },
        sampling: sampling(),
        auto_serve: true,
        auto_head: false,
    }
}

pub(crate) fn example(video: VideoId, label: &str, split: Split) -> ExampleRecord {
    ExampleRecord {
        video,
        labels: label.into(),
        split,
    }
}

/// A task `name` and a data set `name` with two videos.
pub(crate) async fn trainable(store: &Store, tenant: &TenantId, name: &str) -> Vec<VideoRecord> {
    store
        .create_task(tenant, task(name), None)
        .await
        .expect("a task");
    store
        .create_dataset(tenant, &dataset_id(name), "".into(), None)
        .await
        .expect("a data set");
    let videos = vec![video(store, tenant).await, video(store, tenant).await];
    let examples = [
        example(videos[0].id, "left", Split::Train),
        example(videos[1].id, "right", Split::Validation),
    ];
    store
        .add_examples(tenant, &dataset_id(name), &examples)
        .await
        .expect("added");
    videos
}

/// Every example of a snapshot, read in small pages.
pub(crate) async fn examples_of(
    store: &Store,
    tenant: &TenantId,
    digest: Digest,
) -> Result<Vec<ExampleRecord>, Error> {
    let mut all: Vec<ExampleRecord> = Vec::new();
    for _ in 0..100_000 {
        let after = all.last().map(|example| example.video);
        let page = store.snapshot_examples(tenant, digest, after, 100).await?;
        let is_last = page.len() < 100;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
    panic!("a snapshot has no end");
}

pub(crate) fn new_job(name: &str) -> NewJob {
    NewJob {
        task: task_id(name),
        dataset: dataset_id(name),
        dataset_version: None,
        hyper_parameters: HyperParameters {
            epochs: Some(3),
            learning_rate: Some(0.1 + 0.2),
            seed: Some(u64::MAX),
            ..HyperParameters::default()
        },
        allow_label_change: false,
        priority: 0,
        clip_frames: 1000,
        warning: None,
        limit: 100,
    }
}

pub(crate) async fn submit(store: &Store, tenant: &TenantId, name: &str) -> JobRecord {
    store
        .submit_job(tenant, new_job(name), None)
        .await
        .expect("submitted")
}

pub(crate) async fn claim(store: &Store) -> Claim {
    store
        .claim_job("worker", LEASE)
        .await
        .expect("claimable")
        .expect("a job waits")
}

/// Moves a claimed job through the states up to `to`.
pub(crate) async fn advance(store: &Store, claim: &Claim, to: JobState) {
    let states = [
        JobState::Validating,
        JobState::Running,
        JobState::Evaluating,
        JobState::Publishing,
    ];
    for pair in states.windows(2) {
        store
            .advance_job(&claim.lease, pair[0], pair[1], JobUpdate::default())
            .await
            .expect("advanced");
        if pair[1] == to {
            return;
        }
    }
}

pub(crate) fn manifest(job: &JobRecord) -> VersionManifest {
    VersionManifest {
        labels: LabelSet::new(vec!["left".into(), "right".into()]).expect("labels"),
        adapter: task("x").adapter,
        sampling: sampling(),
        backbone_digest: Digest([1; 32]),
        tensors_sha256: Digest([2; 32]),
        parameters: 1234,
        precision: Precision::F32,
        job: job.id.to_string(),
        dataset_digest: job.dataset_digest,
        parent: None,
        calibration: None,
        evaluation: Evaluation {
            examples: 3,
            top1: 2.0 / 3.0,
            top5: 1.0,
            loss: 0.1,
            confusion: Confusion::from_rows(&[1, 0, 1, 1]).expect("a square"),
            problem: None,
            independent: None,
        },
    }
}

pub(crate) fn new_version(version: AdapterVersion, job: &JobRecord) -> NewVersion {
    NewVersion {
        version,
        manifest: manifest(job),
        sha256: Digest([3; 32]),
        size_bytes: 99,
    }
}

pub(crate) fn outcome() -> TrainingSummary {
    TrainingSummary {
        reason: None,
        loss_curve: vec![1.5, 0.5],
        validation_curve: vec![CurvePoint {
            step: 10,
            epoch: 1,
            loss: 0.1 + 0.2,
            top1: 2.0 / 3.0,
            map: None,
        }],
        step: 10,
        seed: u64::MAX,
        training_micros: 12,
        times: JobTimes {
            clips: 7,
            ..JobTimes::default()
        },
        skipped_clips: 5,
        has_test: false,
    }
}

/// Publishes a claimed job, from whatever state it was claimed in.
pub(crate) async fn publish(store: &Store, claim: &Claim) -> Published {
    advance(store, claim, JobState::Publishing).await;
    let number = store.reserve_version(&claim.lease).await.expect("reserved");
    store
        .publish_version(&claim.lease, new_version(number, &claim.job), outcome())
        .await
        .expect("published")
}

/// The states that a job's events tell, in order.
pub(crate) async fn states(store: &Store, job: &JobRecord) -> Vec<JobState> {
    let events = store
        .list_events(&job.tenant, job.id, 0, 1000)
        .await
        .expect("events");
    let numbers: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
    events
        .into_iter()
        .filter_map(|event| match event.event {
            Event::State { state, .. } => Some(state),
            Event::Step(_)
            | Event::Evaluation(_)
            | Event::Comparison(_)
            | Event::Message { .. } => None,
        })
        .collect()
}
