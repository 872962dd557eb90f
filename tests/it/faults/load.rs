//! The load of a fleet: classifications whose every answer is compared with its twin, and writes whose acknowledgements are kept.

mod check;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::proto::v1::classify_request::Source;
use frameshift::rng::Stream;
use futures::future::BoxFuture;
use sha2::Digest as _;
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Status};

use crate::replicas::Stand;
use crate::rpc_versions::{adapters, file, import, into_task};
use crate::server::{clip, create_dataset, create_task, reason, serving, upload};

/// Shades of the videos that are classified.
const SHADES: [u8; 3] = [40, 120, 200];
/// Tasks that classify.
pub(crate) const TASKS: usize = 3;
/// The task and the data set of jobs.
const TRAINED: &str = "trained";
/// The data set that gets examples.
const GROWING: &str = "growing";
/// Longest time that a call may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The bits of a video's scores by a task.
type Twin = Vec<u32>;

/// What was acknowledged.
#[derive(Default)]
struct Kept {
    tasks: Vec<String>,
    videos: Vec<(String, Vec<u8>)>,
    examples: Vec<(String, String)>,
    deleted: Vec<String>,
    jobs: Vec<String>,
}

/// What the callers of a fleet share.
pub(crate) struct Load {
    pub(crate) stand: Arc<Stand>,
    videos: Vec<(String, Bytes)>,
    twins: HashMap<(usize, usize), Twin>,
    kept: Mutex<Kept>,
    refused: Mutex<BTreeMap<String, u64>>,
    right: AtomicUsize,
    is_over: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request(task: usize, source: Source) -> v1::ClassifyRequest {
    v1::ClassifyRequest {
        task: format!("tasks/t{task}"),
        source: Some(source),
        options: Some(v1::ClassifyOptions {
            per_view: true,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

fn bits(answer: &v1::ClassifyResponse) -> Twin {
    let views = answer.views.iter().flat_map(|view| &view.scores);
    views.map(|score| score.to_bits()).collect()
}

/// The file of a task's version: adapters that no other task has.
fn variant(number: usize) -> Bytes {
    let plan = frameshift::model::load::plan(&crate::server::backbone(), &Default::default());
    let shape = plan.expect("a backbone").config().clone();
    let mut tensors = adapters(&shape, 5);
    for tensor in &mut tensors {
        let values = tensor.bytes.chunks_exact(4).map(|bytes| {
            let value = f32::from_le_bytes(bytes.try_into().expect("four bytes"));
            value * (1.0 + number as f32 / 3.0)
        });
        tensor.bytes = values.flat_map(f32::to_le_bytes).collect();
    }
    file(&tensors)
}

/// Whether a call that failed says nothing of what was asked: the server, the database or the bucket was away, or the connection ended.
fn is_passing(status: &Status) -> bool {
    let may_be = [
        Code::Unavailable,
        Code::ResourceExhausted,
        Code::DeadlineExceeded,
        Code::Unknown,
        Code::Cancelled,
    ];
    // A connection that breaks is INTERNAL to the library, without a reason of the server's.
    let is_broken = status.code() == Code::Internal && reason(status).is_empty();
    may_be.contains(&status.code()) || is_broken
}

impl Load {
    /// Fills a fleet through its first server, and asks for every twin, one request at a time.
    pub(crate) async fn new(stand: Arc<Stand>) -> Self {
        let client = stand.client(0).expect("a server");
        for task in 0..TASKS {
            let header = v1::ImportAdapterVersionHeader {
                create_task: true,
                sampling: Some(v1::ClipSampling {
                    num_frames: 2,
                    ..Default::default()
                }),
                ..into_task(&format!("t{task}"))
            };
            import(&client, header, &variant(task))
                .await
                .expect("imported");
            serving(&client, &format!("t{task}")).await;
        }
        let mut videos = Vec::new();
        for shade in SHADES {
            let bytes = clip(shade);
            let video = upload(&client, &bytes).await.expect("uploaded");
            videos.push((video.name, bytes));
        }
        create_task(&client, TRAINED).await;
        create_dataset(&client, TRAINED).await;
        let growing = v1::CreateDatasetRequest {
            dataset_id: GROWING.into(),
            ..Default::default()
        };
        client
            .datasets()
            .create_dataset(growing)
            .await
            .expect("created");
        let mut load = Self {
            stand,
            videos,
            twins: HashMap::new(),
            kept: Mutex::default(),
            refused: Mutex::default(),
            right: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        };
        for task in 0..TASKS {
            for video in 0..SHADES.len() {
                let source = Source::Content(load.videos[video].1.clone());
                let answer = client
                    .classification()
                    .classify(request(task, source))
                    .await;
                let twin = bits(&answer.expect("a twin").into_inner());
                load.twins.insert((task, video), twin);
            }
        }
        let different: HashSet<_> = load.twins.values().collect();
        assert_eq!(different.len(), load.twins.len());
        load
    }

    /// Starts every caller.
    pub(crate) fn begin(self: &Arc<Self>) -> Vec<tokio::task::JoinHandle<()>> {
        let mut callers = Vec::new();
        for number in 0..3 {
            callers.push(tokio::spawn(Arc::clone(self).classify(number)));
        }
        for number in 0..2 {
            callers.push(tokio::spawn(Arc::clone(self).write(number)));
        }
        callers.push(tokio::spawn(Arc::clone(self).train()));
        callers
    }

    /// Lets every caller come to its end.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst)
    }

    /// How many classifications had the bits of their twins.
    pub(crate) fn right(&self) -> usize {
        self.right.load(Ordering::SeqCst)
    }

    /// What was acknowledged and refused, for people.
    pub(crate) fn told(&self) -> String {
        let kept = lock(&self.kept);
        format!(
            "{} right answers; kept: {} tasks, {} videos, {} examples, {} deletions, {} jobs; refused: {:?}",
            self.right(),
            kept.tasks.len(),
            kept.videos.len(),
            kept.examples.len(),
            kept.deleted.len(),
            kept.jobs.len(),
            lock(&self.refused)
        )
    }

    fn was_refused(&self, what: &str, status: &Status) {
        assert!(is_passing(status), "{what}: {status:?}");
        let name = format!("{:?} {}", status.code(), reason(status));
        *lock(&self.refused).entry(name).or_default() += 1;
    }

    async fn classify(self: Arc<Self>, number: usize) {
        let mut dice = Stream::new(number as u64, "callers");
        let mut tries = number;
        while self.goes_on() {
            tries += 1;
            let Some(client) = self.stand.client(tries) else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let task = dice.below(TASKS as u64) as usize;
            let video = dice.below(SHADES.len() as u64) as usize;
            let (name, bytes) = &self.videos[video];
            let source = match dice.below(2) {
                0 => Source::Video(name.clone()),
                _ => Source::Content(bytes.clone()),
            };
            let asked = client
                .classification()
                .classify(timed(request(task, source)))
                .await;
            match asked {
                Ok(answer) => {
                    let answer = bits(&answer.into_inner());
                    assert_eq!(answer, self.twins[&(task, video)], "t{task}, video {video}");
                    self.right.fetch_add(1, Ordering::SeqCst);
                }
                Err(status) => {
                    self.was_refused("a classification", &status);
                    sleep(Duration::from_millis(20)).await;
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Calls one server after another until one answers; `None` when the load is over before that.
    async fn stubborn<T>(
        &self,
        what: &str,
        mut call: impl FnMut(Client) -> BoxFuture<'static, Result<T, Status>> + Send,
    ) -> Option<T> {
        for tries in 0.. {
            if let Some(client) = self.stand.client(tries) {
                match tokio::time::timeout(PATIENCE, call(client)).await {
                    Ok(Ok(answer)) => return Some(answer),
                    Ok(Err(status)) => self.was_refused(what, &status),
                    Err(_) => {
                        *lock(&self.refused).entry("no answer".into()).or_default() += 1;
                    }
                }
            }
            if !self.goes_on() {
                return None;
            }
            sleep(Duration::from_millis(50)).await;
        }
        None
    }

    async fn write(self: Arc<Self>, writer: usize) {
        let mut number = 0;
        while self.goes_on() {
            number += 1;
            let id = format!("w{writer}-{number}");
            let request_id = uuid::Uuid::now_v7().to_string();
            let made = self.stubborn("CreateTask", |client| {
                let mut request = crate::server::new_task(&id);
                request.request_id.clone_from(&request_id);
                Box::pin(async move { client.tasks().create_task(timed(request)).await })
            });
            if made.await.is_some() {
                lock(&self.kept).tasks.push(format!("tasks/{id}"));
            }
            let bytes = clip((number * 2 + writer) as u8);
            let sent = self.stubborn("UploadVideo", |client| {
                let bytes = bytes.clone();
                Box::pin(async move { upload(&client, &bytes).await })
            });
            let Some(video) = sent.await else {
                continue;
            };
            let sha256 = sha2::Sha256::digest(&bytes).to_vec();
            assert_eq!(video.sha256, sha256);
            if number % 3 == 0 {
                self.delete(&video.name).await;
                continue;
            }
            lock(&self.kept).videos.push((video.name.clone(), sha256));
            let added = self.stubborn("AddExamples", |client| {
                let example = v1::Example {
                    video: video.name.clone(),
                    label: id.clone(),
                    split: v1::Split::Train.into(),
                    ..Default::default()
                };
                let request = v1::AddExamplesRequest {
                    name: format!("datasets/{GROWING}"),
                    examples: vec![example],
                };
                Box::pin(async move { client.datasets().add_examples(timed(request)).await })
            });
            if added.await.is_some() {
                lock(&self.kept).examples.push((video.name, id));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn delete(&self, name: &str) {
        let deleted = self.stubborn("DeleteVideo", |client| {
            let request = v1::DeleteVideoRequest {
                name: name.into(),
                force: false,
            };
            Box::pin(async move {
                match client.videos().delete_video(timed(request)).await {
                    // A try before this one may have done it.
                    Err(status) if status.code() == Code::NotFound => Ok(()),
                    done => done.map(drop),
                }
            })
        });
        if deleted.await.is_some() {
            lock(&self.kept).deleted.push(name.into());
        }
    }

    async fn train(self: Arc<Self>) {
        while self.goes_on() {
            let request_id = uuid::Uuid::now_v7().to_string();
            let submitted = self.stubborn("SubmitJob", |client| {
                let request = v1::SubmitJobRequest {
                    task: format!("tasks/{TRAINED}"),
                    dataset: format!("datasets/{TRAINED}"),
                    request_id: request_id.clone(),
                    hyper_parameters: Some(v1::HyperParameters {
                        epochs: Some(12),
                        batch_size: Some(2),
                        // Said, since releases differ in what they choose.
                        learning_rate: Some(1e-3),
                        seed: Some(5),
                        checkpoint_steps: Some(4),
                        ..Default::default()
                    }),
                    ..Default::default()
                };
                Box::pin(async move { client.fine_tuning().submit_job(timed(request)).await })
            });
            let Some(job) = submitted.await else {
                return;
            };
            let name = job.into_inner().name;
            lock(&self.kept).jobs.push(name.clone());
            while self.goes_on() && !self.has_ended(&name).await {
                sleep(Duration::from_millis(200)).await;
            }
        }
    }

    async fn has_ended(&self, name: &str) -> bool {
        let found = self.stubborn("GetJob", |client| {
            let request = v1::GetJobRequest { name: name.into() };
            Box::pin(async move { client.fine_tuning().get_job(timed(request)).await })
        });
        let state = found.await.map(|job| job.into_inner().state());
        let running = [
            v1::JobState::Queued,
            v1::JobState::Validating,
            v1::JobState::Running,
            v1::JobState::Evaluating,
            v1::JobState::Publishing,
        ];
        state.is_some_and(|state| !running.contains(&state))
    }
}

fn request_of(video: &str) -> v1::ClassifyRequest {
    request(0, Source::Video(video.into()))
}
