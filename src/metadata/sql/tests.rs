//! What the backend does of itself when the disk is full, and what its statements cost.

use std::sync::atomic::{AtomicU32, Ordering};

use std::fs;

use super::*;
use crate::ids::{TaskId, TenantId, VideoId};
use crate::metadata::{
    Datasets as _, NewVideo, PageRequest, PartRecord, Quota, Tasks as _, UploadLimits, VideoProbe,
    Videos as _,
};

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

#[tokio::test]
async fn a_data_set_too_many_of_a_tenant_is_refused_and_others_are_made() {
    let (_folder, database) = database().await;
    let (a, b): (TenantId, TenantId) = ("a".parse().unwrap(), "b".parse().unwrap());
    let (mut tx, _) = database.write().await.unwrap();
    let fill = "WITH RECURSIVE numbers (number) AS \
                (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < $1) \
                INSERT INTO datasets (tenant, id, display_name, create_time, label_kind) \
                SELECT 'a', 'd' || number, '', 0, 'single' FROM numbers";
    let all_but_one = i64::try_from(datasets::DATASETS).unwrap() - 1;
    let filled = query(fill).bind(all_but_one).execute(&mut tx).await;
    assert_eq!(filled.unwrap(), datasets::DATASETS - 1);
    tx.commit().await.unwrap();
    let make = async |tenant: &TenantId, id: &str| {
        let id = id.parse().unwrap();
        database.create_dataset(tenant, &id, "".into(), None).await
    };
    make(&a, "last").await.unwrap();
    let refused = make(&a, "more").await;
    assert!(
        matches!(
            refused,
            Err(Error::QuotaExceeded {
                quota: Quota::Datasets,
                limit: 10_000,
                used: 10_000,
                more: 1
            })
        ),
        "{refused:?}"
    );
    let taken = make(&a, "last").await;
    assert!(
        matches!(taken, Err(Error::AlreadyExists { .. })),
        "{taken:?}"
    );
    make(&b, "first").await.unwrap();
    let last = "last".parse().unwrap();
    database.delete_dataset(&a, &last).await.unwrap();
    make(&a, "more").await.unwrap();
}

fn new_video(size_bytes: u64) -> NewVideo {
    let probe = VideoProbe {
        container: "mov".into(),
        codec: "h264".into(),
        width: 320,
        height: 240,
        frames: 100,
        duration_micros: 4_000_000,
        frame_rate: 25.0,
        rotation_degrees: 0,
        mirrored: false,
        reference_frames: None,
        warnings: Vec::new(),
    };
    NewVideo {
        id: VideoId::generate(),
        size_bytes,
        sha256: Digest([7; 32]),
        probe,
    }
}

#[tokio::test]
async fn bytes_are_reserved_no_longer_than_their_part_may_become_some_of_the_upload() {
    let (_folder, database) = database().await;
    let a = TenantId::anonymous();
    let limits = UploadLimits {
        expiry: Duration::from_secs(600),
        uploads: 10,
        bytes: 30,
    };
    // A server of the release before, which knows no reservations, commits the part that another began, and lost.
    let upload = database.create_upload(&a, "", None, &limits).await;
    let upload = upload.unwrap().id;
    let lost = database.begin_part(&a, upload, 0, 10, &limits).await;
    lost.unwrap();
    let (mut tx, _) = database.write().await.unwrap();
    let committed = query("UPDATE uploads SET committed = committed + 10 WHERE tenant = $1");
    let committed = committed.bind(a.as_str()).execute(&mut tx).await;
    assert_eq!(committed.unwrap(), 1);
    tx.commit().await.unwrap();
    let over = |begun: Result<u32>| match begun {
        Err(Error::TooManyUploadBytes { limit, used }) => (limit, used),
        other => panic!("{other:?}"),
    };
    let begin =
        async |upload, offset, size| database.begin_part(&a, upload, offset, size, &limits).await;
    let other = database.create_upload(&a, "", None, &limits).await;
    let other = other.unwrap().id;
    assert_eq!(over(begin(other, 0, 21).await), (30, 10));
    let number = begin(upload, 10, 10).await.unwrap();
    begin(other, 0, 10).await.unwrap();
    assert_eq!(over(begin(upload, 10, 11).await), (30, 20));
    let part = PartRecord {
        number,
        offset: 10,
        size: 10,
    };
    let end = database.commit_part(&a, upload, part, &limits).await;
    assert_eq!(end.unwrap(), 20);
    // Parts that are under way when their uploads end leave nothing.
    database.abandon_upload(&a, other).await.unwrap();
    begin(upload, 20, 10).await.unwrap();
    let finished = database.finish_upload(&a, upload, new_video(20)).await;
    finished.unwrap();
    let left = query("SELECT COUNT(*) AS found FROM upload_reservations");
    let left = left.fetch_one(&mut database.look().await.unwrap()).await;
    assert_eq!(left.unwrap().int("found").unwrap(), 0);
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

/// Files whose statements may cross tenants: those of credentials and operators, of the feed that servers follow, of workers, janitors and checks.
const OF_ALL: [&str; 12] = [
    "aged",
    "audit",
    "changes",
    "claims",
    "erasures",
    "keys",
    "metering",
    "removal",
    "retention",
    "survey",
    "terms",
    "turns",
];

/// Beginnings of the statements of other files that cross tenants: locks on keys, watched jobs by tenant and id, what janitors, sweeps and servers look for, and the operators' list.
const CROSSING: [(&str, &str); 8] = [
    (
        "archives",
        "SELECT create_time, tenant, digest FROM snapshots",
    ),
    ("locks", "SELECT 1 FROM api_keys WHERE id = $1"),
    ("owners", "SELECT jobs.id AS id, jobs.last_event"),
    ("sweeps", "SELECT * FROM sweeps WHERE end_time IS NULL"),
    ("sweeps", "DELETE FROM sweeps WHERE (tenant, id) IN"),
    (
        "proofs",
        "SELECT * FROM (SELECT * FROM tasks INDEXED BY pending_tasks",
    ),
    ("tasks", "SELECT t.tenant, t.id, t.serving"),
    ("tenants", "SELECT t.*, u.videos"),
];

/// Whether a statement reads or changes one of these tables.
fn uses(statement: &str, tables: &[String]) -> bool {
    let words: Vec<&str> = statement.split_whitespace().collect();
    words.windows(2).any(|pair| {
        let is_verb = ["FROM", "JOIN", "INTO", "UPDATE"].contains(&pair[0].trim_start_matches('('));
        let table = pair[1].trim_end_matches([')', ',']);
        is_verb && tables.iter().any(|own| own == table)
    })
}

#[tokio::test]
async fn every_statement_names_its_tenant_but_those_on_the_list() {
    let (_folder, database) = database().await;
    let tables = query(
        "SELECT m.name AS name FROM sqlite_schema AS m JOIN pragma_table_info(m.name) AS c \
         WHERE m.type = 'table' AND c.name = 'tenant'",
    );
    let tables = tables.fetch_all(&mut database.look().await.unwrap()).await;
    let tables: Vec<String> = tables
        .unwrap()
        .iter()
        .map(|row| row.text("name").unwrap())
        .collect();
    assert!(tables.len() > 20, "{tables:?}");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metadata/sql");
    let (mut seen, mut crossing) = (0, Vec::new());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !path.is_file() || name == "tests" || OF_ALL.contains(&&*name) {
            continue;
        }
        for statement in statements(&fs::read_to_string(&path).unwrap()) {
            let words: Vec<&str> = statement.split_whitespace().collect();
            let statement = words.join(" ");
            if !uses(&statement, &tables) {
                continue;
            }
            seen += 1;
            let names_it = statement.contains("tenant = $")
                || (statement.starts_with("INSERT INTO ") && statement.contains(" (tenant,"));
            if !names_it {
                crossing.push((name.clone(), statement));
            }
        }
    }
    assert!(seen > 120, "{seen} statements were found");
    for (file, statement) in &crossing {
        let is_listed = CROSSING
            .iter()
            .any(|own| own.0 == file && statement.starts_with(own.1));
        assert!(is_listed, "{file} crosses tenants: {statement}");
    }
    for (file, begin) in CROSSING {
        let is_there = crossing
            .iter()
            .any(|own| own.0 == file && own.1.starts_with(begin));
        assert!(is_there, "{file} has no statement {begin:?} any more");
    }
}
