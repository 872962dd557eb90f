//! The contract of every blob store and decorator, the lock on a data directory, and writes that fail.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use frameshift::ids::{AdapterVersion, TaskId, TenantId, UploadId, VideoId};
use frameshift::spec::Digest;
use frameshift::store::{DirectoryLock, Error, Faults, Key, Store, cache, layout};
use frameshift::telemetry::Metrics;
use futures::TryStreamExt;
use sha2::{Digest as _, Sha256};

use crate::server::until;

pub(crate) mod contract;

fn video() -> Key {
    layout::video(&TenantId::anonymous(), VideoId::generate())
}

/// Returns every store in a folder and its decorators, each empty.
fn stores(directory: &Path) -> Vec<(&'static str, Store)> {
    let open = |name: &str| Store::open(&directory.join(name)).expect("a store");
    vec![
        ("local", open("local")),
        ("faulty", open("faulty").with_faults(Faults::default())),
    ]
}

/// Returns a store with a cache before it.
pub(crate) async fn cached(store: Store, folder: &Path) -> Store {
    let config = cache::Config {
        folder: folder.into(),
        bytes: 256 << 20,
    };
    let cached = store.with_cache(config, Metrics::new()).await;
    cached.expect("a cache")
}

#[tokio::test]
async fn every_store_keeps_the_contract_with_and_without_a_cache() {
    let directory = tempfile::tempdir().expect("a folder");
    let memory = ("memory", Store::in_memory());
    let plain = stores(directory.path()).into_iter().chain([memory]);
    for (name, store) in plain {
        eprintln!("store: {name}");
        contract::holds(&store).await;
    }
    let again = directory.path().join("again");
    let memory = ("memory", Store::in_memory());
    for (name, store) in stores(&again).into_iter().chain([memory]) {
        eprintln!("store: {name}, with a cache");
        let folder = directory.path().join("cache").join(name);
        contract::holds(&cached(store, &folder).await).await;
    }
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn a_damaged_blob_is_named_and_not_handed_out() {
    let directory = tempfile::tempdir().expect("a folder");
    let store = Store::open(directory.path()).expect("a store");
    let tenant = TenantId::anonymous();
    let task: TaskId = "t".parse().expect("an id");
    let digest = Digest(Sha256::digest(b"weights").into());
    let key = layout::version(&tenant, &task, AdapterVersion::FIRST, digest);
    store
        .put(&key, Bytes::from_static(b"weights"))
        .await
        .expect("written");
    std::fs::write(directory.path().join(key.as_str()), "weighty").expect("damaged");
    match store.get_verified(&key, digest).await {
        Err(Error::Digest {
            key: named,
            expected,
            found,
        }) => {
            assert_eq!((named.as_str(), expected), (key.as_str(), digest));
            assert_ne!(found, digest);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_write_that_fails_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a folder");
    let faults = Faults::default();
    let store = Store::open(directory.path())
        .expect("a store")
        .with_faults(faults.clone());
    let key = video();
    faults.fail_write(1);
    assert!(store.put(&key, Bytes::from_static(b"x")).await.is_err());
    // One piece, then the completion.
    for n in [1, 2] {
        let mut writer = store.writer(&key).await.expect("a writer");
        faults.fail_write(n);
        let _ = writer.write(b"x").await;
        assert!(writer.finish().await.is_err(), "write {n}");
    }
    assert!(!store.exists(&key).await.expect("asked"));
    store
        .put(&key, Bytes::from_static(b"x"))
        .await
        .expect("the next write works");
}

#[tokio::test]
async fn a_read_or_a_listing_that_fails_is_temporary_and_the_next_one_works() {
    let directory = tempfile::tempdir().expect("a folder");
    let faults = Faults::default();
    let store = Store::open(directory.path())
        .expect("a store")
        .with_faults(faults.clone());
    let key = video();
    let bytes = Bytes::from_static(b"x");
    store.put(&key, bytes.clone()).await.expect("written");
    let passing = |error: Error| assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    faults.fail_read(1);
    passing(store.get(&key).await.expect_err("told to fail"));
    faults.fail_read(1);
    passing(store.open_file(&key).await.expect_err("told to fail"));
    faults.fail_read(1);
    passing(store.exists(&key).await.expect_err("told to fail"));
    faults.fail_read(2);
    assert_eq!(store.get(&key).await.expect("read"), bytes);
    passing(store.get(&key).await.expect_err("told to fail"));
    assert_eq!(store.get(&key).await.expect("read"), bytes);
    faults.fail_list(1);
    let listed = store.list().try_collect::<Vec<_>>().await;
    passing(listed.expect_err("told to fail"));
    let listed = store.list().try_collect::<Vec<_>>().await;
    assert_eq!(listed.expect("listed").len(), 1);
}

#[tokio::test]
async fn a_copy_is_the_same_bytes_under_a_second_key_and_as_young_as_itself() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().expect("a folder");
    let store = Store::open(directory.path()).expect("a store");
    let (from, to) = (video(), video());
    let missing = store.copy(&from, &to).await;
    assert!(
        matches!(missing, Err(Error::NotFound { .. })),
        "{missing:?}"
    );
    let bytes = Bytes::from_static(b"pictures");
    store.put(&from, bytes.clone()).await.expect("written");
    let path = |key: &Key| directory.path().join(key.as_str());
    let old = std::fs::File::open(path(&from)).expect("a file");
    old.set_modified(std::time::UNIX_EPOCH).expect("aged");
    store.copy(&from, &to).await.expect("copied");
    let copy = std::fs::metadata(path(&to)).expect("a file");
    let original = std::fs::metadata(path(&from)).expect("a file");
    assert_eq!(copy.ino(), original.ino(), "it takes room once");
    assert!(copy.mtime() > 0, "it looks old");
    store.delete(&from).await.expect("deleted");
    assert_eq!(store.get(&to).await.expect("read"), bytes);
    let written = store.written(&[to.clone(), to]).await.expect("read");
    let twice = Digest(Sha256::digest(b"picturespictures").into());
    assert_eq!((written.size, written.sha256), (16, twice));
}

#[tokio::test]
async fn a_dropped_writer_leaves_no_file() {
    let directory = tempfile::tempdir().expect("a folder");
    let store = Store::open(directory.path()).expect("a store");
    let mut writer = store.writer(&video()).await.expect("a writer");
    writer.write(&vec![0; 9 << 20]).await.expect("written");
    assert_eq!(
        files(directory.path()).len(),
        1,
        "what was written lies beside"
    );
    drop(writer);
    // The removal runs on a blocking thread.
    until(|| async { files(directory.path()).is_empty() }).await;
}

#[tokio::test]
async fn a_writer_that_is_dropped_is_given_up_in_the_store_below() {
    let directory = tempfile::tempdir().expect("a folder");
    let faults = Faults::default();
    let store = Store::open(directory.path())
        .expect("a store")
        .with_faults(faults.clone());
    let mut writer = store.writer(&video()).await.expect("a writer");
    writer.write(b"abc").await.expect("written");
    writer.finish().await.expect("finished");
    drop(store.writer(&video()).await.expect("a writer"));
    until(|| async { faults.aborted() > 0 }).await;
    assert_eq!(faults.aborted(), 1, "not the one that was finished");
}

#[tokio::test]
async fn files_of_killed_writes_are_removed_when_old_enough() {
    let directory = tempfile::tempdir().expect("a folder");
    let store = Store::open(directory.path()).expect("a store");
    let key = video();
    store
        .put(&key, Bytes::from_static(b"x"))
        .await
        .expect("written");
    let left = directory.path().join(format!("{key}#1"));
    std::fs::write(&left, "half").expect("written");
    let foreign = directory.path().join(format!("{key}#x"));
    std::fs::write(&foreign, "a note").expect("written");
    assert_eq!(store.remove_unfinished(0).await.expect("looked"), 0);
    assert_eq!(store.remove_unfinished(i64::MAX).await.expect("looked"), 1);
    assert!(!left.exists() && foreign.exists() && store.exists(&key).await.expect("asked"));
}

#[tokio::test]
async fn a_listing_has_the_blobs_of_this_program() {
    let directory = tempfile::tempdir().expect("a folder");
    for (name, store) in stores(directory.path()) {
        let key = layout::part(&TenantId::anonymous(), UploadId::generate(), 3);
        let bytes = Bytes::from_static(b"abc");
        store.put(&key, bytes).await.expect("written");
        let foreign = directory.path().join(name).join("a/notes");
        std::fs::create_dir_all(&foreign).expect("a folder");
        std::fs::write(foreign.join("readme"), "x").expect("written");
        let all: Vec<_> = store.list().try_collect().await.expect("listed");
        assert_eq!(all.len(), 1, "{name}: {all:?}");
        assert_eq!((&all[0].key, all[0].size), (&key, 3));
        store.discard(&key, all[0].modified).await.expect("moved");
        let none: Vec<_> = store.list().try_collect().await.expect("listed");
        assert!(none.is_empty(), "{name}: {none:?}");
    }
}

#[tokio::test]
async fn what_is_discarded_can_be_put_back_for_a_day() {
    let directory = tempfile::tempdir().expect("a folder");
    let (day, now) = (Duration::from_secs(24 * 3600), 1_800_000_000_000_000);
    let later = now + 24 * 3_600_000_000;
    for (name, store) in stores(directory.path()) {
        let (kept, gone) = (video(), video());
        for key in [&kept, &gone] {
            let bytes = Bytes::from_static(b"abc");
            store.put(key, bytes).await.expect("written");
            store.discard(key, now).await.expect("moved");
            assert!(!store.exists(key).await.expect("asked"), "{name}");
        }
        store.discard(&gone, now).await.expect("is there already");
        assert_eq!(store.empty_trash(later - 1, day).await.expect("asked"), 0);
        // The command of docs/operate.md.
        let folder = directory.path().join(name);
        let trash = folder.join(".trash/1800000000").join(kept.as_str());
        std::fs::rename(trash, folder.join(kept.as_str())).expect("put back");
        assert_eq!(store.get(&kept).await.expect("read"), "abc");
        assert_eq!(store.empty_trash(later, day).await.expect("emptied"), 1);
        assert_eq!(files(&folder).len(), 1, "{name}");
    }
}

#[tokio::test]
async fn empty_folders_go_and_others_stay() {
    let directory = tempfile::tempdir().expect("a folder");
    let store = Store::open(directory.path()).expect("a store");
    let key = video();
    let bytes = Bytes::from_static(b"x");
    store.put(&key, bytes).await.expect("written");
    let empty = directory.path().join("a/jobs/b/1");
    std::fs::create_dir_all(&empty).expect("folders");
    assert_eq!(store.remove_empty_folders(0).await.expect("looked"), 0);
    assert_eq!(
        store.remove_empty_folders(i64::MAX).await.expect("looked"),
        4
    );
    assert!(!directory.path().join("a").exists() && store.exists(&key).await.expect("asked"));
}

#[tokio::test]
async fn clearing_up_goes_on_while_files_and_folders_vanish() {
    let directory = tempfile::tempdir().expect("a folder");
    let store = Store::open(directory.path()).expect("a store");
    let folder = directory.path().to_owned();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = done.clone();
    let busy = std::thread::spawn(move || {
        for round in (0..40).cycle() {
            if flag.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
            let below = folder.join(format!("a/videos/{round}"));
            // Either call may lose the race against the sweep, which is what this tests.
            let _ = std::fs::create_dir_all(&below);
            let _ = std::fs::write(below.join("clip#1"), "half");
            let _ = std::fs::remove_dir_all(&below);
        }
    });
    for _ in 0..300 {
        store.remove_unfinished(i64::MAX).await.expect("swept");
        store.remove_empty_folders(i64::MAX).await.expect("swept");
        let _: Vec<_> = store.list().try_collect().await.expect("listed");
    }
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    busy.join().expect("no panic");
}

#[test]
fn a_data_directory_has_one_process() {
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("data");
    let lock = DirectoryLock::acquire(&path).expect("free");
    let error = DirectoryLock::acquire(&path).expect_err("taken");
    assert!(matches!(error, Error::Locked { .. }));
    assert!(
        error.to_string().contains(&path.display().to_string()),
        "{error}"
    );
    // An operator who cleans up may delete the file as stale.
    std::fs::remove_file(path.join("lock")).expect("removed");
    let error = DirectoryLock::acquire(&path).expect_err("still taken");
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    drop(lock);
    DirectoryLock::acquire(&path).expect("free again");
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("written");
    assert!(matches!(
        DirectoryLock::acquire(&file),
        Err(Error::Directory { .. })
    ));
}
