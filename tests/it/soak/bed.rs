//! The server of a soak: its tasks and videos, the twin of every answer, and what it holds.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use frameshift::client::Client;
use frameshift::metadata::{Actor, Quotas, TenantUpdate};
use frameshift::model::BackboneConfig;
use frameshift::proto::v1;
use frameshift::store::Faults;

use super::streams::{self, Twins};
use crate::processes::Usage;
use crate::rpc_classify::counted;
use crate::rpc_versions::{adapters, file, import, into_task};
use crate::server::{TestServer, clip, serving, until, upload};

/// Files of different adapters, each of which serves some task.
pub(super) const VARIANTS: usize = 6;
/// The variant that is a head alone: the windows of its streams have their frames' tokens in common.
const HEAD_ALONE: usize = 2;
/// Shades of the videos.
pub(super) const SHADES: [u8; 3] = [40, 120, 200];
/// Tasks of each tenant; task `t{i}` serves the variant that [`variant_of`] says.
pub(super) const TASKS: usize = 4;
/// Tenants that ask.
pub(super) const TENANTS: [&str; 3] = ["acme", "umbra", "flood"];
/// The task whose serving version moves between two variants.
pub(super) const SWAPPING: &str = "swapping";
/// The variants of the versions 1 and 2 of [`SWAPPING`].
pub(super) const SWAPS: [usize; 2] = [4, 5];
/// The task whose requests two versions share, while a third one watches.
pub(super) const SHARED: &str = "shared";
/// The variants of the versions 1 and 2 of [`SHARED`]; version 3 has that of version 2.
pub(super) const SHARED_VARIANTS: [usize; 2] = [0, 3];
/// A tenant that may store a few videos, and how many.
pub(super) const QUOTA_TENANT: &str = "small";
pub(super) const QUOTA: usize = 4;
/// Sets that fit into memory: fewer than there are.
const RESIDENT: u64 = 6;
/// Room for clips: less than the askers and a flood want.
const QUEUE: usize = 24;

/// The variant that a tenant's task serves: one name means another task for each tenant.
pub(super) fn variant_of(tenant: usize, task: usize) -> usize {
    (tenant + task) % TASKS
}

/// The bits of a video's scores and features by a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Twin {
    scores: Vec<u32>,
    features: Bytes,
}

impl Twin {
    /// Asserts that an answer has the bits of the twin.
    pub(super) fn check(&self, views: &[v1::ViewScores], what: &str) {
        let [view] = views else {
            panic!("{what}: {} views", views.len());
        };
        assert_eq!(bits(view), self.scores, "{what}");
    }

    /// Asserts that features have the bits of the twin.
    pub(super) fn check_features(&self, features: Option<&v1::Array>, what: &str) {
        assert_eq!(features.expect("features").data, self.features, "{what}");
    }
}

fn bits(view: &v1::ViewScores) -> Vec<u32> {
    view.scores.iter().map(|score| score.to_bits()).collect()
}

/// What a server counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    /// Requests of the classification service.
    pub(super) requests: u64,
    /// Classifications that were answered.
    pub(super) classified: u64,
    /// Frames that went on from tokens of an earlier batch.
    pub(super) resumed: u64,
}

/// What a server holds while nobody asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holdings {
    queue: (usize, u64, u64),
    descriptors: Option<usize>,
    /// Files beside the server's own in its directory.
    files: Vec<String>,
}

impl Holdings {
    /// Whether nothing is held that was not held before; a worker that is just being replaced may have a few descriptors more or less.
    pub(super) fn is_within(&self, before: &Self) -> bool {
        const WORKERS: usize = 6;
        let most = before.descriptors.map(|count| count + WORKERS);
        self.queue == before.queue && self.files == before.files && self.descriptors <= most
    }
}

/// A server with tasks, videos and twins.
pub(super) struct Bed {
    pub(super) server: TestServer,
    pub(super) faults: Faults,
    /// Bytes of the sets that fit into memory.
    budget: u64,
    /// The file of each variant.
    pub(super) files: Vec<Bytes>,
    /// The bytes of each video.
    pub(super) clips: Vec<Bytes>,
    /// The names of the videos of each tenant.
    pub(super) videos: Vec<Vec<String>>,
    twins: HashMap<(usize, usize), Twin>,
    /// The twins of windows of a variant and a video, and of a live stream.
    streams: HashMap<(usize, usize), (Twins, Twins)>,
    folder: tempfile::TempDir,
}

/// The file of a variant: all values of the first one's times a factor.
fn variant(config: &BackboneConfig, number: usize) -> Bytes {
    let mut tensors = adapters(config, 5);
    tensors.retain(|tensor| number != HEAD_ALONE || tensor.name.starts_with("fc."));
    for tensor in &mut tensors {
        let values = tensor.bytes.chunks_exact(4);
        let scaled = values.map(|bytes| {
            let value = f32::from_le_bytes(bytes.try_into().unwrap());
            value * (1.0 + number as f32 / 3.0)
        });
        tensor.bytes = scaled.flat_map(f32::to_le_bytes).collect();
    }
    file(&tensors)
}

/// The bytes that a variant's set takes in memory, as a server of its own has it.
async fn size_of_set(file: &Bytes) -> u64 {
    let server = TestServer::start().await;
    let client = server.client(TENANTS[0]).await;
    import(&client, header("size"), file).await.unwrap();
    serving(&client, "size").await;
    let now = server.wiring.engine.in_use();
    assert_eq!(now.sets, 1);
    drop(client);
    server.stop().await;
    now.set_bytes
}

/// A task of a variant, with clips of two frames.
pub(super) fn header(task: &str) -> v1::ImportAdapterVersionHeader {
    v1::ImportAdapterVersionHeader {
        create_task: true,
        sampling: Some(v1::ClipSampling {
            num_frames: 2,
            ..Default::default()
        }),
        ..into_task(task)
    }
}

/// A request for the scores of one view.
pub(super) fn request(task: &str, source: v1::classify_request::Source) -> v1::ClassifyRequest {
    v1::ClassifyRequest {
        task: format!("tasks/{task}"),
        source: Some(source),
        options: Some(v1::ClassifyOptions {
            per_view: true,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn ready() -> i32 {
    v1::ServingState::Ready.into()
}

impl Bed {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = crate::server::config(folder.path());
        let plan = frameshift::model::load::plan(&crate::server::backbone(), &Default::default());
        let shape = plan.expect("a backbone").config().clone();
        let files: Vec<Bytes> = (0..VARIANTS).map(|own| variant(&shape, own)).collect();
        config.engine.queue_clips = QUEUE;
        let budget = RESIDENT * size_of_set(&files[0]).await;
        config.engine.residency_bytes = budget;
        config.video.workers = 2;
        let faults = Faults::default();
        let server = TestServer::start_slow(config, &faults).await;
        let mut bed = Self {
            server,
            faults,
            budget,
            files,
            clips: SHADES.map(clip).into(),
            videos: Vec::new(),
            twins: HashMap::new(),
            streams: HashMap::new(),
            folder,
        };
        bed.fill().await;
        bed
    }

    /// Imports the tasks, uploads the videos, and asks for every twin.
    async fn fill(&mut self) {
        // First, while a shadow version finds room in memory.
        self.share(&self.server.client(TENANTS[0]).await).await;
        for (number, tenant) in TENANTS.into_iter().enumerate() {
            let client = self.server.client(tenant).await;
            for task in 0..TASKS {
                let name = format!("t{task}");
                let bytes = &self.files[variant_of(number, task)];
                import(&client, header(&name), bytes).await.unwrap();
                serving(&client, &name).await;
            }
            let mut videos = Vec::new();
            for bytes in &self.clips {
                videos.push(upload(&client, bytes).await.unwrap().name);
            }
            self.videos.push(videos);
        }
        let client = self.server.client(TENANTS[0]).await;
        let [first, second] = SWAPS.map(|variant| &self.files[variant]);
        import(&client, header(SWAPPING), first).await.unwrap();
        serving(&client, SWAPPING).await;
        let again = into_task(SWAPPING);
        import(&client, again, second).await.unwrap();
        // The twins come from a tenant of their own, one request at a time.
        let client = self.server.client("twins").await;
        let mut videos = Vec::new();
        for bytes in &self.clips {
            videos.push(upload(&client, bytes).await.unwrap().name);
        }
        for (variant, bytes) in self.files.iter().enumerate() {
            let task = format!("v{variant}");
            import(&client, header(&task), bytes).await.unwrap();
            serving(&client, &task).await;
            for (video, name) in videos.iter().enumerate() {
                let twin = self.alone(&client, &task, video).await;
                self.twins.insert((variant, video), twin);
                let twins = streams::alone(&client, &task, name).await;
                self.streams.insert((variant, video), twins);
            }
        }
        let mut different: Vec<_> = self.twins.values().map(|twin| &twin.scores).collect();
        different.sort();
        different.dedup();
        assert_eq!(
            different.len(),
            self.twins.len(),
            "each twin has bits of its own"
        );
    }

    /// Makes the task that several versions share, and the tenant that may store little.
    async fn share(&self, client: &Client) {
        let [first, second] = SHARED_VARIANTS.map(|variant| &self.files[variant]);
        import(client, header(SHARED), first).await.unwrap();
        serving(client, SHARED).await;
        let name = format!("tasks/{SHARED}");
        let request = v1::UpdateTaskRequest {
            task: Some(v1::Task {
                name: name.clone(),
                auto_serve: Some(false),
                ..Default::default()
            }),
            update_mask: None,
        };
        client.tasks().update_task(request).await.unwrap();
        for _ in 0..2 {
            import(client, into_task(SHARED), second).await.unwrap();
        }
        let share = |number: u32, per_mille| v1::ServingShare {
            version: format!("{name}/versions/{number}"),
            per_mille,
        };
        let get = v1::GetTaskRequest { name: name.clone() };
        let etag = client.tasks().get_task(get).await.unwrap();
        let etag = etag.into_inner().etag;
        let request = v1::SetServingRequest {
            name: name.clone(),
            split: vec![share(1, 500), share(2, 500)],
            shadows: vec![share(3, 1000)],
            etag,
            ..Default::default()
        };
        client.tasks().set_serving(request).await.unwrap();
        let is_ready = |split: v1::ServingSplit| {
            let members = split.members.iter().map(|own| own.state);
            let mut states = members.chain(split.shadows.iter().map(|own| own.state));
            states.all(|state| state == ready())
        };
        until(|| async { is_ready(self.split().await) }).await;
        let store = &self.server.wiring.metadata;
        let actor = Actor {
            principal: "soak".into(),
            source: String::new(),
            request_id: String::new(),
        };
        let tenant = QUOTA_TENANT.parse().unwrap();
        store.create_tenant(&tenant, "", &actor).await.unwrap();
        let update = TenantUpdate {
            quotas: Some(Quotas {
                videos: Some(QUOTA as u64),
                ..Quotas::default()
            }),
            ..TenantUpdate::default()
        };
        let updated = store.update_tenant(&tenant, update, None, &actor).await;
        updated.unwrap();
    }

    /// The versions of the shared task.
    pub(super) async fn split(&self) -> v1::ServingSplit {
        let client = self.server.client(TENANTS[0]).await;
        let name = format!("tasks/{SHARED}");
        let task = client.tasks().get_task(v1::GetTaskRequest { name }).await;
        task.unwrap().into_inner().split.unwrap_or_default()
    }

    /// The twins of windows of a video by a variant, and of a live stream.
    pub(super) fn streams(&self, variant: usize, video: usize) -> &(Twins, Twins) {
        &self.streams[&(variant, video)]
    }

    /// What a task answers when nobody else asks.
    async fn alone(&self, client: &Client, task: &str, video: usize) -> Twin {
        let bytes = self.clips[video].clone();
        let source = v1::classify_request::Source::Content(bytes.clone());
        let answer = client
            .classification()
            .classify(request(task, source))
            .await;
        let answer = answer.expect("a twin").into_inner();
        let embed = v1::EmbedRequest {
            task: format!("tasks/{task}"),
            source: Some(v1::embed_request::Source::Content(bytes)),
            ..Default::default()
        };
        let features = client.classification().embed(embed).await;
        let features = features.expect("a twin").into_inner().features;
        Twin {
            scores: bits(&answer.views[0]),
            features: features.expect("features").data,
        }
    }

    /// The twin of a video's answer by a variant.
    pub(super) fn twin(&self, variant: usize, video: usize) -> &Twin {
        &self.twins[&(variant, video)]
    }

    pub(super) fn counted(&self) -> Counted {
        let service = "/frameshift.v1.ClassificationService/";
        Counted {
            requests: counted(&self.server, &["frameshift_requests_total{", service]),
            classified: counted(&self.server, &["frameshift_classifications_total{"]),
            resumed: counted(&self.server, &["frameshift_frames_resumed_total "]),
        }
    }

    /// Whether the server keeps tokens of frames from one batch to the next.
    pub(super) fn keeps_tokens(&self) -> bool {
        self.server.wiring.backbone.keeps_tokens()
    }

    /// What the server holds now.
    pub(super) async fn holdings(&self) -> Holdings {
        let now = self.server.wiring.engine.in_use();
        let folder = std::fs::read_dir(self.folder.path()).unwrap();
        let names = folder.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        // The database's log comes and goes with its checkpoints.
        let mut files: Vec<String> = names.filter(|name| !name.contains("-wal")).collect();
        files.sort();
        Holdings {
            queue: (now.clips, now.bytes, now.waiting_frames),
            descriptors: Usage::of(std::process::id()).descriptors,
            files,
        }
    }

    /// Asserts that every task answers its twin, after all that happened.
    pub(super) async fn check_twins(&self) {
        for (number, tenant) in TENANTS.into_iter().enumerate() {
            let client = self.server.client(tenant).await;
            for task in 0..TASKS {
                let name = format!("t{task}");
                for video in 0..SHADES.len() {
                    let twin = self.alone(&client, &name, video).await;
                    let expected = self.twin(variant_of(number, task), video);
                    assert_eq!(&twin, expected, "{tenant}'s {name}, video {video}");
                }
            }
        }
    }

    /// Asserts that no set is in memory that no tenant's list has: a pin that was lost keeps its set's bytes.
    pub(super) async fn check_books(&self) {
        let engine = &self.server.wiring.engine;
        let listed = || -> u64 {
            let tenants = TENANTS.into_iter().chain(["twins"]);
            let records = tenants.flat_map(|own| engine.residency(&own.parse().unwrap()));
            records.map(|record| record.bytes).sum()
        };
        until(|| async { engine.in_use().set_bytes == listed() }).await;
        assert!(listed() > 0 && listed() <= self.budget);
        assert_eq!(engine.in_use().clips, 0);
    }

    pub(super) async fn stop(self) {
        let Self { server, folder, .. } = self;
        let drained = tokio::time::timeout(Duration::from_secs(60), server.stop()).await;
        drained.expect("the drain ends");
        drop(folder);
    }
}
