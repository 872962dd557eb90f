//! A server without its front: real store, records, decoder, device and runners on a directory, and a tiny random backbone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use frameshift::ids::{DatasetId, JobId, TaskId, TenantId, VersionRef, VideoId};
use frameshift::jobs;
use frameshift::library::{self, Library, Started};
use frameshift::metadata::{
    self, ComparedHead, Database, EvaluationMetrics, Event, EventRecord, ExampleRecord, JobRecord,
    NewTask, Outages, VersionManifest,
};
use frameshift::model::{Backbone, BackboneConfig, Tensors};
use frameshift::registry::{self, Registry};
use frameshift::rng::Stream;
use frameshift::shutdown::{self, Drain};
use frameshift::spec::{
    AdapterConfig, ClipSampling, Digest, Head, HyperParameters, JobState, Precision, Split,
};
use frameshift::store::{DirectoryLock, Store};
use frameshift::telemetry::Metrics;
use frameshift::video::{self, Decoder, encode};
use futures::{StreamExt, TryStreamExt};
use safetensors::SafeTensors;
use tokio::task::JoinHandle;

/// Side of the drawn pictures, and of the backbone's.
pub(super) const SIDE: u32 = 32;

/// Everything but the runners.
pub(super) struct Bed {
    pub(super) database: Database,
    pub(super) parts: jobs::Parts,
    _lock: DirectoryLock,
    drain: Drain,
    device: JoinHandle<()>,
}

/// The runners on a bed.
pub(super) struct Runners {
    pub(super) handle: jobs::Handle,
    drain: Drain,
    running: JoinHandle<()>,
}

/// The shape of the tiny backbone.
pub(super) fn backbone_config() -> BackboneConfig {
    BackboneConfig {
        image_size: SIDE as usize,
        width: 32,
        layers: 2,
        mlp_width: 64,
        ..crate::model::small()
    }
}

/// Random weights of a backbone.
fn tensors_of(config: &BackboneConfig) -> Tensors {
    let mut tensors = Tensors::new();
    for (i, (name, shape)) in config.tensors().into_iter().enumerate() {
        let mut stream = Stream::new(11, "test backbone").fork(i as u64);
        let count: usize = shape.iter().product();
        let fan_in: usize = shape.iter().skip(1).product();
        let is_matrix = shape.len() > 1;
        let scale = if is_matrix {
            (3.0 / fan_in as f32).sqrt()
        } else {
            0.1
        };
        let is_gain = name.contains("ln_") && name.ends_with("weight");
        let offset = if is_gain { 1.0 } else { 0.0 };
        let values = (0..count).map(|_| offset + stream.range(-scale, scale));
        tensors.insert(name, (shape, values.collect()));
    }
    tensors
}

/// A backbone of random weights: frozen features that are good enough to tell a bright picture from a dark one.
pub(super) fn backbone_of(config: BackboneConfig) -> Backbone {
    let tensors = tensors_of(&config);
    let (of, place) = ((config, Digest([3; 32])), crate::model::place());
    let made = Backbone::from_tensors_on("test", of, tensors, Precision::F32, &place);
    made.expect("a backbone")
}

impl Bed {
    pub(super) async fn open(directory: &Path) -> Self {
        Self::open_with(directory, &Outages::default()).await
    }

    /// A bed whose database fails as a test says.
    pub(super) async fn open_with(directory: &Path, outages: &Outages) -> Self {
        let lock = DirectoryLock::acquire(directory).expect("the directory is free");
        let path = directory.join("records.sqlite");
        let database = Database::open(metadata::Config::at(path))
            .await
            .expect("a database");
        let metadata = outages.wrap(Arc::new(database.clone()));
        let store = Store::open(&directory.join("blobs")).expect("a store");
        let program = env!("CARGO_BIN_EXE_frameshift").into();
        let decoder = video::Config {
            workers: 2,
            ..video::Config::new(program)
        };
        let decoder = Decoder::start(decoder).await.expect("a decoder");
        let metrics = Metrics::new();
        let (device, thread) = crate::model::device(&metrics);
        let (drain, signal) = shutdown::channel();
        let library = Library::new(
            library::Config::default(),
            store.clone(),
            Arc::clone(&metadata),
            Arc::new(decoder.clone()),
        );
        let registry = Registry::new(
            registry::Config::default(),
            store.clone(),
            Arc::clone(&metadata),
        );
        Self {
            parts: jobs::Parts {
                metadata,
                store,
                library,
                registry,
                decoder,
                device,
                backbone: Arc::new(backbone_of(backbone_config())),
                metrics,
                replica: uuid::Uuid::now_v7().simple().to_string(),
                scratch: directory.join("features"),
                decoded: directory.join("decoded"),
            },
            database,
            _lock: lock,
            drain,
            device: tokio::spawn(async move { thread.run(signal).await.expect("the device") }),
        }
    }

    pub(super) fn run(&self) -> Runners {
        self.run_with(jobs::Config::default())
    }

    pub(super) fn run_with(&self, config: jobs::Config) -> Runners {
        let config = jobs::Config {
            poll: Duration::from_millis(50),
            // Tests look at every step; that the events are thinned else is tested in jobs/outages.rs.
            event_interval: config.event_interval.saturating_sub(Duration::from_secs(1)),
            ..config
        };
        // Runners begin as in a process of their own. Tests of the pause itself are in metadata/crashes.rs.
        self.database.forget_workers(Duration::ZERO);
        let (handle, service) = self.make(config);
        let (drain, signal) = shutdown::channel();
        let running = tokio::spawn(service.run(self.parts.clone(), signal));
        Runners {
            handle,
            drain,
            running,
        }
    }

    /// A handle without runners.
    pub(super) fn handle(&self) -> jobs::Handle {
        self.handle_with(jobs::Config::default())
    }

    pub(super) fn handle_with(&self, config: jobs::Config) -> jobs::Handle {
        self.make(config).0
    }

    fn make(&self, config: jobs::Config) -> (jobs::Handle, jobs::Service) {
        let parts = &self.parts;
        let (metadata, metrics) = (Arc::clone(&parts.metadata), parts.metrics.clone());
        jobs::new(config, metadata, metrics, &parts.backbone)
    }

    pub(super) async fn close(self) {
        self.drain.start();
        drop(self.parts);
        self.device.await.expect("the device ends");
    }

    pub(super) async fn upload(&self, tenant: &TenantId, name: &str, bytes: &[u8]) -> VideoId {
        let started = self
            .parts
            .library
            .upload_video(tenant, name, None, None)
            .await
            .expect("an upload");
        let Started::Open(mut upload) = started else {
            panic!("nothing was uploaded before")
        };
        upload.write(bytes).await.expect("bytes");
        upload.finish().await.expect("a video").id
    }

    pub(super) async fn dataset(
        &self,
        tenant: &TenantId,
        name: &str,
        examples: Vec<ExampleRecord>,
    ) -> DatasetId {
        let dataset: DatasetId = name.parse().expect("an id");
        let library = &self.parts.library;
        library
            .create_dataset(tenant, &dataset, "", None)
            .await
            .expect("a data set");
        library
            .add_examples(tenant, &dataset, &examples)
            .await
            .expect("examples");
        dataset
    }

    pub(super) async fn task(
        &self,
        tenant: &TenantId,
        name: &str,
        adapter: AdapterConfig,
    ) -> TaskId {
        self.task_of(tenant, name, (adapter, false)).await
    }

    /// A task with these adapters whose jobs may also try heads without adapters.
    pub(super) async fn task_of(
        &self,
        tenant: &TenantId,
        name: &str,
        (adapter, auto_head): (AdapterConfig, bool),
    ) -> TaskId {
        let sampling = ClipSampling::uniform(4.try_into().expect("not 0"));
        let shape = (adapter, auto_head, sampling);
        self.task_sampling(tenant, name, shape).await
    }

    /// As [`Self::task_of`], with a sampling.
    pub(super) async fn task_sampling(
        &self,
        tenant: &TenantId,
        name: &str,
        (adapter, auto_head, sampling): (AdapterConfig, bool, ClipSampling),
    ) -> TaskId {
        let task: TaskId = name.parse().expect("an id");
        let new = NewTask {
            id: task.clone(),
            display_name: String::new(),
            adapter,
            sampling,
            auto_serve: true,
            auto_head,
        };
        self.parts
            .registry
            .create_task(tenant, new, None)
            .await
            .expect("a task");
        task
    }

    /// A data set `fades` of clips that become brighter or darker, and a task of that name: no single frame tells which.
    pub(super) async fn fades(
        &self,
        tenant: &TenantId,
        train: u64,
        validation: u64,
    ) -> (TaskId, DatasetId) {
        let splits = [(Split::Train, train), (Split::Validation, validation)];
        self.fades_of(tenant, &splits, false).await
    }

    /// As [`Self::fades`], with so many clips of each split; with `is_swapped`, clips that are not to be learned from have the other label, so that
    /// whatever is learned makes their loss worse.
    pub(super) async fn fades_of(
        &self,
        tenant: &TenantId,
        splits: &[(Split, u64)],
        is_swapped: bool,
    ) -> (TaskId, DatasetId) {
        let mut examples = Vec::new();
        for (split, count) in splits.iter().copied() {
            for i in 0..count {
                let is_rising = i % 2 == 0;
                let is_told = is_rising != (is_swapped && split != Split::Train);
                let label = if is_told { "brighter" } else { "darker" };
                let bytes = fade(i + 1000 * split as u64, is_rising);
                examples.push(ExampleRecord {
                    video: self
                        .upload(tenant, &format!("{label}-{i}.mp4"), &bytes)
                        .await,
                    labels: label.into(),
                    split,
                });
            }
        }
        let dataset = self.dataset(tenant, "fades", examples).await;
        (self.task(tenant, "fades", ADAPTERS).await, dataset)
    }

    /// The shape of a job's version.
    pub(super) async fn shape(&self, job: &JobRecord) -> AdapterConfig {
        self.loaded(job).await.record.manifest.adapter
    }

    /// What the file of a job's version says.
    pub(super) async fn manifest(&self, job: &JobRecord) -> VersionManifest {
        self.loaded(job).await.record.manifest.clone()
    }

    async fn loaded(&self, job: &JobRecord) -> registry::Loaded {
        let version = job.result.as_ref().expect("a result").version;
        let version = VersionRef {
            tenant: job.tenant.clone(),
            task: job.task.clone(),
            version: version.to_string().parse().expect("a version"),
        };
        let load = self.parts.registry.load(&version);
        load.await.expect("the version's file")
    }

    /// The weights of a version, by name.
    pub(super) async fn weights(&self, job: &JobRecord) -> BTreeMap<String, Vec<u8>> {
        let loaded = self.loaded(job).await;
        let file = SafeTensors::deserialize(&loaded.bytes).expect("safetensors");
        file.iter()
            .map(|(name, view)| (name.to_owned(), view.data().to_vec()))
            .collect()
    }
}

impl Runners {
    /// Puts running jobs back and ends the runners.
    pub(super) async fn drain(self) {
        self.drain.start();
        self.running.await.expect("the runners end");
    }

    /// Submits a job.
    pub(super) async fn submit(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        dataset: &DatasetId,
        hyper: HyperParameters,
    ) -> JobId {
        let submit = self.handle.submit(tenant, task, dataset, hyper, None);
        submit.await.expect("a job").id
    }

    /// Waits until a job ends.
    pub(super) async fn end(&self, tenant: &TenantId, job: JobId) -> (JobRecord, Vec<EventRecord>) {
        let events = self.handle.watch(tenant, job, 0).await.expect("a watch");
        let events = events.try_collect().await.expect("events");
        (self.handle.get(tenant, job).await.expect("the job"), events)
    }

    /// Waits until a job has made so many steps.
    pub(super) async fn steps(&self, tenant: &TenantId, job: JobId, least: u64) {
        let events = self.handle.watch(tenant, job, 0).await.expect("a watch");
        let events = std::pin::pin!(events);
        let reached = events.any(|event| {
            let step = matches!(event.expect("an event").event, Event::Step(metrics) if metrics.step >= least);
            std::future::ready(step)
        });
        assert!(reached.await, "the job ended before step {least}");
    }

    /// Waits until a job has told something.
    pub(super) async fn told(&self, tenant: &TenantId, job: JobId, part: &str) {
        let events = self.handle.watch(tenant, job, 0).await.expect("a watch");
        let events = std::pin::pin!(events);
        let told = events.any(|event| {
            let told = matches!(&event.expect("an event").event, Event::Message { text, .. } if text.contains(part));
            std::future::ready(told)
        });
        assert!(told.await, "the job ended and did not tell {part:?}");
    }
}

/// Adapters before every MLP.
pub(super) const ADAPTERS: AdapterConfig = AdapterConfig {
    adapter_width: 16,
    adapter_layers: None,
    adapter_kernel_size: [3, 1, 1],
    adapter_pre_attn: false,
    adapter_pre_mlp: true,
    head: Head::Mean,
};

/// Few, quick steps.
pub(super) fn hyper(epochs: u32, seed: u64) -> HyperParameters {
    HyperParameters {
        epochs: Some(epochs),
        batch_size: Some(4),
        learning_rate: Some(1e-2),
        seed: Some(seed),
        checkpoint_steps: Some(5),
        ..HyperParameters::default()
    }
}

/// A clip of 12 frames in a random colour that becomes brighter, or darker.
pub(super) fn fade(number: u64, is_rising: bool) -> Vec<u8> {
    let mut stream = Stream::new(number, "fade");
    painted(std::array::from_fn(|_| stream.range(0.5, 1.0)), is_rising)
}

/// A clip of 12 frames in a colour that becomes brighter, or darker.
pub(super) fn painted(color: [f32; 3], is_rising: bool) -> Vec<u8> {
    let mut encoder =
        encode::Encoder::new(encode::Format::Mp4, SIDE, SIDE, 12).expect("an encoder");
    for frame in 0..12 {
        let along = frame as f32 / 11.0;
        let level = 0.2 + 0.7 * if is_rising { along } else { 1.0 - along };
        let pixels = (0..SIDE * SIDE).flat_map(|pixel| {
            let shade = level * (0.8 + 0.2 * ((pixel / 8) % 2) as f32);
            color.map(|share| (255.0 * share * shade) as u8)
        });
        encoder
            .push(&pixels.collect::<Vec<u8>>())
            .expect("a picture");
    }
    encoder.finish().expect("a video")
}

/// The states that a job went through.
pub(super) fn states(events: &[EventRecord]) -> Vec<JobState> {
    let state = |event: &EventRecord| match &event.event {
        Event::State { state, .. } => Some(*state),
        Event::Step(_) | Event::Evaluation(_) | Event::Comparison(_) | Event::Message { .. } => {
            None
        }
    };
    events.iter().filter_map(state).collect()
}

/// What its owner was told.
pub(super) fn messages(events: &[EventRecord]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| match &event.event {
            Event::Message { text, .. } => Some(text.as_str()),
            Event::Step(_) | Event::Evaluation(_) | Event::Comparison(_) | Event::State { .. } => {
                None
            }
        })
        .collect()
}

/// The heads that a job compared.
pub(super) fn compared(events: &[EventRecord]) -> Vec<ComparedHead> {
    events
        .iter()
        .flat_map(|event| match &event.event {
            Event::Comparison(compared) => compared.clone(),
            Event::Step(_) | Event::Evaluation(_) | Event::Message { .. } | Event::State { .. } => {
                Vec::new()
            }
        })
        .collect()
}

/// The losses of a job's steps.
pub(super) fn losses(events: &[EventRecord]) -> Vec<(u64, f64)> {
    events
        .iter()
        .filter_map(|event| match &event.event {
            Event::Step(metrics) => Some((metrics.step, metrics.loss)),
            Event::Evaluation(_)
            | Event::Comparison(_)
            | Event::Message { .. }
            | Event::State { .. } => None,
        })
        .collect()
}

/// The evaluations of a job, in their order.
pub(super) fn evaluations(events: &[EventRecord]) -> Vec<EvaluationMetrics> {
    events
        .iter()
        .filter_map(|event| match &event.event {
            Event::Evaluation(metrics) => Some(*metrics),
            Event::Step(_) | Event::Comparison(_) | Event::Message { .. } | Event::State { .. } => {
                None
            }
        })
        .collect()
}
