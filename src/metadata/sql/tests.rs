//! What the backend does of itself when the disk is full, and what its statements cost.

use std::sync::atomic::{AtomicU32, Ordering};

use std::fs;

use super::*;
use crate::ids::{TaskId, TenantId};
use crate::metadata::{PageRequest, Tasks as _};

async fn database() -> (tempfile::TempDir, Database) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::at(folder.path().join("metadata.sqlite"));
    (folder, Database::open(config).await.unwrap())
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

#[tokio::test]
async fn callers_that_list_keep_no_other_reader_waiting() {
    let (_folder, database) = database().await;
    let tenant = TenantId::anonymous();
    let task: TaskId = "motion".parse().unwrap();
    // As many listings as there are connections for them, none of which ends.
    let mut listings = Vec::new();
    while let Ok(listing) = tokio::time::timeout(Duration::from_millis(200), database.list()).await
    {
        listings.push(listing.unwrap());
        assert!(listings.len() < 100, "listings are limited");
    }
    assert!(!listings.is_empty());
    let read = database.get_task(&tenant, &task);
    let read = tokio::time::timeout(Duration::from_secs(30), read).await;
    let read = read.expect("a read by id has a connection of its own");
    assert!(matches!(read, Err(Error::NotFound { .. })), "{read:?}");
    drop(listings);
    let listed = database.list_tasks(&tenant, &PageRequest::first()).await;
    assert!(listed.unwrap().items.is_empty());
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

/// Partial indices of what waits, runs or is to go, which is little.
const LITTLE: [&str; 9] = [
    "waiting_jobs",
    "jobs_by_start",
    "lost_jobs",
    "leased_jobs",
    "suspected_jobs",
    "claimed_starts",
    "unfinished_jobs",
    "unfinished_jobs_by_tenant",
    "unfinished_uploads_by_tenant",
];

/// Whether a selection within a statement reads the first row by an index, which is no walk.
fn is_first(statement: &str, index: &str) -> bool {
    let mut uses = statement.split(" INDEXED BY ").skip(1);
    uses.any(|used| {
        let own = used
            .strip_prefix(index)
            .and_then(|own| own.strip_prefix(' '));
        let own = own.and_then(|own| own.split(") AS ").next());
        own.is_some_and(|own| own.ends_with(" LIMIT 1"))
    })
}

/// Whether a step of a statement's plan reads all of a large table, or all that a tenant has of it.
fn walks(statement: &str, step: &str) -> bool {
    let mut words = step.split(' ');
    let (verb, table) = (words.next(), words.next().unwrap_or_default());
    if !LARGE.contains(&table) {
        return false;
    }
    let is_little = words.any(|word| LITTLE.contains(&word));
    let is_one =
        statement.ends_with(" LIMIT 1") || step.split(' ').any(|index| is_first(statement, index));
    match verb {
        Some("SCAN") => !is_little,
        Some("SEARCH") => step.ends_with("(tenant=?)") && !is_little && !is_one,
        _ => false,
    }
}

#[tokio::test]
async fn no_statement_walks_a_table_that_grows_with_use() {
    let (_folder, database) = database().await;
    #[allow(
        irrefutable_let_patterns,
        reason = "without PostgreSQL it is the only one"
    )]
    let Backend::Sqlite(file) = &database.backend else {
        panic!("not SQLite")
    };
    let pool = file.readers(Purpose::Serving);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metadata/sql");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        // A backup and `frameshift fsck` read everything; whether there is anything at all is asked at the start and found in the first row.
        let is_apart = ["tests", "sqlite", "postgres", "survey"].contains(&&*name);
        if !path.is_file() || is_apart {
            continue;
        }
        for statement in statements(&fs::read_to_string(&path).unwrap()) {
            seen += 1;
            let plan = format!("EXPLAIN QUERY PLAN {statement}");
            let steps = sqlx::query(sqlx::AssertSqlSafe(plan)).fetch_all(pool).await;
            for step in steps.unwrap_or_else(|error| panic!("{name}: {statement}: {error}")) {
                let step = step.text("detail").unwrap();
                assert!(!walks(&statement, &step), "{name}: {statement}: {step}");
            }
        }
    }
    assert!(seen > 100, "{seen} statements were found");
}
