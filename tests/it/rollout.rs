//! Three servers are replaced one by one under load: no request of a client fails that follows the service config as it is shipped.
//!
//! The short form is for every run of the tests; `FRAMESHIFT_FAULTS=full` goes on until 20,000 requests were answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::proto::v1::classify_request::Source;
use futures::future::BoxFuture;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::replicas::{Stand, is_full};
use crate::rpc_uploads::write_rest;
use crate::server::{classify, clip, create_dataset, create_task, new_task, trained};

const CONFIG: &str = include_str!("../../proto/frameshift/v1/service_config.json");

/// Servers of the fleet.
const REPLICAS: usize = 3;

/// Which calls are tried again, and how, as a library reads it out of the service config.
struct Policy {
    methods: BTreeSet<String>,
    attempts: u64,
    backoff: Duration,
    most: Duration,
    factor: f64,
    codes: BTreeSet<String>,
}

fn seconds(value: &serde_json::Value) -> Duration {
    let text = value.as_str().expect("a text").trim_end_matches('s');
    Duration::from_secs_f64(text.parse().expect("seconds"))
}

impl Policy {
    fn shipped() -> Self {
        let config: serde_json::Value = serde_json::from_str(CONFIG).expect("JSON");
        let spread = config["loadBalancingConfig"][0].as_object();
        let policy = spread.and_then(|policy| policy.keys().next());
        // What `Shared::call` does.
        assert_eq!(policy.map(String::as_str), Some("round_robin"));
        let own = &config["methodConfig"][0];
        let retry = &own["retryPolicy"];
        let names = own["name"].as_array().expect("names").iter();
        let codes = retry["retryableStatusCodes"].as_array().expect("codes");
        Self {
            methods: names
                .map(|name| name["method"].as_str().expect("a name").to_owned())
                .collect(),
            attempts: retry["maxAttempts"].as_u64().expect("a number"),
            backoff: seconds(&retry["initialBackoff"]),
            most: seconds(&retry["maxBackoff"]),
            factor: retry["backoffMultiplier"].as_f64().expect("a number"),
            codes: codes
                .iter()
                .map(|code| code.as_str().expect("a code").to_owned())
                .collect(),
        }
    }

    fn is_tried_again(&self, method: &str, status: &Status) -> bool {
        let retried = [
            (Code::Unavailable, "UNAVAILABLE"),
            (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
        ];
        let is_listed =
            |(code, name): &(Code, &str)| *code == status.code() && self.codes.contains(*name);
        self.methods.contains(method) && retried.iter().any(is_listed)
    }
}

/// What the callers share.
struct Shared {
    stand: Arc<Stand>,
    policy: Policy,
    turns: AtomicUsize,
    answered: AtomicUsize,
    failed: Mutex<BTreeMap<String, u64>>,
    tried_again: AtomicUsize,
    is_over: AtomicBool,
    videos: Vec<String>,
    twins: Vec<Vec<u32>>,
}

fn scores(answer: &v1::ClassifyResponse) -> Vec<u32> {
    let scores = answer.predictions.iter().map(|own| own.score.to_bits());
    scores.collect()
}

impl Shared {
    /// Calls a server, in turn, and others when the service config says so.
    async fn call<T>(
        &self,
        method: &str,
        mut call: impl FnMut(Client) -> BoxFuture<'static, Result<T, Status>> + Send,
    ) -> Option<T> {
        let mut pause = self.policy.backoff;
        for attempt in 1.. {
            let turn = self.turns.fetch_add(1, Ordering::SeqCst);
            let client = self.stand.client(turn).expect("a server");
            let status = match call(client).await {
                Ok(answer) => {
                    self.answered.fetch_add(1, Ordering::SeqCst);
                    return Some(answer);
                }
                Err(status) => status,
            };
            if attempt >= self.policy.attempts || !self.policy.is_tried_again(method, &status) {
                let text = format!("{method}: {status:?}");
                *self.failed.lock().unwrap().entry(text).or_default() += 1;
                return None;
            }
            self.tried_again.fetch_add(1, Ordering::SeqCst);
            sleep(pause).await;
            pause = self.policy.most.min(pause.mul_f64(self.policy.factor));
        }
        None
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst)
    }

    async fn classify(self: Arc<Self>, number: usize) {
        for round in number.. {
            if !self.goes_on() {
                return;
            }
            let video = round % self.videos.len();
            let mut request = classify("motion", &self.videos[video]);
            if round % 2 == 0 {
                request.source = Some(Source::Content(clip(SHADES[video])));
            }
            let answer = self.call("Classify", |client| {
                let request = request.clone();
                Box::pin(async move { client.classification().classify(request).await })
            });
            if let Some(answer) = answer.await {
                assert_eq!(scores(&answer.into_inner()), self.twins[video]);
            }
        }
    }

    async fn upload(self: Arc<Self>) {
        let mut shade = 0u8;
        while self.goes_on() {
            shade = shade.wrapping_add(1);
            let bytes = clip(shade);
            let sent = self.call("UploadVideo", |client| {
                let bytes = bytes.clone();
                Box::pin(async move { crate::server::upload(&client, &bytes).await })
            });
            sent.await;
            // What one server has begun another goes on with.
            let request_id = uuid::Uuid::now_v7().to_string();
            let upload = self.call("CreateUpload", |client| {
                let request = v1::CreateUploadRequest {
                    request_id: request_id.clone(),
                    ..Default::default()
                };
                Box::pin(async move { client.videos().create_upload(request).await })
            });
            let Some(upload) = upload.await else {
                continue;
            };
            let name = upload.into_inner().name;
            let written = self.call("WriteUpload", |client| {
                let (name, bytes) = (name.clone(), bytes.clone());
                Box::pin(async move { write_rest(&client, &name, 0, &bytes).await })
            });
            written.await;
        }
    }

    async fn fill(self: Arc<Self>) {
        let mut number = 0;
        while self.goes_on() {
            number += 1;
            let example = v1::Example {
                video: self.videos[number % self.videos.len()].clone(),
                label: format!("label {}", number % 5),
                split: v1::Split::Train.into(),
                ..Default::default()
            };
            let added = self.call("AddExamples", |client| {
                let request = v1::AddExamplesRequest {
                    name: "datasets/filled".into(),
                    examples: vec![example.clone()],
                };
                Box::pin(async move { client.datasets().add_examples(request).await })
            });
            added.await;
            let request_id = uuid::Uuid::now_v7().to_string();
            let made = self.call("CreateTask", |client| {
                let mut request = new_task(&format!("made-{number}"));
                request.request_id.clone_from(&request_id);
                Box::pin(async move { client.tasks().create_task(request).await })
            });
            made.await;
            let listed = self.call("ListTasks", |client| {
                let request = v1::ListTasksRequest::default();
                Box::pin(async move { client.tasks().list_tasks(request).await })
            });
            listed.await;
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Trains and watches: each stream goes on where the one before ended.
    async fn watch(self: Arc<Self>) {
        while self.goes_on() {
            let request_id = uuid::Uuid::now_v7().to_string();
            let job = self.call("SubmitJob", |client| {
                let request = v1::SubmitJobRequest {
                    task: "tasks/watched".into(),
                    dataset: "datasets/watched".into(),
                    request_id: request_id.clone(),
                    hyper_parameters: Some(v1::HyperParameters {
                        epochs: Some(30),
                        batch_size: Some(2),
                        seed: Some(5),
                        checkpoint_steps: Some(4),
                        ..Default::default()
                    }),
                    ..Default::default()
                };
                Box::pin(async move { client.fine_tuning().submit_job(request).await })
            });
            let Some(job) = job.await else {
                continue;
            };
            self.watched(job.into_inner().name).await;
        }
    }

    /// Reads every event of a job once.
    async fn watched(&self, name: String) {
        let mut last = 0;
        for _ in 0..1000 {
            let stream = self.call("WatchJob", |client| {
                let request = v1::WatchJobRequest {
                    name: name.clone(),
                    after_sequence: last,
                };
                Box::pin(async move { client.fine_tuning().watch_job(request).await })
            });
            let Some(stream) = stream.await else {
                return;
            };
            let mut stream = stream.into_inner();
            loop {
                match stream.message().await {
                    Ok(Some(event)) if event.event.is_some() && event.sequence > last => {
                        assert_eq!(event.sequence, last + 1, "an event is missing");
                        last = event.sequence;
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return,
                    // The server drains: a stream has no end of its own.
                    Err(status) => {
                        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                        break;
                    }
                }
            }
        }
        panic!("{name} has no end");
    }
}

/// Shades of the videos that are classified: those of the first examples.
const SHADES: [u8; 3] = [10, 30, 200];

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_are_replaced_one_by_one_and_no_request_fails() {
    let Some(stand) = Stand::start(REPLICAS).await else {
        return;
    };
    let stand = Arc::new(stand);
    let mut processes = Vec::new();
    for place in 0..REPLICAS {
        processes.push(stand.launch(&format!("a{place}"), &["--drain-grace", "2s"]));
    }
    for (place, process) in processes.iter().enumerate() {
        stand.open(place, process).await;
    }
    let client = stand.client(0).expect("a server");
    let videos = trained(&client, "motion").await;
    create_task(&client, "watched").await;
    create_dataset(&client, "watched").await;
    create_dataset(&client, "filled").await;
    let videos: Vec<String> = videos.into_iter().map(|video| video.name).collect();
    let videos = videos[..SHADES.len()].to_vec();
    let mut twins = Vec::new();
    for video in &videos {
        let answer = client
            .classification()
            .classify(classify("motion", video))
            .await;
        twins.push(scores(&answer.expect("a twin").into_inner()));
    }
    let shared = Arc::new(Shared {
        stand: Arc::clone(&stand),
        policy: Policy::shipped(),
        turns: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
        failed: Mutex::default(),
        tried_again: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        videos,
        twins,
    });
    let mut callers = Vec::new();
    for number in 0..4 {
        callers.push(tokio::spawn(Arc::clone(&shared).classify(number)));
    }
    callers.push(tokio::spawn(Arc::clone(&shared).upload()));
    callers.push(tokio::spawn(Arc::clone(&shared).fill()));
    callers.push(tokio::spawn(Arc::clone(&shared).watch()));
    let (begun, wanted) = (Instant::now(), if is_full() { 20_000 } else { 300 });
    let mut round = 0;
    while round == 0 || shared.answered.load(Ordering::SeqCst) < wanted {
        round += 1;
        for (place, slot) in processes.iter_mut().enumerate() {
            let name = format!("{}{place}", ["a", "b"][round % 2]);
            let old = std::mem::replace(slot, stand.launch(&name, &["--drain-grace", "2s"]));
            // As an orchestrator does it: the new one serves first, callers forget the old one, then it is told to end. Some have begun a call.
            stand.open(place, slot).await;
            let ended = old.terminate().await;
            assert_eq!(ended.code(), Some(0));
        }
        let (answered, failed) = (
            shared.answered.load(Ordering::SeqCst),
            shared.failed.lock().unwrap().clone(),
        );
        println!(
            "{:?}: round {round}: {answered} requests, {} of them at the second try, failed: {failed:?}",
            begun.elapsed(),
            shared.tried_again.load(Ordering::SeqCst)
        );
        assert_eq!(failed, BTreeMap::new());
    }
    shared.is_over.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.expect("a caller found a fault");
    }
    assert_eq!(*shared.failed.lock().unwrap(), BTreeMap::new());
    for place in 0..REPLICAS {
        stand.close(place);
    }
    for process in processes {
        assert_eq!(process.terminate().await.code(), Some(0));
    }
}
