//! `frameshift bench fleet` on both databases, with little in them.

use tokio::process::Command;

use crate::server::soon;

async fn bench(more: &[&str]) -> Vec<serde_json::Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command.args(["bench", "fleet", "--json", "--tenants", "3"]);
    command.args([
        "--tasks", "50", "--videos", "100", "--jobs", "40", "--rounds", "10",
    ]);
    command.args(more).kill_on_drop(true);
    let output = soon(command.output()).await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    lines.collect()
}

fn has_every_figure(lines: &[serde_json::Value]) {
    let names: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["what"].as_str())
        .collect();
    let expected = [
        "fill",
        "list tasks",
        "list videos",
        "list jobs",
        "poll, a change",
        "poll, none",
        "pending",
        "claim",
        "look for lost",
        "open",
        "start",
    ];
    assert_eq!(names, expected);
    for line in lines {
        assert!(
            line["p50_ms"].as_f64().is_some_and(|time| time >= 0.0),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_database_in_a_file_is_filled_and_measured() {
    has_every_figure(&bench(&[]).await);
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn an_empty_database_on_a_server_is_filled_and_measured_and_no_other() {
    let Some(database) = crate::postgres::database().await else {
        return;
    };
    let url = database.config();
    has_every_figure(&bench(&["--database-url", url.url()]).await);
    // What was filled is whole, and nobody fills it again.
    let store = frameshift::metadata::Database::connect(database.config()).await;
    let store = store.expect("a database");
    assert_eq!(store.contradictions().await.expect("looked"), []);
    store.close().await.expect("closed");
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command.args(["bench", "fleet", "--database-url", url.url()]);
    let again = soon(command.output()).await.expect("it runs");
    assert_eq!(again.status.code(), Some(64), "{again:?}");
}
