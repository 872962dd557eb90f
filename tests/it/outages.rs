//! Disks that fail or fill up under a whole server, incomplete data directories, and backups.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use frameshift::client::Client;
use frameshift::metadata::Faults;
use frameshift::proto::v1;
use rustix::process::{Resource, Rlimit, prlimit};
use tokio::process::Command;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::server::{
    TestServer, backbone, classify, clip, create_task, events, new_task, noise, refused, submit,
    trained, until, upload,
};
use crate::server_process::{Process, command, output};

/// Starts a server whose file writes fail as on a failing disk when [`limit_files`] asks for it. Returns it with the path of its log.
fn on_failing_disk(folder: &Path) -> (Process, PathBuf) {
    let log = folder.join("log");
    // Otherwise a write beyond the limit of a file's size would end the process by a signal.
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_frameshift"))
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "warn"])
        .arg("--data-dir")
        .arg(folder.join("data"))
        .arg("--backbone")
        .arg(backbone())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .kill_on_drop(true);
    (Process::start_by(command, folder, &[]), log)
}

/// Size of the log before the disk fails: more than the memory into which a small clip is decoded, which counts as a file.
const LARGEST_FILE: u64 = 1 << 20;

/// Makes files of this size unable to grow, as on a failing disk; `None` lifts the limit.
fn limit_files(server: &Process, bytes: Option<u64>) {
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Some(server.pid()), Resource::Fsize, limit).unwrap();
}

/// Makes the log of a server's database large. Returns its size: with this as the limit only what a transaction under way gives back again is left.
async fn grow_log(client: &Client, log: &Path) -> u64 {
    for i in 0..1000 {
        let request = new_task(&format!("grows{i}"));
        client.tasks().create_task(request).await.unwrap();
        let bytes = std::fs::metadata(log).unwrap().len();
        if bytes >= LARGEST_FILE {
            return bytes;
        }
    }
    panic!("the log does not grow");
}

async fn health(client: &Client, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.into(),
    };
    let answer = HealthClient::new(client.channel()).check(request).await;
    answer.unwrap().into_inner().status()
}

/// Creates tasks until that fails: the first ones may fit into space that the files have already.
async fn first_refusal(client: &Client) -> Status {
    for i in 0..1000 {
        let request = new_task(&format!("t{i}"));
        if let Err(status) = client.tasks().create_task(request).await {
            return status;
        }
    }
    panic!("nothing is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_ends_changes_for_its_time_only_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (server, log) = on_failing_disk(folder.path());
    let client = server.client().await;
    let videos = trained(&client, "motion").await;
    let writes = async || health(&client, "frameshift.v1.writes").await;
    assert_eq!(writes().await, ServingStatus::Serving);

    let log_file = state(folder.path()).join("metadata.sqlite-wal");
    limit_files(&server, Some(grow_log(&client, &log_file).await));
    let status = first_refusal(&client).await;
    assert!(status.get_error_details().retry_info().is_some());
    refused(
        Err::<(), _>(status),
        Code::Unavailable,
        "DATABASE_UNAVAILABLE",
    );
    let sent = upload(&client, &noise(10)).await;
    refused(sent, Code::Unavailable, "STORE_UNAVAILABLE");
    until(|| async { writes().await == ServingStatus::NotServing }).await;
    assert_eq!(health(&client, "").await, ServingStatus::Serving);
    let mut classification = client.classification();
    let answer = classification
        .classify(classify("motion", &videos[0].name))
        .await;
    answer.expect("classification goes on");

    limit_files(&server, None);
    until(|| async { writes().await == ServingStatus::Serving }).await;
    create_task(&client, "kept").await;
    upload(&client, &clip(1)).await.expect("uploaded");
    let job = submit(&client, "motion", "motion").await;
    events(&client, &job.name, 0).await;
    let request = v1::GetJobRequest { name: job.name };
    let job = client.fine_tuning().get_job(request).await.unwrap();
    assert_eq!(job.into_inner().state(), v1::JobState::Succeeded);

    assert_eq!(server.terminate().await.code(), Some(0));
    let log = std::fs::read_to_string(log).unwrap();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(lines("the database cannot be written"), 1, "{log}");
    assert_eq!(lines("the database can be written again"), 1, "{log}");
    assert!(!folder.path().join("data/metadata.sqlite-wal").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_a_reason_of_its_own_and_passes() {
    let faults = Faults::default();
    let for_server = faults.clone();
    let server = TestServer::start_with(move |config| config.database_faults = for_server).await;
    let client = server.client("acme").await;
    faults.fill_disk();
    let full = first_refusal(&client).await;
    assert!(full.get_error_details().retry_info().is_some(), "{full:?}");
    refused(Err::<(), _>(full), Code::ResourceExhausted, "STORAGE_FULL");
    faults.free_disk();
    create_task(&client, "again").await;
    server.stop().await;
}

/// Returns the data directory of a server on this folder.
fn state(folder: &Path) -> PathBuf {
    folder.join("data")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_that_of_the_objects_is_refused_until_that_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start(folder.path(), &[]);
    let client = server.client().await;
    upload(&client, &clip(9)).await.unwrap();
    assert_eq!(server.terminate().await.code(), Some(0));
    let database = state(folder.path()).join("metadata.sqlite");
    let kept = folder.path().join("kept");
    std::fs::rename(&database, &kept).unwrap();

    // The database is missing, then empty: the server puts nothing in its place.
    for _ in 0..2 {
        let (code, text) = output(command(folder.path())).await;
        assert_eq!(code, Some(69), "{text}");
        assert!(
            text.contains("metadata.sqlite is missing or empty"),
            "{text}"
        );
        assert!(text.contains("--accept-data-loss"), "{text}");
        assert_eq!(std::fs::metadata(&database).map_or(0, |file| file.len()), 0);
        std::fs::write(&database, "").unwrap();
    }

    // Another server's database.
    let other = tempfile::tempdir().unwrap();
    let server = Process::start(other.path(), &[]);
    server.client().await;
    assert_eq!(server.terminate().await.code(), Some(0));
    std::fs::copy(state(other.path()).join("metadata.sqlite"), &database).unwrap();
    let (code, text) = output(command(folder.path())).await;
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("belongs to database"), "{text}");
    assert!(!database.with_extension("sqlite-wal").exists());

    // The server's own database, restored.
    std::fs::copy(&kept, &database).unwrap();
    let server = Process::start(folder.path(), &[]);
    let client = server.client().await;
    let videos = client
        .videos()
        .list_videos(v1::ListVideosRequest::default())
        .await;
    assert_eq!(videos.unwrap().into_inner().videos.len(), 1);
    assert_eq!(server.terminate().await.code(), Some(0));

    // A new database, accepted once.
    std::fs::remove_file(&database).unwrap();
    let server = Process::start(folder.path(), &["--accept-data-loss"]);
    server.client().await;
    assert_eq!(server.terminate().await.code(), Some(0));
    let server = Process::start(folder.path(), &[]);
    server.client().await;
    assert_eq!(server.terminate().await.code(), Some(0));
}

/// Creates a database as the release with schema 1 left it.
async fn first_release(path: &Path) {
    use sqlx::migrate::Migrator;
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
    let folder = tempfile::tempdir().unwrap();
    let name = "0001_records.sql";
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metadata/migrations/sqlite");
    std::fs::copy(migrations.join(name), folder.path().join(name)).unwrap();
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    let migrator = Migrator::new(folder.path()).await.unwrap();
    migrator.run(&pool).await.unwrap();
    let sql = "INSERT INTO tasks (tenant, id, display_name, adapter, sampling, auto_serve, \
               incarnation, create_time) VALUES ('acme', 'old', '', ?, ?, 1, 'a', 1)";
    let adapter = r#"{"adapter_width":4,"adapter_kernel_size":[3,1,1],"adapter_pre_attn":false,"adapter_pre_mlp":true}"#;
    let sampling = r#"{"num_frames":2,"sampling":"uniform","temporal_views":1,"spatial_views":"center","rotation":"display"}"#;
    sqlx::query(sql)
        .bind(adapter)
        .bind(sampling)
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_the_release_before_opens_and_gets_an_id() {
    let folder = tempfile::tempdir().unwrap();
    let data = state(folder.path());
    std::fs::create_dir_all(data.join("objects/acme/videos")).unwrap();
    let object = data.join("objects/acme/videos/0197b3c0-0000-7000-8000-000000000001");
    std::fs::write(object, "an object").unwrap();
    first_release(&data.join("metadata.sqlite")).await;
    for _ in 0..2 {
        let server = Process::start(folder.path(), &[]);
        server.client().await;
        assert_eq!(server.terminate().await.code(), Some(0));
        assert!(data.join("objects/_store").is_file());
    }
}

async fn backup(folder: &Path, to: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command
        .arg("backup")
        .arg(to)
        .arg("--data-dir")
        .arg(state(folder));
    command.stdout(Stdio::null());
    output(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_running_server_is_a_data_directory_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start(folder.path(), &[]);
    let client = server.client().await;
    let videos = trained(&client, "motion").await;
    let mut classification = client.classification();
    let request = classify("motion", &videos[0].name);
    let answer = classification.classify(request.clone()).await;
    let answer = answer.unwrap().into_inner();

    let copy = tempfile::tempdir().unwrap();
    let to = state(copy.path());
    let (code, text) = backup(folder.path(), &to).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = backup(folder.path(), &to).await;
    assert_eq!(code, Some(73), "{text}");
    assert!(text.contains("is not empty"), "{text}");
    create_task(&client, "later").await;
    assert_eq!(server.terminate().await.code(), Some(0));

    let server = Process::start(copy.path(), &[]);
    let client = server.client().await;
    let restored = client.classification().classify(request).await;
    assert_eq!(
        restored.unwrap().into_inner().predictions,
        answer.predictions
    );
    let tasks = client
        .tasks()
        .list_tasks(v1::ListTasksRequest::default())
        .await;
    assert_eq!(tasks.unwrap().into_inner().tasks.len(), 1);
    assert_eq!(server.terminate().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_names_objects_that_are_damaged_or_missing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start(folder.path(), &[]);
    let client = server.client().await;
    let first = upload(&client, &clip(3)).await.unwrap();
    let second = upload(&client, &clip(4)).await.unwrap();
    assert_eq!(server.terminate().await.code(), Some(0));
    let object = |video: &v1::Video| state(folder.path()).join("objects/acme").join(&video.name);
    std::fs::write(object(&first), "damaged").unwrap();
    let to = folder.path().join("first");
    let (code, text) = backup(folder.path(), &to).await;
    assert_eq!(code, Some(65), "{text}");
    assert!(
        text.contains("1 objects are damaged") && text.contains(&first.name),
        "{text}"
    );
    std::fs::remove_file(object(&second)).unwrap();
    let to = folder.path().join("second");
    let (code, text) = backup(folder.path(), &to).await;
    assert_eq!(code, Some(65), "{text}");
    assert!(
        text.contains("do not exist") && text.contains(&second.name),
        "{text}"
    );
    let (code, text) = backup(&folder.path().join("nowhere"), &folder.path().join("third")).await;
    assert_eq!(code, Some(66), "{text}");
    assert!(text.contains("is no data directory"), "{text}");
}
