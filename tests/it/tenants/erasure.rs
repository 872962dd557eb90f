//! The end of a tenant: nothing of it is left, wherever its erasure was interrupted, and nobody else notices.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use frameshift::ids::{TenantId, UploadId, VideoId};
use frameshift::library::{Config, Library};
use frameshift::metadata::{Database, ErasureRecord, Erasures as _};
use frameshift::proto::v1;
use frameshift::spec::{Scope, Scopes};
use frameshift::store::{Store, layout};
use futures::TryStreamExt;
use tonic::Code;

use super::{Bed, actor, is_full};
use crate::buckets::weed::Weed;
use crate::durability::Anything;
use crate::metadata::fixture::{new_video, task as new_task};
use crate::metadata::{backends, expect_rows};
use crate::reports::command::{output, program};
use crate::server::{TestServer, classify, clip, config, refused, trained, until, upload};
use crate::server_process::Process;
use crate::shared::files_below;

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

/// Files of a tenant's objects, those in the trash included.
fn objects(data: &Path, tenant: &str) -> Vec<String> {
    let own = format!("/{tenant}/");
    let files = files_below(&data.join("objects"));
    let names = files.iter().map(|file| file.display().to_string());
    names.filter(|name| name.contains(&own)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_erases_a_tenant_by_a_command_and_others_are_served_on() {
    let folder = tempfile::tempdir().unwrap();
    let bed = Bed::start_in(folder.path()).await;
    let videos = trained(&bed.acme, "motion").await;
    let other = bed.guarded.key_of("globex", Scopes::TENANT).await;
    let other = bed.guarded.client(&other).await;
    let theirs = trained(&other, "motion").await;
    let ask = classify("motion", &videos[0].name);
    bed.acme
        .classification()
        .classify(ask.clone())
        .await
        .unwrap();
    bed.guarded
        .server
        .wiring
        .tenants
        .close_window()
        .await
        .unwrap();
    assert!(!objects(folder.path(), "acme").is_empty());
    let engine = &bed.guarded.server.wiring.engine;
    assert!(!engine.residency(&tenant("acme")).is_empty());
    let key = folder.path().join("operator");
    let operator = bed.guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    std::fs::write(&key, operator).unwrap();
    let run = async |words: &[&str]| {
        let mut command = program();
        command
            .env("FRAMESHIFT_SERVER", bed.guarded.server.address.to_string())
            .env("FRAMESHIFT_ADMIN_SERVER", bed.guarded.admin.to_string())
            .env("FRAMESHIFT_API_KEY_FILE", &key)
            .args(words);
        output(&mut command).await
    };
    let mistake = run(&["tenants", "erase", "acme", "--confirm", "globex"]).await;
    assert!(mistake.ends(64).err.contains("--confirm"));
    let erased = run(&["--json", "tenants", "erase", "acme", "--confirm", "acme"])
        .await
        .ends(0);
    let erased = &erased.json()[0];
    assert!(erased["end_time"].is_string(), "{erased}");
    assert!(
        erased["rows"].as_i64() > Some(20) && erased["objects"].as_i64() > Some(6),
        "{erased}"
    );
    assert!(objects(folder.path(), "acme").is_empty());
    expect_rows(&folder.path().join("metadata.sqlite"), "acme", false).await;
    until(|| async { engine.residency(&tenant("acme")).is_empty() }).await;
    let answer = bed.acme.classification().classify(ask).await.unwrap_err();
    assert!(
        matches!(
            answer.code(),
            Code::Unauthenticated | Code::PermissionDenied
        ),
        "{answer:?}"
    );
    let again = run(&["tenants", "create", "acme"]).await;
    assert!(again.ends(77).err.contains("erased"));
    let listed = run(&["tenants", "list"]).await.ends(0);
    assert!(!listed.out.contains("tenants/acme") && listed.out.contains("tenants/globex"));
    // Whoever asks again hears how it went.
    let request = v1::GetErasureRequest {
        name: "tenants/acme".into(),
    };
    let record = bed
        .operator
        .admin()
        .get_erasure(request)
        .await
        .unwrap()
        .into_inner();
    assert!(record.end_time.is_some() && record.principal.starts_with("keys/"));
    let request = classify("motion", &theirs[0].name);
    other.classification().classify(request).await.unwrap();
    bed.guarded.server.stop().await;
}

/// The record of the erasure in a data directory whose server has ended.
async fn record(data: &Path) -> ErasureRecord {
    let path = data.join("metadata.sqlite");
    let database = Database::open(frameshift::metadata::Config::at(path))
        .await
        .unwrap();
    let record = database
        .begin_erasure(&tenant("acme"), &actor())
        .await
        .unwrap();
    database.close().await.unwrap();
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_is_killed_at_any_step_goes_on_with_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = TestServer::start_on(config(&data)).await;
    let (client, other) = (server.client("acme").await, server.client("globex").await);
    trained(&client, "motion").await;
    let request = v1::CreateUploadRequest::default();
    client.videos().create_upload(request).await.unwrap();
    upload(&other, &clip(3)).await.unwrap();
    server.stop().await;
    record(&data).await;
    let mut kills = Vec::new();
    for point in [
        "erasure-rows",
        "erasure-rows",
        "erasure-rows",
        "erasure-rows:4",
        "erasure-rows:3",
        "erasure-objects",
        "erasure-ended",
    ] {
        let mut process = Process::start(folder.path(), &["--crash-at", point]);
        process.ended().await;
        kills.push((point, objects(&data, "acme").len()));
    }
    assert!(kills[4].1 > 0 && kills[5].1 == 0, "{kills:?}");
    let ended = record(&data).await;
    assert!(ended.end_time.is_some() && ended.rows > 20, "{ended:?}");
    expect_rows(&data.join("metadata.sqlite"), "acme", false).await;
    // Nothing of the other one went, and the erased one stays out.
    let server = TestServer::start_on(config(&data)).await;
    let (client, other) = (server.client("acme").await, server.client("globex").await);
    let list = v1::ListVideosRequest::default();
    let listed = other
        .videos()
        .list_videos(list.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.videos.len(), 1);
    refused(
        client.videos().list_videos(list).await,
        Code::PermissionDenied,
        "TENANT_ERASED",
    );
    refused(
        upload(&client, &clip(3)).await,
        Code::PermissionDenied,
        "TENANT_ERASED",
    );
    assert_eq!(objects(&data, "globex").len(), 1);
    server.stop().await;
}

/// Puts objects of two tenants into a store, one of each into the trash.
async fn put(store: &Store) {
    for owner in ["acme", "acme2"] {
        let owner = tenant(owner);
        for number in 0..20u8 {
            let key = layout::video(&owner, VideoId::generate());
            store
                .put(&key, Bytes::from(vec![number; 100]))
                .await
                .unwrap();
        }
        let part = layout::part(&owner, UploadId::generate(), 0);
        store.put(&part, Bytes::from_static(b"part")).await.unwrap();
        let old = layout::video(&owner, VideoId::generate());
        store.put(&old, Bytes::from_static(b"old")).await.unwrap();
        store.discard(&old, 1_000_000).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_object_of_an_erased_tenant_is_left_in_a_folder_or_in_a_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let weed = Weed::start().await;
    for (name, backend) in backends().await {
        let mut stores = vec![
            Store::open(&folder.path().join(name)).unwrap(),
            Store::in_memory(),
        ];
        if let Some(weed) = &weed {
            let bucket = weed.bucket(&format!("erased-{name}"));
            let metrics = frameshift::telemetry::Metrics::new();
            stores.push(Store::in_bucket(&bucket, metrics).unwrap());
        }
        for (place, store) in stores.into_iter().enumerate() {
            put(&store).await;
            let records = Arc::clone(&backend.store);
            let library = Library::new(
                Config::default(),
                store.clone(),
                records,
                Arc::new(Anything),
            );
            // Each store has a tenant of its own record, since an id is erased once.
            let owner = tenant("acme");
            if place == 0 {
                backend
                    .store
                    .create_tenant(&owner, "", &actor())
                    .await
                    .unwrap();
                backend.store.begin_erasure(&owner, &actor()).await.unwrap();
                assert!(library.is_erasing().await.unwrap());
                library.erase().await.unwrap();
                // One that was being stored when nothing was found any more.
                let late = layout::video(&owner, VideoId::generate());
                store.put(&late, Bytes::from_static(b"late")).await.unwrap();
                assert!(library.is_erasing().await.unwrap());
                while library.is_erasing().await.unwrap() {
                    backend.pass(Duration::from_secs(10));
                    library.erase().await.unwrap();
                }
                let record = backend.store.get_erasure(&owner).await.unwrap();
                assert_eq!((record.objects, record.bytes), (23, 20 * 100 + 4 + 3 + 4));
            } else {
                while store.erase_some(&owner).await.unwrap().0 > 0 {}
            }
            let left: Vec<frameshift::store::Blob> = store.list().try_collect().await.unwrap();
            assert_eq!(left.len(), 21, "{name} {place}");
            let is_other = |blob: &frameshift::store::Blob| blob.key.as_str().starts_with("acme2/");
            assert!(left.iter().all(is_other), "{left:?}");
            let later = 10_000_000_000;
            assert_eq!(store.empty_trash(later, Duration::ZERO).await.unwrap(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_tenant_is_erased_in_two_minutes() {
    let (videos, tasks) = if is_full() { (10_000, 100) } else { (300, 5) };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = TestServer::start_on(config(&data)).await;
    let owner = tenant("acme");
    let records = &server.wiring.metadata;
    records.create_tenant(&owner, "", &actor()).await.unwrap();
    let store = Store::open(&data.join("objects")).unwrap();
    for _ in 0..videos {
        let video = new_video(1000);
        let key = layout::video(&owner, video.id);
        store.put(&key, Bytes::from(vec![7; 1000])).await.unwrap();
        let recorded = records.record_video(&owner, "clip.mp4", video, None).await;
        recorded.unwrap();
    }
    for number in 0..tasks {
        let task = new_task(&format!("t{number}"));
        records.create_task(&owner, task, None).await.unwrap();
    }
    assert!(objects(&data, "acme").len() >= videos);
    let begun = std::time::Instant::now();
    records.begin_erasure(&owner, &actor()).await.unwrap();
    let ended = async || records.get_erasure(&owner).await.unwrap();
    let limit = Duration::from_secs(120);
    let erased = tokio::time::timeout(limit, async {
        loop {
            let record = ended().await;
            if record.end_time.is_some() {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let erased = erased.await.expect("it ends in two minutes");
    let took = begun.elapsed();
    println!(
        "{videos} videos and {tasks} tasks are erased after {took:.1?} (goal 2 min for 10000 and 100)"
    );
    assert_eq!(erased.objects, videos as u64);
    assert!(erased.rows >= (videos + tasks) as u64, "{erased:?}");
    assert!(objects(&data, "acme").is_empty());
    server.stop().await;
    expect_rows(&data.join("metadata.sqlite"), "acme", false).await;
}
