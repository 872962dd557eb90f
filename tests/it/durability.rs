//! Tests of a process that is killed between two writes of the store or the records: a child of the test kills itself with SIGKILL at a named crash
//! point, and the test opens what it left.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use frameshift::faults;
use frameshift::ids::{AdapterVersion, JobId, TenantId, UploadId, VersionRef};
use frameshift::library::{Config, Library, Prober};
use frameshift::metadata::{Claim, Database, PageRequest};
use frameshift::registry::{self, Registry};
use frameshift::spec::{Digest, JobState};
use frameshift::store::{DirectoryLock, Store};
use frameshift::video::{self, Codec, Container, Input, Probe, Ratio, Rotation, Warnings};
use sha2::{Digest as _, Sha256};

use crate::metadata::fixture;
use crate::registry::publication;
use crate::shared::files_below;

/// Environment variable with the child's scenario, crash point and data directory.
const CHILD: &str = "FRAMESHIFT_TEST_CHILD";
const SIGKILL: i32 = 9;
const SIZE: usize = 2_500;
const PART: usize = 1_000;

/// Prober that accepts everything, since decoding has its own tests.
pub(crate) struct Anything;

#[async_trait]
impl Prober for Anything {
    async fn probe(&self, _: &TenantId, _: Input) -> Result<Probe, video::Error> {
        let one = Ratio {
            numerator: 1,
            denominator: 1,
        };
        Ok(Probe {
            container: Container::Mov,
            codec: Codec::H264,
            width: 1,
            height: 1,
            frames: 1,
            reference_frames: 1,
            time_base: one,
            first_pts: 0,
            duration: Duration::ZERO,
            rate: one,
            rotation: Rotation::None,
            mirrored: false,
            sar: one,
            streams: 1,
            warnings: Warnings::default(),
        })
    }
}

struct Parts {
    records: fixture::Store,
    clock: Database,
    library: Library,
    registry: Registry,
    _lock: DirectoryLock,
}

impl Parts {
    /// Opens the parts in the order in which the server does.
    async fn open(directory: &Path) -> Self {
        let lock = DirectoryLock::acquire(directory).expect("a killed process holds no lock");
        let store = Store::open(&directory.join("objects")).expect("a store");
        let path = directory.join("metadata.sqlite");
        let config = frameshift::metadata::Config {
            // The pause itself is tested in metadata/crashes.rs.
            crash_pause: Duration::ZERO,
            ..frameshift::metadata::Config::at(path)
        };
        let database = Database::open(config).await;
        let clock = database.expect("a database");
        let records: fixture::Store = Arc::new(clock.clone());
        let config = Config {
            part_bytes: PART,
            orphan_age: Duration::ZERO,
            orphan_share: 100,
            trash_age: Duration::ZERO,
            ..Config::default()
        };
        Self {
            library: Library::new(
                config,
                store.clone(),
                Arc::clone(&records),
                Arc::new(Anything),
            ),
            registry: Registry::new(registry::Config::default(), store, Arc::clone(&records)),
            records,
            clock,
            _lock: lock,
        }
    }
}

/// Time at which every file is old, in microseconds since the Unix epoch.
fn far() -> i64 {
    i64::MAX / 2
}

fn tenant() -> TenantId {
    fixture::tenant("a")
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|i| (i % 251) as u8).collect()
}

fn objects(directory: &Path) -> Vec<PathBuf> {
    files_below(&directory.join("objects"))
}

/// Runs a scenario in a child process until it kills itself.
fn crash(scenario: &str, point: &str, directory: &Path) {
    let own = std::env::current_exe().expect("this test's own program");
    let status = Command::new(own)
        .args(["--exact", "durability::child", "--nocapture"])
        .env(CHILD, format!("{scenario} {point} {}", directory.display()))
        .stdout(Stdio::null())
        .status()
        .expect("the child runs");
    assert_eq!(
        status.signal(),
        Some(SIGKILL),
        "{scenario} at {point}: {status}"
    );
}

/// Entry point of the child processes that the other tests start; does nothing unless the environment variable is set.
#[tokio::test]
async fn child() {
    let Some(orders) = std::env::var_os(CHILD) else {
        return;
    };
    let orders = orders.into_string().expect("text");
    let mut words = orders.splitn(3, ' ');
    let mut word = || words.next().expect("three words");
    let (scenario, point, directory) = (word(), word(), PathBuf::from(word()));
    let parts = Parts::open(&directory).await;
    faults::arm(point.parse().expect("a point"));
    match scenario {
        "upload" => {
            let upload = parts
                .library
                .create_upload(&tenant(), "clip.mp4", None)
                .await;
            let id = upload.expect("created").id;
            std::fs::write(directory.join("upload"), id.to_string()).expect("noted");
            upload_rest(&parts, id, 0).await;
        }
        "expire" => {
            abandoned(&parts).await;
            parts.clock.advance_clock(Duration::from_secs(48 * 3600));
            parts.library.tidy().await.expect("tidied");
        }
        "collect" => {
            abandoned(&parts).await;
            let tenant = directory.join("objects/a/videos");
            std::fs::create_dir_all(&tenant).expect("a folder");
            for _ in 0..3 {
                let orphan = tenant.join(fixture::new_video(1).id.to_string());
                std::fs::write(orphan, "left").expect("written");
            }
            let collected = parts.library.collect_orphans(far()).await;
            collected.expect("collected");
        }
        "publish" => {
            let claim = publishing(&parts, true).await;
            std::fs::write(directory.join("job"), claim.job.id.to_string()).expect("noted");
            publish(&parts, &claim).await;
        }
        other => panic!("{other}"),
    }
    panic!("{point} was not passed");
}

/// Scenario of an upload that is written to and never finished.
async fn abandoned(parts: &Parts) -> UploadId {
    let upload = parts.library.create_upload(&tenant(), "", None).await;
    let id = upload.expect("created").id;
    let stream = parts.library.write_upload(&tenant(), id, 0).await;
    let mut stream = stream.expect("opened");
    stream.write(&content()).await.expect("written");
    stream.commit().await.expect("committed");
    id
}

async fn upload_rest(parts: &Parts, id: UploadId, offset: usize) {
    let mut stream = parts
        .library
        .write_upload(&tenant(), id, offset as u64)
        .await
        .expect("goes on");
    for chunk in content()[offset..].chunks(100) {
        stream.write(chunk).await.expect("written");
    }
    let digest = Digest(Sha256::digest(content()).into());
    stream.finish(Some(digest)).await.expect("finished");
}

async fn publishing(parts: &Parts, is_new: bool) -> Claim {
    if is_new {
        fixture::trainable(&parts.records, &tenant(), "t").await;
        fixture::submit(&parts.records, &tenant(), "t").await;
    }
    let claim = fixture::claim(&parts.records).await;
    fixture::advance(&parts.records, &claim, JobState::Publishing).await;
    claim
}

async fn publish(parts: &Parts, claim: &Claim) {
    let published = parts.registry.publish(&claim.lease, publication(1.0)).await;
    let version = published.expect("published").version.version;
    assert!(
        parts
            .registry
            .serving_moved(&reference(version))
            .await
            .expect("moved")
    );
}

fn reference(version: AdapterVersion) -> VersionRef {
    VersionRef {
        tenant: tenant(),
        task: fixture::task_id("t"),
        version,
    }
}

#[tokio::test]
async fn a_killed_upload_goes_on_from_what_was_committed() {
    for (point, committed, is_video) in [
        ("part-stored:1", 0, false),
        ("part-stored:2", 1_000, false),
        ("part-stored:3", 2_000, false),
        ("blob-put", SIZE, false),
        ("before-commit", SIZE, false),
        ("after-commit", SIZE, true),
    ] {
        let directory = tempfile::tempdir().expect("a folder");
        crash("upload", point, directory.path());
        let id = std::fs::read_to_string(directory.path().join("upload")).expect("noted");
        let id: UploadId = id.parse().expect("an id");

        let parts = Parts::open(directory.path()).await;
        let found = parts
            .library
            .get_upload(&tenant(), id)
            .await
            .expect("found");
        assert_eq!(found.committed_bytes, committed as u64, "{point}");
        assert_eq!(found.video.is_some(), is_video, "{point}");
        let page = PageRequest::first();
        let videos = parts
            .library
            .list_videos(&tenant(), &page)
            .await
            .expect("listed");
        assert_eq!(videos.items.len(), usize::from(is_video), "{point}");
        if !is_video {
            upload_rest(&parts, id, committed).await;
        }
        let found = parts
            .library
            .get_upload(&tenant(), id)
            .await
            .expect("found");
        let video = found.video.expect("finished");
        assert_eq!(
            video.sha256,
            Digest(Sha256::digest(content()).into()),
            "{point}"
        );
        parts
            .library
            .collect_orphans(far())
            .await
            .expect("collected");
        let left = objects(directory.path());
        assert_eq!(left.len(), 1, "{point}: {left:?}");
        assert_eq!(std::fs::read(&left[0]).expect("read"), content(), "{point}");
    }
}

#[tokio::test]
async fn a_killed_publication_is_invisible_or_whole() {
    for (point, is_visible) in [("publish", false), ("alias-moved", true)] {
        let directory = tempfile::tempdir().expect("a folder");
        crash("publish", point, directory.path());
        let id = std::fs::read_to_string(directory.path().join("job")).expect("noted");
        let id: JobId = id.parse().expect("an id");

        let parts = Parts::open(directory.path()).await;
        let (page, name) = (PageRequest::first(), fixture::task_id("t"));
        let listed = parts
            .registry
            .list_versions(&tenant(), &name, &page)
            .await
            .expect("listed");
        assert_eq!(listed.items.len(), usize::from(is_visible), "{point}");
        if !is_visible {
            let ended = parts.records.release_lost_jobs(&[]).await;
            assert_eq!(ended.expect("looked"), [], "{point}");
            parts
                .library
                .collect_orphans(far())
                .await
                .expect("collected");
            let claim = publishing(&parts, false).await;
            assert_eq!((claim.job.id, claim.job.attempts), (id, 2), "{point}");
            publish(&parts, &claim).await;
        }
        let job = parts.records.get_job(&tenant(), id).await.expect("found");
        assert_eq!(job.state, JobState::Succeeded, "{point}");
        let task = parts
            .registry
            .get_task(&tenant(), &name)
            .await
            .expect("found");
        assert_eq!(task.serving, Some(AdapterVersion::FIRST), "{point}");
        parts
            .registry
            .load(&reference(AdapterVersion::FIRST))
            .await
            .expect("whole");
        parts
            .library
            .collect_orphans(far())
            .await
            .expect("collected");
        assert_eq!(objects(directory.path()).len(), 1, "{point}");
    }
}

#[tokio::test]
async fn a_killed_removal_of_expired_uploads_leaves_nothing_after_the_next_pass() {
    for point in ["upload-ended", "parts-removed"] {
        let directory = tempfile::tempdir().expect("a folder");
        crash("expire", point, directory.path());
        let parts = Parts::open(directory.path()).await;
        let kept = abandoned(&parts).await;
        let removed = parts.library.tidy().await.expect("tidied");
        assert_eq!((removed.uploads, removed.parts), (0, 3), "{point}");
        assert_eq!(removed.left.uploads, 1, "{point}");
        let left = objects(directory.path());
        assert_eq!(left.len(), 3, "{point}: {left:?}");
        let again = parts.library.tidy().await.expect("tidied");
        assert_eq!(again.parts, 0, "{point}");
        let found = parts.library.get_upload(&tenant(), kept).await;
        assert_eq!(found.expect("found").committed_bytes, SIZE as u64);
    }
}

#[tokio::test]
async fn a_killed_collector_loses_nothing_and_goes_on() {
    let directory = tempfile::tempdir().expect("a folder");
    crash("collect", "orphan-discarded:2", directory.path());
    let left = objects(directory.path());
    assert_eq!(left.len(), 4, "three parts and an orphan: {left:?}");
    let parts = Parts::open(directory.path()).await;
    let collected = parts.library.collect_orphans(far()).await;
    let collected = collected.expect("collected");
    assert_eq!((collected.orphans, collected.moved), (1, 1));
    assert_eq!(objects(directory.path()).len(), 3);
}
