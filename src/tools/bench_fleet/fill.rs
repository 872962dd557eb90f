//! Fills a database: a few records of each kind by the use cases of a server, and copies of them.

use std::sync::Arc;

use super::{Args, Error};
use crate::ids::{DatasetId, TaskId, TenantId, VideoId};
use crate::metadata::{
    Database, ExampleRecord, ImportStart, ImportTarget, MetadataStore, NewJob, NewTask, NewVersion,
    NewVideo, VersionManifest, VideoProbe,
};
use crate::spec::{
    AdapterConfig, ClipSampling, Confusion, Digest, Evaluation, HyperParameters, LabelSet,
    Precision, Split,
};

/// The backbone of all versions.
const BACKBONE: Digest = Digest([7; 32]);

/// A filled database.
pub(super) struct Fleet {
    pub(super) store: Arc<dyn MetadataStore>,
    pub(super) tenants: Vec<TenantId>,
}

pub(super) fn record<T, E: std::fmt::Display>(made: Result<T, E>) -> Result<T, Error> {
    made.map_err(|error| Error::Record(error.to_string()))
}

fn task(id: TaskId) -> NewTask {
    NewTask {
        id,
        display_name: "a task to measure with".into(),
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

fn sampling() -> ClipSampling {
    ClipSampling::uniform(std::num::NonZeroU16::MIN)
}

pub(super) fn probe() -> VideoProbe {
    VideoProbe {
        container: "mov".into(),
        codec: "h264".into(),
        width: 320,
        height: 240,
        frames: 100,
        duration_micros: 4_000_000,
        frame_rate: 25.0,
        rotation_degrees: 0,
        mirrored: false,
        reference_frames: None,
        warnings: Vec::new(),
    }
}

fn manifest(labels: LabelSet) -> Result<VersionManifest, Error> {
    let confusion = Confusion::from_rows(&[1, 0, 0, 1]);
    let confusion = confusion.ok_or_else(|| Error::Record("no confusion matrix".into()))?;
    Ok(VersionManifest {
        labels,
        adapter: task(record("t".parse())?).adapter,
        sampling: sampling(),
        backbone_digest: BACKBONE,
        tensors_sha256: Digest([2; 32]),
        parameters: 1_000_000,
        precision: Precision::F32,
        job: String::new(),
        dataset_digest: Digest([0; 32]),
        parent: None,
        calibration: None,
        evaluation: Evaluation {
            examples: 2,
            top1: 1.0,
            top5: 1.0,
            loss: 0.1,
            confusion,
            problem: None,
            independent: None,
        },
    })
}

impl Fleet {
    /// Fills a database with what the arguments ask for.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn fill(database: &Database, arguments: &Args) -> Result<Self, Error> {
        let store: Arc<dyn MetadataStore> = Arc::new(database.clone());
        let share = |all: u32| all.div_ceil(arguments.tenants) as usize;
        let mut tenants = Vec::new();
        for number in 0..arguments.tenants {
            let tenant: TenantId = record(format!("bench-{number}").parse())?;
            let first: TaskId = record("t0".parse())?;
            serve(store.as_ref(), &tenant, &first).await?;
            let tasks = (1..share(arguments.tasks)).map(|own| format!("t{own}").parse());
            let tasks: Vec<TaskId> = record(tasks.collect())?;
            database.copy_task(&tenant, &first, &tasks).await?;
            let (video, job) = submit(store.as_ref(), &tenant, &first).await?;
            let videos = (1..share(arguments.videos)).map(|_| VideoId::generate());
            let videos: Vec<VideoId> = videos.collect();
            database.copy_video(&tenant, video, &videos).await?;
            let jobs = (1..share(arguments.jobs)).map(|_| crate::ids::JobId::generate());
            let jobs: Vec<_> = jobs.collect();
            database.copy_job(&tenant, job, &jobs).await?;
            tenants.push(tenant);
        }
        Ok(Self { store, tenants })
    }
}

/// Makes a task whose version serves.
async fn serve(store: &dyn MetadataStore, tenant: &TenantId, id: &TaskId) -> Result<(), Error> {
    store.create_task(tenant, task(id.clone()), None).await?;
    let labels = record(LabelSet::new(vec!["left".into(), "right".into()]))?;
    let target = ImportTarget {
        task: id.clone(),
        create: None,
        etag: None,
        request: None,
        sha256: Digest([3; 32]),
        labels: Some(labels.clone()),
    };
    let ImportStart::Number(version) = store.reserve_import(tenant, &target).await? else {
        return Err(Error::Record("a version is there already".into()));
    };
    let new = NewVersion {
        version,
        manifest: manifest(labels)?,
        sha256: Digest([3; 32]),
        size_bytes: 14 << 20,
    };
    store.import_version(tenant, &target, new).await?;
    store.move_serving(tenant, id, version).await?;
    Ok(())
}

/// Makes a video, and a job that waits.
async fn submit(
    store: &dyn MetadataStore,
    tenant: &TenantId,
    id: &TaskId,
) -> Result<(VideoId, crate::ids::JobId), Error> {
    let video = NewVideo {
        id: VideoId::generate(),
        size_bytes: 2 << 20,
        sha256: Digest([4; 32]),
        probe: probe(),
    };
    let video = store.record_video(tenant, "clip.mp4", video, None).await?;
    let dataset: DatasetId = record("measured".parse())?;
    store
        .create_dataset(tenant, &dataset, "".into(), None)
        .await?;
    let example = ExampleRecord {
        video: video.id,
        labels: "left".into(),
        split: Split::Train,
    };
    store.add_examples(tenant, &dataset, &[example]).await?;
    let job = NewJob {
        task: id.clone(),
        dataset,
        dataset_version: None,
        hyper_parameters: HyperParameters::default(),
        allow_label_change: false,
        priority: 0,
        clip_frames: 20_000,
        warning: None,
        limit: u32::MAX,
    };
    let job = store.submit_job(tenant, job, None).await?;
    Ok((video.id, job.id))
}
