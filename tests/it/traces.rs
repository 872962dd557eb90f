//! Traces: what a collector is told of requests, that it is told nothing else, and that nobody waits for it.

mod streams;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::telemetry::trace;
use futures::stream;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::rpc_many_tasks::many;
use crate::server::{
    TestServer, backbone, classify, clip, create_task, found, soon, trained, until,
};
use crate::server_process::Process;

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts a collector. Returns it and its URL.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        (collector, url)
    }

    fn spans(&self) -> Vec<Span> {
        let sent = self.0.lock().unwrap();
        let scopes = sent
            .iter()
            .flat_map(|request| &request.resource_spans)
            .flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// Returns the spans of a trace, by the hexadecimal digits of its id.
    fn of(&self, trace: &str) -> Vec<Span> {
        let spans = self.spans().into_iter();
        spans.filter(|span| hex(&span.trace_id) == trace).collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Starts a server that sends the spans of `ratio` of its requests to a collector.
async fn traced(endpoint: String, ratio: f64) -> TestServer {
    TestServer::start_with(|config| config.traces = Some(trace::Config { endpoint, ratio })).await
}

/// A request as a part of a trace.
fn part_of<T>(trace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", parent.parse().unwrap());
    metadata.insert("tracestate", "vendor=7".parse().unwrap());
    request
}

/// A text, or a number as text.
fn attribute(span: &Span, key: &str) -> Option<String> {
    let mut attributes = span.attributes.iter();
    let value = attributes.find(|own| own.key == key)?.value.clone()?;
    if let Value::StringValue(text) = value.value.as_ref()? {
        return Some(text.clone());
    }
    let Value::IntValue(number) = value.value? else {
        panic!("{key} is neither a text nor a number");
    };
    Some(number.to_string())
}

/// The spans of a trace by name: its root, and the stages below it.
fn tree(spans: &[Span], method: &str) -> BTreeMap<String, Vec<Span>> {
    let name = format!("frameshift.v1.ClassificationService/{method}");
    let roots: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    let [root] = roots[..] else {
        panic!("{} roots: {spans:#?}", roots.len());
    };
    assert_eq!(hex(&root.parent_span_id), "00f067aa0ba902b7");
    let mut stages: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    for span in spans {
        assert_eq!(span.trace_state, "vendor=7");
        if span.span_id != root.span_id {
            assert_eq!(span.parent_span_id, root.span_id, "{}", span.name);
            assert!(span.start_time_unix_nano >= root.start_time_unix_nano);
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
            assert!(span.end_time_unix_nano <= root.end_time_unix_nano);
        }
        stages
            .entry(span.name.clone())
            .or_default()
            .push(span.clone());
    }
    stages
}

/// Sends a video in a stream.
fn streamed(task: &str, bytes: &[u8]) -> Vec<v1::ClassifyUploadRequest> {
    use v1::classify_upload_request::Payload;
    let header = v1::ClassifyUploadHeader {
        task: format!("tasks/{task}"),
        ..Default::default()
    };
    let chunk = Payload::Chunk(bytes.to_vec().into());
    let payloads = [Payload::Header(header), chunk];
    let request = |payload| v1::ClassifyUploadRequest {
        payload: Some(payload),
    };
    payloads.map(request).into()
}

/// An embedding by a task's version.
fn embed(task: &str, video: &str) -> v1::EmbedRequest {
    v1::EmbedRequest {
        task: format!("tasks/{task}"),
        source: Some(v1::embed_request::Source::Video(video.into())),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stage_of_a_request_is_a_span_below_its_callers() {
    let (collector, url) = Collector::start().await;
    let server = traced(url, 0.0).await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let video = &*videos[0].name;
    let mut rpc = client.classification();
    let methods = ["Classify", "ClassifyUpload", "Embed"];
    let traces = methods.map(|_| uuid::Uuid::now_v7().simple().to_string());
    let request = part_of(&traces[0], many(&["shade"], video));
    rpc.classify(request).await.unwrap();
    let messages = stream::iter(streamed("shade", &clip(9)));
    let request = part_of(&traces[1], messages);
    rpc.classify_upload(request).await.unwrap();
    let request = part_of(&traces[2], embed("shade", video));
    rpc.embed(request).await.unwrap();
    // What has no sampled parent is not traced at this ratio.
    rpc.classify(classify("shade", video)).await.unwrap();
    server.stop().await;
    for (method, trace) in methods.into_iter().zip(&traces) {
        let spans = tree(&collector.of(trace), method);
        let root = &spans[&format!("frameshift.v1.ClassificationService/{method}")][0];
        assert_eq!(attribute(root, "rpc.method").as_deref(), Some(method));
        let code = attribute(root, "rpc.grpc.status_code");
        assert_eq!(code.as_deref(), Some("0"));
        let tenant = attribute(root, "frameshift.tenant");
        assert_eq!(tenant.as_deref(), Some("acme"));
        assert!(attribute(root, "frameshift.request_id").is_some());
        let mut ends = 0;
        for stage in ["admit", "decode", "load", "queue", "device", "answer"] {
            let [span] = &spans[stage][..] else {
                panic!("{method}: {} of {stage}", spans[stage].len());
            };
            assert!(span.start_time_unix_nano >= ends, "{stage}");
            ends = span.end_time_unix_nano;
            let code = span.status.as_ref().map_or(0, |status| status.code);
            assert_eq!(code, 0, "{stage}");
        }
        let clips = attribute(&spans["queue"][0], "frameshift.clips");
        assert_eq!(clips.as_deref(), Some("1"));
    }
    assert!(
        collector
            .spans()
            .iter()
            .all(|span| traces.contains(&hex(&span.trace_id))),
        "only what was asked for is traced"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_no_label_and_no_name_of_a_video_is_in_a_span() {
    let (collector, url) = Collector::start().await;
    let server = traced(url, 1.0).await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let video = &*videos[0].name;
    let mut rpc = client.classification();
    let mut request = Request::new(classify("shade", video));
    let secret = "Bearer hunter2";
    request
        .metadata_mut()
        .insert("authorization", secret.parse().unwrap());
    rpc.classify(request).await.unwrap();
    rpc.embed(embed("shade", video)).await.unwrap();
    let missing = v1::GetVideoRequest { name: video.into() };
    client.videos().get_video(missing).await.unwrap();
    create_task(&client, "other").await;
    rpc.classify(classify("other", video)).await.unwrap_err();
    server.stop().await;
    assert!(!collector.spans().is_empty());
    let mut sent = Vec::new();
    for request in collector.0.lock().unwrap().iter() {
        request.encode(&mut sent).unwrap();
    }
    let sent = String::from_utf8_lossy(&sent);
    let id = video.trim_start_matches("videos/");
    for kept in [secret, "hunter2", "dark", "bright", video, id] {
        assert!(!sent.contains(kept), "{kept} is in a span");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_in_which_the_caller_leaves_is_cancelled() {
    let (collector, url) = Collector::start().await;
    let server = traced(url, 0.0).await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let trace = uuid::Uuid::now_v7().simple().to_string();
    let pause = server.wiring.device.pause();
    let request = part_of(&trace, classify("shade", &videos[0].name));
    let mut rpc = client.classification();
    let waiting = tokio::spawn(async move { rpc.classify(request).await });
    let engine = server.wiring.engine.clone();
    until(|| async { engine.in_use().waiting_frames > 0 }).await;
    waiting.abort();
    until(|| async { engine.in_use().clips == 0 }).await;
    drop(pause);
    server.stop().await;
    let spans = tree(&collector.of(&trace), "Classify");
    let queue = &spans["queue"][0];
    let status = queue.status.clone().unwrap();
    assert_eq!((status.code, &*status.message), (2, "cancelled"));
    assert!(!spans.contains_key("device") && !spans.contains_key("answer"));
    let root = &spans["frameshift.v1.ClassificationService/Classify"][0];
    let code = attribute(root, "rpc.grpc.status_code");
    assert_eq!(code.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latency_has_the_id_of_a_trace_as_its_exemplar() {
    let (_collector, url) = Collector::start().await;
    let server = traced(url, 0.0).await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let trace = uuid::Uuid::now_v7().simple().to_string();
    let request = part_of(&trace, classify("shade", &videos[0].name));
    client.classification().classify(request).await.unwrap();
    let exemplar = format!("# {{trace_id=\"{trace}\"}}");
    for latency in ["request_seconds", "queue_seconds", "decode_seconds"] {
        // The request is counted when its body has ended, which the caller may see first.
        found(|| {
            let text = server.wiring.metrics.text();
            let name = format!("frameshift_{latency}_bucket");
            let has = |line: &str| line.starts_with(&name) && line.contains(&exemplar);
            text.lines().any(has).then_some(())
        })
        .await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_never_answers_fails_and_delays_no_request() {
    // One of them takes connections and never says a word, the other takes none.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let urls = [&silent, &closed].map(|own| format!("http://{}", own.local_addr().unwrap()));
    drop(closed);
    for url in urls {
        let server = traced(url, 1.0).await;
        let client = server.client("acme").await;
        let videos = trained(&client, "shade").await;
        // More spans than may wait.
        for _ in 0..700 {
            let request = v1::GetTaskRequest {
                name: "tasks/shade".into(),
            };
            client.tasks().get_task(request).await.unwrap();
        }
        for _ in 0..5 {
            let request = classify("shade", &videos[0].name);
            client.classification().classify(request).await.unwrap();
        }
        drop(client);
        let drain = server.drain();
        soon(drain).await.unwrap().unwrap();
    }
}

/// Asks the operators' endpoint. Returns its answer.
async fn asked(address: SocketAddr, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let text = format!(
        "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_running_programs_log_can_be_made_to_say_more_and_names_traces() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "info"])
        .args(["--log-format", "json", "--metrics-listen", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .arg("--backbone")
        .arg(backbone())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .kill_on_drop(true);
    let server = Process::start_by(command, folder.path(), &[]);
    let client = server.client().await;
    let lines = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&log).unwrap();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.collect()
    };
    let metrics = found(|| {
        let lines = lines();
        let serving = lines.iter().find(|line| line["message"] == "serving")?;
        Some(serving["metrics"].as_str()?.parse().unwrap())
    })
    .await;
    let refused = asked(metrics, "PUT /log-level", "frameshift=loudly").await;
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    let info = |client: Client| async move {
        let request = v1::GetServerInfoRequest {};
        client.server().get_server_info(request).await.unwrap();
    };
    info(client.clone()).await;
    let is_answer = |line: &serde_json::Value| line["message"] == "answered";
    assert!(
        !lines().iter().any(is_answer),
        "the log says it at debug only"
    );
    let changed = asked(metrics, "PUT /log-level", "info,frameshift::rpc=debug").await;
    assert!(changed.starts_with("HTTP/1.1 200 "), "{changed}");
    // The command goes on with the trace that it is started in.
    let trace = uuid::Uuid::now_v7().simple().to_string();
    let address = server.address().await;
    let shown = Command::new(env!("CARGO_BIN_EXE_frameshift"))
        .args(["info", "--server", &address])
        .env("TRACEPARENT", format!("00-{trace}-00f067aa0ba902b7-00"))
        .stdout(Stdio::null())
        .status();
    assert!(soon(shown).await.unwrap().success());
    let span = found(|| {
        let lines = lines();
        let line = lines
            .iter()
            .find(|line| is_answer(line) && line["span"]["trace_id"] == trace.as_str())?;
        Some(line["span"].clone())
    })
    .await;
    assert!(!span["id"].as_str().unwrap().is_empty());
    drop(client);
    assert_eq!(server.terminate().await.code(), Some(0));
}
