//! `frameshift bench fleet` on both databases, with little in them.

use std::time::Duration;

use tokio::process::Command;

use crate::processes::output_within;

async fn bench(more: &[&str]) -> Vec<serde_json::Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command.args(["bench", "fleet", "--json", "--tenants", "3"]);
    command.args([
        "--tasks", "50", "--videos", "100", "--jobs", "80", "--rounds", "10",
    ]);
    command.args([
        "--moves",
        "3",
        "--seconds",
        "0.2",
        "--clips",
        "20",
        "--blobs",
        "50",
    ]);
    // It starts servers, one after the other.
    let output = output_within(Duration::from_secs(300), command.args(more)).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    lines.collect()
}

/// Figures of the records, in any database.
const RECORDS: [&str; 12] = [
    "fill",
    "list tasks",
    "list videos",
    "list jobs",
    "poll, a change",
    "poll, none",
    "pending",
    "claim",
    "look for lost",
    "commits of events with hints / without",
    "open",
    "read at the start",
];
/// Figures of servers that share a database.
const SERVERS: [&str; 5] = [
    "start of a server, more than on an empty database",
    "new version on three servers, p99, with hints",
    "new version on three servers, p99, by polling alone",
    "connections of a busy server",
    "connections of an idle server",
];
/// Figures of objects in a bucket.
const OBJECTS: [&str; 3] = [
    "objects fetched in the second pass over all clips",
    "clips/s of later passes: bucket with cache / folder",
    "bytes/s of 16 readers of 4 MB: cold cache / plain GET",
];
/// Figures of a check of a data directory.
const CHECK: [&str; 2] = ["fsck --deep of 50 objects", "memory of fsck --deep"];

/// Expects that these figures were measured and all others skipped.
fn has_figures(lines: &[serde_json::Value], measured: &[&[&str]]) {
    for name in [&RECORDS[..], &SERVERS, &OBJECTS, &CHECK].concat() {
        let line = lines.iter().find(|line| line["what"] == name);
        let line = line.unwrap_or_else(|| panic!("{name} is not told: {lines:#?}"));
        if measured.concat().contains(&name) {
            let value = line["value"].as_f64();
            assert!(value.is_some_and(|value| value > -1.0), "{line}");
            let has_goal = line["goal"].as_str().is_some_and(|goal| !goal.is_empty());
            assert_eq!(line["met"].is_boolean(), has_goal, "{line}");
        } else {
            assert!(line["skipped"].is_string(), "{line}");
        }
    }
    let told = lines.iter().filter(|line| line["what"].is_string());
    assert_eq!(
        told.count(),
        RECORDS.len() + SERVERS.len() + OBJECTS.len() + CHECK.len()
    );
}

#[tokio::test]
async fn a_database_in_a_file_is_filled_and_measured() {
    has_figures(&bench(&[]).await, &[&RECORDS, &CHECK]);
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn an_empty_database_on_a_server_is_filled_and_measured_and_no_other() {
    let Some(database) = crate::postgres::database().await else {
        return;
    };
    let url = database.config();
    let Some(weed) = crate::buckets::weed::Weed::start().await else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let credentials = folder.path().join("credentials");
    let text = "AWS_ACCESS_KEY_ID = test\nAWS_SECRET_ACCESS_KEY = not-a-secret\n";
    std::fs::write(&credentials, text).expect("written");
    let endpoint = weed.endpoint();
    let arguments = [
        "--database-url",
        url.url(),
        "--objects-url",
        "s3://videos/bench",
        "--objects-endpoint",
        &endpoint,
        "--objects-credentials-file",
        credentials.to_str().expect("UTF-8"),
    ];
    let all = [&RECORDS[..], &SERVERS, &OBJECTS, &CHECK];
    has_figures(&bench(&arguments).await, &all);
    // What was filled is whole, and nobody fills it again.
    let store = frameshift::metadata::Database::connect(database.config()).await;
    let store = store.expect("a database");
    assert_eq!(store.contradictions().await.expect("looked"), []);
    store.close().await.expect("closed");
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command.args(["bench", "fleet", "--database-url", url.url()]);
    let again = crate::processes::output(&mut command).await;
    assert_eq!(again.status.code(), Some(64), "{again:?}");
}
