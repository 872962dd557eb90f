//! Decoded frames on the disk: later jobs decode nothing again, and no bit depends on them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use frameshift::jobs::Config;
use frameshift::metadata::JobRecord;
use frameshift::spec::JobState;

use super::bed::{Bed, Runners, hyper};
use super::{Weights, tenant};
use crate::server::until;

/// Training clips, validation clips, and all of them.
const CLIPS: (u64, u64) = (8, 2);
const ALL: u64 = CLIPS.0 + CLIPS.1;

/// Jobs that keep nothing in memory, and so many bytes on the disk.
fn config(bytes: u64) -> Config {
    Config {
        clip_cache_bytes: 0,
        clip_disk_bytes: bytes,
        ..Config::default()
    }
}

/// Files of decoded frames, by tenant and name.
fn files(directory: &Path) -> BTreeSet<PathBuf> {
    // Folders and files may go while they are listed.
    let listed = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let tenants = listed(directory.join("decoded"));
    let files = tenants.flat_map(|tenant| listed(tenant.path()));
    files.map(|file| file.path()).collect()
}

fn bytes(directory: &Path) -> u64 {
    let files = files(directory);
    let sizes = files
        .iter()
        .map(|own| own.metadata().expect("a file").len());
    sizes.sum()
}

/// How often decoded frames on the disk had this outcome.
fn count(bed: &Bed, outcome: &str) -> u64 {
    let text = bed.parts.metrics.text();
    let line = format!("frameshift_decoded_disk_clips_total{{outcome=\"{outcome}\"}} ");
    let mut values = text.lines().filter_map(|own| own.strip_prefix(&line));
    values
        .next()
        .map_or(0, |value| value.parse().expect("a number"))
}

async fn train(bed: &Bed, runners: &Runners, owner: &str) -> (JobRecord, Weights) {
    let owner = tenant(owner);
    let (task, dataset) = (
        "fades".parse().expect("an id"),
        "fades".parse().expect("an id"),
    );
    let job = runners.submit(&owner, &task, &dataset, hyper(4, 5)).await;
    let (job, _) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    let weights = bed.weights(&job).await;
    (job, weights)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_job_decodes_nothing_again_and_gives_the_same_bits() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let bed = Bed::open(directory).await;
    bed.fades(&tenant("owner"), CLIPS.0, CLIPS.1).await;
    let runners = bed.run_with(config(0));
    let (_, without) = train(&bed, &runners, "owner").await;
    runners.drain().await;
    assert_eq!(files(directory).len(), 0);

    let runners = bed.run_with(config(64 << 20));
    let (_, first) = train(&bed, &runners, "owner").await;
    assert_eq!(
        (count(&bed, "filled"), files(directory).len()),
        (ALL, ALL as usize)
    );
    // Four epochs, each with its evaluation: a file is read after it was written, too.
    let hits = count(&bed, "hit");
    assert!(hits >= 3 * ALL, "{hits}");
    let (_, second) = train(&bed, &runners, "owner").await;
    assert_eq!(count(&bed, "filled"), ALL);
    runners.drain().await;
    bed.close().await;

    // Another process.
    let bed = Bed::open(directory).await;
    let runners = bed.run_with(config(64 << 20));
    let (_, third) = train(&bed, &runners, "owner").await;
    assert_eq!((count(&bed, "filled"), count(&bed, "damaged")), (0, 0));
    runners.drain().await;
    for (path, kept) in files(directory)
        .iter()
        .zip([0, 7, 100, 5000].into_iter().cycle())
    {
        let file = std::fs::File::options()
            .write(true)
            .open(path)
            .expect("a file");
        file.set_len(kept).expect("cut");
    }
    let runners = bed.run_with(config(64 << 20));
    let (_, fourth) = train(&bed, &runners, "owner").await;
    assert_eq!((count(&bed, "filled"), count(&bed, "damaged")), (ALL, ALL));
    for weights in [first, second, third, fourth] {
        assert!(weights == without);
    }
    runners.drain().await;
    let runners = bed.run_with(config(0));
    until(async || files(directory).is_empty()).await;
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_with_equal_videos_do_not_share_their_frames() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    for owner in ["one", "two"] {
        bed.fades(&tenant(owner), CLIPS.0, CLIPS.1).await;
    }
    let runners = bed.run_with(config(64 << 20));
    let (_, one) = train(&bed, &runners, "one").await;
    let hits = count(&bed, "hit");
    let (_, two) = train(&bed, &runners, "two").await;
    assert!(one == two);
    assert_eq!(count(&bed, "filled"), 2 * ALL, "both decode their videos");
    assert_eq!(count(&bed, "hit"), 2 * hits, "both find as much");
    let names = files(directory.path());
    let keys: BTreeSet<_> = names.iter().map(|path| path.file_stem()).collect();
    assert_eq!(
        (names.len(), keys.len()),
        (2 * ALL as usize, 2 * ALL as usize)
    );
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_holds_and_a_data_set_that_is_larger_trains_the_same() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let bed = Bed::open(directory).await;
    bed.fades(&tenant("owner"), 12, 2).await;
    let runners = bed.run_with(config(0));
    let (_, without) = train(&bed, &runners, "owner").await;
    runners.drain().await;
    // Room for eight of the twelve training videos: 12 frames of 32 x 32 pixels each.
    let budget = 8 * (12 * 3 * 32 * 32 * 4 + 512);
    let runners = bed.run_with(config(budget));
    let (_, with) = train(&bed, &runners, "owner").await;
    assert!(with == without);
    assert!(count(&bed, "pass_full") > 0);
    assert_eq!(count(&bed, "evicted"), 0, "a job keeps what it has");
    assert!(
        (7..=10).contains(&files(directory).len()),
        "{:?}",
        files(directory)
    );
    let taken = bytes(directory);
    assert!(
        taken <= budget && taken > budget / 2,
        "{taken} of {budget} bytes"
    );
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_frames_of_a_deleted_video_go_with_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let bed = Bed::open(directory).await;
    let owner = tenant("owner");
    bed.fades(&owner, CLIPS.0, CLIPS.1).await;
    let runners = bed.run_with(Config {
        sweep: Duration::from_millis(50),
        ..config(64 << 20)
    });
    train(&bed, &runners, "owner").await;
    let kept = files(directory);
    let name = kept
        .first()
        .and_then(|path| path.extension())
        .expect("a name");
    let video = name.to_string_lossy().parse().expect("a video");
    let library = &bed.parts.library;
    library
        .delete_video(&owner, video, true)
        .await
        .expect("deleted");
    until(async || files(directory).len() as u64 == ALL - 1).await;
    let left = files(directory);
    assert!(left.is_subset(&kept) && !left.contains(kept.first().expect("one")));
    runners.drain().await;
    bed.close().await;
}
