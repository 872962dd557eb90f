//! What each lock prevents: without it a race is lost.
//!
//! Each lock is left out in a process of its own, which runs the races that it decides; the test expects that process to fail. The short form does so for
//! two of the locks; `FRAMESHIFT_FAULTS=full` does for every one, and prints which race was lost.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Instant;

use frameshift::metadata::leave_out_locks;

use crate::metadata::PREPARATION;
use crate::replicas::is_full;

/// Texts of the statements that lock nothing in this process, one a line.
const WITHOUT: &str = "FRAMESHIFT_TEST_WITHOUT_LOCKS";

/// Leaves out the locks that the environment names.
pub(super) fn leave_out() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(texts) = std::env::var(WITHOUT) {
            leave_out_locks(texts.lines().map(str::to_owned).collect());
        }
    });
}

/// A lock, and the races that are lost without it. A claim is not among them: it passes over rows that are locked only to be quick, and what it writes says what
/// the job has to be.
struct Lock {
    /// What is locked, as docs/architecture.md and `metadata/sql/locks` call it.
    name: &'static str,
    /// Parts of the texts of the statements that lock it.
    texts: &'static [&'static str],
    /// What takes the lock out that is no statement of its own.
    sql: &'static str,
    races: &'static [&'static str],
}

const LOCKS: [Lock; 10] = [
    Lock {
        name: "tenant",
        texts: &["VALUES ($1, 0, 0, 0, 0) ON CONFLICT"],
        sql: "",
        races: &[
            "no_tenant_has_more_uploads_or_bytes_of_them_than_it_may",
            "no_tenant_stores_more_than_its_quota",
            "jobs::no_tenant_has_more_jobs_than_it_may",
        ],
    },
    Lock {
        name: "data set",
        texts: &["SELECT 1 FROM datasets WHERE tenant = $1 AND id = $2"],
        sql: "",
        races: &[
            "datasets::examples_are_counted_and_never_name_a_deleted_video",
            "datasets::snapshots_beside_changes_hold_what_their_digest_says",
            "jobs::a_job_and_the_deletion_of_what_it_needs_are_not_both_done",
            "model::drawn_calls_answer_as_in_some_order",
        ],
    },
    Lock {
        name: "request",
        texts: &[],
        // A rival waits for the row of the key.
        sql: "ALTER TABLE requests DROP CONSTRAINT requests_pkey",
        races: &["a_request_makes_one_thing_however_many_send_it"],
    },
    Lock {
        name: "upload",
        texts: &["SELECT 1 FROM uploads WHERE"],
        sql: "",
        races: &[
            "of_parts_at_one_offset_one_is_committed",
            "an_upload_is_given_up_or_becomes_a_video",
        ],
    },
    Lock {
        name: "videos of examples",
        texts: &["SELECT 1 FROM videos WHERE tenant = $1 AND id IN"],
        sql: "",
        races: &[
            "datasets::examples_are_counted_and_never_name_a_deleted_video",
            "model::drawn_calls_answer_as_in_some_order",
        ],
    },
    Lock {
        name: "video",
        texts: &["SELECT 1 FROM videos WHERE tenant = $1 AND id = $2"],
        sql: "",
        races: &[
            "datasets::examples_are_counted_and_never_name_a_deleted_video",
            "model::drawn_calls_answer_as_in_some_order",
        ],
    },
    Lock {
        name: "task",
        texts: &["SELECT 1 FROM tasks WHERE tenant = $1 AND id = $2"],
        sql: "",
        races: &[
            "an_etag_lets_one_change_through",
            "jobs::a_job_and_the_deletion_of_what_it_needs_are_not_both_done",
            "jobs::a_version_that_is_published_beside_changes_of_its_task_serves_by_one_order",
            "model::drawn_calls_answer_as_in_some_order",
        ],
    },
    Lock {
        name: "job that is cancelled",
        texts: &["SELECT 1 FROM jobs WHERE tenant = $1 AND id = $2"],
        sql: "",
        races: &[
            "jobs::a_job_that_is_cancelled_while_it_is_claimed_is_one_or_the_other",
            "jobs::a_job_has_one_worker_and_a_cancelled_one_none",
        ],
    },
    Lock {
        name: "job of a worker",
        texts: &["SELECT * FROM jobs WHERE tenant = $1 AND id = $2 AND epoch = $3"],
        sql: "",
        races: &["jobs::a_worker_that_lost_its_job_changes_nothing_of_its_successors"],
    },
    Lock {
        name: "job whose lease ran out",
        texts: &[
            "FROM jobs INDEXED BY leased_jobs WHERE lease_end IS NOT NULL AND lease_end <= $1",
        ],
        sql: "",
        races: &[
            "jobs::a_worker_that_lost_its_job_changes_nothing_of_its_successors",
            "jobs::a_lost_job_is_put_back_once",
        ],
    },
];

/// What else `metadata/sql/locks` locks: what administrators change, what one process at a time does, and what keeps something there that only loops
/// delete. No use case that tenants race for decides on these alone.
const OTHERS: [&str; 7] = [
    "SELECT 1 FROM tenants WHERE tenant = $1",
    "SELECT 1 FROM datasets WHERE tenant = $1 AND id IN",
    "SELECT 1 FROM snapshots WHERE tenant = $1",
    "SELECT 1 FROM erasures WHERE tenant = $1",
    "SELECT 1 FROM change_feed",
    "SELECT 1 FROM api_keys WHERE id = $1",
    "SELECT 1 FROM leases WHERE name = $1",
];

/// The source of a file of statements, each text in one line.
fn folded(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a source file");
    let text = text.replace("\\\n", "");
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// A text that no statement contains would leave nothing out, and a lock that nobody lists would have no race.
#[test]
fn every_lock_is_listed_with_its_races() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metadata/sql");
    let files = std::fs::read_dir(folder).expect("the sources");
    let files = files.map(|file| file.expect("the sources").path());
    let sources: Vec<String> = files
        .filter(|path| path.is_file())
        .map(|path| folded(&path))
        .collect();
    let texts = || LOCKS.iter().flat_map(|lock| lock.texts);
    for text in texts() {
        let is_there = sources.iter().any(|source| source.contains(text));
        assert!(is_there, "no statement contains {text:?}");
    }
    let locks = folded(&Path::new(folder).join("locks.rs"));
    let statements: Vec<&str> = locks
        .match_indices("\"SELECT 1 FROM ")
        .filter_map(|(at, _)| locks[at + 1..].split('"').next())
        .collect();
    assert!(statements.len() >= 12, "{statements:?}");
    for statement in statements {
        let is_listed = texts()
            .chain(&OTHERS)
            .any(|text| statement.starts_with(text));
        assert!(is_listed, "no race is lost without {statement:?}");
    }
}

impl Lock {
    /// Runs the races without the lock. Returns what the first one that is lost says, if any is.
    fn is_missed(&self) -> Option<String> {
        for race in self.races {
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command
                .args(["--exact", "--nocapture"])
                .arg(format!("metadata::races::{race}"))
                .env("FRAMESHIFT_FAULTS", "full")
                .env(WITHOUT, self.texts.join("\n"))
                .env(PREPARATION, self.sql)
                .stdin(Stdio::null());
            let output = command.output().expect("the races run");
            let said = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("running 1 test"), "{race} is no race: {said}");
            if !output.status.success() {
                let mut lines = said
                    .lines()
                    .skip_while(|line| !line.contains("panicked at"));
                let told = lines.nth(1).unwrap_or("no word").trim();
                return Some(format!("{race}: {told}"));
            }
        }
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_is_lost_without_any_one_of_the_locks() {
    // Where PostgreSQL is not installed, nothing is locked. The server is also kept for the processes below.
    let Some(_database) = crate::postgres::database().await else {
        return;
    };
    let count = if is_full() { LOCKS.len() } else { 2 };
    let mut needless = Vec::new();
    for lock in &LOCKS[..count] {
        let begun = Instant::now();
        let told = tokio::task::block_in_place(|| lock.is_missed());
        let took = begun.elapsed().as_secs_f64();
        match told {
            Some(told) => println!(
                "without the lock of the {} ({took:.1} s): {told}",
                lock.name
            ),
            None => {
                println!(
                    "without the lock of the {} ({took:.1} s): nothing is lost",
                    lock.name
                );
                needless.push(lock.name);
            }
        }
    }
    assert_eq!(needless, Vec::<&str>::new());
}
