//! Classification when something is missing. The database: known tasks go on from memory, for a stated time, and what is not known is UNAVAILABLE. A
//! task: whoever deletes it, nothing of it stays in memory. A version's file or its backbone: its owner is told, by the right code.

use std::time::Duration;

use frameshift::client::Client;
use frameshift::config::Config;
use frameshift::ids::{TaskId, TenantId};
use frameshift::metadata::Outages;
use frameshift::proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::rpc_many_tasks::many;
use crate::rpc_versions::{adapters, exported, file, import, into_task};
use crate::server::{
    TestServer, classify, clip, create_task, noise, refused, serving, until, upload,
};

/// A server whose feed is read often, with a task that serves.
async fn server(change: impl FnOnce(&mut Config)) -> (TestServer, Outages, Client) {
    let (server, faults) = TestServer::start_faulty(|config| {
        config.registry.feed_poll = Duration::from_millis(20);
        change(config);
    })
    .await;
    let client = server.client("acme").await;
    create_task(&client, "motion").await;
    let bytes = file(&adapters(server.wiring.backbone.config(), 2));
    let version = import(&client, into_task("motion"), &bytes).await.unwrap();
    assert_eq!(serving(&client, "motion").await, version.name);
    (server, faults, client)
}

fn inline(task: &str) -> v1::ClassifyRequest {
    v1::ClassifyRequest {
        task: format!("tasks/{task}"),
        source: Some(v1::classify_request::Source::Content(clip(10))),
        options: None,
        ..Default::default()
    }
}

async fn ask(
    client: &Client,
    request: v1::ClassifyRequest,
) -> Result<v1::ClassifyResponse, Status> {
    let answer = client.classification().classify(request).await?;
    Ok(answer.into_inner())
}

/// Waits until the feed was read twice without anything to do.
async fn settled(faults: &Outages) {
    let reads = || faults.calls("get_task") + faults.calls("get_version");
    until(|| async {
        let (before, rounds) = (reads(), faults.calls("changes_since"));
        until(|| async { faults.calls("changes_since") >= rounds + 3 }).await;
        reads() == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_task_is_classified_without_a_question_to_the_database() {
    let (server, faults, client) = server(|_| {}).await;
    let first = ask(&client, inline("motion")).await.unwrap();
    settled(&faults).await;
    let reads = || faults.calls("get_task") + faults.calls("get_version");
    let before = reads();
    for _ in 0..10 {
        let again = ask(&client, inline("motion")).await.unwrap();
        assert_eq!(again.predictions, first.predictions);
    }
    assert_eq!(reads(), before);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_known_tasks_serve_and_the_rest_is_unavailable() {
    let (server, faults, client) = server(|_| {}).await;
    let video = upload(&client, &clip(10)).await.unwrap();
    let before = ask(&client, inline("motion")).await.unwrap();
    create_task(&client, "never-asked").await;
    settled(&faults).await;
    let says = |line: &str| server.wiring.metrics.text().contains(line);
    assert!(says("frameshift_database_up 1"));

    faults.set_away(true);
    until(|| async { says("frameshift_database_up 0") }).await;
    for _ in 0..3 {
        let now = ask(&client, inline("motion"))
            .await
            .expect("known tasks serve");
        assert_eq!(
            (now.predictions, now.version),
            (before.predictions.clone(), before.version.clone())
        );
    }
    for request in [
        inline("never-asked"),
        inline("missing"),
        classify("motion", &video.name),
    ] {
        let status = ask(&client, request).await.expect_err("away");
        assert!(status.get_error_details().retry_info().is_some());
        refused::<()>(Err(status), Code::Unavailable, "DATABASE_UNAVAILABLE");
    }
    // Among several tasks it is the unknown one's error, and the call's when there is no other.
    let several = |tasks: &[&str]| v1::ClassifyRequest {
        source: inline("").source,
        ..many(tasks, "")
    };
    let both = ask(&client, several(&["motion", "never-asked"])).await;
    let both = both.expect("the known task serves").results;
    assert_eq!(both[0].predictions, before.predictions);
    let error = both[1].error.as_ref().expect("an error");
    assert_eq!((error.code, error.retry_delay.is_some()), (14, true));
    let neither = ask(&client, several(&["missing", "never-asked"])).await;
    refused(neither, Code::Unavailable, "DATABASE_UNAVAILABLE");

    faults.set_away(false);
    until(|| async { says("frameshift_database_up 1") }).await;
    let now = ask(&client, classify("motion", &video.name)).await;
    assert_eq!(now.unwrap().predictions, before.predictions);
    let missing = ask(&client, inline("missing")).await;
    refused(missing, Code::NotFound, "TASK_NOT_FOUND");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_is_not_answered_beyond_the_stale_limit() {
    let limit = Duration::from_millis(500);
    let (server, faults, client) = server(|config| config.registry.stale_limit = limit).await;
    // A machine that stands still for that long makes what is known stale, until the feed is read again.
    until(|| async { ask(&client, inline("motion")).await.is_ok() }).await;
    settled(&faults).await;
    faults.set_away(true);
    until(|| async { ask(&client, inline("motion")).await.is_err() }).await;
    let late = ask(&client, inline("motion")).await;
    refused(late, Code::Unavailable, "DATABASE_UNAVAILABLE");
    faults.set_away(false);
    until(|| async { ask(&client, inline("motion")).await.is_ok() }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_another_process_deleted_leaves_memory() {
    let (server, faults, client) = server(|_| {}).await;
    let version = ask(&client, inline("motion")).await.unwrap().version;
    settled(&faults).await;
    let sets = || server.wiring.engine.residency(&tenant()).len();
    assert_eq!(sets(), 1);
    // Past this process's registry, as another replica would.
    let records = &server.wiring.metadata;
    let (tenant, task): (TenantId, TaskId) = (tenant(), "motion".parse().unwrap());
    records.delete_task(&tenant, &task, None).await.unwrap();
    let export = exported(&client, &version, v1::ExportFormat::Safetensors).await;
    refused(export, Code::NotFound, "VERSION_NOT_FOUND");
    until(|| async { sets() == 0 }).await;
    refused(
        ask(&client, inline("motion")).await,
        Code::NotFound,
        "TASK_NOT_FOUND",
    );
    let mut by_name = inline("motion");
    by_name.options = Some(v1::ClassifyOptions {
        version,
        ..Default::default()
    });
    refused(
        ask(&client, by_name).await,
        Code::NotFound,
        "VERSION_NOT_FOUND",
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_seen_by_the_next_call() {
    let (server, _, client) = server(|config| {
        // Long enough that only the deletion itself can have told.
        config.registry.feed_poll = Duration::from_secs(3600);
    })
    .await;
    ask(&client, inline("motion")).await.unwrap();
    let request = v1::DeleteTaskRequest {
        name: "tasks/motion".into(),
        ..Default::default()
    };
    client.tasks().delete_task(request).await.unwrap();
    refused(
        ask(&client, inline("motion")).await,
        Code::NotFound,
        "TASK_NOT_FOUND",
    );
    server.stop().await;
}

async fn task(client: &Client) -> v1::Task {
    let name = "tasks/motion".to_owned();
    let request = v1::GetTaskRequest { name };
    client.tasks().get_task(request).await.unwrap().into_inner()
}

/// A server on this folder, with a task that serves from a server before.
async fn second(folder: &std::path::Path) -> (TestServer, Client) {
    let server = TestServer::start_on(crate::server::config(folder)).await;
    let client = server.client("acme").await;
    (server, client)
}

async fn first(folder: &std::path::Path) {
    let (server, client) = second(folder).await;
    create_task(&client, "motion").await;
    let bytes = file(&adapters(server.wiring.backbone.config(), 2));
    import(&client, into_task("motion"), &bytes).await.unwrap();
    serving(&client, "motion").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serving_version_of_another_backbone_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    first(folder.path()).await;
    let database = format!(
        "sqlite://{}",
        folder.path().join("metadata.sqlite").display()
    );
    let rename = async |from: &str, to: &str| {
        let records = sqlx::SqlitePool::connect(&database).await.unwrap();
        let sql = "UPDATE versions SET manifest = replace(manifest, ?, ?)";
        let query = sqlx::query(sql).bind(from).bind(to);
        query.execute(&records).await.unwrap();
        records.close().await;
    };
    let (server, client) = second(folder.path()).await;
    let own = server.wiring.backbone.digest().to_string();
    assert_eq!(task(&client).await.serving_error, "");
    server.stop().await;

    // Not zeros: that is what an imported version names as its data set.
    let other = "5a".repeat(32);
    rename(&own, &other).await;
    let (server, client) = second(folder.path()).await;
    let error = task(&client).await.serving_error;
    assert!(error.contains(&other) && error.contains(&own), "{error}");
    let metrics = server.wiring.metrics.text();
    assert!(metrics.contains("frameshift_unservable_tasks 1"));
    refused(
        ask(&client, inline("motion")).await,
        Code::FailedPrecondition,
        "BACKBONE_MISMATCH",
    );
    server.stop().await;

    rename(&other, &own).await;
    let (server, client) = second(folder.path()).await;
    assert_eq!(task(&client).await.serving_error, "");
    ask(&client, inline("motion")).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_serving_version_is_data_loss_and_its_task_says_so_until_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    first(folder.path()).await;
    let version = folder.path().join("objects/acme/tasks/motion/versions/1");
    let entry = std::fs::read_dir(version).unwrap().next().unwrap();
    let path = entry.unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&path, damaged).unwrap();

    let (server, client) = second(folder.path()).await;
    refused(
        ask(&client, inline("motion")).await,
        Code::DataLoss,
        "VERSION_DAMAGED",
    );
    let said = task(&client).await;
    assert!(said.serving_error.contains("damaged"), "{said:?}");
    refused(
        ask(&client, inline("motion")).await,
        Code::DataLoss,
        "VERSION_DAMAGED",
    );

    std::fs::write(&path, whole).unwrap();
    let request = v1::SetServingRequest {
        name: "tasks/motion".into(),
        version: said.serving_version,
        etag: said.etag,
        ..Default::default()
    };
    client.tasks().set_serving(request).await.unwrap();
    until(|| async { ask(&client, inline("motion")).await.is_ok() }).await;
    assert_eq!(task(&client).await.serving_error, "");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_view_is_scored_and_their_mean_answers() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        sampling: Some(v1::ClipSampling {
            num_frames: 4,
            sampling_rate: 2,
            num_temporal_views: 3,
            num_spatial_views: 3,
            ..Default::default()
        }),
        ..into_task("views")
    };
    let bytes = file(&adapters(server.wiring.backbone.config(), 3));
    import(&client, header, &bytes).await.unwrap();
    serving(&client, "views").await;
    let video = upload(&client, &noise(24)).await.unwrap();
    let mut request = classify("views", &video.name);
    request.options = Some(v1::ClassifyOptions {
        per_view: true,
        ..Default::default()
    });
    let answer = ask(&client, request).await.unwrap();
    assert_eq!((answer.views.len(), answer.frames.len()), (9, 12));
    let sum = |view: &v1::ViewScores| view.scores.iter().sum::<f32>();
    assert!(
        answer
            .views
            .iter()
            .all(|view| (sum(view) - 1.0).abs() < 1e-5)
    );
    assert!(
        answer.views.iter().any(|view| view != &answer.views[0]),
        "the views look at different pictures"
    );
    for prediction in &answer.predictions {
        let label = prediction.label_index as usize;
        let mean = answer
            .views
            .iter()
            .map(|view| view.scores[label])
            .sum::<f32>()
            / 9.0;
        assert!((prediction.score - mean).abs() < 1e-6);
    }
    server.stop().await;
}

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}
