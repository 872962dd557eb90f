//! The check of a server's whole state: what it finds, what it repairs, and what it leaves alone.

use std::path::Path;
use std::time::{Duration, SystemTime};

use frameshift::proto::v1;
use serde_json::Value;
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::process::Command;

use crate::buckets::weed::Weed;
use crate::server::trained;
use crate::server_process::{Process, command};

/// Runs the check. Returns its exit code, and its lines.
async fn fsck(data: &Path, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command
        .arg("fsck")
        .arg("--data-dir")
        .arg(data)
        .args(arguments);
    command
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "not-a-secret");
    let output = crate::processes::output(&mut command).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (output.status.code(), lines.collect())
}

fn findings(lines: &[Value]) -> Vec<&str> {
    let mut found: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["finding"].as_str())
        .collect();
    found.sort_unstable();
    found
}

fn object(data: &Path, video: &v1::Video) -> std::path::PathBuf {
    data.join("objects/acme").join(&video.name)
}

/// Changes a database that nobody has open.
async fn change(data: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(data.join("metadata.sqlite"));
    let mut conn = options.connect().await.unwrap();
    let done = sqlx::query(sql).execute(&mut conn).await.unwrap();
    assert!(done.rows_affected() > 0, "{sql}");
}

/// Makes a file look as old as one that no request can be writing.
fn age(path: &Path) {
    let old = SystemTime::now() - Duration::from_secs(48 * 3600);
    std::fs::File::open(path)
        .unwrap()
        .set_modified(old)
        .unwrap();
}

/// Removes the first of the videos, shortens the second, and changes a byte of the third.
fn damage(data: &Path, videos: &[v1::Video]) {
    std::fs::remove_file(object(data, &videos[0])).unwrap();
    std::fs::write(object(data, &videos[1]), "short").unwrap();
    let mut bytes = std::fs::read(object(data, &videos[2])).unwrap();
    bytes[100] ^= 1;
    std::fs::write(object(data, &videos[2]), bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_state_has_no_findings_and_every_kind_of_damage_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Process::start(folder.path(), &[]);
    let client = server.client().await;
    let videos = trained(&client, "motion").await;
    // Beside a server, and deep.
    for arguments in [&[][..], &["--deep"]] {
        let (code, lines) = fsck(&data, arguments).await;
        assert_eq!((code, lines.len()), (Some(0), 1), "{lines:?}");
        assert_eq!(lines[0]["summary"]["objects"], 7, "{lines:?}");
    }
    let (code, _) = fsck(&data, &["--repair"]).await;
    assert_eq!(code, Some(2), "a server uses it");
    assert_eq!(server.terminate().await.code(), Some(0));

    damage(&data, &videos);
    let orphan = data.join("objects/acme/videos/0197b3c0-0000-7000-8000-000000000001");
    std::fs::write(&orphan, "nobody's").unwrap();
    age(&orphan);
    let young = data.join("objects/acme/videos/0197b3c0-0000-7000-8000-000000000002");
    std::fs::write(&young, "perhaps somebody's soon").unwrap();
    change(&data, "UPDATE tenant_usage SET videos = videos + 3").await;
    change(
        &data,
        "UPDATE datasets SET examples = examples + 2 WHERE id = (SELECT MIN(id) FROM datasets)",
    )
    .await;
    change(&data, "UPDATE jobs SET lease_end = 9000000000000000").await;
    change(&data, "UPDATE tasks SET desired = 77").await;
    change(&data, "UPDATE versions SET manifest = '{}'").await;
    change(
        &data,
        "UPDATE label_counts SET train = train + 1 WHERE label = 'dark'",
    )
    .await;

    let shallow = [
        "desired_version_missing",
        "example_count_differs",
        "label_counts_differ",
        "lease_too_long",
        "object_missing",
        "object_size",
        "object_unnamed",
        "usage_differs",
        "version_unreadable",
    ];
    let (code, lines) = fsck(&data, &[]).await;
    assert_eq!(
        (code, findings(&lines)),
        (Some(1), shallow.to_vec()),
        "{lines:?}"
    );
    let deep = {
        let mut deep = shallow.to_vec();
        deep.insert(4, "object_damaged");
        deep
    };
    let (code, lines) = fsck(&data, &["--deep"]).await;
    assert_eq!((code, findings(&lines)), (Some(1), deep), "{lines:?}");
    assert!(orphan.exists(), "nothing is changed without --repair");
    let usage = lines.iter().find(|line| line["finding"] == "usage_differs");
    assert_eq!(usage.unwrap()["not_counted"]["videos"], -3, "{lines:?}");

    let (code, lines) = fsck(&data, &["--repair"]).await;
    let repaired = lines.iter().filter(|line| line["repaired"] == true).count();
    assert_eq!((code, repaired), (Some(1), 4), "{lines:?}");
    assert!(!orphan.exists() && young.exists());
    let left = [
        "desired_version_missing",
        "label_counts_differ",
        "object_missing",
        "object_size",
        "version_unreadable",
    ];
    let (code, lines) = fsck(&data, &[]).await;
    assert_eq!(
        (code, findings(&lines)),
        (Some(1), left.to_vec()),
        "{lines:?}"
    );
    let (code, _) = fsck(folder.path(), &[]).await;
    assert_eq!(code, Some(2), "there is no database");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_without_findings_lets_the_collector_go_on_in_a_bucket() {
    let Some(weed) = Weed::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = folder.path().join("bucket.toml");
    let text = format!(
        "objects_url = \"s3://videos/checked\"\nobjects_endpoint = \"{}\"\n",
        weed.endpoint()
    );
    std::fs::write(&file, text).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let mut serve = command(folder.path());
    serve
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "not-a-secret");
    let server = Process::start_by(serve, folder.path(), &config);
    let client = server.client().await;
    let videos = trained(&client, "motion").await;
    assert_eq!(server.terminate().await.code(), Some(0));

    let bucket = weed.bucket("checked");
    let store = frameshift::store::Store::in_bucket(&bucket, Default::default()).unwrap();
    store.hold_collector().await.unwrap();
    let deep = ["--deep", config[0], config[1]];
    let (code, lines) = fsck(&data, &deep).await;
    assert_eq!((code, lines.len()), (Some(0), 1), "{lines:?}");
    assert_eq!(lines[0]["summary"]["objects"], 7, "{lines:?}");
    assert!(!store.is_collector_held().await.unwrap());

    // A finding keeps it stopped.
    store.hold_collector().await.unwrap();
    let key = frameshift::store::Key::parse(&format!("acme/{}", videos[0].name)).unwrap();
    store.delete(&key).await.unwrap();
    let (code, lines) = fsck(&data, &deep).await;
    assert_eq!((code, findings(&lines)), (Some(1), vec!["object_missing"]));
    assert!(store.is_collector_held().await.unwrap());

    // A bucket that does not answer is no finding: the check is not complete.
    drop(weed);
    let (code, lines) = fsck(&data, &config).await;
    assert_eq!((code, lines.len()), (Some(2), 0), "{lines:?}");
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn records_on_a_server_are_checked_and_repaired_while_servers_use_them() {
    let Some(database) = crate::postgres::database().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = folder.path().join("server.toml");
    let text = format!("database_url = \"{}\"\n", database.config().url());
    std::fs::write(&file, text).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let server = Process::start_by(command(folder.path()), folder.path(), &config);
    let client = server.client().await;
    let videos = trained(&client, "motion").await;
    let deep = ["--deep", config[0], config[1]];
    let (code, lines) = fsck(&data, &deep).await;
    assert_eq!((code, lines.len()), (Some(0), 1), "{lines:?}");
    assert_eq!(lines[0]["summary"]["objects"], 7, "{lines:?}");

    std::fs::remove_file(object(&data, &videos[0])).unwrap();
    database.run("UPDATE tenant_usage SET videos = videos + 3");
    database.run("UPDATE jobs SET lease_end = 9000000000000000");
    database.run("UPDATE tasks SET desired = 77");
    let (code, lines) = fsck(&data, &config).await;
    let all = [
        "desired_version_missing",
        "lease_too_long",
        "object_missing",
        "usage_differs",
    ];
    assert_eq!((code, findings(&lines)), (Some(1), all.to_vec()));
    let repair = ["--repair", config[0], config[1]];
    let (code, lines) = fsck(&data, &repair).await;
    let repaired = lines.iter().filter(|line| line["repaired"] == true).count();
    assert_eq!((code, repaired), (Some(1), 2), "{lines:?}");
    let (code, lines) = fsck(&data, &config).await;
    let left = ["desired_version_missing", "object_missing"];
    assert_eq!((code, findings(&lines)), (Some(1), left.to_vec()));
    assert_eq!(server.terminate().await.code(), Some(0));
}
