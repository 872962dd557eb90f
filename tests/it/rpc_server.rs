//! Health, reflection, what the server says of itself, and its end.

use frameshift::app::App;
use frameshift::client::Client;
use frameshift::config::Backbone;
use frameshift::model;
use frameshift::proto::v1;
use frameshift::spec::Precision;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::server::{TestServer, classify, config, refused, trained, until};

async fn health(client: &Client, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.into(),
    };
    let answer = HealthClient::new(client.channel()).check(request).await;
    answer.unwrap().into_inner().status()
}

const SERVICES: [&str; 6] = [
    "frameshift.v1.ClassificationService",
    "frameshift.v1.DatasetService",
    "frameshift.v1.FineTuningService",
    "frameshift.v1.ServerService",
    "frameshift.v1.TaskService",
    "frameshift.v1.VideoService",
];

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_server_from_its_start_to_its_drain() {
    let folder = tempfile::tempdir().unwrap();
    let bound = App::bind(config(folder.path())).await.unwrap();
    let address = format!("http://{}", bound.address().unwrap());
    let client = Client::connect(&address, None).await.unwrap();
    for service in SERVICES.iter().chain(&[""]) {
        assert_eq!(health(&client, service).await, ServingStatus::NotServing);
    }
    let early = client
        .server()
        .get_server_info(v1::GetServerInfoRequest {})
        .await;
    refused(early, Code::Unavailable, "NOT_READY");

    let app = bound.load().await.unwrap();
    for service in SERVICES.iter().chain(&[""]) {
        assert_eq!(health(&client, service).await, ServingStatus::Serving);
    }
    let request = HealthCheckRequest::default();
    let mut watch = HealthClient::new(client.channel())
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);

    app.run_until(std::future::ready(())).await.unwrap();
    let next = watch.message().await.unwrap().unwrap();
    assert_eq!(next.status(), ServingStatus::NotServing);
}

/// The services that a version of reflection lists.
macro_rules! listed {
    ($version:ident, $channel:expr) => {{
        use tonic_reflection::pb::$version as pb;
        let request = pb::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(pb::server_reflection_request::MessageRequest::ListServices(
                String::new(),
            )),
        };
        let mut client = pb::server_reflection_client::ServerReflectionClient::new($channel);
        let answers = client.server_reflection_info(futures::stream::iter([request]));
        let answer = answers.await.unwrap().into_inner().message().await;
        let answer = answer.unwrap().unwrap().message_response.unwrap();
        let pb::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer
        else {
            panic!("{answer:?}");
        };
        let names = list.service.into_iter().map(|service| service.name);
        names.collect::<Vec<String>>()
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_every_service() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    for names in [
        listed!(v1, client.channel()),
        listed!(v1alpha, client.channel()),
    ] {
        for service in SERVICES.iter().chain(&["grpc.health.v1.Health"]) {
            assert!(names.iter().any(|name| name == service), "{names:?}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_says_what_it_is() {
    let server = TestServer::start_with(|config| config.upload_limit = 12345).await;
    let client = server.client("acme").await;
    let info = client
        .server()
        .get_server_info(v1::GetServerInfoRequest {})
        .await;
    let info = info.unwrap().into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.tenant, "acme");
    let now = info.in_use.expect("what is in use");
    assert_eq!((now.queue_clips, now.queue_bytes), (0, 0));
    assert_eq!((now.queue_clips_capacity, now.waiting_frames), (256, 0));
    assert_eq!((now.resident_sets, now.resident_bytes), (0, 0));
    let adapters = |own: &&v1::MemoryBudget| own.settings == "adapter_memory";
    let adapters = info.memory_budgets.iter().find(adapters).unwrap();
    assert_eq!((&*adapters.part, adapters.bytes), ("adapter sets", 1 << 30));
    let [throughput] = &info.throughput[..] else {
        panic!("{:?}", info.throughput);
    };
    assert_eq!(throughput.precision, info.precision);
    assert!(throughput.clips_per_second > 0.0, "{throughput:?}");
    assert_eq!(throughput.source(), v1::throughput::Source::WarmUp);
    // What `auto` means on this CPU.
    let precision = model::fastest().to_string();
    assert_eq!((info.device, info.precision), ("cpu".into(), precision));
    let backbone = info.backbone.unwrap();
    let loaded = &server.wiring.backbone;
    assert_eq!(backbone.digest, loaded.digest().0.to_vec());
    assert_eq!(backbone.image_size as usize, loaded.config().image_size);
    let limits = info.limits.unwrap();
    assert_eq!(limits.upload_bytes, 12345);
    assert_eq!(
        (limits.message_bytes, limits.chunk_bytes),
        (32 << 20, 1 << 20)
    );
    // What the workers proved on this kernel, which may lack Landlock or seccomp; a server that has neither does not start.
    let isolation = server.wiring.decoder.isolation();
    let layers: Vec<&str> = isolation.iter().map(|layer| layer.name()).collect();
    assert_eq!(info.video_isolation, layers);
    assert!(isolation.is_confined());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_what_is_resident_and_how_fast_it_goes_is_shown() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let info = async || {
        let request = v1::GetServerInfoRequest {};
        let info = client.server().get_server_info(request).await;
        info.unwrap().into_inner()
    };
    let before = info().await.in_use.unwrap();
    assert_eq!((before.queue_clips, before.resident_sets), (0, 1));
    assert!(before.resident_bytes > 0);
    let pause = server.wiring.device.pause();
    let mut calls = client.classification();
    let request = classify("shade", &videos[0].name);
    let call = tokio::spawn(async move { calls.classify(request).await });
    until(|| async { info().await.in_use.unwrap().waiting_frames == 2 }).await;
    let now = info().await.in_use.unwrap();
    assert_eq!(now.queue_clips, 1);
    assert!(now.queue_bytes > 0);
    drop(pause);
    call.await.unwrap().unwrap();
    until(|| async { info().await.in_use.unwrap() == before }).await;
    let throughput = info().await.throughput[0].clone();
    assert_eq!(throughput.source(), v1::throughput::Source::LastMinute);
    let frames = throughput.frames_per_second / throughput.clips_per_second;
    assert!(
        (frames - 2.0).abs() < 1e-6,
        "a clip has two frames: {throughput:?}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_precision_that_is_asked_for_serves_on_every_cpu() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let server = TestServer::start_with(|config| config.precision = Some(precision)).await;
        let client = server.client("acme").await;
        let request = v1::GetServerInfoRequest {};
        let info = client.server().get_server_info(request).await.unwrap();
        assert_eq!(info.into_inner().precision, precision.to_string());
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_choice_serves_the_built_in_backbone() {
    let server = TestServer::start_with(|config| config.backbone = Backbone::Builtin).await;
    let client = server.client("acme").await;
    let info = client
        .server()
        .get_server_info(v1::GetServerInfoRequest {})
        .await;
    assert_eq!(info.unwrap().into_inner().backbone.unwrap().name, "builtin");
    let videos = trained(&client, "shade").await;
    let answer = client
        .classification()
        .classify(classify("shade", &videos[0].name))
        .await;
    assert_eq!(answer.unwrap().into_inner().predictions.len(), 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_in_flight() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = trained(&client, "shade").await;
    let device = server.wiring.device.clone();
    let metrics = server.wiring.metrics.clone();
    let pause = device.pause();
    let mut calls = client.classification();
    let request = classify("shade", &videos[0].name);
    let call = tokio::spawn(async move { calls.classify(request).await });
    until(|| async { metrics.text().contains("frameshift_queue_clips 1") }).await;

    let drained = server.drain();
    // New calls are refused on the connection that is still there, or it is closed for them.
    until(|| async {
        let request = v1::GetServerInfoRequest {};
        client.server().get_server_info(request).await.is_err()
    })
    .await;
    assert!(!drained.is_finished() && !call.is_finished());
    drop(pause);
    let answer = call.await.unwrap().expect("the call in flight is answered");
    assert_eq!(answer.into_inner().version, "tasks/shade/versions/1");
    drained.await.unwrap().expect("the drain finishes");
}
