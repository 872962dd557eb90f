//! Tests of the cache before a bucket.

use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::ids::{TenantId, VideoId};
use crate::store::{Faults, Store, layout};

const KIB: u64 = 1 << 10;

fn key() -> Key {
    layout::video(&TenantId::anonymous(), VideoId::generate())
}

fn recorded(bytes: &[u8]) -> Recorded {
    Recorded {
        size: bytes.len() as u64,
        sha256: Digest(Sha256::digest(bytes).into()),
    }
}

async fn cached(store: Store, folder: &Path, bytes: u64) -> (Store, Metrics) {
    let metrics = Metrics::new();
    let config = Config {
        folder: folder.into(),
        bytes,
    };
    let store = store.with_cache(config, metrics.clone()).await;
    (store.expect("a cache"), metrics)
}

async fn put(store: &Store, bytes: &[u8]) -> (Key, Recorded) {
    let key = key();
    let copy = Bytes::copy_from_slice(bytes);
    store.put(&key, copy).await.expect("written");
    (key, recorded(bytes))
}

async fn read(store: &Store, (key, recorded): &(Key, Recorded)) -> Vec<u8> {
    let opened = store.open_recorded(key, *recorded).await.expect("opened");
    let size = opened.file.metadata().expect("a file").len();
    let mut bytes = vec![0; size as usize];
    opened.file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

fn count(metrics: &Metrics, outcome: &str) -> u64 {
    let line = format!("frameshift_object_cache_requests_total{{outcome=\"{outcome}\"}} ");
    let text = metrics.text();
    let value = text.lines().find_map(|text| text.strip_prefix(&*line));
    value.map_or(0, |value| value.parse().expect("a number"))
}

fn on_disk(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder");
    // A file that is being removed takes no space.
    let sizes = entries.filter_map(|entry| entry.ok()?.metadata().ok());
    sizes.map(|metadata| metadata.len()).sum()
}

/// Waits for files that are removed on other threads.
async fn settled(is_settled: impl Fn() -> bool) {
    let wait = async {
        while !is_settled() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("it settles");
}

#[tokio::test]
async fn a_blob_is_fetched_once_for_all_who_wait_and_read_from_the_disk_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, metrics) = cached(Store::in_memory(), folder.path(), 1 << 20).await;
    let blob = put(&store, b"pictures").await;
    let readers = (0..16).map(|_| read(&store, &blob));
    for bytes in futures::future::join_all(readers).await {
        assert_eq!(bytes, b"pictures");
    }
    assert_eq!((count(&metrics, "miss"), count(&metrics, "hit")), (1, 15));
    // The store below is not asked any more.
    let faults = Faults::default();
    let broken = store.with_faults(faults.clone());
    faults.fail_read(1);
    assert_eq!(read(&broken, &blob).await, b"pictures");
    let bytes = broken.get_verified(&blob.0, blob.1.sha256).await;
    assert_eq!(bytes.expect("read"), "pictures");
    assert!(
        metrics
            .text()
            .contains("frameshift_object_cache_filled_bytes_total 8\n")
    );
}

#[tokio::test]
async fn bytes_that_are_not_those_of_the_record_are_never_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, _) = cached(Store::in_memory(), folder.path(), 1 << 20).await;
    let (key, right) = put(&store, b"pictures").await;
    let other = recorded(b"Pictures");
    let damaged = store.open_recorded(&key, other).await;
    assert!(matches!(damaged, Err(Error::Digest { .. })), "{damaged:?}");
    let short = recorded(b"picture");
    let damaged = store.open_recorded(&key, short).await;
    assert!(
        matches!(damaged, Err(Error::Size { found: 8, .. })),
        "{damaged:?}"
    );
    let missing = store.open_recorded(&self::key(), right).await;
    assert!(
        matches!(missing, Err(Error::NotFound { .. })),
        "{missing:?}"
    );
    assert_eq!(on_disk(folder.path()), 0);
    assert_eq!(read(&store, &(key, right)).await, b"pictures");
}

#[tokio::test]
async fn the_copies_stay_within_their_bytes_and_an_evicted_one_can_still_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let limit = 256 * KIB;
    let (store, _) = cached(Store::in_memory(), folder.path(), limit).await;
    let mut blobs = Vec::new();
    for i in 0..40u8 {
        blobs.push(put(&store, &vec![i; 16 << 10]).await);
    }
    let (key, first) = &blobs[0];
    let opened = store.open_recorded(key, *first).await.expect("opened");
    for blob in &blobs {
        read(&store, blob).await;
    }
    settled(|| on_disk(folder.path()) <= limit).await;
    let mut bytes = [9; 4];
    opened.file.read_exact_at(&mut bytes, 0).expect("read");
    assert_eq!(bytes, [0; 4]);
    for (i, blob) in blobs.iter().enumerate() {
        assert_eq!(read(&store, blob).await[0], i as u8);
    }
}

#[tokio::test]
async fn what_is_used_often_survives_one_pass_over_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, metrics) = cached(Store::in_memory(), folder.path(), 256 * KIB).await;
    let hot = put(&store, &vec![200; 16 << 10]).await;
    read(&store, &hot).await;
    // Uses are counted as soon as the cache is half full.
    for i in 100..110u8 {
        let blob = put(&store, &vec![i; 16 << 10]).await;
        read(&store, &blob).await;
    }
    for _ in 0..20 {
        read(&store, &hot).await;
    }
    for i in 0..100u8 {
        let blob = put(&store, &vec![i; 16 << 10]).await;
        read(&store, &blob).await;
    }
    let before = count(&metrics, "hit");
    read(&store, &hot).await;
    assert_eq!(count(&metrics, "hit"), before + 1);
}

#[tokio::test]
async fn copies_survive_a_restart_and_a_damaged_one_is_fetched_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let below = Store::in_memory();
    let (store, _) = cached(below.clone(), folder.path(), 1 << 20).await;
    let whole = put(&store, b"whole").await;
    let damaged = put(&store, b"damaged").await;
    let cut = put(&store, b"cut").await;
    for blob in [&whole, &damaged, &cut] {
        read(&store, blob).await;
    }
    drop(store);
    let path = |(key, _): &(Key, Recorded)| {
        let entries = std::fs::read_dir(folder.path()).expect("a folder");
        let mut paths = entries.map(|entry| entry.expect("an entry").path());
        let prefix = super::folder::path(folder.path(), key, 0);
        let prefix = prefix
            .to_str()
            .expect("text")
            .trim_end_matches('0')
            .to_owned();
        let found = paths.find(|path| path.to_str().is_some_and(|path| path.starts_with(&prefix)));
        found.expect("a copy")
    };
    std::fs::write(path(&damaged), "DAMAGED").expect("written");
    std::fs::write(path(&cut), "").expect("written");
    std::fs::write(folder.path().join(".fill-x"), "half").expect("written");
    std::fs::write(folder.path().join("notes"), "not ours").expect("written");
    let (store, metrics) = cached(below, folder.path(), 1 << 20).await;
    assert_eq!(read(&store, &whole).await, b"whole");
    assert_eq!(count(&metrics, "hit"), 1);
    assert_eq!(read(&store, &damaged).await, b"damaged");
    assert_eq!(read(&store, &cut).await, b"cut");
    assert_eq!(count(&metrics, "miss"), 2);
    assert!(folder.path().join("notes").exists());
    settled(|| !folder.path().join(".fill-x").exists()).await;
}

#[tokio::test]
async fn a_blob_that_is_too_large_or_finds_the_disk_failing_passes_by() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("cache");
    let (store, metrics) = cached(Store::in_memory(), &place, 64 * KIB).await;
    let large = put(&store, &vec![1; 20 << 10]).await;
    let opened = store
        .open_recorded(&large.0, large.1)
        .await
        .expect("opened");
    assert!(!opened.is_verified);
    assert_eq!(read(&store, &large).await.len(), 20 << 10);
    assert_eq!(count(&metrics, "pass_large"), 2);
    let kept = put(&store, b"kept").await;
    read(&store, &kept).await;
    // A folder that is gone fails like a disk that is gone.
    std::fs::remove_dir_all(&place).expect("removed");
    let small = put(&store, b"small").await;
    assert_eq!(read(&store, &small).await, b"small");
    assert_eq!(count(&metrics, "pass_disk"), 1);
    // Nothing is tried for a while, and what was kept is read from the store.
    std::fs::create_dir_all(&place).expect("made");
    assert_eq!(read(&store, &small).await, b"small");
    assert_eq!(count(&metrics, "pass_disk"), 2);
    assert_eq!(read(&store, &kept).await, b"kept");
    assert_eq!(count(&metrics, "pass_disk"), 3);
}

#[tokio::test]
async fn a_blob_that_is_deleted_leaves_the_cache_and_one_that_is_asked_for_early_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, metrics) = cached(Store::in_memory(), folder.path(), 1 << 20).await;
    let blob = put(&store, b"pictures").await;
    store.prefetch(&blob.0, blob.1);
    settled(|| count(&metrics, "prefetched") == 1).await;
    read(&store, &blob).await;
    assert_eq!((count(&metrics, "hit"), count(&metrics, "miss")), (1, 0));
    store.delete(&blob.0).await.expect("deleted");
    settled(|| on_disk(folder.path()) == 0).await;
    let gone = store.open_recorded(&blob.0, blob.1).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
}

#[tokio::test]
async fn one_process_at_a_time_has_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config {
        folder: folder.path().into(),
        bytes: 1 << 20,
    };
    let first = Store::in_memory().with_cache(config.clone(), Metrics::new());
    let _first = first.await.expect("a cache");
    let second = Store::in_memory().with_cache(config, Metrics::new()).await;
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
}

#[tokio::test]
async fn copies_of_several_tenants_go_in_one_walk_and_others_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, _) = cached(Store::in_memory(), folder.path(), 64 * KIB).await;
    let tenants = ["a", "b", "c"].map(|name| name.parse::<TenantId>().unwrap());
    for tenant in &tenants {
        let key = layout::video(tenant, VideoId::generate());
        let own = Bytes::from_static(b"own");
        store.put(&key, own).await.expect("written");
        read(&store, &(key, recorded(b"own"))).await;
    }
    let [a, b, c] = tenants;
    let gone = HashSet::from([a, b]);
    assert_eq!(store.forget_tenants(&gone).await, 2);
    assert_eq!(store.forget_tenants(&gone).await, 0);
    assert_eq!(store.forget_tenants(&HashSet::from([c])).await, 1);
}
