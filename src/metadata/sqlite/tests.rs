//! What the backend does of itself when the disk is full.

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
