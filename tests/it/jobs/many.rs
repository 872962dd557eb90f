//! A data set of 250,000 videos: taken as a snapshot and read by a job in pages, beside other writers and in little memory.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use frameshift::metadata::{Error, Outages};
use frameshift::spec::{HyperParameters, JobState, Selection};

use super::bed::{ADAPTERS, Bed, hyper};
use super::tenant;
use crate::metadata::bulk;
use crate::processes::Usage;
use crate::server::until;

/// Tells the test below that it is the child.
const CHILD: &str = "FRAMESHIFT_TEST_MANY";
const VIDEOS: u64 = 250_000;

/// A job that begins with the check of its videos, which have no bytes.
fn submission() -> HyperParameters {
    HyperParameters {
        selection: Some(Selection {
            near_duplicates: Some(false),
            ..Selection::default()
        }),
        ..hyper(1, 1)
    }
}

/// What this process holds.
fn usage() -> Usage {
    Usage::of(std::process::id())
}

/// Not a test of its own: the process whose memory is measured.
#[tokio::test(flavor = "multi_thread")]
async fn child_of_the_test_of_many_videos() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (owner, outages) = (tenant("owner"), Outages::default());
    let bed = Bed::open_with(directory.path(), &outages).await;
    let task = bed.task(&owner, "many", ADAPTERS).await;
    bulk::add_videos(&directory.path().join("records.sqlite"), &owner, VIDEOS).await;
    let dataset = bed
        .dataset(&owner, "many", bulk::pages(1000, 100).flatten().collect())
        .await;
    let library = &bed.parts.library;
    let began = Instant::now();
    for page in bulk::pages(VIDEOS, 100).skip(1) {
        let added = library.add_examples(&owner, &dataset, &page).await;
        added.expect("added");
    }
    println!("many: examples added in {:.1?}", began.elapsed());

    // Memory that the kernel counts from here on.
    let before = usage().resident;
    // Where the kernel does not allow that, the additions above count, too.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let runners = bed.run();
    let began = Instant::now();
    let mut submitted = Box::pin(runners.submit(&owner, &task, &dataset, submission()));
    let (mut others, mut longest) = (0, Duration::ZERO);
    // Other writers get their turn between two pages.
    let job = loop {
        let id = format!("beside-{others}").parse().expect("an id");
        let own = Instant::now();
        let write = library.create_dataset(&owner, &id, "", None);
        tokio::select! {
            biased;
            job = &mut submitted => break job,
            written = write => {
                written.expect("created");
                longest = longest.max(own.elapsed());
                others += 1;
            }
        }
    };
    drop(submitted);
    println!(
        "many: submitted in {:.1?}, beside {others} other writes of at most {longest:.1?}",
        began.elapsed()
    );
    assert!(others > 20, "{others} other writes");

    // The job has read every example when it begins to check them.
    let began = Instant::now();
    until(async || outages.calls("undecoded") > 0).await;
    let grown = usage().peak.saturating_sub(before) << 10;
    println!(
        "many: read in {:.1?}, in {} MiB",
        began.elapsed(),
        grown >> 20
    );
    assert!(
        outages.calls("get_videos") <= 2 + VIDEOS / 1000,
        "one query for many videos"
    );
    runners.handle.cancel(&owner, job).await.expect("asked");
    let (job, _) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Cancelled, "{:?}", job.message);
    // 32 bytes for each example, while a list grows three times that, and pages of the database.
    assert!(grown < 64 << 20, "{grown} bytes");

    let again = Instant::now();
    let job = runners.submit(&owner, &task, &dataset, submission()).await;
    println!("many: submitted again in {:.1?}", again.elapsed());
    runners.handle.cancel(&owner, job).await.expect("asked");
    runners.end(&owner, job).await;
    let began = Instant::now();
    library
        .delete_dataset(&owner, &dataset)
        .await
        .expect("deleted");
    println!("many: deleted in {:.1?}", began.elapsed());
    let gone = library.get_dataset(&owner, &dataset).await;
    assert!(matches!(
        gone,
        Err(frameshift::library::Error::Metadata(Error::NotFound { .. }))
    ));
    runners.drain().await;
    bed.close().await;
}

#[test]
fn a_job_over_250_000_videos_takes_little_memory_and_leaves_others_their_turn() {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "jobs::many::child_of_the_test_of_many_videos",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .output()
        .expect("a child");
    let told = String::from_utf8_lossy(&child.stdout);
    for line in told.lines().filter(|line| line.starts_with("many: ")) {
        println!("{line}");
    }
    assert!(
        child.status.success() && told.contains("many: deleted"),
        "{}",
        String::from_utf8_lossy(&child.stderr)
    );
}
