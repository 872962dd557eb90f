//! What the backend does of itself when the disk is full, and what its statements cost.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

async fn database() -> (tempfile::TempDir, Sqlite) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::at(folder.path().join("metadata.sqlite"));
    (folder, Sqlite::open(config).await.unwrap())
}

#[tokio::test]
async fn a_deletion_on_a_full_disk_gets_the_reserve_once() {
    let (folder, database) = database().await;
    let tries = AtomicU32::new(0);
    let deletion = || async {
        // The disk has room for as long as nobody fills what was given back.
        if tries.fetch_add(1, Ordering::SeqCst) == 1 {
            return Ok(());
        }
        Err(Error::StorageFull("no room".into()))
    };
    database.deleting(deletion).await.unwrap();
    assert_eq!(tries.load(Ordering::SeqCst), 2);
    assert!(!folder.path().join("metadata.reserve").exists());
    assert!(database.deleting(deletion).await.is_err());
    assert_eq!(tries.load(Ordering::SeqCst), 3, "there is nothing to give");
    database.tidy_up().await.unwrap();
    assert!(folder.path().join("metadata.reserve").exists());
}

#[tokio::test]
async fn a_deletion_that_is_refused_takes_nothing_of_the_reserve() {
    let (folder, database) = database().await;
    let deletion = || async { Err::<(), _>(Error::PageToken) };
    assert!(database.deleting(deletion).await.is_err());
    assert!(folder.path().join("metadata.reserve").exists());
}

/// Tables that grow with use.
const LARGE: [&str; 11] = [
    "videos",
    "uploads",
    "parts",
    "examples",
    "snapshot_examples",
    "decoded_videos",
    "label_counts",
    "jobs",
    "events",
    "versions",
    "requests",
];

/// The statements in a source file: texts that begin with a verb of SQL.
fn statements(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let verbs = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "];
    let mut found = Vec::new();
    for (at, _) in code.match_indices('"') {
        let text = &code[at + 1..];
        if !verbs.iter().any(|verb| text.starts_with(verb)) {
            continue;
        }
        let mut statement = String::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next().filter(|letter| *letter != '"') {
            if letter != '\\' {
                statement.push(letter);
                continue;
            }
            match letters.next() {
                // A line's end is left out with what the next line begins with.
                Some('\n') => statement.truncate(statement.trim_end().len()),
                Some(escaped) => statement.push(escaped),
                None => {}
            }
            statement.push(' ');
        }
        found.push(statement);
    }
    found
}

/// Whether a step of a plan reads all of a large table, or all that a tenant has of it.
fn walks(step: &str) -> bool {
    let mut words = step.split(' ');
    let (verb, table) = (words.next(), words.next().unwrap_or_default());
    if !LARGE.contains(&table) {
        return false;
    }
    // Partial indices have what waits, runs or is to go, which is little.
    let is_partial = step.contains(" USING ") && step.contains("INDEX ");
    match verb {
        Some("SCAN") => !is_partial,
        Some("SEARCH") => step.ends_with("PRIMARY KEY (tenant=?)"),
        _ => false,
    }
}

#[tokio::test]
async fn no_statement_walks_a_table_that_grows_with_use() {
    let (_folder, database) = database().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metadata/sqlite");
    let mut seen = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        // A backup reads everything; whether there is anything at all is asked at the start and found in the first row.
        if !path.is_file() || ["backup", "identity", "tests"].contains(&&*name) {
            continue;
        }
        for statement in statements(&fs::read_to_string(&path).unwrap()) {
            seen += 1;
            let plan = format!("EXPLAIN QUERY PLAN {statement}");
            let steps = sqlx::query(sqlx::AssertSqlSafe(plan))
                .fetch_all(&database.writer)
                .await;
            for step in steps.unwrap_or_else(|error| panic!("{name}: {statement}: {error}")) {
                let step: String = step.try_get("detail").unwrap();
                assert!(!walks(&step), "{name}: {statement}: {step}");
            }
        }
    }
    assert!(seen > 100, "{seen} statements were found");
}
