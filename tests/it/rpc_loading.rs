//! Adapter sets through the whole server: they load while the video is decoded, pinned ones are there from the start, and clients see what is loaded.

use frameshift::client::Client;
use frameshift::config::Config;
use frameshift::engine;
use frameshift::proto::v1;
use frameshift::store::Faults;
use tonic::Code;

use crate::rpc_canary::versions;
use crate::rpc_classify::counted;
use crate::server::{TestServer, classify, clip, config, refused, serving, soon, until};

const VERSION: &str = "tasks/shade/versions/1";

/// A request with the video inside.
fn inline(content: bytes::Bytes) -> v1::ClassifyRequest {
    v1::ClassifyRequest {
        source: Some(v1::classify_request::Source::Content(content)),
        ..classify("shade", "")
    }
}

/// A folder with a task of one version.
async fn prepared() -> (tempfile::TempDir, Config, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let server = TestServer::start_on(config.clone()).await;
    let client = server.client("acme").await;
    let video = versions(&server, &client, &[0]).await;
    server.stop().await;
    (folder, config, video)
}

async fn sets(client: &Client) -> Vec<v1::Residency> {
    let request = v1::ListResidencyRequest {};
    let answer = client.tasks().list_residency(request).await.unwrap();
    answer.into_inner().sets
}

async fn pin(client: &Client, unpin: bool) -> Result<v1::Task, tonic::Status> {
    let request = v1::PinTaskRequest {
        name: "tasks/shade".into(),
        unpin,
    };
    Ok(client.tasks().pin_task(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_requests_load_overlaps_its_decoding_when_the_store_is_slow() {
    let (_folder, config, _) = prepared().await;
    let faults = Faults::default();
    let server = TestServer::start_slow(config, &faults).await;
    let client = server.client("acme").await;
    assert_eq!(sets(&client).await, []);
    faults.hold_reads(true);
    // The load begins at admission: also for a video that turns out to be none.
    let none = client
        .classification()
        .classify(inline("no video".into()))
        .await;
    refused(none, Code::InvalidArgument, "VIDEO_UNRECOGNISED");
    soon(faults.reader_waits()).await;
    // Decoding does not wait for the load.
    let decoded = "frameshift_decodes_total{outcome=\"ok\"}";
    let before = counted(&server, &[decoded]);
    let asking = {
        let client = server.client("acme").await;
        tokio::spawn(async move { client.classification().classify(inline(clip(10))).await })
    };
    until(|| async { counted(&server, &[decoded]) > before }).await;
    assert!(!asking.is_finished());
    faults.hold_reads(false);
    let answer = asking.await.unwrap().unwrap().into_inner();
    assert_eq!(answer.version, VERSION);
    let loads = "frameshift_adapter_loads_total{tenant=\"acme\"}";
    assert_eq!(counted(&server, &[loads]), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_task_is_loaded_when_the_server_starts_and_its_share_is_limited() {
    let (_folder, config, _) = prepared().await;
    let server = TestServer::start_on(config.clone()).await;
    let client = server.client("acme").await;
    let etag = {
        let task = pin(&client, false).await.unwrap();
        assert!(task.pinned);
        task.etag
    };
    until(|| async { sets(&client).await.iter().any(|set| set.pinned) }).await;
    server.stop().await;

    let server = TestServer::start_on(config.clone()).await;
    let client = server.client("acme").await;
    until(|| async { sets(&client).await.len() == 1 }).await;
    let set = sets(&client).await.remove(0);
    assert_eq!((set.version.as_str(), set.pinned), (VERSION, true));
    let other = server.client("other").await;
    assert_eq!(sets(&other).await, []);
    let task = pin(&client, true).await.unwrap();
    assert_eq!(
        (task.pinned, &task.etag),
        (false, &etag),
        "a pin is no change of what serves"
    );
    server.stop().await;

    let little = Config {
        engine: engine::Config {
            residency_bytes: set.size_bytes as u64,
            ..config.engine.clone()
        },
        ..config
    };
    let server = TestServer::start_on(little).await;
    let client = server.client("acme").await;
    let refusal = pin(&client, false).await;
    refused(refusal, Code::ResourceExhausted, "PINNED_MEMORY_FULL");
    let request = v1::GetTaskRequest {
        name: "tasks/shade".into(),
    };
    let task = client.tasks().get_task(request).await.unwrap().into_inner();
    assert!(!task.pinned);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_see_which_sets_are_loaded_how_large_they_are_and_when_they_were_used() {
    let (_folder, config, video) = prepared().await;
    let server = TestServer::start_on(config).await;
    let client = server.client("acme").await;
    assert_eq!(sets(&client).await, [], "nothing was asked for");
    let ask = async || {
        let request = classify("shade", &video);
        client.classification().classify(request).await.unwrap();
        sets(&client).await
    };
    let first = ask().await;
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].version, VERSION);
    assert_eq!(first[0].quarantine_reason, "");
    let label = "frameshift_residency_bytes{tenant=\"acme\"}";
    assert_eq!(first[0].size_bytes as u64, counted(&server, &[label]));
    let used = |set: &v1::Residency| set.last_used_time.map(|at| (at.seconds, at.nanos));
    let second = ask().await;
    assert!(used(&second[0]) > used(&first[0]));
    assert_eq!(
        sets(&server.client("other").await).await,
        [],
        "another tenant's are not shown"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_made_anew_under_its_old_name_serves_its_new_weights() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let best = async |video: &str| {
        let request = classify("shade", video);
        let answer = client.classification().classify(request).await.unwrap();
        let answer = answer.into_inner();
        (answer.version, answer.predictions[0].label.clone())
    };
    let mut seen = Vec::new();
    for label in [0, 1, 0] {
        let video = versions(&server, &client, &[label]).await;
        let version = serving(&client, "shade").await;
        let (answered, best) = best(&video).await;
        assert_eq!((answered, best), (version.clone(), label.to_string()));
        assert!(
            !seen.contains(&version),
            "a version's name is never given twice"
        );
        seen.push(version);
        let request = v1::DeleteTaskRequest {
            name: "tasks/shade".into(),
            ..Default::default()
        };
        client.tasks().delete_task(request).await.unwrap();
    }
    server.stop().await;
}
