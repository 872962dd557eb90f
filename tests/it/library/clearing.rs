//! Retention and clean-up: orphans, expired uploads, records past their retention time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use frameshift::ids::UploadId;
use frameshift::library::{Config, Error, Library};
use frameshift::metadata::{self, Fault, Outages, PageRequest, UploadLimits};
use frameshift::store::{Store, cache};
use frameshift::telemetry::Metrics;

use super::{PART, Setting, content, fixture, tenant};
use crate::server::until;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// An hour and a day in microseconds.
const HOURS: i64 = 3_600_000_000;
const DAYS: i64 = 24 * HOURS;

/// Writes a file that no record names.
fn orphan(setting: &Setting, key: String) -> PathBuf {
    let path = setting.directory.path().join(key);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    std::fs::write(&path, "left by a crash").expect("written");
    path
}

fn now() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    i64::try_from(since.as_micros()).expect("before the end of time")
}

#[tokio::test]
async fn the_collector_takes_orphans_and_nothing_else() {
    let setting = Setting::new().await;
    let mut kept = setting.single(None, None).await;
    kept.write(b"abc").await.expect("written");
    let video = kept.finish().await.expect("finished");
    let upload = setting.upload().await;
    let mut stream = setting.stream(upload).await;
    stream.write(&content(1_200)).await.expect("written");
    stream.commit().await.expect("committed");
    let named = setting.files().len();
    assert_eq!(named, 3);
    let id = fixture::new_video(1).id;
    let orphans = [
        format!("a/videos/{id}"),
        format!("b/videos/{}", video.id),
        format!("a/uploads/{upload}/77"),
        format!("a/tasks/t/versions/1/{}.safetensors", "0".repeat(64)),
        format!("a/jobs/{id}/1/checkpoint-3.safetensors"),
    ]
    .map(|key| orphan(&setting, key));
    let foreign = orphan(&setting, "a/notes/readme".into());

    let young = setting.library.collect_orphans(0).await.expect("collected");
    assert_eq!((young.blobs, young.orphans, young.moved), (8, 0, 0));
    let collected = setting.library.collect_orphans(now()).await;
    let collected = collected.expect("collected");
    assert_eq!((collected.orphans, collected.moved), (5, 5));
    assert!(orphans.iter().all(|path| !path.exists()) && foreign.exists());
    assert_eq!(setting.files().len(), named + 1);
    assert_eq!(setting.content(&video).await, b"abc");

    // The trash is emptied a day later, and empty folders are removed.
    let trash = setting.directory.path().join(".trash");
    let calm = setting.library.collect_orphans(now() + DAYS - HOURS).await;
    assert_eq!(calm.expect("collected").deleted, 0);
    assert!(trash.exists());
    let last = setting.library.collect_orphans(now() + 2 * DAYS).await;
    assert_eq!(last.expect("collected").deleted, 5);
    assert!(!trash.exists());
    assert!(!setting.directory.path().join("a/jobs").exists());
}

#[tokio::test]
async fn too_many_orphans_at_once_stay_where_they_are() {
    let config = Config {
        orphan_age: Duration::ZERO,
        orphan_share: 20,
        ..Config::default()
    };
    let setting = Setting::with(config).await;
    for _ in 0..4 {
        let mut kept = setting.single(None, None).await;
        kept.write(b"abc").await.expect("written");
        kept.finish().await.expect("finished");
    }
    let id = || fixture::new_video(1).id;
    let one = orphan(&setting, format!("a/videos/{}", id()));
    let collected = setting.library.collect_orphans(now()).await;
    assert_eq!(collected.expect("collected").moved, 1, "a fifth");
    assert!(!one.exists());

    // As after a start with yesterday's database.
    let two = [0; 2].map(|_| orphan(&setting, format!("a/videos/{}", id())));
    let collected = setting.library.collect_orphans(now()).await;
    let collected = collected.expect("collected");
    assert_eq!((collected.orphans, collected.moved), (2, 0));
    assert!(collected.is_held_back());
    assert!(two.iter().all(|path| path.exists()));
}

#[tokio::test]
async fn files_that_an_earlier_process_never_finished_go_at_the_start() {
    let setting = Setting::new().await;
    let id = fixture::new_video(1).id;
    let left = orphan(&setting, format!("a/videos/{id}#1"));
    let removed = setting.library.remove_unfinished(now() + HOURS).await;
    assert_eq!(removed.expect("removed"), 1);
    assert!(!left.exists());
    let own = orphan(&setting, format!("a/videos/{id}#2"));
    let removed = setting.library.remove_unfinished(now() - HOURS).await;
    assert_eq!(removed.expect("removed"), 0);
    assert!(own.exists(), "it is newer than the start");
}

fn expired<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(
        matches!(
            result,
            Err(Error::Metadata(metadata::Error::UploadExpired { .. }))
        ),
        "{result:?}"
    );
}

async fn listed(setting: &Setting) -> Vec<UploadId> {
    let page = PageRequest::first();
    let uploads = setting.library.list_uploads(&tenant(), &page).await;
    let uploads = uploads.expect("listed").items;
    uploads.iter().map(|upload| upload.id).collect()
}

#[tokio::test]
async fn uploads_that_nobody_writes_to_expire_and_others_stay() {
    let setting = Setting::new().await;
    let (old, kept) = (setting.upload().await, setting.upload().await);
    for upload in [old, kept] {
        let mut stream = setting.stream(upload).await;
        stream.write(&content(2 * PART)).await.expect("written");
        stream.commit().await.expect("committed");
    }
    let before = setting.library.get_upload(&tenant(), kept).await;
    let before = before.expect("found").expire_time.expect("it expires");
    assert_eq!(listed(&setting).await, [old, kept]);

    setting.backend.pass(DAY - HOUR);
    let end = 2 * PART as u64;
    let stream = setting.library.write_upload(&tenant(), kept, end).await;
    let mut stream = stream.expect("goes on");
    let found = setting.library.get_upload(&tenant(), kept).await;
    let after = found.expect("found").expire_time.expect("it expires");
    assert!(after >= before + DAYS - HOURS, "a write puts it off");
    setting.backend.pass(2 * HOUR);
    // The upload is refused as expired although nobody has deleted it yet.
    expired(setting.library.get_upload(&tenant(), old).await);
    assert_eq!(listed(&setting).await, [kept]);
    stream.write(&content(PART)).await.expect("still taken");

    let removed = setting.library.tidy().await.expect("tidied");
    assert_eq!((removed.uploads, removed.parts), (1, 2));
    assert_eq!(
        (removed.left.uploads, removed.left.bytes),
        (1, 3 * PART as u64)
    );
    assert_eq!(setting.files().len(), 3, "those of the other");
    expired(setting.library.get_upload(&tenant(), old).await);
    let write = setting.library.write_upload(&tenant(), old, end).await;
    expired(write.map(drop));
    let again = setting.library.delete_upload(&tenant(), old).await;
    again.expect("gone already");
    stream.finish(None).await.expect("finished");
    assert!(listed(&setting).await.is_empty());

    setting.backend.pass(8 * DAY);
    setting.library.tidy().await.expect("tidied");
    let unknown = setting.library.get_upload(&tenant(), old).await;
    assert!(
        matches!(
            unknown,
            Err(Error::Metadata(metadata::Error::NotFound { .. }))
        ),
        "{unknown:?}"
    );
    let finished = setting.library.get_upload(&tenant(), kept).await;
    assert!(finished.expect("stays with its video").video.is_some());
}

#[tokio::test]
async fn an_upload_is_given_up_once_and_its_bytes_go() {
    let setting = Setting::new().await;
    let upload = setting.upload().await;
    let mut stream = setting.stream(upload).await;
    stream.write(&content(2_500)).await.expect("written");
    stream.commit().await.expect("committed");
    for _ in 0..2 {
        let deleted = setting.library.delete_upload(&tenant(), upload).await;
        deleted.expect("deleted");
        assert!(setting.files().is_empty());
    }
    assert!(stream.write(&content(PART)).await.is_err());
    drop(stream);
    super::gone(&setting, upload).await;
    let stranger = fixture::tenant("b");
    let foreign = setting.library.delete_upload(&stranger, upload).await;
    assert!(matches!(
        foreign,
        Err(Error::Metadata(metadata::Error::NotFound { .. }))
    ));

    let finished = setting.upload().await;
    let mut stream = setting.stream(finished).await;
    stream.write(b"abc").await.expect("written");
    stream.finish(None).await.expect("finished");
    assert!(matches!(
        setting.library.delete_upload(&tenant(), finished).await,
        Err(Error::Metadata(metadata::Error::UploadFinished { .. }))
    ));
    assert_eq!(setting.files().len(), 1);
}

#[tokio::test]
async fn a_tenants_unfinished_uploads_are_limited() {
    let config = Config {
        part_bytes: PART,
        uploads: UploadLimits {
            expiry: DAY,
            uploads: 2,
            bytes: 2_500,
        },
        ..Config::default()
    };
    let setting = Setting::with(config).await;
    let (one, two) = (setting.upload().await, setting.upload().await);
    let third = setting
        .library
        .create_upload(&tenant(), "clip.mp4", None)
        .await;
    assert!(matches!(
        third,
        Err(Error::Metadata(metadata::Error::TooManyUploads {
            limit: 2
        }))
    ));
    let stranger = fixture::tenant("b");
    let other = setting.library.create_upload(&stranger, "", None).await;
    other.expect("another tenant has its own limit");

    let mut stream = setting.stream(one).await;
    stream.write(&content(2 * PART)).await.expect("written");
    let mut second = setting.stream(two).await;
    let refused = second.write(&content(PART)).await;
    assert!(
        matches!(
            refused,
            Err(Error::Metadata(metadata::Error::TooManyUploadBytes {
                limit: 2_500,
                ..
            }))
        ),
        "{refused:?}"
    );
    drop(second);
    assert_eq!(setting.files().len(), 2, "what was refused is not kept");
    stream.finish(None).await.expect("it is whole");
    let mut second = setting.stream(two).await;
    second.write(&content(PART)).await.expect("there is room");
    setting.upload().await;
}

#[tokio::test]
async fn copies_of_videos_that_another_process_deleted_leave_the_cache() {
    let setting = Setting::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let cache = cache::Config {
        folder: folder.path().into(),
        bytes: 1 << 20,
    };
    // Another process: the same objects and records, and a cache of its own.
    let store = Store::open(setting.directory.path()).expect("a store");
    let store = store.with_cache(cache, Metrics::new()).await;
    let other = Library::new(
        Config::default(),
        store.expect("a cache"),
        Arc::clone(&setting.records),
        setting.prober.clone(),
    );
    let mut videos = Vec::new();
    for content in [b"kept", b"gone"] {
        let mut upload = setting.single(None, None).await;
        upload.write(content).await.expect("written");
        let video = upload.finish().await.expect("finished");
        other.open_video(&tenant(), video.id).await.expect("opened");
        videos.push(video);
    }
    let copies = || -> Vec<String> {
        let entries = std::fs::read_dir(folder.path()).expect("a folder");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| name.starts_with("a=")).collect()
    };
    assert_eq!(copies().len(), 2);
    assert_eq!(other.forget_copies().await.expect("looked"), 0);
    let (owner, gone) = (tenant(), videos[1].id);
    let deleted = setting.library.delete_video(&owner, gone, false).await;
    deleted.expect("deleted");
    assert_eq!(other.forget_copies().await.expect("looked"), 1);
    // Files go on a thread of their own.
    until(async || copies().len() == 1).await;
    assert!(copies()[0].contains(&videos[0].id.to_string()));
    assert_eq!(other.forget_copies().await.expect("looked"), 0);
}

#[tokio::test]
async fn what_one_kind_fails_with_keeps_no_other_from_going() {
    let setting = Setting::new().await;
    let outages = Outages::default();
    let library = Library::new(
        Config::default(),
        Store::open(setting.directory.path()).expect("a store"),
        outages.wrap(Arc::clone(&setting.records)),
        setting.prober.clone(),
    );
    let mut upload = setting.single(None, None).await;
    upload.write(b"stored").await.expect("written");
    upload.finish().await.expect("finished");
    outages.set_fault("aged_videos", Some(Fault::Full));
    let failed = library.tidy().await;
    assert!(
        matches!(
            failed,
            Err(Error::Metadata(metadata::Error::StorageFull(_)))
        ),
        "{failed:?}"
    );
    let noted = setting.records.note_stored_bytes().await;
    assert_eq!(noted.expect("noted"), 0, "the pass has noted them");
    outages.set_fault("aged_videos", None);
    library.tidy().await.expect("tidied");
}
