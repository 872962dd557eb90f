//! A whole server for tests: real components on a free port and in a temporary data directory, and real clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use frameshift::app::{self, App, Wiring};
use frameshift::client::Client;
use frameshift::config::Config;
use frameshift::config::settings::{Flags, PrecisionChoice};
use frameshift::device;
use frameshift::metadata::Outages;
use frameshift::proto::v1;
use frameshift::shutdown;
use frameshift::store;
use frameshift::video::encode::{Encoder, Format};
use futures::stream;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Longest time that a test waits for an expected event; only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    /// Address of the administrators' API, if there is one.
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) wiring: Wiring,
    _drain: shutdown::Drain,
    running: JoinHandle<Result<(), app::Error>>,
    _folder: Option<TempDir>,
}

impl TestServer {
    /// Starts a server on a directory of its own.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a server like [`TestServer::start`], with a changed configuration.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        let mut server = Self::start_on(config).await;
        server._folder = Some(folder);
        server
    }

    /// Starts a server like [`TestServer::start_with`], with records whose faults the test controls.
    pub(crate) async fn start_faulty(change: impl FnOnce(&mut Config)) -> (Self, Outages) {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        let faults = Outages::default();
        let bound = App::bind(config).await.expect("the server binds");
        let app = bound.with_metadata_faults(&faults).load().await;
        let mut server = Self::of(app.expect("the server starts"));
        server._folder = Some(folder);
        (server, faults)
    }

    /// Starts a server with this configuration.
    pub(crate) async fn start_on(config: Config) -> Self {
        Self::of(App::start(config).await.expect("the server starts"))
    }

    /// Starts a server like [`TestServer::start_on`], with a store whose faults the test controls.
    pub(crate) async fn start_slow(config: Config, faults: &store::Faults) -> Self {
        let bound = App::bind(config).await.expect("the server binds");
        let app = bound.with_store_faults(faults).load().await;
        Self::of(app.expect("the server starts"))
    }

    fn of(app: App) -> Self {
        let (drain, signal) = shutdown::channel();
        Self {
            address: app.address().expect("the server serves"),
            admin: app.admin_address(),
            wiring: app.wiring().clone(),
            _drain: drain,
            running: tokio::spawn(app.run_until(async move { signal.draining().await })),
            _folder: None,
        }
    }

    /// Returns the device's counters between two slices, so that they include everything that was answered. A batch is counted when its last slice
    /// has ended, and that slice sends the answers.
    pub(crate) fn settled(&self) -> device::Stats {
        drop(self.wiring.device.pause());
        self.wiring.device.stats()
    }

    /// Returns a client of a tenant.
    pub(crate) async fn client(&self, tenant: &str) -> Client {
        let address = format!("http://{}", self.address);
        Client::connect(&address, Some(tenant)).await.unwrap()
    }

    /// Starts the drain. The returned future completes when it is over.
    pub(crate) fn drain(self) -> JoinHandle<Result<(), app::Error>> {
        let Self {
            running, _drain, ..
        } = self;
        _drain.start();
        running
    }

    /// Waits until the server has ended by itself.
    pub(crate) async fn ended(self) -> Result<(), app::Error> {
        let Self {
            running,
            _drain,
            _folder,
            ..
        } = self;
        let ended = soon(running).await.unwrap();
        drop((_drain, _folder));
        ended
    }

    /// Drains the server and waits for the end.
    pub(crate) async fn stop(mut self) {
        let folder = self._folder.take();
        self.drain().await.unwrap().expect("the drain finishes");
        drop(folder);
    }
}

/// Returns what the model of a server computes on: the processor, or the device that `FRAMESHIFT_TEST_DEVICE` names, in f32 there as here.
fn computing() -> Flags {
    match std::env::var("FRAMESHIFT_TEST_DEVICE") {
        Ok(device) => Flags {
            device: Some(device.parse().expect("a device")),
            precision: Some(PrecisionChoice::F32),
            ..Flags::default()
        },
        Err(_) => Flags::default(),
    }
}

/// Returns the configuration of a server on this directory, with the smallest Hugging Face backbone of the golden data.
pub(crate) fn config(folder: &Path) -> Config {
    let flags = Flags {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        data_dir: Some(folder.to_owned()),
        backbone: Some(backbone()),
        ..computing()
    };
    let program = PathBuf::from(env!("CARGO_BIN_EXE_frameshift"));
    Config::load(None, &BTreeMap::new(), &flags, program).unwrap()
}

/// Returns the path of a small backbone.
pub(crate) fn backbone() -> PathBuf {
    let folder = crate::shared::root().join("golden/backbones");
    let mut found: Vec<(u64, PathBuf)> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").is_file())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            let weights = path.join("model.safetensors").metadata().ok()?;
            name.starts_with("hf_clip")
                .then(|| (weights.len(), path.clone()))
        })
        .collect();
    found.sort();
    found.into_iter().next().expect("a Hugging Face CLIP").1
}

/// Returns a short video of one shade of grey that moves a little, so that two shades give two different files.
pub(crate) fn clip(shade: u8) -> Bytes {
    let mut encoder = Encoder::new(Format::Lossless, 48, 48, 10).unwrap();
    for frame in 0..10u8 {
        encoder
            .push(&[shade.saturating_add(frame); 48 * 48 * 3])
            .unwrap();
    }
    encoder.finish().unwrap().into()
}

/// Returns a video of noise with at least `frames` frames of 200 kB each.
pub(crate) fn noise(frames: u64) -> Bytes {
    let mut encoder = Encoder::new(Format::Lossless, 256, 256, 10).unwrap();
    let mut stream = frameshift::rng::Stream::new(frames, "noise");
    for _ in 0..frames {
        let picture: Vec<u8> = (0..256 * 256 * 3 / 8)
            .flat_map(|_| stream.bits().to_le_bytes())
            .collect();
        encoder.push(&picture).unwrap();
    }
    encoder.finish().unwrap().into()
}

/// Returns the messages of an UploadVideo stream.
pub(crate) fn upload_messages(
    header: v1::UploadVideoHeader,
    bytes: &Bytes,
) -> Vec<v1::UploadVideoRequest> {
    use v1::upload_video_request::Payload;
    let chunks = bytes
        .chunks(1 << 20)
        .map(|chunk| Payload::Chunk(bytes.slice_ref(chunk)));
    std::iter::once(Payload::Header(header))
        .chain(chunks)
        .map(|payload| v1::UploadVideoRequest {
            payload: Some(payload),
        })
        .collect()
}

/// Uploads a video in one stream.
pub(crate) async fn upload(client: &Client, bytes: &Bytes) -> Result<v1::Video, Status> {
    let messages = upload_messages(v1::UploadVideoHeader::default(), bytes);
    let video = client.videos().upload_video(stream::iter(messages)).await?;
    Ok(video.into_inner())
}

/// Returns a request for a task with small adapters and clips of two frames.
pub(crate) fn new_task(task: &str) -> v1::CreateTaskRequest {
    v1::CreateTaskRequest {
        task_id: task.into(),
        task: Some(v1::Task {
            adapter: Some(v1::AdapterConfig {
                adapter_width: 4,
                adapter_pre_mlp: true,
                ..Default::default()
            }),
            sampling: Some(v1::ClipSampling {
                num_frames: 2,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Creates a task with adapters.
pub(crate) async fn create_task(client: &Client, task: &str) -> v1::Task {
    client
        .tasks()
        .create_task(new_task(task))
        .await
        .unwrap()
        .into_inner()
}

/// Creates a data set of dark and bright videos.
pub(crate) async fn create_dataset(client: &Client, dataset: &str) -> Vec<v1::Video> {
    let request = v1::CreateDatasetRequest {
        dataset_id: dataset.into(),
        ..Default::default()
    };
    client.datasets().create_dataset(request).await.unwrap();
    let mut videos = Vec::new();
    let mut examples = Vec::new();
    for (shade, label, split) in [
        (10, "dark", v1::Split::Train),
        (30, "dark", v1::Split::Train),
        (200, "bright", v1::Split::Train),
        (220, "bright", v1::Split::Train),
        (20, "dark", v1::Split::Validation),
        (210, "bright", v1::Split::Validation),
    ] {
        let video = upload(client, &clip(shade)).await.unwrap();
        examples.push(v1::Example {
            video: video.name.clone(),
            label: label.into(),
            split: split.into(),
            ..Default::default()
        });
        videos.push(video);
    }
    let request = v1::AddExamplesRequest {
        name: format!("datasets/{dataset}"),
        examples,
    };
    client.datasets().add_examples(request).await.unwrap();
    videos
}

/// Submits a job of a few steps.
pub(crate) async fn submit(client: &Client, task: &str, dataset: &str) -> v1::Job {
    let request = v1::SubmitJobRequest {
        task: format!("tasks/{task}"),
        dataset: format!("datasets/{dataset}"),
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(2),
            batch_size: Some(2),
            seed: Some(5),
            ..Default::default()
        }),
        ..Default::default()
    };
    client
        .fine_tuning()
        .submit_job(request)
        .await
        .unwrap()
        .into_inner()
}

/// Returns a job's recorded events until it ends, and its version serves or is known not to.
pub(crate) async fn events(client: &Client, job: &str, after: u64) -> Vec<v1::JobEvent> {
    let request = v1::WatchJobRequest {
        name: job.into(),
        after_sequence: after,
    };
    let mut stream = client
        .fine_tuning()
        .watch_job(request)
        .await
        .unwrap()
        .into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        // What is not on record has no number of its own.
        if !matches!(event.event, None | Some(v1::job_event::Event::Serving(_))) {
            events.push(event);
        }
    }
    events
}

/// Creates a task that was fine-tuned on its own data set and serves. Returns its videos.
pub(crate) async fn trained(client: &Client, task: &str) -> Vec<v1::Video> {
    create_task(client, task).await;
    let videos = create_dataset(client, task).await;
    let job = submit(client, task, task).await;
    events(client, &job.name, 0).await;
    serving(client, task).await;
    videos
}

/// Waits until a task serves. Returns the version's name.
pub(crate) async fn serving(client: &Client, task: &str) -> String {
    let version = async || {
        let request = v1::GetTaskRequest {
            name: format!("tasks/{task}"),
        };
        let task = client.tasks().get_task(request).await.unwrap().into_inner();
        assert_eq!(task.serving_error, "");
        task.serving_version
    };
    until(|| async { !version().await.is_empty() }).await;
    version().await
}

/// Returns a request to classify a stored video.
pub(crate) fn classify(task: &str, video: &str) -> v1::ClassifyRequest {
    v1::ClassifyRequest {
        task: format!("tasks/{task}"),
        source: Some(v1::classify_request::Source::Video(video.into())),
        options: None,
        ..Default::default()
    }
}

/// Waits for a future that should complete soon.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, what).await;
    waited.expect("it never became so")
}

/// Polls a condition until it is true.
pub(crate) async fn until<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
    soon(async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Polls until a value is there. Returns it.
pub(crate) async fn found<T>(mut look: impl FnMut() -> Option<T>) -> T {
    soon(async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Returns the stable reason of a status.
pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details
        .error_info()
        .map_or_else(String::new, |info| info.reason.clone())
}

/// Asserts the code and the reason of a refusal.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, expected: &str) {
    let status = result.expect_err("it was not refused");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (code, expected),
        "{status:?}"
    );
}
