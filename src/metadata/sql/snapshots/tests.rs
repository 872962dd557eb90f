//! Snapshots page by page: sizes of pages, and what a crash between two pages leaves.

use sha2::{Digest as _, Sha256};

use super::super::sources::{begin, json};
use super::*;
use crate::metadata::{Archive, Archives as _, Config, Datasets, PagePlace, Retention};

async fn database() -> (tempfile::TempDir, Database) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::at(folder.path().join("metadata.sqlite"));
    (folder, Database::open(config).await.unwrap())
}

/// A data set of so many examples of two labels.
async fn dataset(store: &Database, examples: i64) -> (TenantId, DatasetId) {
    let (tenant, dataset) = (TenantId::anonymous(), "many".parse().unwrap());
    let created = store
        .create_dataset(&tenant, &dataset, "".into(), None)
        .await;
    created.unwrap();
    let (mut tx, _) = store.write().await.unwrap();
    for sql in [
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $2) \
         INSERT INTO videos (tenant, id, display_name, size_bytes, sha256, probe, create_time) \
         SELECT $1, printf('00000000-0000-7000-8000-%012d', i), '', 1, zeroblob(32), '{}', 0 FROM n",
        "INSERT INTO examples (tenant, dataset, video, label, split) \
         SELECT tenant, 'many', id, 'label ' || (rowid_of % 2), 'train' FROM \
         (SELECT tenant, id, CAST(substr(id, 25) AS INTEGER) AS rowid_of FROM videos) \
         WHERE tenant = $1 AND rowid_of <= $2",
        "INSERT INTO label_counts (tenant, dataset, label, train, validation, test) \
         SELECT tenant, dataset, label, COUNT(*), 0, 0 FROM examples WHERE tenant = $1 AND $2 > 0 \
         GROUP BY tenant, dataset, label",
        "UPDATE datasets SET examples = $2, labels = 2 WHERE tenant = $1",
    ] {
        query(sql)
            .bind(tenant.as_str())
            .bind(examples)
            .execute(&mut tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    (tenant, dataset)
}

async fn read(store: &Database, tenant: &TenantId, digest: Digest) -> Result<Vec<ExampleRecord>> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|example: &ExampleRecord| example.video);
        let page = store.snapshot_examples(tenant, digest, after, 7).await?;
        let is_last = page.len() < 7;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}

#[tokio::test]
async fn the_digest_does_not_depend_on_the_size_of_a_page() {
    let (_folder, store) = database().await;
    let (tenant, dataset) = dataset(&store, 25).await;
    let mut digests = Vec::new();
    for page in [1, 4, 5, 24, 25, 26, 1000] {
        let mut source = Source::open(&store, &tenant, &dataset, page).await.unwrap();
        digests.push(source.digest().await.unwrap());
    }
    digests.dedup();
    let mut all = String::new();
    for i in 1..=25 {
        let video = format!("00000000-0000-7000-8000-{i:012}");
        let sha256 = Digest([0; 32]);
        all += &format!("{video}\t{sha256}\tlabel {}\ttrain\n", i % 2);
    }
    // As the release before computed it, over everything at once.
    assert_eq!(digests, [Digest(Sha256::digest(all).into())]);
}

#[tokio::test]
async fn what_is_stored_does_not_depend_on_the_size_of_a_page() {
    for page in [1, 5, 24, 25, 1000] {
        let (_folder, store) = database().await;
        let (tenant, dataset) = dataset(&store, 25).await;
        let mut source = Source::open(&store, &tenant, &dataset, page).await.unwrap();
        let digest = source.digest().await.unwrap();
        assert!(source.copy(&store, digest).await.unwrap());
        let examples = read(&store, &tenant, digest).await.unwrap();
        let videos: Vec<String> = examples.iter().map(|own| own.video.to_string()).collect();
        let expected = (1..=25).map(|i| format!("00000000-0000-7000-8000-{i:012}"));
        assert_eq!(videos, expected.collect::<Vec<_>>(), "pages of {page}");
    }
}

#[tokio::test]
async fn a_crash_between_two_pages_leaves_nothing_that_can_be_read_and_the_next_one_is_whole() {
    let (_folder, store) = database().await;
    let (tenant, dataset) = dataset(&store, 2500).await;
    let mut source = Source::open(&store, &tenant, &dataset, PAGE).await.unwrap();
    let digest = source.digest().await.unwrap();
    // The first page is stored, and then the process ends.
    let lines = source.lines("").await.unwrap();
    let (mut tx, now) = store.write().await.unwrap();
    begin(&mut tx, &tenant, (digest, LabelKind::Single), now)
        .await
        .unwrap();
    let values = json(&lines).unwrap();
    add(&mut tx, &tenant, digest, values).await.unwrap();
    tx.commit().await.unwrap();
    drop(source);
    let half = read(&store, &tenant, digest).await;
    assert!(matches!(half, Err(Error::NotFound { .. })), "{half:?}");

    let taken = take(&store, &tenant, &dataset).await.unwrap();
    assert_eq!(taken.record.digest, digest);
    let whole = read(&store, &tenant, digest).await.unwrap();
    assert_eq!((whole.len(), taken.record.examples), (2500, 2500));
}

#[tokio::test]
async fn a_snapshot_that_nobody_completed_goes_in_time() {
    let (_folder, store) = database().await;
    let (tenant, dataset) = dataset(&store, 25).await;
    let mut source = Source::open(&store, &tenant, &dataset, 10).await.unwrap();
    let digest = source.digest().await.unwrap();
    let (mut tx, now) = store.write().await.unwrap();
    begin(&mut tx, &tenant, (digest, LabelKind::Single), now)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    drop(source);
    let mut calls = 0;
    while store
        .forget_snapshots(std::time::Duration::ZERO)
        .await
        .unwrap()
        > 0
    {
        calls += 1;
        assert!(calls < 10, "it never ends");
    }
    let mut reader = store.look().await.unwrap();
    let left = query("SELECT COUNT(*) AS found FROM snapshots").fetch_one(&mut reader);
    assert_eq!(left.await.unwrap().int("found").unwrap(), 0);
}

#[tokio::test]
async fn a_data_set_that_did_not_change_is_not_read_again() {
    let (_folder, store) = database().await;
    let (tenant, dataset) = dataset(&store, 25).await;
    let first = take(&store, &tenant, &dataset).await.unwrap();
    let source = Source::open(&store, &tenant, &dataset, PAGE).await.unwrap();
    assert_eq!(source.known, Some(first.record.digest));
    drop(source);
    let video = "00000000-0000-7000-8000-000000000007".parse().unwrap();
    let removed = store.remove_examples(&tenant, &dataset, &[video]).await;
    removed.unwrap();
    let (mut tx, _) = store.write().await.unwrap();
    assert!(!first.is_current(&mut tx, &tenant, &dataset).await.unwrap());
    assert!(first.is_there(&mut tx, &tenant).await.unwrap());
    drop(tx);
    let source = Source::open(&store, &tenant, &dataset, PAGE).await.unwrap();
    assert_eq!(source.known, None);
    drop(source);
    let second = take(&store, &tenant, &dataset).await.unwrap();
    assert_ne!(second.record.digest, first.record.digest);
}

#[tokio::test]
async fn a_snapshot_of_another_kind_is_not_taken_for_that_of_the_data_set() {
    let (_folder, store) = database().await;
    let (tenant, dataset) = dataset(&store, 25).await;
    let first = take(&store, &tenant, &dataset).await.unwrap();
    // As a release leaves it that takes a set of labels for one label.
    let (mut tx, _) = store.write().await.unwrap();
    query("UPDATE datasets SET label_kind = 'multi'")
        .execute(&mut tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let second = take(&store, &tenant, &dataset).await.unwrap();
    assert_ne!(second.record.digest, first.record.digest);
    let kind = store.snapshot_kind(&tenant, second.record.digest).await;
    assert_eq!(kind.unwrap(), LabelKind::Multi);
    let source = Source::open(&store, &tenant, &dataset, PAGE).await.unwrap();
    assert_eq!(source.known, Some(second.record.digest));
}

/// Forgets what can be forgotten; returns which releases may use the database then.
async fn forget(store: &Database) -> i64 {
    let none = std::time::Duration::ZERO;
    while store.forget_snapshots(none).await.unwrap() > 0 {}
    let mut reader = store.look().await.unwrap();
    let state = query("SELECT min_release FROM schema_state").fetch_one(&mut reader);
    state.await.unwrap().int("min_release").unwrap()
}

/// Makes all snapshots old.
async fn age(store: &Database, tenant: &TenantId) {
    let (mut tx, _) = store.write().await.unwrap();
    let sql = "UPDATE snapshots SET create_time = 0 WHERE tenant = $1";
    let old = query(sql).bind(tenant.as_str()).execute(&mut tx).await;
    assert_eq!(old.unwrap(), 1);
    tx.commit().await.unwrap();
}

/// A version whose snapshot is in a blob as well.
async fn archived(store: &Database, (tenant, dataset): (&TenantId, &DatasetId)) -> Digest {
    let made = store.create_dataset_version(tenant, dataset, "", 10);
    let digest = made.await.unwrap().snapshot.digest;
    assert_eq!(forget(store).await, 0);
    let archive = Archive {
        size_bytes: 1,
        sha256: Digest([1; 32]),
    };
    let noted = store.note_archive(tenant, digest, archive).await;
    assert!(noted.unwrap());
    digest
}

#[tokio::test]
async fn a_version_whose_rows_leave_is_for_releases_that_know_blobs() {
    let (_folder, store) = database().await;
    let (tenant, dataset) = dataset(&store, 25).await;
    let digest = archived(&store, (&tenant, &dataset)).await;
    assert_eq!(forget(&store).await, 0, "a release before may need them");
    assert_eq!(read(&store, &tenant, digest).await.unwrap().len(), 25);
    age(&store, &tenant).await;
    assert_eq!(forget(&store).await, 61);
    assert!(read(&store, &tenant, digest).await.is_err());
}

#[tokio::test]
async fn a_snapshot_that_is_forgotten_between_two_pages_is_not_completed_without_the_first() {
    let (_folder, store) = database().await;
    let (tenant, dataset) = dataset(&store, 25).await;
    let digest = archived(&store, (&tenant, &dataset)).await;
    let whole = read(&store, &tenant, digest).await.unwrap();
    let put = async |is_first: bool| {
        let (page, is_last) = match is_first {
            true => (&whole[..10], false),
            false => (&whole[10..], true),
        };
        let place = PagePlace { is_first, is_last };
        store.refill_snapshot(&tenant, digest, page, place).await
    };
    age(&store, &tenant).await;
    forget(&store).await;
    put(true).await.unwrap();
    age(&store, &tenant).await;
    forget(&store).await;
    let late = put(false).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    assert!(read(&store, &tenant, digest).await.is_err());
    put(true).await.unwrap();
    put(false).await.unwrap();
    assert_eq!(read(&store, &tenant, digest).await.unwrap(), whole);
    // Whoever is late finds it whole.
    put(true).await.unwrap();
    put(false).await.unwrap();
    assert_eq!(read(&store, &tenant, digest).await.unwrap(), whole);
}
