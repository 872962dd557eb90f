//! Backups that become servers again, in a folder and in a bucket.

use std::path::Path;
use std::process::Stdio;

use frameshift::client::Client;
use frameshift::proto::v1;
use tokio::process::Command;

use crate::buckets::weed::Weed;
use crate::server::{classify, create_dataset, trained, until};
use crate::server_process::{Process, output};

/// Runs a command beside a server; the environment has the bucket's keys.
async fn run(arguments: &[&str], data_dir: &Path, config: Option<&Path>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command.args(arguments).arg("--data-dir").arg(data_dir);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    keys(&mut command);
    command.stdout(Stdio::null());
    output(command).await
}

fn keys(command: &mut Command) {
    command
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "not-a-secret");
}

async fn answer(client: &Client, video: &str) -> Vec<v1::Prediction> {
    let answer = client
        .classification()
        .classify(classify("motion", video))
        .await;
    answer.unwrap().into_inner().predictions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_serves_as_before_and_is_written_over_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start(folder.path(), &[]);
    let client = server.client().await;
    let videos = trained(&client, "motion").await;
    let before = answer(&client, &videos[0].name).await;
    let copy = folder.path().join("copy");
    let copy = copy.to_str().unwrap();
    let data = folder.path().join("data");
    let (code, text) = run(&["backup", copy], &data, None).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(server.terminate().await.code(), Some(0));

    let (code, text) = run(&["restore", copy], &data, None).await;
    assert_eq!(code, Some(73), "{text}");
    assert!(
        text.contains("restore into an empty data directory"),
        "{text}"
    );
    let other = tempfile::tempdir().unwrap();
    let restored = other.path().join("data");
    let (code, text) = run(&["restore", "/nowhere"], &restored, None).await;
    assert_eq!(code, Some(66), "{text}");
    let (code, text) = run(&["restore", copy], &restored, None).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        restored.join("objects/_held").exists(),
        "the collector waits"
    );
    let server = Process::start(other.path(), &[]);
    let client = server.client().await;
    assert_eq!(answer(&client, &videos[0].name).await, before);
    assert_eq!(server.terminate().await.code(), Some(0));

    // A backup that lacks an object is restored as far as it goes, and says so.
    let lost = Path::new(copy).join("objects/acme").join(&videos[1].name);
    std::fs::remove_file(lost).unwrap();
    let third = tempfile::tempdir().unwrap();
    let (code, text) = run(&["restore", copy], &third.path().join("data"), None).await;
    assert_eq!(code, Some(65), "{text}");
    assert!(
        text.contains("1 objects are missing") && text.contains(&videos[1].name),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_moves_to_a_bucket_and_back_by_backup_and_restore() {
    let Some(weed) = Weed::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start(folder.path(), &[]);
    let client = server.client().await;
    let videos = trained(&client, "motion").await;
    let before = answer(&client, &videos[0].name).await;
    assert_eq!(server.terminate().await.code(), Some(0));
    let copy = folder.path().join("copy");
    let copy = copy.to_str().unwrap();
    let (code, text) = run(&["backup", copy], &folder.path().join("data"), None).await;
    assert_eq!(code, Some(0), "{text}");

    let file = folder.path().join("bucket.toml");
    let text = format!(
        "objects_url = \"s3://videos/moved\"\nobjects_endpoint = \"{}\"\n",
        weed.endpoint()
    );
    std::fs::write(&file, text).unwrap();
    let other = tempfile::tempdir().unwrap();
    let data = other.path().join("data");
    let (code, text) = run(&["restore", copy], &data, Some(&file)).await;
    assert_eq!(code, Some(0), "{text}");
    let mut command = crate::server_process::command(other.path());
    keys(&mut command);
    let config = ["--config", file.to_str().unwrap()];
    let server = Process::start_by(command, other.path(), &config);
    let client = server.client().await;
    assert_eq!(answer(&client, &videos[0].name).await, before);
    assert_eq!(server.terminate().await.code(), Some(0));
    assert!(!data.join("objects").exists() && data.join("cache").exists());

    let (code, text) = run(&["restore", copy], &other.path().join("again"), Some(&file)).await;
    assert_eq!(
        code,
        Some(0),
        "the same database may be restored again: {text}"
    );
    let back = folder.path().join("back");
    let back = back.to_str().unwrap();
    let (code, text) = run(&["backup", back], &data, Some(&file)).await;
    assert_eq!(code, Some(0), "{text}");
    let third = tempfile::tempdir().unwrap();
    let (code, text) = run(&["restore", back], &third.path().join("data"), None).await;
    assert_eq!(code, Some(0), "{text}");
    let server = Process::start(third.path(), &[]);
    let client = server.client().await;
    assert_eq!(answer(&client, &videos[0].name).await, before);
    assert_eq!(server.terminate().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_version_of_a_data_set_holds_is_backed_up_and_checked_when_it_is_in_a_blob() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Process::start(folder.path(), &[]);
    let client = server.client().await;
    create_dataset(&client, "shades").await;
    let request = v1::CreateDatasetVersionRequest {
        name: "datasets/shades".into(),
        ..Default::default()
    };
    let made = client.datasets().create_dataset_version(request).await;
    let made = made.unwrap().into_inner();
    assert_eq!(server.terminate().await.code(), Some(0));
    // As if nobody had read it for long.
    let mut records = crate::metadata::bulk::open(&data.join("metadata.sqlite")).await;
    let aged = sqlx::query("UPDATE snapshots SET create_time = 0");
    assert_eq!(aged.execute(&mut records).await.unwrap().rows_affected(), 1);
    sqlx::Connection::close(records).await.unwrap();
    let blobs = data.join("objects/acme/snapshots");
    let server = Process::start(folder.path(), &[]);
    let in_blob = || async {
        let mut records = crate::metadata::bulk::open(&data.join("metadata.sqlite")).await;
        let left = sqlx::query_scalar("SELECT COUNT(*) FROM snapshot_examples");
        let left: i64 = left.fetch_one(&mut records).await.unwrap();
        left == 0
    };
    until(in_blob).await;
    assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 1);
    let copy = folder.path().join("copy");
    let copy = copy.to_str().unwrap();
    let (code, text) = run(&["backup", copy], &data, None).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(server.terminate().await.code(), Some(0));

    let other = tempfile::tempdir().unwrap();
    let restored = other.path().join("data");
    let (code, text) = run(&["restore", copy], &restored, None).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = run(&["fsck", "--deep"], &restored, None).await;
    assert_eq!(code, Some(0), "{text}");
    let server = Process::start(other.path(), &[]);
    let client = server.client().await;
    let request = v1::RemoveExamplesRequest {
        name: "datasets/shades".into(),
        videos: videos_of(&client).await[..1].to_vec(),
    };
    client.datasets().remove_examples(request).await.unwrap();
    let request = v1::ListDatasetChangesRequest {
        from: made.name,
        to: "datasets/shades".into(),
        ..Default::default()
    };
    let changes = client.datasets().list_dataset_changes(request).await;
    assert_eq!(changes.unwrap().into_inner().changes.len(), 1);
    assert_eq!(server.terminate().await.code(), Some(0));

    let blob = std::fs::read_dir(restored.join("objects/acme/snapshots"));
    let blob = blob.unwrap().next().unwrap().unwrap().path();
    std::fs::write(&blob, "nothing of it").unwrap();
    let (code, _) = run(&["fsck"], &restored, None).await;
    assert_eq!(code, Some(1), "the size differs");
}

async fn videos_of(client: &Client) -> Vec<String> {
    let request = v1::ListVideosRequest::default();
    let listed = client.videos().list_videos(request).await;
    let videos = listed.unwrap().into_inner().videos.into_iter();
    videos.map(|video| video.name).collect()
}
